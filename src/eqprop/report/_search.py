"""`search.png`: what the trials of a search found, and where."""

from pathlib import Path
from typing import Any

import numpy as np

from .._drawing import COLORS, subplots

STYLES = {"complete": ("o", COLORS[0]), "pruned": ("x", COLORS[1])}


def draw_search(file: Path, records: list[dict[str, Any]]) -> None:
    """The value of every trial in time, and against each option that was varied."""
    shown = [r for r in records if r["value"] is not None and r["state"] in STYLES]
    if not shown:
        return
    options = list(shown[0]["options"])
    figure, axes = subplots(1, 1 + len(options), (4 * (1 + len(options)), 3.6))
    axes = np.ravel(axes)
    for state, (marker, color) in STYLES.items():
        chosen = [r for r in shown if r["state"] == state]
        values = [r["value"] for r in chosen]
        axes[0].scatter(
            [r["trial"] for r in chosen],
            values,
            marker=marker,
            color=color,
            label=state,
        )
        for axis, option in zip(axes[1:], options, strict=True):
            found = [_number(r["options"][option]) for r in chosen]
            axis.scatter(found, values, marker=marker, color=color)
            axis.set_xlabel(option)
            words = [_number(r["options"][option]) for r in shown]
            numbers = [n for n in words if isinstance(n, float) and n > 0]
            if len(numbers) == len(words) and max(numbers) > 20 * min(numbers):
                axis.set_xscale("log")
    complete = sorted((r["trial"], r["value"]) for r in shown if r["state"] in STYLES)
    best = np.minimum.accumulate([value for _, value in complete])
    axes[0].step(
        [n for n, _ in complete], best, where="post", color="gray", label="best"
    )
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel("validation error (or loss)")
    axes[0].legend()
    figure.savefig(file)


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word
