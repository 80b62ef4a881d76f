"""A claim, the numbers measured for it, and one way to draw them all."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._drawing import COLORS, subplots

STYLES = {
    "measured": "o-",
    "expected": "--",
    "other": ":",
    "solid": "-",
    "dashed": "--",
    "points": ".",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Numbers y over x; `kind` says whether they were measured or are expected.

    "solid" and "dashed" are the two processes of the papers' figures, BPTT's or RBP's
    and EP's.  Without a label it is not in the legend; `color` is a number in the
    palette, by default the curve's own; `spread` is a standard deviation of each y.
    """

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    kind: Literal["measured", "expected", "other", "solid", "dashed", "points"] = (
        "measured"
    )
    color: int | None = None
    spread: Sequence[float] | np.ndarray | None = None

    def __post_init__(self):
        for name in ("x", "y", "spread"):
            given = getattr(self, name)
            if given is not None:
                values = np.asarray(given, float)
                object.__setattr__(self, name, tuple(values.tolist()))
        for name in ("y", "spread"):
            count = len(self.x if getattr(self, name) is None else getattr(self, name))
            if len(self.x) != count:
                raise ValueError(f"{self.label}: {len(self.x)} x and {count} {name}")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes; `scale` names those that are logarithmic.

    With `bars`, names of groups, each curve is a bar in the groups number x.
    """

    x: str
    y: str
    curves: tuple[Curve, ...]
    scale: Literal["", "x", "y", "xy"] = ""
    title: str = ""
    bars: tuple[str, ...] = ()

    def draw(self, ax: Any) -> None:
        """All curves, and the legend of those that have a label."""
        for number, curve in enumerate(self.curves):
            if self.bars:
                self._bar(ax, number, curve)
                continue
            style = STYLES[curve.kind]
            if curve.kind == "measured" and len(curve.x) > 30:
                style = "-"
            number = number if curve.color is None else curve.color
            ax.plot(
                *(curve.x, curve.y, style),
                color=COLORS[number % len(COLORS)],
                label=curve.label or None,
                markersize=4,
                linewidth=3 if curve.kind == "solid" else None,
                alpha=0.45 if curve.kind == "solid" else None,
            )
        for name in self.scale:
            ax.set(**{f"{name}scale": "log"})
            low, high = getattr(ax, f"get_{name}lim")()
            if high > 10 * low:  # else no power of ten would be labelled
                getattr(ax, f"{name}axis").set_minor_formatter("")
        ax.set(xlabel=self.x, ylabel=self.y)
        ax.set_title(self.title, fontsize=9, loc="left")
        if any(curve.label for curve in self.curves):
            ax.legend(fontsize=8)
        ax.grid(alpha=0.3)

    def _bar(self, ax: Any, number: int, curve: Curve) -> None:
        width = 0.8 / len(self.curves)
        places = np.asarray(curve.x) + (number + 0.5) * width - 0.4
        spread: Any = curve.spread
        if spread is not None:  # a bar does not reach below zero
            spread = [np.minimum(spread, curve.y), spread]
        color = COLORS[number % len(COLORS)]
        options: Any = {"yerr": spread, "capsize": 3, "ecolor": "0.3"}
        ax.bar(
            *(places, curve.y, 0.92 * width), label=curve.label, color=color, **options
        )
        ax.set_xticks(range(len(self.bars)), self.bars, fontsize=8)


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """What was claimed, by whom, what was found, and whether it holds.

    - `claim`: the statement that is tested; `source`: paper and equation.
    - `panels`: the measured curves beside the expected ones, in `rows` rows.
    - `findings`: the numbers behind the verdict, by name.
    - `holds`: whether the claim was found to be true within its tolerance.
    - `words`: the verdict in a sentence, with the numbers that decided it.
    """

    claim: str
    source: str
    panels: tuple[Panel, ...]
    findings: dict[str, float]
    holds: bool
    words: str
    rows: int = 1

    def record(self) -> dict[str, Any]:
        """All of it as plain numbers and strings."""
        return dataclasses.asdict(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """The panels as a matplotlib figure, saved where `path` is given."""
        columns = -(-len(self.panels) // self.rows)
        size = (4.6 * columns, 3.6 * self.rows)
        figure, axes = subplots(self.rows, columns, size)
        for ax in axes.flat[len(self.panels) :]:
            ax.axis("off")
        for ax, panel in zip(axes.flat, self.panels, strict=False):
            panel.draw(ax)
        figure.suptitle(f"{self.claim}\n({self.source})", fontsize=9, wrap=True)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure
