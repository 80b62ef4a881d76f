"""`curves.png` and `weights.png` of a run directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._drawing import COLORS, subplots
from ..training import weight_names

SHOWN = 100


def draw(
    path: Path,
    history: Sequence[Mapping[str, Any]],
    system: Any,
    cost: Any,
    image_shape: tuple[int, ...] | None,
) -> None:
    """Draw the figures of a run into its directory."""
    if history:
        _curves(path / "curves.png", history, weight_names(system, cost))
    if image_shape is not None:
        weights = first_weights(system, image_shape)
        if weights is not None:
            figure = weights_figure(weights)
            figure.suptitle(
                f"weights of {min(SHOWN, len(weights))} of {len(weights)} first-layer "
                "units\nor kernels, largest norm first",
                fontsize=8,
            )
            figure.savefig(path / "weights.png", dpi=120)


def _curves(file: Path, history: Sequence[Mapping[str, Any]], names: list[str]) -> None:
    figure, axes = subplots(2, 2, (10, 7))
    epochs = [record["epoch"] for record in history]

    def line(axis, values, label, color, style="-"):
        points = np.array([np.nan if v is None else v for v in values], float)
        if np.isfinite(points).any():
            marker = "o" if len(points) < 30 else None
            axis.plot(
                epochs, points, style, color=color, label=label, marker=marker, ms=3
            )

    def column(name):
        return [record.get(name) for record in history]

    splits = (("train", "train"), ("val", "validation"), ("test", "test"))
    for (name, label), color in zip(splits, COLORS, strict=False):
        errors = [None if e is None else 100 * e for e in column(f"{name}_error")]
        line(axes[0, 0], errors, label, color)
        losses = column("loss" if name == "train" else f"{name}_loss")
        line(axes[0, 1], losses, label, color)
    warm = any(r.get("residual_cold") is not None for r in history)
    label = "from persistent states" if warm else "free phase"
    line(axes[1, 0], column("residual"), label, COLORS[0])
    line(axes[1, 0], column("residual_cold"), "from a cold start", COLORS[1], "--")
    changes = np.array(column("relative_change"), float).reshape(len(epochs), -1)
    for k, (name, values) in enumerate(zip(names, changes.T, strict=True)):
        line(axes[1, 1], list(values), name, COLORS[k % len(COLORS)])
    _label(axes[0, 0], "error (%)", log=False)
    _label(axes[0, 1], "loss (mean cost)", log=True)
    _label(axes[1, 0], "mean free-phase residual", log=True)
    _label(axes[1, 1], "‖ΔW‖ / ‖W‖ per update", log=True)
    axes[0, 0].set_ylim(bottom=0)
    figure.savefig(file, dpi=120)


def _label(axis, name: str, log: bool) -> None:
    axis.set_xlabel("epoch")
    axis.set_title(name, fontsize=10, loc="left")
    values = [v for line in axis.lines for v in line.get_ydata() if np.isfinite(v)]
    if log and values and min(values) > 0:
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.lines:
        axis.legend(fontsize=8, frameon=False)
    else:
        axis.text(
            0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes
        )


def first_weights(system: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """The first layer's weights as images `[units, height, width]`.

    Those of a matrix with a row for each pixel of a grey image, or of the first
    kernels, one image for each pair of a channel below and one above.
    """
    for leaf in jax.tree.leaves(eqx.filter(system, eqx.is_inexact_array)):
        if len(shape) == 2 and leaf.ndim == 2 and leaf.shape[0] == np.prod(shape):
            return np.asarray(leaf).T.reshape(-1, *shape)
        if leaf.ndim == 4:
            return np.asarray(leaf).reshape(*leaf.shape[:2], -1).transpose(2, 0, 1)
    return None


def weights_figure(weights: np.ndarray) -> Any:
    """The receptive fields with the largest norm, each on its own symmetric scale."""
    norms = np.linalg.norm(weights, axis=(1, 2))
    chosen = np.argsort(-norms, kind="stable")[:SHOWN]
    columns = int(np.ceil(np.sqrt(len(chosen))))
    rows = -(-len(chosen) // columns)
    height, width = weights.shape[1:]
    tiles = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for place, unit in enumerate(chosen):
        row, column = divmod(place, columns)
        top, left = row * (height + 1), column * (width + 1)
        limit = np.abs(weights[unit]).max() or 1.0
        tiles[top : top + height, left : left + width] = weights[unit] / limit
    figure, axes = subplots(1, 1, (0.75 * columns, 0.75 * rows))
    axis = axes[0, 0]
    axis.imshow(tiles, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.axis("off")
    return figure
