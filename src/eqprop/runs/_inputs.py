"""Check that data and model of a run are those it was trained with; read new x and y.

Fingerprints of the data and of the user's file are compared before a run is used again.
A run may come from a stranger: its Python file is executed only if the user names it,
and only if it is the file that the run was trained with.

`read_inputs` and `read_targets` convert new x and y to the form and scale of the
training, or refuse them.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..data import _checks, InputFormat
from ..training import Config, RunWarning, split_path, UserModel
from ._checkpoints import fingerprint
from ._problem import check_probabilities, Problem


def fingerprints(problem: Problem) -> dict[str, Any]:
    """Return shape, dtype and SHA-256 of every array of every split."""
    splits = {
        "train": problem.train,
        "validation": problem.validation,
        "test": problem.test,
    }
    found = {}
    for split, pair in splits.items():
        for name, tree in zip("xy", pair or (), strict=False):
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                place = f"{split}.{name}{jax.tree_util.keystr(path)}"
                found[place] = fingerprint(np.asarray(leaf))
    return found


def check_data(run: Path, known: dict[str, Any], problem: Problem) -> None:
    """Refuse examples that are not those of the run; name the difference."""
    now = fingerprints(problem)
    for name in dict.fromkeys([*known, *now]):
        if known.get(name) == now.get(name):
            continue
        then, found = (_in_words(record.get(name)) for record in (known, now))
        values = f"was {then} and is {found}"
        if then == found:
            values = "has other values"
        raise ValueError(
            f"the data have changed since the run {run} was trained: {name} {values}. "
            "Restore the data of the training, or train again"
        )


def _in_words(record: dict[str, Any] | None) -> str:
    if record is None:
        return "absent"
    shape = "×".join(str(n) for n in record["shape"])
    return f"{record['dtype']} of shape {shape}"


def read_inputs(problem: Problem, x: Any) -> PyTree:
    """Convert x to the form and scale of the run's training.

    **Raises:** `ValueError` for another shape, and for numbers that cannot have the
    scale of the training (see `data.InputFormat`).
    """
    dataset = problem.dataset
    if dataset is not None:
        if dataset.inputs is not None:
            return _read(dataset.inputs, x, "x")
        # For an old run whose data are gone, only the shape of x is known.
        x = _checks.as_inputs(x)
        if dataset.image_shape is not None and len(dataset.input_shape) == 1:
            x = x.reshape(len(x), -1) if x.shape[1:] == dataset.image_shape else x
    trained = problem.train[0]
    if jax.tree.structure(trained) != jax.tree.structure(x) or dataset is not None:
        _check_shapes("x", trained, x)
        return x

    def one(path, known, given):
        return _read_like(known, given, _named("x", path))

    return jax.tree_util.tree_map_with_path(one, trained, x)


def read_targets(config: Config, problem: Problem, y: Any) -> PyTree:
    """Convert y to what the run's cost compares with: one-hot rows, or targets.

    **Raises:** `ValueError` for labels that the run does not know, and for targets of
    another kind or shape than those of the training.
    """
    dataset = problem.dataset
    if dataset is None:
        return _program_targets(problem, y)
    raw = _checks.numbers(y, "y")
    size = dataset.target_size
    if raw.ndim == 2 and raw.shape[1] not in (1, size):
        raise ValueError(
            f"one example of y has shape {raw.shape[1:]}; this run was trained on "
            f"targets of shape ({size},)"
        )
    if dataset.classes is not None and (raw.ndim != 2 or raw.shape[1] != size):
        return dataset.targets(_checks.as_labels_or_targets(raw, "y", "labels"))
    targets = _checks.as_labels_or_targets(raw, "y", "targets")
    if targets.shape[1] != size:
        raise ValueError(
            f"y has {targets.shape[1]} value per example; this run was trained on "
            f"targets of {size} values"
        )
    if not isinstance(config.model, UserModel):
        check_probabilities(targets, config.model.cost, "y")
    return targets


def _program_targets(problem: Problem, y: Any) -> PyTree:
    """Convert targets to the dtype of those that the user's program returned."""
    _check_shapes("y", problem.train[1], y)
    splits = (problem.train, problem.validation, problem.test)
    known = [pair[1] for pair in splits if pair is not None]

    def one(path, given, *seen):
        what, dtype = _named("y", path), np.asarray(seen[0]).dtype
        given = np.asarray(given)
        if dtype.kind not in "biu":
            return given
        if given.dtype.kind not in "biu" and not _checks.are_whole(given):
            raise ValueError(
                f"{what} has dtype {given.dtype}; this run was trained on {dtype}"
            )
        low, high = min(map(np.min, seen)), max(map(np.max, seen))
        if given.ndim == 1 and (given.min() < low or given.max() > high):
            warnings.warn(
                f"{what} has values from {given.min():g} to {given.max():g}; this run "
                f"was trained on {low} to {high} and may not know other labels",
                RunWarning,
                stacklevel=4,
            )
        return given.astype(dtype)

    return jax.tree_util.tree_map_with_path(one, y, *known)


def _read(format: InputFormat, x: Any, what: str) -> np.ndarray:
    raw = _checks.numbers(x, what)
    found = format.read(raw, what)
    if doubt := format.doubt(raw, what):
        warnings.warn(doubt, RunWarning, stacklevel=4)
    return found


def _read_like(known: Any, given: Any, what: str) -> Any:
    """Convert inputs to the form of those that the user's program returned."""
    format = InputFormat.of_program(known)
    if format is not None:
        return _read(format, given, what)
    _check_shapes(what, known, given)
    return given


def _check_shapes(what: str, trained: PyTree, given: PyTree) -> None:
    known, found = (
        jax.tree.map(lambda leaf: np.shape(leaf)[1:], tree) for tree in (trained, given)
    )
    if known != found:
        raise ValueError(
            f"one example of {what} has shape {found}; this run was trained on "
            f"examples of shape {known}"
        )


def _named(what: str, path: Any) -> str:
    return what + jax.tree_util.keystr(path)


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_system(
    run: Path, config: Config, known: str | None, copy: Path, system: str | None
) -> str | None:
    """Return the FILE.py:NAME that may be executed for this run, or raise.

    **Arguments:**

    - `known`: hash of the file that the run was trained with.
    - `copy`: the run's copy of that file.
    - `system`: the FILE.py:NAME that the user gave.

    **Returns:** `system`, or `None` for a run of a built-in network.
    """
    if not isinstance(config.model, UserModel):
        if system is not None:
            raise ValueError(
                f"--system is {system}, but the run {run} trained a built-in network; "
                "leave --system out"
            )
        return None
    file, name = split_path(config.model.path)
    if system is None:
        raise ValueError(
            f"the run {run} trained a user's own model, and its Python file is "
            "executed only if you name it. If the run is not yours, read the file "
            f"first. Then add --system {copy}:{name} (a copy of {file})"
        )
    given, given_name = split_path(system)
    if given_name != name:
        raise ValueError(
            f"--system names {given_name}, but the run {run} was trained with {name}; "
            f"give {given}:{name}"
        )
    if not given.is_file():
        raise FileNotFoundError(
            f"there is no file {given}; the run's copy of its model is {copy}"
        )
    if known is None or hash_file(given) != known:
        raise ValueError(
            f"{given} is not the file that the run {run} was trained with (SHA-256 "
            f"{hash_file(given)[:12]}… now, {str(known)[:12]}… then); use the run's "
            f"copy: {copy}"
        )
    return system
