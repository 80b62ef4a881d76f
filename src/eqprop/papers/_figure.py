"""Curves, panels and figures of claims: one way to draw them all."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._drawing import COLORS, subplots

Numbers = Any
"""a sequence of numbers, or an array of NumPy or JAX"""
Scale = Literal["", "x", "y", "xy", "percent"]
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
Kind = Literal["measured", "expected", "other", "solid", "dashed", "points"]
STYLES: dict[Kind, dict[str, Any]] = {
    "measured": {"linestyle": "-", "marker": "o"},
    "expected": {"linestyle": "--"},
    "other": {"linestyle": ":"},
    "solid": {"linestyle": "-", "linewidth": 3, "alpha": 0.45},
    "dashed": {"linestyle": "--"},
    "points": {"linestyle": "", "marker": "."},
}
"""solid and dashed are the two processes of the papers: BPTT's or RBP's, and EP's"""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Numbers y over x.

    A curve without a label is left out of the legend. `color` is an index of the
    palette, by default the curve's own index; `spread` is the standard deviation of
    each y.
    """

    label: str
    x: Numbers
    y: Numbers
    kind: Kind = "measured"
    color: int | None = None
    spread: Numbers | None = None

    def __post_init__(self):
        for name in ("x", "y", "spread"):
            given = getattr(self, name)
            if given is not None:
                values = np.asarray(given, float)
                object.__setattr__(self, name, tuple(values.tolist()))
                if len(values) != len(self.x):
                    raise ValueError(
                        f"{self.label}: {len(self.x)} x and {len(values)} {name}; give "
                        f"as many {name} as x"
                    )


def curves(x: Numbers, y: Mapping[str, Numbers], kind: Kind = "measured") -> list:
    """A curve over x for each name."""
    return [Curve(name, x, values, kind) for name, values in y.items()]


def power(
    label: str, x: Numbers, exponent: float, at: tuple[float, float], **style: Any
) -> Curve:
    """The line y ∝ x^exponent through the point `at`, as an expected curve."""
    y = at[1] * (np.asarray(x) / at[0]) ** exponent
    return Curve(label, x, y, **{"kind": "expected", **style})


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes; `scale` names the logarithmic axes, or has errors in percent.

    With `bars`, the names of groups, a curve is a bar in each of the groups x.
    """

    x: str
    y: str
    curves: Sequence[Curve]
    scale: Scale = ""
    title: str = ""
    bars: tuple[str, ...] = ()

    def draw(self, ax: Any) -> None:
        """Draw all curves and the legend of those that have a label."""
        for number, curve in enumerate(self.curves):
            color = COLORS[(curve.color or 0) % len(COLORS)]
            if curve.color is None:
                color = COLORS[number % len(COLORS)]
            if self.bars:
                self._bar(ax, number, curve, color)
                continue
            style = {"markersize": 4, **STYLES[curve.kind]}
            if curve.kind == "measured" and len(curve.x) > 30:
                del style["marker"]
            ax.plot(curve.x, curve.y, color=color, label=curve.label or None, **style)
        if self.bars:
            ax.set_xticks(range(len(self.bars)), self.bars, fontsize=8)
        if self.scale == "percent":
            ax.set_yscale("symlog")
            ax.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
            ax.set_ylim(bottom=0)
        for name, axis in {"x": ax.xaxis, "y": ax.yaxis}.items():
            if self.scale in (name, "xy"):
                ax.set(**{f"{name}scale": "log"})
                low, high = axis.get_view_interval()
                if high > 10 * low:  # otherwise the minor ticks carry the only labels
                    axis.set_minor_formatter("")
        counts = all(x == round(x) for curve in self.curves for x in curve.x)
        if counts and self.scale in ("", "y", "percent") and not self.bars:
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel=self.x, ylabel=self.y)
        ax.set_title(self.title, fontsize=9, loc="left", wrap=True)
        if any(curve.label for curve in self.curves):
            ax.legend(fontsize=8)
        ax.grid(alpha=0.3)

    def _bar(self, ax: Any, number: int, curve: Curve, color: str) -> None:
        width = 0.8 / len(self.curves)
        places = np.asarray(curve.x) + (number + 0.5) * width - 0.4
        spread: Any = curve.spread
        if spread is not None:  # an error bar must not reach below zero
            spread = [np.minimum(spread, curve.y), spread]
        errors: Any = {"yerr": spread, "capsize": 3, "ecolor": "0.3"}
        label, width = curve.label, 0.92 * width
        ax.bar(places, curve.y, width, label=label, color=color, **errors)


def draw(panels: Sequence[Panel], rows: int, title: str, path: Path | None) -> Any:
    """Draw the panels in rows; save the figure if a path is given."""
    columns = -(-len(panels) // rows)
    figure, axes = subplots(rows, columns, (4.6 * columns, 3.6 * rows))
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, panel in zip(axes.flat, panels, strict=False):
        panel.draw(ax)
    figure.suptitle(title, fontsize=9, wrap=True)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
