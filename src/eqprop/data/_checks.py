"""Check and convert inputs x and labels or targets y, after the readers.

Raw arrays become float32 inputs and int32 labels or float32 targets, or a ValueError
says which value is wrong, what is allowed and what to do. The same rules hold for all
sources: files, published data sets and arrays from Python.

uint8 inputs are pixels and are divided by 255; other numbers are not scaled. If the
user does not say which, whole numbers of shape [N] are class labels, and floats of
shape [N, d] are targets.
"""

from __future__ import annotations

import numpy as np

MAX_LABEL = 10_000


def numbers(values: object, what: str) -> np.ndarray:
    """Return an array of real numbers or booleans, or raise ValueError."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{what} is not a rectangular array ({error}): pad its rows to one length"
        ) from error
    if array.dtype.kind in "biuf":
        return array
    hint = {
        "c": f"pass real numbers: {what}.real, or real and imaginary part as features",
        "U": f"turn names into labels: np.unique({what}, return_inverse=True)[1]",
        "O": "convert Python objects, ragged rows or sparse matrices to a dense array",
    }
    hint["S"] = hint["U"]
    raise ValueError(
        f"{what} has dtype {array.dtype}: expected integers, booleans or floats; "
        + hint.get(array.dtype.kind, f"convert it: {what}.astype(np.float32)")
    )


def as_inputs(values: object, what: str = "x") -> np.ndarray:
    """Convert inputs to float32 [N, ...]; divide uint8 by 255.

    Args:
        values: numbers [N, ...] with at least one feature.
        what: the array's name in messages.

    Returns:
        a new float32 array of the same shape.

    Raises:
        ValueError: not numbers, no example or feature, NaN or infinite values.
    """
    raw = numbers(values, what)
    if raw.ndim < 2:
        raise ValueError(
            f"{what} has shape {raw.shape}: expected [N, features] or [N, h, w]; for "
            f"one feature per example pass {what}[:, None]"
        )
    filled(raw, what)
    x = finite(raw, what)
    if raw.dtype == np.uint8:
        x /= 255
    return x


def filled(raw: np.ndarray, what: str) -> None:
    """Raise ValueError if an array is empty."""
    if raw.size == 0:
        raise ValueError(
            f"{what} has shape {raw.shape}: it is empty, expected at least one example "
            "and one feature"
        )


def as_labels_or_targets(
    values: object, what: str = "y", kind: str | None = None
) -> np.ndarray:
    """Convert y to class labels, int32 [N], or to targets, float32 [N, d].

    Args:
        values: labels: integers, booleans or whole floats [N], or integers [N, 1];
            targets: floats [N, d], or floats [N] that are not all whole.
        what: the array's name in messages.
        kind: "labels" or "targets" if the user or another array has decided.

    Returns:
        a new array, int32 or float32.

    Raises:
        ValueError: neither labels nor targets, or not of the requested kind.
    """
    raw = numbers(values, what)
    if raw.ndim not in (1, 2) or raw.size == 0:
        raise ValueError(
            f"{what} has shape {raw.shape}: expected labels [N] or targets [N, d], at "
            "least one example"
        )
    targets = finite(raw, what).reshape(len(raw), -1)
    if kind == "targets":
        return targets
    floats = raw.dtype.kind == "f"
    column = raw.ndim == 1 or raw.shape[1] == 1
    if not floats and not column:
        raise ValueError(
            f"{what} has dtype {raw.dtype} and shape {raw.shape}: expected integer "
            f"labels [N]; for one-hot rows pass {what}.argmax(1), for targets pass "
            f"{what}.astype(np.float32)"
        )
    single = raw.ndim == 1 or (column and kind == "labels")
    if not floats or (single and are_whole(raw)):
        return _labels(raw.reshape(-1), what)
    if kind == "labels":
        reason = (
            "class labels were asked for" if what == "y" else "y holds class labels"
        )
        raise ValueError(
            f"{what} has dtype {raw.dtype} and shape {raw.shape}, but {reason}: "
            "expected whole numbers [N]"
        )
    return targets


def are_whole(raw: np.ndarray) -> bool:
    """Whether every number of an array is whole."""
    return bool(np.all(raw == np.floor(raw)))


def as_like(values: object, y: np.ndarray, what: str = "y_test") -> np.ndarray:
    """Convert a test y to the kind of y; refuse other classes or columns."""
    if y.dtype == np.int32:
        other = as_labels_or_targets(values, what, "labels")
        top = int(y.max())
        if other.max() > top:
            i = int(np.argmax(other > top))
            raise ValueError(
                f"{what}[{i}] = {other[i]}: a test label must be a label of y, from 0 "
                f"to {top}"
            )
        return other
    other = as_labels_or_targets(values, what, "targets")
    if other.shape[1] != y.shape[1]:
        raise ValueError(
            f"{what} has {other.shape[1]} target values per example, y has "
            f"{y.shape[1]}: expected the same"
        )
    return other


def same_length(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    """Raise ValueError if two arrays differ in their number of examples."""
    if len(x) != len(y):
        raise ValueError(
            f"{x_name} has {len(x)} examples, {y_name} has {len(y)}: expected one "
            f"entry of {y_name} for each of {x_name}"
        )


def _labels(raw: np.ndarray, what: str) -> np.ndarray:
    for wrong, rule in (
        (
            raw < 0,
            "labels are numbered from 0 (np.unique(..., return_inverse=True)[1])",
        ),
        (raw > MAX_LABEL, f"labels must be at most {MAX_LABEL}"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(
                f"{what}[{i}] = {raw[i]}: {rule}; for regression pass "
                f"floats of shape [N, 1]: {what}.astype(np.float32)[:, None]"
            )
    return raw.astype(np.int32)


def finite(raw: np.ndarray, what: str) -> np.ndarray:
    """Return a float32 copy; raise ValueError if it would hold NaN or infinity."""
    with np.errstate(over="ignore"):  # the check below reports too large values
        values = raw.astype(np.float32)
    if raw.dtype.kind == "f":
        wrong = ~np.isfinite(values)
        if count := int(np.count_nonzero(wrong)):
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"{what} has {count} value{'s' * (count > 1)} that are NaN, infinite "
                f"or too large for float32, the first at index {first}: remove or "
                "replace them"
            )
    return values
