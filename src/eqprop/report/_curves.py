"""The curves of a report, each a small SVG of its own that fits a narrow screen."""

import io
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from .._drawing import COLORS, subplots
from ._record import Group, number, STATUSES

SPLITS = (("train", "train"), ("val", "validation"), ("test", "test"))
Line = tuple[str, str, str, list[tuple[list[int], list[float]]]]
"""Label, color, style, and (epochs, values) of each run."""


def curves(groups: list[Group]) -> dict[str, tuple[str, bytes]]:
    """Title → (what it shows, in words for those who do not see it; SVG)."""
    panels: dict[str, tuple[list[Line], bool, str]] = {
        "error (%)": (_errors(groups), False, "error of the splits"),
        "loss (mean cost)": (_losses(groups), True, "mean cost"),
        "settled (% of training examples)": (
            _each(groups, lambda r: _scaled(r.get("settled"))),
            False,
            "share of training examples whose free phase settled",
        ),
        "mean free-phase residual": (
            _residuals(groups),
            True,
            "mean residual at the end of the free phase",
        ),
        "‖ΔW‖ / ‖W‖ per update": (_changes(groups), True, "relative weight change"),
    }
    return {
        title: (_described(words, lines), _draw(title, lines, log))
        for title, (lines, log, words) in panels.items()
        if lines
    }


def residuals(values: np.ndarray, status: np.ndarray) -> bytes | None:
    """A histogram of examples' residuals, by how they ended; of none above 0, `None`.

    Both arrays are `[examples]`; an SVG.
    """
    positive = np.isfinite(values) & (values > 0)
    if not positive.any():
        return None
    logs = np.log10(values[positive])
    edges = np.linspace(np.floor(logs.min()), np.ceil(logs.max() + 1e-9), 40)
    figure, axes = subplots(1, 1, (4.6, 2.5))
    axis, shown = axes[0, 0], []
    for k, name in enumerate(STATUSES):
        if (chosen := status[positive] == k).any():
            shown.append((logs[chosen], COLORS[k], name))
    axis.hist(
        [values for values, _, _ in shown],
        edges,
        stacked=True,
        color=[color for _, color, _ in shown],
        label=[name for _, _, name in shown],
    )
    axis.set(xlabel="log₁₀ residual", ylabel="examples")
    axis.legend(fontsize=8, frameon=False)
    return _svg(figure)


def _errors(groups: list[Group]) -> list[Line]:
    return _by_split(
        groups, lambda name: lambda record: _scaled(record.get(f"{name}_error"))
    )


def _losses(groups: list[Group]) -> list[Line]:
    def of(name: str):
        key = "loss" if name == "train" else f"{name}_loss"
        return lambda record: record.get(key)

    return _by_split(groups, of)


def _by_split(groups: list[Group], of: Callable[[str], Callable]) -> list[Line]:
    """Colors tell the splits of one configuration apart, or the configurations."""
    if len(groups) == 1:
        lines = [
            _line(label, COLORS[k], "-", groups[0], of(name))
            for k, (name, label) in enumerate(SPLITS)
        ]
    else:
        lines = [
            _line(f"{group.label} {label}", _color(k), style, group, of(name))
            for k, group in enumerate(groups)
            for name, label, style in (("train", "train", ":"), ("test", "test", "-"))
        ]
    return [line for line in lines if line[3]]


def _each(groups: list[Group], value: Callable) -> list[Line]:
    lines = [
        _line(group.label if len(groups) > 1 else "", _color(k), "-", group, value)
        for k, group in enumerate(groups)
    ]
    return [line for line in lines if line[3]]


def _residuals(groups: list[Group]) -> list[Line]:
    lines = _each(groups, lambda record: record.get("residual"))
    if len(groups) == 1:
        cold = _line(
            "from a cold start", COLORS[1], "--", groups[0], _get("residual_cold")
        )
        if cold[3]:
            lines = [("from persistent states", *line[1:]) for line in lines] + [cold]
    return lines


def _changes(groups: list[Group]) -> list[Line]:
    """Of each weight of one configuration; of several, it would be a thicket."""
    if len(groups) > 1:
        return []
    (group,) = groups
    names = next((run.weight_names for run in group.runs if run.weight_names), ())
    found = group.runs[0].last.get("relative_change")
    count = len(found) if isinstance(found, list) else 0
    if len(names) != count:
        names = tuple(f"weight {k + 1}" for k in range(count))

    def of(k: int):
        def value(record: dict[str, Any]) -> Any:
            changes = record.get("relative_change")
            changes = changes if isinstance(changes, list) else []
            return changes[k] if k < len(changes) else None

        return value

    lines = [_line(name, _color(k), "-", group, of(k)) for k, name in enumerate(names)]
    return [line for line in lines if line[3]]


def _line(label: str, color: str, style: str, group: Group, value: Callable) -> Line:
    runs = []
    for run in group.runs:
        found = [(record["epoch"], number(value(record))) for record in run.history]
        points = [(epoch, v) for epoch, v in found if v is not None]
        if points:
            epochs, values = zip(*points, strict=True)
            runs.append((list(epochs), list(values)))
    return label, color, style, runs


def _get(name: str) -> Callable:
    return lambda record: record.get(name)


def _scaled(value: Any) -> float | None:
    found = number(value)
    return None if found is None else 100 * found


def _color(k: int) -> str:
    return COLORS[k % len(COLORS)]


def _draw(title: str, lines: list[Line], log: bool) -> bytes:
    """Each run thin, and their mean thick where there are several."""
    from matplotlib.ticker import LogLocator

    figure, axes = subplots(1, 1, (4.6, 3.0))
    axis = axes[0, 0]
    for label, color, style, runs in lines:
        several = len(runs) > 1
        for epochs, values in runs:
            thin = {"alpha": 0.35, "lw": 0.8} if several else {"label": label}
            marker = "o" if len(epochs) < 3 else None
            axis.plot(epochs, values, style, color=color, marker=marker, ms=3, **thin)
        if several:
            axis.plot(*_mean(runs), style, color=color, lw=1.8, label=label)
    values = [v for line in lines for _, run in line[3] for v in run]
    if log and min(values) > 0 and max(values) > 3 * min(values):
        axis.set_yscale("log")
        # At most four labels in a decade: more would collide.
        few = max(values) < 30 * min(values)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    elif min(values) >= 0:
        axis.set_ylim(bottom=0)
    axis.set_xlabel("epoch")
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(alpha=0.3)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if any(label for label, *_ in lines):
        axis.legend(fontsize=8, frameon=False)
    return _svg(figure)


def _mean(runs: list[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """The mean over the runs, at the epochs that all of them have reached."""
    each = [dict(zip(*run, strict=True)) for run in runs]
    common = sorted(set(each[0]).intersection(*each[1:]))
    return common, [statistics.mean(run[epoch] for run in each) for epoch in common]


def _described(words: str, lines: list[Line]) -> str:
    """`Error of the splits against epochs: train from 71 to 1.3, test from …`."""
    parts = []
    for label, _, _, runs in lines:
        first = statistics.mean(values[0] for _, values in runs)
        last = statistics.mean(values[-1] for _, values in runs)
        parts.append(f"{label} from {first:.3g} to {last:.3g}".strip())
    return f"{words[0].upper()}{words[1:]} against epochs: {', '.join(parts)}"


def _svg(figure: Any) -> bytes:
    """The same figure gives the same bytes: no date, no random names."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "eqprop"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
