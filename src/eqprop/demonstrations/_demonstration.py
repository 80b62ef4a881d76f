"""A claim, the numbers measured for it, and one way to draw them all."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._drawing import COLORS, subplots

STYLES = {"measured": "o-", "expected": "--", "other": ":"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Numbers y over x; `kind` says whether they were measured or are expected."""

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    kind: Literal["measured", "expected", "other"] = "measured"

    def __post_init__(self):
        for name in ("x", "y"):
            values = np.asarray(getattr(self, name), float)
            object.__setattr__(self, name, tuple(values.tolist()))
        if len(self.x) != len(self.y):
            raise ValueError(f"{self.label}: {len(self.x)} x and {len(self.y)} y")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes; `scale` names those that are logarithmic."""

    x: str
    y: str
    curves: tuple[Curve, ...]
    scale: Literal["", "x", "y", "xy"] = ""


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """What was claimed, by whom, what was found, and whether it holds.

    - `claim`: the statement that is tested; `source`: paper and equation.
    - `panels`: the measured curves beside the expected ones.
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

    def record(self) -> dict[str, Any]:
        """All of it as plain numbers and strings."""
        return dataclasses.asdict(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """One row of panels as a matplotlib figure, saved where `path` is given."""
        figure, axes = subplots(1, len(self.panels), (4.6 * len(self.panels), 3.6))
        for ax, panel in zip(axes[0], self.panels, strict=True):
            for number, curve in enumerate(panel.curves):
                color = COLORS[number % len(COLORS)]
                style = STYLES[curve.kind]
                if curve.kind == "measured" and len(curve.x) > 30:
                    style = "-"
                ax.plot(
                    *(curve.x, curve.y, style),
                    color=color,
                    label=curve.label,
                    markersize=4,
                )
            for name in panel.scale:
                ax.set(**{f"{name}scale": "log"})
                low, high = getattr(ax, f"get_{name}lim")()
                if high > 10 * low:  # else no power of ten would be labelled
                    getattr(ax, f"{name}axis").set_minor_formatter("")
            ax.set(xlabel=panel.x, ylabel=panel.y)
            ax.legend(fontsize=8)
            ax.grid(alpha=0.3)
        figure.suptitle(f"{self.claim}\n({self.source})", fontsize=9, wrap=True)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure
