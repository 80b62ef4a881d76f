"""`comparison.png`: several learning rules on one network."""

from pathlib import Path
from typing import Any

import numpy as np

from .._drawing import COLORS, subplots


def draw_comparison(file: Path, records: list[dict[str, Any]]) -> None:
    """Error against epochs and seconds, and the angle to the exact gradient."""
    figure, axes = subplots(1, 3, (14, 4.2))
    by_epoch, by_second, by_angle = axes[0]
    for number, record in enumerate(records):
        color = COLORS[number % len(COLORS)]
        style = "-" if number < len(COLORS) else "--"
        history = record["history"]
        epochs = [row["epoch"] for row in history]
        errors = [100 * _error(row) for row in history]
        seconds = [row["training_seconds"] for row in history]
        by_epoch.plot(epochs, errors, style, color=color, label=record["estimator"])
        by_second.plot(seconds, errors, style, color=color)
        angles = [row for row in record["angles"] if row["angle"] is not None]
        by_angle.plot(
            [row["epoch"] for row in angles],
            [row["angle"] for row in angles],
            style,
            color=color,
            marker="o",
            ms=4,
        )
    tested = any(r["test_error"] is not None for c in records for r in c["history"])
    what = "test error (%)" if tested else "training error (%)"
    by_epoch.set(xlabel="epoch", title=what)
    by_second.set(xlabel="seconds of training, compilation included", title=what)
    by_angle.set(xlabel="epoch", title="angle to the exact gradient (degrees)")
    by_angle.axhline(90, color="0.7", lw=1, ls=":")
    by_angle.set_ylim(bottom=0)
    for axis in (by_epoch, by_second):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(which="minor", labelsize=7)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    by_epoch.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=120)


def _error(row: dict[str, Any]) -> float:
    """The test error of an epoch; the training error where there is no test set."""
    for name in ("test_error", "train_error"):
        if row[name] is not None:
            return row[name]
    return float(np.nan)
