"""What a report is made of: the plain records of runs, whatever wrote them.

`runs` collects them; pages and tables only read them.  What is missing in one is said
in words in its `missing`, so that a report never looks complete when it is not.
"""

import dataclasses
import json
import statistics
from typing import Any

import numpy as np

STATUSES = ("settled", "unsettled", "oscillating", "diverged")


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a run's network did with every example of one split, each settled anew.

    Arrays are `[examples]`, `outputs` `[examples, outputs]` and `images`
    `[examples, height, width]` (or with channels); `labels` and `images` are `None`
    where targets are no classes and inputs no images.  `residual` is that of
    `ep.Equilibrium`, `status` holds places in `STATUSES`.
    """

    split: str
    outputs: np.ndarray
    steps: np.ndarray
    residual: np.ndarray
    status: np.ndarray
    labels: np.ndarray | None = None
    images: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The class of the largest output, `[examples]`."""
        return self.outputs.argmax(-1)

    @property
    def wrong(self) -> np.ndarray:
        """Which examples are taken for another class, boolean `[examples]`."""
        assert self.labels is not None
        return self.predicted != self.labels

    def confusion(self) -> np.ndarray:
        """How many examples of each class (row) were taken for which (column)."""
        assert self.labels is not None
        classes = self.outputs.shape[1]
        counts = np.zeros((classes, classes), int)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One run: its files as JSON values, and what its network was measured to do."""

    path: str
    config: dict[str, Any]
    environment: dict[str, Any]
    history: list[dict[str, Any]]
    verification: dict[str, Any] | None = None
    figures: dict[str, bytes] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None
    weight_names: tuple[str, ...] = ()
    outcome: Outcome | None = None
    missing: tuple[str, ...] = ()

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def last(self) -> dict[str, Any]:
        """The record of the last epoch; empty where there is none."""
        return self.history[-1] if self.history else {}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration, which differ by their seed."""

    label: str
    runs: tuple[Record, ...]
    differs: dict[str, str]
    """the settings by which it differs from the other groups"""


def grouped(records: list[Record]) -> list[Group]:
    """The runs of each configuration, in the order given."""
    found: dict[str, list[Record]] = {}
    for record in records:
        key = json.dumps(settings(record), sort_keys=True)
        found.setdefault(key, []).append(record)
    each = [settings(runs[0]) for runs in found.values()]
    names = dict.fromkeys(name for one in each for name in one)
    apart = [n for n in names if len({one.get(n, "–") for one in each}) > 1]
    return [
        Group(
            chr(ord("A") + k) if k < 26 else f"A{k}",
            tuple(sorted(runs, key=lambda record: str(record.seed).rjust(12))),
            {name: one.get(name, "–") for name in apart},
        )
        for k, (runs, one) in enumerate(zip(found.values(), each, strict=True))
    ]


def settings(record: Record) -> dict[str, str]:
    """The configuration without its seed, by the names of the command line."""
    flat: dict[str, str] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            if "type" in value and str(value["type"]).lower() != name:
                flat[name or "configuration"] = str(value["type"])
            for key, item in value.items():
                if key != "type":
                    put(f"{name}.{key}" if name else str(key), item)
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            for number, item in enumerate(value, 1):
                put(f"{name}.{number}", item)
        else:
            flat[name] = shown(value)

    put("", {k: v for k, v in record.config.items() if k not in ("seed", "type")})
    return flat


def shown(value: Any) -> str:
    """A setting as one would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(shown(item) for item in value) or "none"
    if isinstance(value, dict):
        return " ".join(f"{k} {shown(v)}" for k, v in value.items()) or "none"
    return str(value)


def number(value: Any) -> float | None:
    """A finite number of a record, which anybody may have edited; else `None`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if np.isfinite(value) else None


def mean_and_deviation(values: list[Any]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation of what was measured."""
    found = [v for v in map(number, values) if v is not None]
    if not found:
        return None
    spread = statistics.stdev(found) if len(found) > 1 else None
    return statistics.mean(found), spread


def spread(percents: list[Any]) -> str:
    """`2.01 ± 0.10 %`, without a deviation of one value, – of none."""
    found = mean_and_deviation(percents)
    if found is None:
        return "–"
    mean, deviation = found
    return f"{mean:.2f} %" if deviation is None else f"{mean:.2f} ± {deviation:.2f} %"


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + "s" * (number != 1)
