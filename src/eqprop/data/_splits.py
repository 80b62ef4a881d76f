"""Choose the training, validation and test examples, by index and from a seed.

The step between the checks and the `Dataset`. The order depends only on `split_seed`
(`np.random.default_rng`): another `validation` changes neither the test set nor the
order of the training examples. Both sets are taken from the end of the order, as paper
A takes the last 10 000 training images of MNIST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Splitting:
    """The split options of a call, checked before any file is read or downloaded.

    Attributes:
        validation: number (int) or fraction (float) of the training examples.
        test: fraction of all examples.
        split_seed: seed of the order of the examples.
    """

    validation: float
    test: float
    split_seed: int

    def __post_init__(self) -> None:
        if not _is_count(self.validation) and not _is_fraction(self.validation):
            raise ValueError(
                f"validation = {self.validation!r}: expected a number of training "
                "examples, whole and >= 0 (write 1000, not 1000.0), or a fraction in "
                "[0, 1)"
            )
        if not _is_fraction(self.test):
            raise ValueError(
                f"test = {self.test!r}: expected a fraction in [0, 1) of the examples; "
                "0 means no test set"
            )
        if not _is_count(self.split_seed):
            raise ValueError(
                f"split_seed = {self.split_seed!r}: expected a whole number >= 0"
            )


def hold_out_validation(
    order: np.ndarray, validation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the last training examples for validation.

    Args:
        order: int [N], the training examples in their order.
        validation: a number of examples, or a fraction of N.

    Returns:
        (training, validation) indices; validation may be empty.

    Raises:
        ValueError: no training example is left, or the fraction gives no example.
    """
    n = len(order)
    count = int(validation) if _is_count(validation) else round(float(validation) * n)
    if count >= n or (count == 0 and validation > 0):
        raise ValueError(
            f"validation = {validation!r} takes {count} of {n} training examples: "
            f"expected a number from 0 to {n - 1}, or a fraction that leaves at least "
            "one example on each side"
        )
    return order[: n - count], order[n - count :]


def hold_out_test(
    order: np.ndarray, test: float, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a fraction `test` of all examples, from the end of the order.

    Args:
        order: int [N], all examples in the order drawn.
        test: fraction in [0, 1); 0: no test set.
        labels: int [N] in the order of the data; if given, the fraction is taken of
            each class (stratified).

    Returns:
        (training, test) indices, both in the order drawn.

    Raises:
        ValueError: one side is empty.

    """
    groups = np.zeros(len(order), np.int32) if labels is None else labels[order]
    held_out = np.zeros(len(order), bool)
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        held_out[places[len(places) - round(test * len(places)) :]] = True
    count = int(held_out.sum())
    if count == len(order) or (count == 0 and test > 0):
        raise ValueError(
            f"test = {test!r} takes {count} of {len(order)} examples: expected a "
            "fraction in [0, 1) that leaves at least one example on each side; 0 means "
            "no test set"
        )
    return order[~held_out], order[held_out]


def _is_count(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and bool(value >= 0)


def _is_fraction(value: Any) -> bool:
    real = isinstance(value, (int, float, np.integer, np.floating))
    return real and not isinstance(value, bool) and bool(0 <= value < 1)
