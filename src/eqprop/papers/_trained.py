"""Items that are trainings: a recipe and its seeds, each an ordinary run directory."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, recipes
from .._drawing import COLORS, subplots
from ..data._download import PUBLISHED
from ..relaxations import Euler, Sweep
from ..report._record import number, spread
from ..runs import complete, read_environment, RunDirectory, TrainingInterrupted
from ..training import (
    Config,
    config_from_json,
    config_to_json,
    Hopfield,
    Prototypical,
)
from ._item import Context, Item, machine
from ._records import Version
from ._verdict import Published, verdict

SPLITS = (("train", "train"), ("val", "validation"), ("test", "test"))
ERRORS = ("train_error", "val_error", "test_error", "test_error_cold")
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
QUICK = {"train": 2000, "test": 1000, "epochs": 3}
"""examples and epochs of a quick version"""
FEW = f"{QUICK['train']} examples of the data set"
"""what a quick version's record names as its data"""
TOLERANCE = 1e-4
"""velocity below which a settled version's free phase ends"""
OMEGA = {Hopfield: (1.5, 1.75), Prototypical: (1.3, 1.65)}
"""over-relaxation of few dense layers, and of more; 1 where no energy is descended

A batch waits for its slowest example: with three hidden layers, after 300 updates, 36
(prototypical) and 73 sweeps (paper A's network) instead of 143 and 306 with ω = 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(Item):
    """Errors of a recipe at its last epoch, mean ± std over seeds.

    - `recipe`: its name in `eqprop.recipes`.
    - `took`: how long the paper's training took, and where that is said.
    """

    recipe: str
    took: str = ""

    @property
    def epochs(self) -> int:
        """Of the whole training."""
        return recipes.recipe(self.recipe).config.epochs

    @property
    def settles(self) -> bool:
        """Whether its free phases end once settled in any version."""
        config = recipes.recipe(self.recipe).config
        return settled_version(config) == config

    def config(self, version: Version, runs: Path) -> Config:
        """The recipe, as this version trains it; `runs` gets a quick one's examples."""
        config = recipes.recipe(self.recipe).config
        if version.quick:
            config = quick_version(config, runs)
        if version.settled:
            config = settled_version(config)
        if version.epochs is not None:
            config = dataclasses.replace(config, epochs=version.epochs)
        return config

    def measure(self, context: Context) -> dict[str, Any]:
        version = context.version
        config = self.config(version, context.runs)
        place = context.runs / f"{self.name}{version}"
        known = _known(config, context)
        seeds = [
            self._seed(dataclasses.replace(config, seed=seed), place, context)
            if seed not in known or (place / f"seed{seed}").exists()
            else known[seed]
            for seed in sorted({*range(context.seeds), *known})
        ]
        record = {
            "recipe": self.recipe,
            "quick": version.quick,
            "settled": version.settled,
            "epochs": version.epochs,
            "config": {k: v for k, v in config_to_json(config).items() if k != "seed"},
            "seeds": seeds,
        }
        if version.quick:  # a path of this machine says nothing elsewhere
            record["config"]["data"] = FEW
        self.plot(record, context.figure)
        return record

    def _seed(self, config: Config, place: Path, context: Context) -> dict[str, Any]:
        """Train, go on with, or leave the run of one seed; what it holds."""
        run = RunDirectory(place / f"seed{config.seed}")
        if run.config_file.exists():
            kept, wanted = config_to_json(run.config()), config_to_json(config)
            if kept != wanted:
                apart = ", ".join(k for k in wanted if kept.get(k) != wanted[k])
                raise ValueError(
                    f"{run.path} holds a run of another configuration ({apart}); "
                    "choose another folder with --runs DIR, or remove it"
                )
        observer = None if context.observer is None else context.observer(run.path)
        try:
            failure = complete(config, run.path, observer=observer)
        except TrainingInterrupted as stop:
            again = "the same command again"
            raise TrainingInterrupted(stop.stopped, again) from None
        return {"seed": config.seed, "failure": failure, **_kept(run)}

    def values(self, record: dict[str, Any], key: str) -> list[float]:
        """Of every seed that came to its end, in percent."""
        found = [
            number(seed["last"].get(key))
            for seed in record["seeds"]
            if seed["failure"] is None
        ]
        return [100 * value for value in found if value is not None]

    def marks(self, record: dict[str, Any]) -> list[tuple[Published | None, str, str]]:
        """Of each published quantity, or the test error: theirs, ours, mark."""
        rows = []
        for published in self.published or (None,):
            key = published.key if published else "test_error"
            values = self.values(record, key)
            mark = verdict(published, values)
            if record["quick"]:
                mark = "quick"
            elif record["seeds"] and all(seed["failure"] for seed in record["seeds"]):
                mark = "diverged"
            elif record.get("epochs") and mark != "not run":
                mark = f"{record['epochs']} of {self.epochs} epochs"
            rows.append((published, spread(values), mark))
        return rows

    def verdict(self, record: dict[str, Any]) -> str:
        """The first mark; *differs* where any is."""
        marks = [mark for *_, mark in self.marks(record)]
        return "differs" if "differs" in marks else marks[0]

    def result(self, record: dict[str, Any]) -> str:
        names = {name: f"{name}_error" for name in ("train", "val", "test")}
        names["test from new states"] = "test_error_cold"
        found = [
            f"{name} {spread(values)}"
            for name, key in names.items()
            if (values := self.values(record, key))
        ]
        failed = sum(seed["failure"] is not None for seed in record["seeds"])
        words = ", ".join(found) + (f"; {failed} diverged" if failed else "")
        words += self._settled(record)
        kept = [seed["alignment"] for seed in record["seeds"] if "alignment" in seed]
        if kept:
            angles = np.mean([each["degrees"] for each in kept], axis=0)
            traces = np.mean([each["trace"] for each in kept], axis=0)
            words += (
                "; at the end forward and backward weights stand at "
                + ", ".join(f"{angle:.0f}°" for angle in angles)
                + ", their traces are "
                + ", ".join(f"{trace:.3g}" for trace in traces)
            )
        return words

    def _settled(self, record: dict[str, Any]) -> str:
        """How many free phases of the last epoch did, and how many swung."""
        words = ""
        for key, what in (("settled", "settled"), ("oscillating", "swung")):
            shares = self.values(record, key)
            if shares and (key == "settled" or np.mean(shares) >= 0.05):
                words += f", {np.mean(shares):.1f} % {what}"
        words = words.removeprefix(",")
        return f"; of the last epoch's free phases{words}" if words else ""

    def plot(self, record: dict[str, Any], file: Path) -> None:
        """Errors per epoch, a line a seed, and the published test error.

        Of untied weights also the traces (paper C, figure 3, right).
        """
        traces = any("traces" in seed for seed in record["seeds"])
        figure, axes = subplots(1, 1 + traces, (10.0 if traces else 6.0, 4.0))
        axis = axes[0, 0]
        for (name, label), color in zip(SPLITS, COLORS, strict=False):
            for count, seed in enumerate(record["seeds"]):
                errors = [number(e) for e in seed["curves"].get(f"{name}_error", [])]
                points = np.array([np.nan if e is None else 100 * e for e in errors])
                if np.isfinite(points).any():
                    _line(axis, points, color, label if count == 0 else None)
        if not record["quick"]:
            for published in (p for p in self.published if p.key == "test_error"):
                label = f"published test error: {published}"
                axis.axhline(published.value, color="black", ls="--", lw=1, label=label)
        axis.set(xlabel="epoch", ylabel="error (%)", yscale="symlog")
        axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.set_ylim(bottom=0)
        if traces:
            _plot_traces(axes[0, 1], record["seeds"])
        for each in axes[0]:
            each.xaxis.get_major_locator().set_params(integer=True)
            each.legend(fontsize=8)
            each.grid(alpha=0.3)
        axis.set_title(f"{self.name}: {self.shows}", fontsize=9, wrap=True)
        figure.savefig(file, dpi=120)


def _plot_traces(axis: Any, seeds: list[dict[str, Any]]) -> None:
    """tr(W Bᵀ) of every pair of layers per epoch, a line a seed."""
    for count, seed in enumerate(seeds):
        for pair, points in enumerate(np.transpose(seed.get("traces", []))):
            label = f"layers {pair + 1} and {pair + 2}" if count == 0 else None
            _line(axis, points, COLORS[pair % len(COLORS)], label)
    axis.axhline(0, color="black", lw=1)
    axis.set(xlabel="epoch", ylabel="tr(W Bᵀ)")
    axis.set_title("forward and backward weights", fontsize=9)


def _line(axis: Any, points: np.ndarray, color: str, label: str | None) -> None:
    style = "o-" if len(points) < 10 else "-"
    epochs = range(1, len(points) + 1)
    axis.plot(epochs, points, style, color=color, label=label, lw=1)


def _known(config: Config, context: Context) -> dict[int, dict[str, Any]]:
    """Seeds of the kept record with this configuration, those that diverged too."""
    if context.kept is None:
        return {}
    given: dict[str, Any] = {"seed": config.seed}
    try:
        if context.kept["config"]["data"] == FEW:
            given["data"] = config.data
        theirs = config_from_json(context.kept["config"] | given)
        seeds = {seed["seed"]: seed for seed in context.kept["seeds"]}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}  # of another version of this program
    return seeds if theirs == config else {}


def quick_version(config: Config, folder: Path) -> Config:
    """The same network and rule on a few examples, for a few epochs."""
    epochs = min(config.epochs, QUICK["epochs"])
    quick = dataclasses.replace(config, epochs=epochs)
    if config.data not in PUBLISHED:
        return quick
    file = (folder / f"{config.data}-{QUICK['train']}.npz").resolve()
    if not file.exists():
        _write_few(config.data, file)
    validation = 0.2 if config.validation else 0
    return dataclasses.replace(quick, data=str(file), validation=validation)


def settled_version(config: Config) -> Config:
    """The same training with free phases that end once they have settled.

    Sweeps lead to a fixed point of the same dynamics in a fraction of its steps; T, in
    sweeps, is the most.  (Where there are several, it need not be the one that steps
    from the same start lead to.)  Nudged phases, whose K steps truncate the gradient,
    stay as they are, and so does everything else.
    """
    rule = config.estimator
    free = getattr(rule, "free", None)
    if not isinstance(free, Euler | Sweep):
        raise ValueError(
            f"{type(rule).__name__} has no free phase of Euler steps or sweeps that "
            "could end once it has settled; leave out --settled"
        )
    omega = 1.0
    if isinstance(free, Sweep):
        omega = free.omega
    elif isinstance(config.model, Hopfield | Prototypical):
        omega = OMEGA[type(config.model)][len(config.model.hidden) > 1]
    free = Sweep(free.steps, TOLERANCE, omega=omega)
    return dataclasses.replace(config, estimator=dataclasses.replace(rule, free=free))


def _write_few(name: str, file: Path) -> None:
    whole = data.load(name, flatten=False)
    arrays = {}
    for split, end in (("train", ""), ("test", "_test")):
        part, count = getattr(whole, split), QUICK[split]
        arrays[f"x{end}"] = np.asarray(part.x[:count])
        arrays[f"y{end}"] = np.asarray(part.y[:count])
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(part, **arrays)
    part.replace(file)


def _kept(run: RunDirectory) -> dict[str, Any]:
    """Last epoch, curves, time and machine of a run."""
    history = run.history()
    last = history[-1] if history else {}
    keys = [k for k in ERRORS if any(entry.get(k) is not None for entry in history)]
    traces = [entry.get("alignment_trace", []) for entry in history]
    aligned = {}
    if any(traces):
        aligned = {
            "alignment": {"trace": traces[-1], "degrees": last["alignment_angle"]},
            "traces": np.round(traces, 3).tolist(),
        }
    return {
        **aligned,
        "epochs": last.get("epoch", 0),
        "last": {
            key: last.get(key) for key in (*keys, "loss", "settled", "oscillating")
        },
        "seconds": last.get("training_seconds"),
        "curves": {
            key: [
                v if v is None else round(v, 6) for v in (e.get(key) for e in history)
            ]
            for key in keys
        },
        "environment": machine(read_environment(run)),
    }
