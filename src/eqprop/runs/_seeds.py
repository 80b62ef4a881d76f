"""One configuration, several seeds: a run of each, and mean ± std over them.

The seeds train one after another and share one compiled program.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import recipes
from ..training import (
    Config,
    config_from_json,
    config_to_json,
    Observer,
    TrainingDiverged,
    UserModel,
)
from ._directory import RunDirectory, SEEDS_FILE, UNREADABLE
from ._problem import Problem
from ._train import (
    _start,
    _with_whole_paths,
    default_path,
    resume,
    train,
    TrainingInterrupted,
)

ERRORS = ("train_error", "val_error", "test_error", "loss", "training_seconds")


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Where the runs are, a record of each seed, and mean and std over them.

    A record holds `seed`, `run`, `failure` (how it diverged, else `None`) and, of its
    last epoch, the fields that `summary` summarizes.  `summary` maps a field to
    `mean`, `std` (of a sample: n − 1; `None` for one seed) and `runs`, over those
    seeds that have not diverged; errors are fractions, and `None` without such data.
    """

    path: Path
    records: list[dict[str, Any]]

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean and std of every field, over the seeds that have not diverged."""
        return {name: _spread(self.records, name) for name in ERRORS}


def train_seeds(
    config: Config | str,
    seeds: int,
    *,
    run: str | Path | None = None,
    name: str | None = None,
    observer: Callable[[Path], Observer] | None = None,
    writers: Sequence[str] = (),
    devices: int | None = None,
    **overrides: Any,
) -> Seeds:
    """Train `seeds` runs that differ in their seed alone: seed, seed + 1, ….

    Each is a complete run in `run`/seedN, and what is finished there is not trained
    again: the same call, or `resume_seeds`, goes on where it was interrupted.

    **Arguments:**

    - `run`: the directory; `runs/NAME-seeds-TIME` where `None`.
    - `name`: of that directory; the recipe's where `None`.
    - `observer`: makes the observer of the run in a directory.
    - `writers`, `devices`: as of `train`, of every run.
    - `overrides`: fields of the configuration, e.g. `epochs=5, seed=3`.

    **Raises:** `ValueError` for fewer than one seed, or a directory that holds other
    runs; `TrainingInterrupted` after saving.
    """
    _check_alone()
    name = name or (config if isinstance(config, str) else "run")
    if isinstance(config, str):
        config = recipes.recipe(config).config
    config = _with_whole_paths(dataclasses.replace(config, **overrides))
    _check_count(seeds, config.seed)
    plan = json.loads(json.dumps({"seeds": seeds, "config": config_to_json(config)}))
    if run is not None:
        _check_place(Path(run), plan)
    _start(config, Problem.build(config), devices)  # refused before anything is made
    path = default_path(f"{name}-seeds") if run is None else Path(run)
    path.mkdir(parents=True, exist_ok=True)
    _write(path, plan, [])
    system = config.model.path if isinstance(config.model, UserModel) else None
    shared = {"writers": writers, "devices": devices}
    return _train(config, plan, path, observer, system, shared)


def resume_seeds(
    run: str | Path,
    *,
    observer: Callable[[Path], Observer] | None = None,
    writers: Sequence[str] = (),
    devices: int | None = None,
    system: str | None = None,
) -> Seeds:
    """Go on with the seeds of a directory that `train_seeds` made.

    `system` names FILE.py:NAME again for a model of the user's own, as in `resume`.
    """
    _check_alone()
    plan = _plan(Path(run))
    config = config_from_json(plan["config"])
    if isinstance(config.model, UserModel):
        if system is None:
            raise ValueError(
                f"the runs in {run} are of a model of your own, {config.model.path}, "
                "which is executed only if it is named again: --system FILE.py:NAME"
            )
        config = dataclasses.replace(config, model=UserModel(system))
    elif system is not None:
        raise ValueError(
            f"the runs in {run} are of a network of eqprop; leave --system out"
        )
    shared = {"writers": writers, "devices": devices}
    return _train(config, plan, Path(run), observer, system, shared)


def _check_alone() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes train one run together, not several "
            "seeds: give each seed a call of its own (--seed), or train the seeds in "
            "one process, on as many of its devices as you like (--devices)"
        )


def _check_place(path: Path, plan: dict[str, Any]) -> None:
    """A directory that is new, or holds these very seeds."""
    if (path / "config.json").exists():
        raise ValueError(
            f"{path} holds a run of one seed; choose another directory with --run DIR"
        )
    if (path / SEEDS_FILE).exists() and _plan(path) != plan:
        raise ValueError(
            f"{path} holds seeds of another configuration; choose another directory "
            f"with --run DIR, or go on with them: eqprop train --resume {path}"
        )


def holds_seeds(run: str | Path) -> bool:
    """Whether `train_seeds` made this directory."""
    return (Path(run) / SEEDS_FILE).exists()


def _plan(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / SEEDS_FILE).read_text(encoding="utf-8"))
        plan = {name: found[name] for name in ("seeds", "config")}
        _check_count(plan["seeds"], config_from_json(plan["config"]).seed)
    except (AttributeError, KeyError, TypeError, *UNREADABLE) as error:
        raise ValueError(
            f"{path / SEEDS_FILE} is damaged ({error}); bring it back, or give one of "
            f"the runs in {path}"
        ) from error
    return plan


def _check_count(seeds: Any, first: int) -> None:
    if not isinstance(seeds, int) or not 1 <= seeds <= 2**32 - first:
        raise ValueError(
            f"seeds is {seeds!r}; give a whole number ≥ 1, e.g. 5, whose last seed is "
            "below 2**32"
        )


def _train(config, plan, path: Path, observer, system, shared) -> Seeds:
    records: list[dict[str, Any]] = []
    for seed in range(config.seed, config.seed + plan["seeds"]):
        place = path / f"seed{seed}"
        watcher = None if observer is None else observer(place)
        one = dataclasses.replace(config, seed=seed)
        failure = _one(one, place, watcher, system, shared)
        history = RunDirectory(place).history()
        last = history[-1] if history else {}
        record = {"seed": seed, "run": str(place), "failure": failure}
        records.append(record | {name: last.get(name) for name in ERRORS})
        _write(path, plan, records)
    return Seeds(path, records)


def complete(
    config: Config,
    run: Path,
    *,
    observer: Observer | None = None,
    system: str | None = None,
    **shared: Any,
) -> str | None:
    """Train, go on with, or leave the run in a directory; say how it diverged.

    A run that is there must be of this configuration: it is not looked at.
    """
    directory = RunDirectory(run)
    try:
        if not directory.config_file.exists():
            train(config, run=run, observer=observer, **shared)
        elif len(directory.history()) < config.epochs:
            resume(run, observer=observer, system=system, **shared)
    except TrainingDiverged as stop:
        return str(stop)
    return None


def _one(config, place: Path, observer, system, shared) -> str | None:
    """The run of one seed; a Ctrl-C names the command that resumes all of them."""
    try:
        return complete(config, place, observer=observer, system=system, **shared)
    except TrainingInterrupted as stop:
        raise TrainingInterrupted(
            stop.stopped, f"eqprop train --resume {place.parent}"
        ) from None


def _write(path: Path, plan: dict[str, Any], records: list[dict[str, Any]]) -> None:
    found = Seeds(path, records)
    written = {**plan, "records": records, "summary": found.summary}
    RunDirectory(path).write_json(SEEDS_FILE, written)


def _spread(records: list[dict[str, Any]], name: str) -> dict[str, Any]:
    kept = [r[name] for r in records if r["failure"] is None]
    if not kept or any(value is None for value in kept):
        return {"mean": None, "std": None, "runs": 0}
    std = float(np.std(kept, ddof=1)) if len(kept) > 1 else None
    return {"mean": float(np.mean(kept)), "std": std, "runs": len(kept)}
