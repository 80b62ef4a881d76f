"""The figures of a verification: paper D's curves and bars, and error against β."""

from pathlib import Path
from typing import Any

import numpy as np

from .._drawing import COLORS, subplots
from ._verification import Curve, number, Verification

COLUMNS = 6
"""layers drawn side by side at most"""


def draw(result: Verification, folder: Path | None) -> dict[str, Any]:
    """Every figure there is something to draw for; saved where there is a folder."""
    figures = {}
    if result.curves:
        figures["processes"] = _processes(result)
        figures["layers"] = _layers(result)
    if result.sweeps:
        figures["beta"] = _beta(result)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=120)
    return figures


def _processes(result: Verification) -> Any:
    """Solid −∇BPTT, dashed Δ^EP: a few neurons and synapses per layer (D, fig. 3)."""
    rows = [
        [c for c in result.curves if c.kind == kind][:COLUMNS]
        for kind in ("neurons", "synapses")
    ]
    columns = max(map(len, rows))
    size = (max(3.1 * columns, 7.5), 6.4)
    figure, axes = subplots(2, columns, size)
    for k, curves in enumerate(rows):
        for axis in axes[k][len(curves) :]:
            axis.axis("off")
        for axis, curve in zip(axes[k], curves, strict=False):
            _curve(axis, curve)
    axes[0, 0].set_ylabel(r"error $\bar S_t$ of neurons")
    axes[1, 0].set_ylabel(r"gradient $\bar\Theta_t$ of synapses")
    handles = [
        axes[0, 0].plot([], [], style, color="0.3", lw=width, alpha=alpha, label=label)[
            0
        ]
        for style, width, alpha, label in (
            ("-", 3.0, 0.45, "BPTT"),
            ("--", 1.3, 1.0, f"EP centered, β = {number(result.facts.get('beta'))}"),
        )
    ]
    figure.suptitle(f"{result.system}: error processes of one example", fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _curve(axis: Any, curve: Curve) -> None:
    for k in range(curve.ep.shape[1]):
        color = COLORS[k % len(COLORS)]
        axis.plot(curve.times, curve.bptt[:, k], color=color, lw=3, alpha=0.45)
        axis.plot(curve.times, curve.ep[:, k], "--", color=color, lw=1.3)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_title(curve.name, fontsize=9, loc="left")
    axis.set_xlabel("t (neuron time constants)", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.ticklabel_format(axis="y", scilimits=(-2, 3))
    axis.grid(alpha=0.25)


def _layers(result: Verification) -> Any:
    """RMSE of EP's process against BPTT's, mean and spread per layer (D, fig. 3)."""
    figure, axes = subplots(1, 2, (9, 3.8))
    for axis, kind, color in zip(
        axes[0], ("neurons", "synapses"), COLORS, strict=False
    ):
        layers = [layer for layer in result.layers if layer.kind == kind]
        places = np.arange(len(layers))
        means = np.array([layer.mean for layer in layers])
        spread = np.array([layer.std for layer in layers])
        axis.bar(places, means, color=color, alpha=0.8)
        axis.errorbar(
            places,
            means,
            [np.minimum(spread, means), spread],
            fmt="none",
            ecolor="0.2",
            capsize=4,
        )
        names = [layer.name for layer in layers]
        axis.set_xticks(places, names, rotation=30 if len(names) > 3 else 0, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", scilimits=(-2, 3))
        axis.set_title(
            f"{kind}: relative RMSE of EP against BPTT", fontsize=10, loc="left"
        )
        axis.grid(alpha=0.25, axis="y")
    figure.suptitle(
        f"{result.system}, centered β = {number(result.facts.get('beta'))}: mean and "
        "standard deviation over each layer",
        fontsize=10,
    )
    return figure


def _beta(result: Verification) -> Any:
    """The largest error over t against β, with the slope that theory expects."""
    figure, axes = subplots(1, 2, (9.5, 4.2))
    for axis, quantity in zip(axes[0], ("states", "gradients"), strict=True):
        sweeps = [s for s in result.sweeps if s.quantity == quantity]
        for sweep, color in zip(sweeps, COLORS, strict=False):
            betas, errors = np.array(sweep.betas), np.array(sweep.errors)
            slope = "exact" if sweep.order.exact else number(sweep.order.measured)
            label = f"{sweep.nudging}, order {slope}"
            for row in errors:
                shown = row > 0
                axis.plot(
                    betas[shown],
                    row[shown],
                    ".-",
                    color=color,
                    lw=1,
                    alpha=0.6,
                    ms=4,
                    label=label,
                )
                label = None
            _slope(axis, sweep, betas, np.median(errors, 0), color)
        beta = result.facts.get("beta")
        if beta:
            axis.axvline(
                abs(beta), color="0.6", lw=1, ls="-.", label=f"β = {number(abs(beta))}"
            )
        if any(np.max(s.errors, initial=0) > 0 for s in sweeps):
            axis.set_xscale("log")
            axis.set_yscale("log")
        axis.set_xlabel("β (dimensionless)")
        axis.set_title(
            f"{quantity}: largest error over t, EP against RBP, per example",
            fontsize=10,
            loc="left",
        )
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    return figure


def _slope(axis: Any, sweep: Any, betas: Any, errors: Any, color: str) -> None:
    """The expected slope, anchored at the smallest β of the range that fits."""
    order = sweep.order
    if order.exact or not np.isfinite(order.measured):
        return
    used = (betas >= order.low * 0.99) & (betas <= order.high * 1.01)
    at = np.argmin(np.where(used, betas, np.inf))
    line = errors[at] * (betas[used] / betas[at]) ** order.expected
    axis.plot(
        betas[used],
        line,
        ":",
        color="black",
        lw=1.2,
        label=f"expected order {order.expected:g}",
    )
