"""A loaded data set: up to three splits of checked NumPy arrays.

`load` and `load_arrays` build a `Dataset`; runs and the training loop read it. Labels
are integers here; `Dataset.targets` converts them to the one-hot targets of a cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._format import InputFormat


@dataclass(frozen=True, eq=False)
class Split:
    """Examples that are used together: inputs x and labels or targets y.

    Attributes:
        x: float32 [N, ...], dimensionless; images lie in [0, 1].
        y: int32 [N] class labels, or float32 [N, d] targets.
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), (self.x.shape, self.y.shape)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: the name or path given to `load`.
        train: the training examples, never empty.
        validation: examples held out of the training part, or None.
        test: the test set, or None.
        classes: number of classes C, labels are 0..C-1; None if y are targets.
        image_shape: (h, w) or (h, w, c) of one x before flattening; None if x is not
            an image.
        inputs: the format of x as it was given; None if that is not known.
        own_test: whether the test set came with the data.
        doubts: warnings about the data for the user, a sentence each.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split | None
    classes: int | None
    image_shape: tuple[int, ...] | None
    inputs: InputFormat | None = None
    own_test: bool = False
    doubts: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example x."""
        return self.train.x.shape[1:]

    @property
    def target_size(self) -> int:
        """Length of one target y: the number of classes, or d of float targets."""
        return self.train.y.shape[1] if self.classes is None else self.classes

    def __str__(self) -> str:
        """Describe classes or target values, numbers of examples and scale of x."""
        d = self.target_size
        kind = f"{d} classes"
        if self.classes is None:
            kind = f"regression of {d} target value{'s' * (d > 1)}"
        test = 0 if self.test is None else len(self.test)
        held = {"train": len(self.train), "validation": len(self.validation or ())}
        own = f" and {_grouped(test)} test examples" if self.own_test else ""
        if not self.own_test:
            held["test"] = test
        counts = ", ".join(f"{_grouped(n)} {name}" for name, n in held.items() if n)
        total = _grouped(sum(held.values()))
        x = "" if self.inputs is None else f"; x: {self.inputs}"
        return f"{self.name}: {kind}, {total} examples ({counts}){own}{x}"

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Return the targets of a cost: one-hot rows of labels, or float targets.

        Args:
            y: the y of a split, or some of its rows: int [N], or float32 [N, d].

        Returns:
            float32 [N, target_size].

        Raises:
            ValueError: a label is outside 0..classes-1.
        """
        y = np.asarray(y)
        if self.classes is None:
            return y.astype(np.float32, copy=False)
        if len(y) and not 0 <= y.min() <= y.max() < self.classes:
            raise ValueError(
                f"labels are from {y.min()} to {y.max()}: the labels of data set "
                f"{self.name!r} are 0 to {self.classes - 1}"
            )
        one_hot = np.zeros((len(y), self.classes), np.float32)
        one_hot[np.arange(len(y)), y] = 1
        return one_hot


def _grouped(number: int) -> str:
    """Return e.g. 60 000 for 60000."""
    return f"{number:,}".replace(",", " ")
