"""What a run was trained on: fingerprints of its data, and of the user's own file.

Both are checked before a run is used again.  A run may come from a stranger, so its
copy of a model is data: a file is executed only when the user names it, and only if it
is the file that the run was trained with.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..training import Config, UserModel
from ._checkpoints import fingerprint
from ._problem import Problem, split_path


def fingerprints(problem: Problem) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of every array of every split."""
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
    """Refuse examples that are not those of the run, and say what differs."""
    now = fingerprints(problem)
    for name in dict.fromkeys([*known, *now]):
        if known.get(name) == now.get(name):
            continue
        then, found = (_in_words(record.get(name)) for record in (known, now))
        values = "its values differ" if then == found else f"it was {then}, now {found}"
        raise ValueError(
            f"the data of the run {run} have changed since it was trained: {name}: "
            f"{values}. Bring back the data it was trained on, or train anew"
        )


def _in_words(record: dict[str, Any] | None) -> str:
    if record is None:
        return "absent"
    shape = "×".join(str(n) for n in record["shape"])
    return f"{record['dtype']} of shape {shape}"


def hash_file(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_system(
    run: Path, config: Config, known: str | None, copy: Path, system: str | None
) -> str | None:
    """The FILE.py:NAME that may be executed for this run, or an error.

    `known` is the hash of the file that the run was trained with, `copy` the run's
    copy of it, and `system` what the user has named.
    """
    if not isinstance(config.model, UserModel):
        if system is not None:
            raise ValueError(
                f"the run {run} is of a network of eqprop; leave --system out"
            )
        return None
    file, name = split_path(config.model.path)
    if system is None:
        raise ValueError(
            f"the run {run} is of a model of the user's own, and its Python file is "
            "executed only when you name it. Read it first if the run is not yours, "
            f"and add --system {copy}:{name}, a copy of {file}"
        )
    given, given_name = split_path(system)
    if given_name != name:
        raise ValueError(
            f"--system names {given_name}, and the run {run} was trained with {name}"
        )
    if not given.is_file():
        raise FileNotFoundError(
            f"there is no file {given}; the run's copy of its model is {copy}"
        )
    if known is None or hash_file(given) != known:
        raise ValueError(
            f"{given} is not the file that the run {run} was trained with (SHA-256 "
            f"{hash_file(given)[:12]}… now, {str(known)[:12]}… then); its copy is "
            f"{copy}"
        )
    return system
