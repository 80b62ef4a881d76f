"""The functions users call: from a name, a path or arrays to a `Dataset`.

Every source gives a `Raw`: its arrays, and whether their order is drawn from the seed
(digits, .npz, arrays) or is the publisher's (MNIST). `DATA_SETS` lists the named ones.
`_build` makes a `Dataset` of it: it checks the arrays, holds out the validation and
test sets, and flattens images.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from . import _checks, _splits
from ._dataset import Dataset, Split
from ._digits import digits
from ._download import TEST_X, TEST_Y, TRAIN_X, TRAIN_Y, published_files
from ._format import InputFormat
from ._readers import NPZ_NAMES, read_idx, read_npz

KINDS = {"auto": None, "classification": "labels", "regression": "targets"}
"""task: content of y"""
SHOWN = 8
"""largest number of absent classes that a warning names"""


def load(
    name: str | os.PathLike[str],
    *,
    validation: float = 0,
    test: float = _splits.TEST_FRACTION,
    split_seed: int = 0,
    flatten: bool = True,
    task: str = "auto",
) -> Dataset:
    """Load a named data set or an .npz file.

    "digits" (8x8, bundled, in [0, 1]) and .npz files are put in a random order drawn
    from `split_seed`; "mnist" and "fashion-mnist" (28x28, in [0, 1]) keep their
    publisher's order and test set.

    Args:
        name: "digits", "mnist", "fashion-mnist", or a path that ends in .npz with the
            arrays x and y, optionally x_test and y_test (see `load_arrays`).
        validation: number of training examples held out, the last ones, if an int; or
            a fraction in [0, 1) of them. 0: no validation set.
        test: fraction in [0, 1) held out as the test set, of each class for digits;
            not used if the data have a test set of their own. 0: no test set.
        split_seed: seed of the order, whole number >= 0.
        flatten: x as [N, features] rather than in its own shape.
        task: "classification": y holds labels; "regression": y holds target values;
            "auto": whole numbers [N] and integers are labels, others target values.

    Returns:
        the data set, x float32 and finite.

    Raises:
        ValueError: unknown name, option out of range, or data that cannot be used.
        FileNotFoundError: no such .npz file.
        ConnectionError: files are missing and cannot be downloaded.

    Source: the last 10 000 training images of MNIST for validation are paper A's.
    """
    name = os.fspath(name)
    splitting = _splits.Splitting(validation, test, split_seed)
    _check_task(task)
    if name in DATA_SETS:
        raw = DATA_SETS[name].read()
    else:
        _check_npz_name(name)
        npz, others = read_npz(name, required=("x", "y"))
        tests = npz.get("x_test"), npz.get("y_test")
        raw = Raw(npz["x"], npz["y"], *tests, others=others)
    return _build(name, raw, splitting, flatten, task)


def load_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    name: str = "arrays",
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    validation: float = 0,
    test: float = _splits.TEST_FRACTION,
    split_seed: int = 0,
    flatten: bool = True,
    task: str = "auto",
) -> Dataset:
    """Make a data set from arrays, with the checks and splits of an .npz file.

    Args:
        x: numbers [N, ...]; uint8 is divided by 255, others are not scaled.
            [N, h, w] and [N, h, w, c] are images.
        y: labels, whole numbers [N] from 0 on; or targets, floats [N, d] (or [N], if
            not all are whole). `task` overrides this.
        name: name of the data set.
        x_test, y_test: a test set; None: a fraction `test` is held out.
        validation, test, split_seed, flatten, task: as for `load`.

    Returns:
        the data set; the arrays given are copied.

    Raises:
        ValueError: an option out of range, or data that cannot be used.
    """
    splitting = _splits.Splitting(validation, test, split_seed)
    _check_task(task)
    return _build(name, Raw(x, y, x_test, y_test), splitting, flatten, task)


def read_inputs(
    path: str | os.PathLike[str], flatten: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read examples from an .npz file in the order of the file, converted as by `load`.

    Args:
        path: a path that ends in .npz, with the array x and optionally y.
        flatten: x as [N, features] rather than in its own shape.

    Returns:
        x float32, and y as int32 labels [N] or float32 targets [N, d], or None.

    Raises:
        ValueError, FileNotFoundError: as for `load`.
    """
    x, y = read_examples(path)
    x = _checks.as_inputs(x)
    if y is not None:
        y = _checks.as_labels_or_targets(y)
    return _shaped(x, flatten), y


def read_examples(
    path: str | os.PathLike[str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read x, and y or None, from an .npz file, unconverted: a run converts them.

    Raises:
        ValueError, FileNotFoundError: no such file, no array x, not numbers, or not
            one y for each x.
    """
    _check_npz_name(os.fspath(path))
    arrays, _ = read_npz(path, required=("x",))
    x = _checks.numbers(arrays["x"], "x")
    _checks.filled(x, "x")
    if "y" not in arrays:
        return x, None
    y = _checks.numbers(arrays["y"], "y")
    if x.ndim and y.ndim:
        _checks.same_length(x, y, "x", "y")
    return x, y


@dataclass(frozen=True)
class Raw:
    """The unchecked arrays of a source, and how their order is drawn."""

    x: ArrayLike
    y: ArrayLike
    x_test: ArrayLike | None = None
    y_test: ArrayLike | None = None
    shuffle: bool = True
    stratify: bool = False
    others: tuple[str, ...] = ()
    """names of arrays in the file that are not read"""


@dataclass(frozen=True)
class DataSet:
    """A named data set."""

    read: Callable[[], Raw]
    """returns the arrays; it may download them"""
    shape: tuple[int, ...]
    """shape of an example, for `eqprop bench`, which reads no data"""
    classes: int = 10


def _digits() -> Raw:
    return Raw(*digits(), stratify=True)


def _published(name: str) -> Raw:
    files = published_files(name)
    images = (read_idx(files[f][0], 3, files[f][1]) for f in (TRAIN_X, TEST_X))
    labels = (read_idx(files[f][0], 1, files[f][1]) for f in (TRAIN_Y, TEST_Y))
    (x, x_test), (y, y_test) = images, labels
    return Raw(x, y, x_test, y_test, shuffle=False)


DATA_SETS = {
    "digits": DataSet(_digits, (8, 8)),
    "mnist": DataSet(partial(_published, "mnist"), (28, 28)),
    "fashion-mnist": DataSet(partial(_published, "fashion-mnist"), (28, 28)),
}
"""data sets by the word of `--data`"""


def _check_npz_name(name: str) -> None:
    if name.endswith(".npz"):
        return
    near = difflib.get_close_matches(name.lower(), DATA_SETS, n=1)
    known = ", ".join(DATA_SETS)
    raise ValueError(
        f"{name!r} is not a data set"
        + (f", did you mean {near[0]!r}?" if near else ".")
        + f" Known names: {known}; a path must end in .npz (write one with "
        "np.savez(path, x=x, y=y))"
    )


def _check_task(task: str) -> None:
    if task not in KINDS:
        raise ValueError(f"task is {task!r}; choose {', '.join(KINDS)}")


def _build(
    name: str, raw: Raw, splitting: _splits.Splitting, flatten: bool, task: str
) -> Dataset:
    x = _checks.as_inputs(raw.x)
    y = _checks.as_labels_or_targets(raw.y, kind=KINDS[task])
    _checks.same_length(x, y, "x", "y")
    inputs = InputFormat.of(np.asarray(raw.x), flatten)
    image_shape = x.shape[1:] if x.ndim in (3, 4) else None
    test = own = _own_test_set(raw, x, y, inputs)
    x = _shaped(x, flatten)
    order = np.arange(len(x))
    if raw.shuffle:
        order = np.random.default_rng(splitting.split_seed).permutation(order)
    if test is None:
        labels = y if raw.stratify else None
        order, rest = _splits.hold_out_test(order, splitting.test, labels)
        test = Split(x[rest], y[rest]) if len(rest) else None
    train, last = _splits.hold_out_validation(order, splitting.validation)
    return Dataset(
        name=name,
        train=Split(x[train], y[train]),
        validation=Split(x[last], y[last]) if len(last) else None,
        test=test,
        classes=int(y.max()) + 1 if y.dtype == np.int32 else None,
        image_shape=image_shape,
        inputs=inputs,
        own_test=own is not None,
        doubts=tuple(_doubts(name, raw, y, task)),
    )


def _doubts(name: str, raw: Raw, y: np.ndarray, task: str) -> Iterator[str]:
    """Return warnings about the data, a sentence each."""
    if raw.others:
        yield (
            f"{name}: the arrays {', '.join(raw.others)} are ignored; eqprop reads "
            f"only {', '.join(NPZ_NAMES)}"
        )
    if y.dtype != np.int32:
        return
    classes = int(y.max()) + 1
    if task == "auto" and np.asarray(raw.y).dtype.kind == "f":
        yield (
            f"{name}: y holds whole floats, which count as labels of {classes} "
            "classes; choose with task='classification' or 'regression' (--task "
            "regression)"
        )
    absent = np.setdiff1d(np.arange(classes), y)
    if len(absent) and classes > 1:
        shown = ", ".join(map(str, absent[:SHOWN])) + ", …" * (len(absent) > SHOWN)
        yield (
            f"{name}: no example has class {shown}: labels are numbered from 0, so "
            f"that the network has {classes} outputs for {classes - len(absent)} "
            "classes; "
            "renumber the labels with y = np.unique(y, return_inverse=True)[1], or "
            "give task='regression' (--task regression) if y holds target values"
        )


def _own_test_set(
    raw: Raw, x: np.ndarray, y: np.ndarray, inputs: InputFormat
) -> Split | None:
    """Return the data's own test set, checked against x and y; None without one."""
    if raw.x_test is None and raw.y_test is None:
        return None
    if raw.x_test is None or raw.y_test is None:
        there = "y_test" if raw.x_test is None else "x_test"
        raise ValueError(f"only {there} is given: give both x_test and y_test, or none")
    x_test = _checks.as_inputs(raw.x_test, "x_test")
    if x_test.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"x_test has examples of shape {x_test.shape[1:]}, x of shape "
            f"{x.shape[1:]}: expected the same"
        )
    dtypes = np.asarray(raw.x).dtype, np.asarray(raw.x_test).dtype
    if (dtypes[0] == np.uint8) != (dtypes[1] == np.uint8):
        raise ValueError(
            f"x has dtype {dtypes[0]}, x_test {dtypes[1]}: only uint8 is divided by "
            "255, so that both or neither must be uint8"
        )
    inputs.check_values(np.asarray(raw.x_test), "x_test")
    y_test = _checks.as_like(raw.y_test, y)
    _checks.same_length(x_test, y_test, "x_test", "y_test")
    return Split(_shaped(x_test, inputs.flatten), y_test)


def _shaped(x: np.ndarray, flatten: bool) -> np.ndarray:
    return x.reshape(len(x), -1) if flatten else x
