"""The 8x8 handwritten digits that come with eqprop."""

from pathlib import Path

import numpy as np


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the bundled handwritten digits, in their publisher's order.

    Returns:
        images, float64 [1797, 8, 8] in [0, 1], and their classes, [1797].

    Source: see DIGITS.md in this folder.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return file["images"] / 16, file["labels"].astype(int)
