"""All figures of `verify`, `tune` and `flow_figure`; each takes numbers and records.

No figure measures anything, and none knows who measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._drawing import COLORS, subplots
from ._records import BetaErrors, Curve, LayerError, TuningCurve
from ._text import number

COLUMNS = 6
"""layers drawn side by side at most"""
BLUE, RED, GREEN, LIGHT, BLACK = (COLORS[k] for k in (0, 1, 2, 5, 6))
ANGLE = "angle to the exact gradient (°)"
PANELS = {
    "dt": ("dt (neuron time constants)", "steps to settle"),
    "T": ("T, free steps", ANGLE),
    "K": ("K, nudged steps", ANGLE),
    "beta": ("β (dimensionless)", ANGLE),
}
LABELS = {
    ("T", "angle"): "gradient taken at s_T, float64",
    ("K", "angle"): "EP after K steps, β → 0, float64",
    ("beta", "angle"): "the whole proposal, float32",
    ("beta", "bias"): "settled EP, float64",
}


def saved(figure: Any, path: str | Path | None) -> Any:
    """Write a figure to `path` if given, and return it."""
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _style(axis: Any, title: str = "", below: str = "", beside: str = "") -> None:
    """Give a panel its title, labels, grid and legend."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set(xlabel=below, ylabel=beside)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)


def processes(system: str, beta: float | None, curves: Sequence[Curve]) -> Any:
    """Draw BPTT solid and EP dashed, a few units per layer (paper D, fig. 3)."""
    rows = [
        [curve for curve in curves if curve.kind == kind][:COLUMNS]
        for kind in ("neurons", "synapses")
    ]
    columns = max(map(len, rows))
    figure, axes = subplots(2, columns, (max(3.1 * columns, 7.5), 6.4))
    for line, row in zip(axes, rows, strict=True):
        for axis in line[len(row) :]:
            axis.axis("off")
        for axis, curve in zip(line, row, strict=False):
            _process(axis, curve)
    axes[0, 0].set_ylabel(r"error $\bar S_t$ of neurons")
    axes[1, 0].set_ylabel(r"gradient $\bar\Theta_t$ of synapses")
    empty, label = axes[0, 0], f"EP centered, β = {number(beta)}"
    handles = [
        *empty.plot([], [], color="0.3", lw=3, alpha=0.45, label="BPTT"),
        *empty.plot([], [], "--", color="0.3", lw=1.3, label=label),
    ]
    figure.suptitle(f"{system}: error processes of one example", fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _process(axis: Any, curve: Curve) -> None:
    """Draw one layer: a color for each unit."""
    for k in range(curve.ep.shape[1]):
        color = COLORS[k % len(COLORS)]
        axis.plot(curve.times, curve.bptt[:, k], color=color, lw=3, alpha=0.45)
        axis.plot(curve.times, curve.ep[:, k], "--", color=color, lw=1.3)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.tick_params(labelsize=8)
    axis.ticklabel_format(axis="y", scilimits=(-2, 3))
    _style(axis, curve.name, "t (neuron time constants)")


def layers(system: str, beta: float | None, errors: Sequence[LayerError]) -> Any:
    """Draw the RMSE of EP's process against BPTT's per layer (D, fig. 3)."""
    figure, axes = subplots(1, 2, (9, 3.8))
    kinds = (("neurons", BLUE), ("synapses", RED))
    for axis, (kind, color) in zip(axes[0], kinds, strict=True):
        shown = [layer for layer in errors if layer.kind == kind]
        means, spread = np.array([[e.mean, e.std] for e in shown]).T
        bars = [np.minimum(spread, means), spread]
        axis.bar(range(len(shown)), means, color=color, alpha=0.8)
        axis.errorbar(
            range(len(shown)), means, bars, fmt="none", ecolor="0.2", capsize=4
        )
        turn = 30 if len(shown) > 3 else 0
        names = [layer.name for layer in shown]
        axis.set_xticks(range(len(shown)), names, rotation=turn, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", scilimits=(-2, 3))
        _style(axis, f"{kind}: relative RMSE of EP against BPTT")
    figure.suptitle(
        f"{system}, centered β = {number(beta)}: mean and standard deviation over "
        "each layer",
        fontsize=10,
    )
    return figure


def errors_against_beta(beta: float | None, found: Sequence[BetaErrors]) -> Any:
    """Draw the largest error over t against β, with the slope that theory expects."""
    figure, axes = subplots(1, 2, (9.5, 4.2))
    for axis, quantity in zip(axes[0], ("states", "gradients"), strict=True):
        shown = [errors for errors in found if errors.quantity == quantity]
        for errors, color in zip(shown, COLORS, strict=False):
            _errors(axis, errors, color)
        if beta:
            label = f"β = {number(abs(beta))}"
            axis.axvline(abs(beta), color="0.6", lw=1, ls="-.", label=label)
        if any(np.max(errors.errors, initial=0) > 0 for errors in shown):
            axis.set(xscale="log", yscale="log")
        title = f"{quantity}: largest error over t, EP against RBP, per example"
        _style(axis, title, "β (dimensionless)")
    return figure


def _errors(axis: Any, found: BetaErrors, color: str) -> None:
    """Draw a line per example, and the expected slope from the smallest β that fits."""
    betas, errors, order = np.array(found.betas), np.array(found.errors), found.order
    slope = "exact" if order.exact else number(order.measured)
    label: str | None = f"{found.nudging}, order {slope}"
    style = {"color": color, "lw": 1, "alpha": 0.6, "ms": 4}
    for row in errors:
        axis.plot(betas[row > 0], row[row > 0], ".-", label=label, **style)
        label = None
    if order.exact or not np.isfinite(order.measured):
        return
    used = (betas >= order.low * 0.99) & (betas <= order.high * 1.01)
    at = np.argmin(np.where(used, betas, np.inf))
    line = np.median(errors, 0)[at] * (betas[used] / betas[at]) ** order.expected
    label = f"expected order {order.expected:g}"
    axis.plot(betas[used], line, ":", color="black", lw=1.2, label=label)


def tuning(curves: dict[str, TuningCurve], target: float, title: str) -> Any:
    """Draw a panel for each curve that was measured, with its choice and the target."""
    names = [name for name in PANELS if name in curves]
    columns = min(2, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure, axes = subplots(rows, columns, (5 * columns, 3.5 * rows))
    for axis in axes.ravel()[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.ravel(), names, strict=False):
        curve = curves[name]
        axis.set(xscale="log", yscale="log")
        axis.set_xlim(min(curve.values) / 1.2, max(curve.values) * 1.2)
        for what, column in curve.measured.items():
            _measured(axis, (name, what), curve.values, np.array(column))
        if name != "dt":
            axis.axhline(target, color="0.4", ls=":", label="target")
        if np.isfinite(curve.chosen):
            label = f"chosen: {curve.chosen:.3g}"
            axis.axvline(curve.chosen, color=RED, ls="--", label=label)
        _style(axis, "", *PANELS[name])
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def _measured(axis: Any, names: tuple[str, str], values: Any, column: Any) -> None:
    """Draw one measured quantity; a residual has an axis of its own."""
    style: dict[str, Any] = {"marker": "o", "ms": 3}
    if names[1] == "residual":
        twin = axis.twinx()
        twin.plot(values, column, color=GREEN, **style)
        twin.set(yscale="log")
        twin.set_ylabel("residual (velocity)", color=GREEN)
        return
    color = GREEN if names[1] == "bias" else BLUE
    axis.plot(values, column, color=color, label=LABELS.get(names, names[1]), **style)
    lost = np.array(values)[np.isinf(column)]
    if len(lost):
        style = {"transform": axis.get_xaxis_transform(), "color": BLACK}
        top = np.full(len(lost), 0.97)
        axis.plot(lost, top, "x", label="does not settle", **style)


def flow(title: str, times: Any, errors: Any, angles: Any, traces: Any) -> Any:
    """Draw both phases, both error processes and the truncation error over time.

    `errors` and `angles` hold a curve of RBP and one of EP at `times`.  `traces` are
    (runs `[3 phases, runs, steps]`, β, dt); the first run has no noise.
    """
    from matplotlib.figure import Figure

    runs, beta, dt = traces
    clock = dt * np.arange(runs.shape[-1])
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplot_mosaic("AA;BC", height_ratios=(1, 1.15))
    phases = {"free": BLACK, "nudged by β": BLUE, "nudged by −β": RED}
    for k, (name, color) in enumerate(phases.items()):
        span = clock if k else clock - clock[-1] - dt
        label = None if k else "one run with noise"
        axes["A"].plot(span, runs[k, 1], color=LIGHT, lw=0.8, alpha=0.7, label=label)
        axes["A"].plot(span, runs[k, 0], color=color, lw=1.8, label=name)
    rates = np.diff(runs[2, 1:] - runs[1, 1:]) / (2 * beta * dt)
    middle, mean, spread = clock[1:] - dt / 2, rates.mean(0), rates.std(0)
    axes["B"].fill_between(middle, mean - spread, mean + spread, color=LIGHT, alpha=0.2)
    label = f"EP with noise: mean ± s.d., {len(rates)} runs"
    axes["B"].plot(middle, mean, color=LIGHT, lw=7, alpha=0.6, label=label)
    for name, curves, labels in (
        ("B", errors, ("RBP: S̄", "EP: −(ds/dt)/β, β → 0")),
        ("C", angles, ("RBP stopped at t", "nudged phase stopped at t")),
    ):
        axes[name].plot(times, curves[0], color=BLACK, lw=2.4, label=labels[0])
        axes[name].plot(times, curves[1], "--", color=RED, lw=1.8, label=labels[1])
    axes["C"].set_ylim(bottom=0)
    below = "time (neuron time constants)"
    _style(axes["A"], f"state of {title}", below)
    _style(axes["B"], "error process of that unit", below)
    _style(axes["C"], "angle to exact gradient (degrees)", below)
    return figure
