"""Items that are trainings: a recipe and its seeds, each an ordinary run directory."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

import eqprop as ep

from .. import data
from ..report import number, spread
from ..runs import complete, read_environment, RunDirectory
from ..training import config_from_json, config_to_json
from ._figure import Curve, draw, Panel
from ._item import Context, Item, machine
from ._record import Alignment, SeedRecord, TrainingRecord, Version
from ._verdict import Published, verdict

SPLITS = {"train": "train", "val": "validation", "test": "test"}
ERRORS = ("train_error", "val_error", "test_error", "test_error_cold")
FEW_TRAIN, FEW_TEST, FEW_EPOCHS = 2000, 1000, 3
"""examples and epochs of a quick version"""
FEW = f"{FEW_TRAIN} examples of the data set"
"""what the record of a quick version names as its data"""
TOLERANCE = 1e-4
"""velocity below which a free phase of a settled version ends"""
OMEGA = {ep.Hopfield: (1.5, 1.75), ep.Prototypical: (1.3, 1.65)}
"""over-relaxation for one hidden layer and for more; 1 without an energy or a Φ

A batch waits for its slowest example. With three hidden layers, after 300 updates,
over-relaxation reduces 143 sweeps to 36 (prototypical) and 306 to 73 (paper A)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Item):
    """Errors of a recipe at its last epoch, mean ± std over seeds.

    - `recipe`: its name in `ep.RECIPES`.
    - `took`: how long the paper's training took, and where that is said.
    """

    recipe: str
    took: str = ""

    @property
    def whole(self) -> ep.Config:
        """The configuration of the recipe."""
        return ep.recipe(self.recipe).config

    @property
    def settles(self) -> bool:
        """Whether its free phases end once settled in every version."""
        return settled_version(self.whole) == self.whole

    def config(self, version: Version, runs: Path) -> ep.Config:
        """The configuration of a version; a quick one's examples go into `runs`."""
        config = self.whole
        if version.quick:
            config = quick_version(config, runs)
        if version.settled:
            config = settled_version(config)
        if version.epochs is not None:
            config = dataclasses.replace(config, epochs=version.epochs)
        return config

    def measure(self, context: Context) -> TrainingRecord:
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
        kept = {k: v for k, v in config_to_json(config).items() if k != "seed"}
        if version.quick:  # the path on this machine says nothing elsewhere
            kept["data"] = FEW
        record = TrainingRecord(
            recipe=self.recipe,
            quick=version.quick,
            settled=version.settled,
            epochs=version.epochs,
            config=kept,
            seeds=tuple(seeds),
        )
        draw(self.panels(record), 1, "", context.figure)
        return record

    def _seed(self, config: ep.Config, place: Path, context: Context) -> SeedRecord:
        """Train, resume or read the run of one seed."""
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
        except ep.TrainingInterrupted as stop:
            again = "the same command again"
            raise ep.TrainingInterrupted(stop.stopped, again) from None
        return _kept(run, config.seed, failure)

    def values(self, record: TrainingRecord, key: str) -> list[float]:
        """A measurement of every seed that ended, in percent."""
        found = [number(seed.last.get(key)) for seed in record.ended]
        return [100 * value for value in found if value is not None]

    def marks(self, record: TrainingRecord) -> list[tuple[Published | None, str, str]]:
        """For each published number, or the test error: that number, ours, the mark."""
        rows = []
        for published in self.published or (None,):
            values = self.values(record, published.key if published else "test_error")
            mark = verdict(published, values)
            if record.quick:
                mark = "quick"
            elif record.seeds and not record.ended:
                mark = "diverged"
            elif record.epochs and mark != "not run":
                mark = f"{record.epochs} of {self.whole.epochs} epochs"
            rows.append((published, spread(values), mark))
        return rows

    def verdict(self, record: TrainingRecord) -> str:
        """The first mark, or *differs* if any number differs."""
        marks = [mark for *_, mark in self.marks(record)]
        return "differs" if "differs" in marks else marks[0]

    def result(self, record: TrainingRecord) -> str:
        names = {name: f"{name}_error" for name in ("train", "val", "test")}
        names["test from new states"] = "test_error_cold"
        found = [
            f"{name} {spread(values)}"
            for name, key in names.items()
            if (values := self.values(record, key))
        ]
        words = ", ".join(found)
        if failed := len(record.seeds) - len(record.ended):
            words += f"; {failed} diverged"
        words += self._settled(record)
        if kept := [seed.alignment for seed in record.seeds if seed.alignment]:
            angles = np.mean([each.degrees for each in kept], axis=0)
            traces = np.mean([each.trace for each in kept], axis=0)
            words += (
                "; angle of forward and backward weights at the end: "
                + ", ".join(f"{angle:.0f}°" for angle in angles)
                + "; trace of their product: "
                + ", ".join(f"{trace:.3g}" for trace in traces)
            )
        return words

    def _settled(self, record: TrainingRecord) -> str:
        """How many free phases of the last epoch settled, and how many oscillated."""
        found = []
        for key, least in (("settled", 0.0), ("oscillating", 0.05)):
            shares = self.values(record, key)
            if shares and np.mean(shares) >= least:
                verb = {"oscillating": "oscillated"}.get(key, key)
                found.append(f"{np.mean(shares):.1f} % {verb}")
        words = " and ".join(found)
        return f"; {words} in the free phases of the last epoch" if words else ""

    def panels(self, record: TrainingRecord) -> list[Panel]:
        """The errors of every epoch, a line a seed, and the published test error.

        If the weights are untied, their traces too (paper C, figure 3, right).
        """
        lines, traces = [], []
        for color, (name, label) in enumerate(SPLITS.items()):
            for seed in record.seeds:
                errors = [number(e) for e in seed.curves.get(f"{name}_error", [])]
                points = [np.nan if e is None else 100 * e for e in errors]
                if np.isfinite(points).any():
                    lines.append(_line(label, points, color))
                    label = ""
        most = max((line.x[-1] for line in lines), default=1)
        for published in () if record.quick else self.published:
            if published.key == "test_error":
                label, y = f"published test error: {published}", [published.value] * 2
                lines.append(Curve(label, (1, most), y, "expected", 6))
        for count, seed in enumerate(record.seeds):
            for pair, points in enumerate(np.transpose(seed.traces or [])):
                label = "" if count else f"layers {pair + 1} and {pair + 2}"
                traces.append(_line(label, points, pair))
        title = f"{self.name}: {self.shows}"
        panels = [Panel("epoch", "error (%)", lines, "percent", title)]
        if traces:
            zero = Curve("", (1, most), (0, 0), "expected", 6)
            title = "forward and backward weights"
            panels.append(Panel("epoch", "tr(W Bᵀ)", [*traces, zero], title=title))
        return panels


def _line(label: str, points: Any, color: int) -> Curve:
    """One line over the epochs."""
    return Curve(label, range(1, len(points) + 1), points, "measured", color)


def _known(config: ep.Config, context: Context) -> dict[int, SeedRecord]:
    """The seeds of the kept record, if it is of this configuration."""
    if not isinstance(context.kept, TrainingRecord):
        return {}
    kept = {"seed": config.seed, **context.kept.config}
    if kept.get("data") == FEW:
        kept["data"] = config.data
    try:
        same = config_from_json(kept) == config
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}  # another version of this program wrote it
    return {seed.seed: seed for seed in context.kept.seeds} if same else {}


def quick_version(config: ep.Config, folder: Path) -> ep.Config:
    """The same network and rule on a few examples, for a few epochs."""
    quick = dataclasses.replace(config, epochs=min(config.epochs, FEW_EPOCHS))
    assert config.data is not None
    file = (folder / f"{Path(config.data).stem}-{FEW_TRAIN}.npz").resolve()
    if not file.exists():
        whole = data.load(config.data, flatten=False)
        if len(whole.train) <= FEW_TRAIN or whole.test is None:
            return quick
        _write_few(whole, file)
    validation = 0.2 if config.validation else 0
    return dataclasses.replace(quick, data=str(file), validation=validation)


def settled_version(config: ep.Config) -> ep.Config:
    """The same training with free phases that end once they have settled.

    Sweeps lead to a fixed point of the same dynamics in a fraction of its steps; T, in
    sweeps, is the maximum. If there are several fixed points, steps from the same start
    may lead to another one. Nudged phases stay as they are, because their K steps
    truncate the gradient.
    """
    rule: Any = config.estimator
    free = vars(rule).get("free")
    if not isinstance(free, ep.Euler | ep.Sweep):
        raise ValueError(
            f"{type(rule).__name__} has no free phase of Euler steps or sweeps that "
            "could end once it has settled; leave out --settled"
        )
    omega = 1.0
    if isinstance(free, ep.Sweep):
        omega = free.omega
    elif isinstance(config.model, ep.Hopfield | ep.Prototypical):
        omega = OMEGA[type(config.model)][len(config.model.hidden) > 1]
    free = ep.Sweep(free.steps, TOLERANCE, omega=omega)
    return dataclasses.replace(config, estimator=dataclasses.replace(rule, free=free))


def _write_few(whole: data.Dataset, file: Path) -> None:
    """Write the first examples of a data set, as a file that appears when complete."""
    splits = {"": (whole.train, FEW_TRAIN), "_test": (whole.test, FEW_TEST)}
    arrays = {}
    for end, (part, count) in splits.items():
        assert part is not None
        arrays[f"x{end}"] = np.asarray(part.x[:count])
        arrays[f"y{end}"] = np.asarray(part.y[:count])
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(unfinished, **arrays)
    unfinished.replace(file)


def _kept(run: RunDirectory, seed: int, failure: str | None) -> SeedRecord:
    """The last epoch, the curves, the time and the machine of a run."""
    history = run.history()
    last = history[-1] if history else {}
    keys = [k for k in ERRORS if any(entry.get(k) is not None for entry in history)]
    columns = {key: [entry.get(key) for entry in history] for key in keys}
    traces = [entry.get("alignment_trace", []) for entry in history]
    aligned = {}
    if any(traces):
        degrees = last["alignment_angle"]
        aligned["alignment"] = Alignment(trace=traces[-1], degrees=degrees)
        aligned["traces"] = np.round(traces, 3).tolist()
    return SeedRecord(
        **aligned,
        seed=seed,
        failure=failure,
        epochs=last.get("epoch", 0),
        last={k: last.get(k) for k in (*keys, "loss", "settled", "oscillating")},
        seconds=last.get("training_seconds"),
        curves={
            key: [None if v is None else round(v, 6) for v in column]
            for key, column in columns.items()
        },
        environment=machine(read_environment(run)),
    )
