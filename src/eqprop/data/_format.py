"""Record the format of a training's x, and convert later x to the same format.

The format is that of the raw array that a run is trained on.  The run keeps it, and
`evaluate`, `predict` and the command line apply it, so that one picture always gives
the same input.  uint8 are pixels and are divided by 255; other numbers are not scaled.
Values that cannot have the scale of the training are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _checks

MANY = 16
"""values per example from which on the range of pictures is checked"""
FAR, NEAR = 0.01, 0.05
"""shares of the values that may lie far outside, or just outside, the training range"""
ROUNDING = 1e-6


@dataclass(frozen=True)
class InputFormat:
    """The format of a training's x, as the user gave it.

    Attributes:
        dtype: dtype of the array given, e.g. "uint8".
        shape: shape of one example given.
        low, high: the smallest and the largest value given.
        divisor: the network gets value / divisor: 255 for uint8, else 1.
        flatten: whether the network gets [N, features].
        result: dtype that the network gets.
    """

    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    divisor: int = 1
    flatten: bool = False
    result: str = "float32"

    @classmethod
    def of(cls, raw: np.ndarray, flatten: bool) -> InputFormat:
        """Return the format of an array [N, ...] that the data package prepares."""
        divisor = 255 if raw.dtype == np.uint8 else 1
        low, high = float(raw.min()), float(raw.max())
        shape = raw.shape[1:]
        return cls(str(raw.dtype), shape, low, high, divisor, flatten)

    @classmethod
    def of_program(cls, x: Any) -> InputFormat | None:
        """Return the format of an array [N, ...] that a network gets unchanged.

        None for numbers that cannot be ordered, e.g. complex numbers.
        """
        raw = np.asarray(x)
        if raw.dtype.kind not in "biuf":
            return None
        low, high = float(raw.min()), float(raw.max())
        dtype = str(raw.dtype)
        return cls(dtype, raw.shape[1:], low, high, result=dtype)

    def check_scaled(self, place: str) -> None:
        """Raise `ValueError` for uint8, which nobody has scaled."""
        if self.dtype == "uint8":
            raise ValueError(
                f"{place} has dtype uint8 and values up to {self.high:g}: numbers "
                "given in Python reach the network as they are. Scale pixels as "
                "eqprop train scales those of a file, x.astype(np.float32) / 255, and "
                "give other whole numbers as x.astype(np.int32)"
            )

    @classmethod
    def from_json(cls, record: Any) -> InputFormat | None:
        """Read what `to_json` wrote; return None if it is not such a record."""
        try:
            low, high = record["range"]
            found = cls(
                str(np.dtype(record["dtype"])),
                tuple(int(n) for n in record["shape"]),
                float(low),
                float(high),
                int(record["divisor"]),
                bool(record["flatten"]),
                str(np.dtype(record["result"])),
            )
        except (KeyError, TypeError, ValueError):
            return None
        return found if found.divisor > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the format as JSON values."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "range": [self.low, self.high],
            "divisor": self.divisor,
            "flatten": self.flatten,
            "result": self.result,
        }

    def __str__(self) -> str:
        size = "×".join(str(n) for n in self.shape) or "one"
        scale = "not scaled"
        if self.divisor != 1:
            scale = f"divided by {self.divisor}"
        return f"{size} {self.dtype} from {self.low:g} to {self.high:g}, {scale}"

    def read(self, values: object, what: str = "x") -> np.ndarray:
        """Convert examples to what the network gets.

        Args:
            values: numbers [N, ...], like those of the training; floats in [0, 1]
                count as pixels that are already divided.
            what: the array's name in messages.

        Returns:
            an array of dtype `result`, [N, features] if `flatten`.

        Raises:
            ValueError: another shape, another scale, no example, NaN or infinity.
        """
        raw = _checks.numbers(values, what)
        self.check_shape(raw, what)
        _checks.filled(raw, what)
        _checks.finite(raw, what)
        self.check_values(raw, what)
        result = np.dtype(self.result)
        if result.kind in "iub" and not np.array_equal(raw, raw.astype(result)):
            raise ValueError(
                f"{what} has dtype {raw.dtype} and values that {result} cannot hold; "
                f"the x of the training was {self}: give values of that kind"
            )
        x = raw.astype(result)
        if raw.dtype == np.uint8:
            x = x / result.type(self.divisor) if self.divisor != 1 else x
        return x.reshape(len(x), -1) if self.flatten else x

    def check_shape(self, raw: np.ndarray, what: str) -> None:
        """Raise ValueError for examples of another shape, with a hint to convert."""
        shape = raw.shape[1:]
        flat = self.flatten and shape == (math.prod(self.shape),)
        if shape == self.shape or flat:
            return
        moved = (*shape[1:], *shape[:1])
        hint = "; give examples of that shape"
        if moved == self.shape:
            hint = f"; move the channels to the end: np.moveaxis({what}, 1, -1)"
        elif math.prod(shape) == math.prod(self.shape):
            sizes = ", ".join(str(n) for n in self.shape)
            hint = f"; if the values have the same order: {what}.reshape(-1, {sizes})"
        raise ValueError(
            f"one example of {what} has shape {shape}; the training used examples of "
            f"shape {self.shape}{hint}"
        )

    def check_values(self, raw: np.ndarray, what: str) -> None:
        """Raise ValueError for numbers that cannot have the scale of the training."""
        low, high = float(raw.min()), float(raw.max())
        found = f"{what} holds {raw.dtype} from {low:g} to {high:g}"
        trained = f"the training used {self.dtype} from {self.low:g} to {self.high:g}"
        if self.divisor != 1:
            floats = raw.dtype.kind == "f" and -ROUNDING <= low <= high <= 1 + ROUNDING
            if raw.dtype.name != self.dtype and not floats:
                raise ValueError(
                    f"{found}; {trained}, divided by {self.divisor}: give "
                    f"{self.dtype} from 0 to {self.divisor}, or floats from 0 to 1 "
                    "that are already divided"
                )
        elif raw.dtype == np.uint8 and self.dtype != "uint8":
            raise ValueError(
                f"{found}; {trained}, not scaled, so that the scale of uint8 is not "
                f"known: give numbers of that scale, e.g. {what} / 255 if you divided "
                "the training x by 255"
            )
        elif self._out_of_range(raw):
            raise ValueError(
                f"{found}; {trained}, not scaled: scale {what} as you scaled the "
                "training x"
            )
        elif len(self.shape) > 1 and (doubt := self.doubt(raw, what)):
            raise ValueError(doubt)

    def doubt(self, raw: np.ndarray, what: str = "x") -> str | None:
        """Return a warning if all values are in [-1, 1] unlike the training."""

        size = float(np.abs(raw).max())
        reach = max(abs(self.low), abs(self.high))
        if math.prod(self.shape) < MANY or not 0 < size <= 1 or reach <= 10:
            return None
        return (
            f"{what} holds {raw.dtype} from {float(raw.min()):g} to "
            f"{float(raw.max()):g}; the training used {self.dtype} from "
            f"{self.low:g} to {self.high:g}, not scaled: did you divide {what}, but "
            "not the training x?"
        )

    def _out_of_range(self, raw: np.ndarray) -> bool:
        """Whether too many values lie outside the training's range."""
        width = max(self.high - self.low, abs(self.high), abs(self.low))
        if width == 0:
            return False

        def outside(low: float, high: float) -> int:
            return int(np.count_nonzero((raw < low) | (raw > high)))

        if outside(self.low - 10 * width, self.high + 10 * width) > FAR * raw.size:
            return True
        pictures = self.low >= 0 and self.high <= 1
        if math.prod(self.shape) < MANY or not pictures:
            return False
        return outside(-0.5, 1.5) > max(1, NEAR * raw.size)
