"""Train one configuration with several seeds; summarize their errors as mean ± std.

The seeds train one after the other and share one compiled program.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

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
    _configured,
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
    """The directory of the runs, and one record for each seed.

    A record holds `seed`, `run`, `failure` (how the seed diverged, else `None`) and
    the fields of the last epoch that `summary` uses.  Errors are fractions, and `None`
    if the run has no such data.
    """

    path: Path
    records: list[dict[str, Any]]

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """`mean`, `std` and `runs` of every field, over seeds that did not diverge.

        `std` is that of a sample (n − 1), and `None` for one seed.
        """
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
    """Train `seeds` runs that differ only in their seed: seed, seed + 1, ….

    Each is a complete run in `run`/seedN.  After an interruption, the same call or
    `resume_seeds` resumes; finished runs are not trained again.

    **Arguments:**

    - `run`: the directory (default: `runs/NAME-seeds-TIME`).
    - `name`: NAME in that default (default: the recipe's name).
    - `observer`: makes the observer of the run in a directory.
    - `writers`, `devices`: as for `train`, for every run.
    - `overrides`: fields of the configuration, e.g. `epochs=5, seed=3`.

    **Raises:** `ValueError` for fewer than one seed, or for a directory that holds
    other runs; `TrainingInterrupted` after saving.
    """
    _check_alone()
    name = name or (config if isinstance(config, str) else "run")
    config = _with_whole_paths(_configured(config, overrides))
    _check_count(seeds, config.seed)
    plan = json.loads(json.dumps({"seeds": seeds, "config": config_to_json(config)}))
    if run is not None:
        _check_place(Path(run), plan)
    _start(config, Problem.build(config), devices)  # refuse before writing anything
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
    """Resume the seeds in a directory that `train_seeds` made.

    `system` names the user's own model again, as FILE.py:NAME (see `resume`).
    """
    _check_alone()
    plan = _plan(Path(run))
    config = config_from_json(plan["config"])
    if isinstance(config.model, UserModel):
        if system is None:
            raise ValueError(
                f"the runs in {run} trained your own model, {config.model.path}, which "
                "is executed only if you name it again: --system FILE.py:NAME"
            )
        config = dataclasses.replace(config, model=UserModel(system))
    elif system is not None:
        raise ValueError(
            f"system is {system}, but the runs in {run} trained a built-in network; "
            "leave --system out"
        )
    shared = {"writers": writers, "devices": devices}
    return _train(config, plan, Path(run), observer, system, shared)


def _check_alone() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes train one run together, not several "
            "seeds: start eqprop train once for each seed (--seed), or train the seeds "
            "in one process on several devices (--devices)"
        )


def _check_place(path: Path, plan: dict[str, Any]) -> None:
    """Refuse a directory that holds other runs."""
    if (path / "config.json").exists():
        raise ValueError(
            f"{path} holds a run of one seed; choose another directory with --run DIR"
        )
    if (path / SEEDS_FILE).exists() and _plan(path) != plan:
        raise ValueError(
            f"{path} holds seeds of another configuration; choose another directory "
            f"with --run DIR, or resume them: eqprop train --resume {path}"
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
            f"{path / SEEDS_FILE} is damaged ({error}); restore it, or give one of the "
            f"runs in {path}"
        ) from error
    return plan


def _check_count(seeds: Any, first: int) -> None:
    if not isinstance(seeds, int) or not 1 <= seeds <= 2**32 - first:
        raise ValueError(
            f"seeds is {seeds!r} and the first seed is {first}; give a whole number "
            "≥ 1, e.g. 5, with the last seed below 2**32"
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
    """Train or resume the run in a directory, or leave a finished one.

    If the directory holds a run, the caller ensures that it has this configuration.

    **Returns:** how the training diverged, or `None`.
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
    """Train one seed; on Ctrl-C, name the command that resumes all seeds."""
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
