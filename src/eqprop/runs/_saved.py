"""Convert a training state to the arrays and the record of a checkpoint, and back."""

import dataclasses
import json
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..training import Config, config_to_json, EpochRecord, TrainState
from ._checkpoints import Checkpoint, differences, fingerprint
from ._directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Saved:
    """A training state, the records of its epochs, the seconds of its last epoch."""

    state: TrainState
    history: list[EpochRecord]
    seconds: float


def to_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """Return copies of the arrays of a state, named by their path in it."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path): _numbers(leaf) for path, leaf in leaves}


def _numbers(leaf: Any) -> np.ndarray:
    """Return a copy of an array, or of the data of a random key."""
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _restored(numbers: np.ndarray, like: Any) -> jax.Array:
    copy = jnp.array(numbers, copy=True)
    if _is_key(like):
        return jax.random.wrap_key_data(copy, impl=jax.random.key_impl(like))
    return copy


def identity(config: Config, state: TrainState) -> dict[str, Any]:
    """Return what must stay the same while a run lasts, to compare at a restore.

    The number of epochs may change, and so may the paths of the data and the model
    file: inputs.json holds fingerprints of their contents.
    """
    from .. import __version__

    record = json.loads(json.dumps(config_to_json(config)))
    for name in ("epochs", "data"):
        del record[name]
    record["model"].pop("path", None)
    system = eqx.tree_pformat((state.system, state.cost), width=80)
    system = re.sub(r" at 0x[0-9a-f]+", "", system)
    return {
        "eqprop": __version__,
        "config": record,
        "system": dict(enumerate_lines(system)),
    }


def enumerate_lines(text: str) -> list[tuple[str, str]]:
    """Return the lines of a description with their numbers, for `differences`."""
    return [(f"line {k}", line.strip()) for k, line in enumerate(text.splitlines(), 1)]


def restore(
    found: Checkpoint, config: Config, like: TrainState, directory: RunDirectory
) -> Saved:
    """Return the state in a checkpoint, in the structure of `like`.

    **Raises:** `ValueError`, which names the difference, if the checkpoint belongs to
    another version of eqprop, configuration, data or system.
    """
    now = identity(config, like)
    then = {name: found.record.get(name) for name in now}
    if isinstance(then["config"], dict):
        then["config"] = _younger_fields(now["config"]) | then["config"]
    place = f"checkpoint {found.number} of {directory.path}"
    if then["eqprop"] != now["eqprop"]:
        raise ValueError(
            f"{place} was made by eqprop {then['eqprop']}, and this is eqprop "
            f"{now['eqprop']}: install that version to use it, or train again"
        )
    for name, what in (("config", "configuration"), ("system", "system")):
        if wrong := differences(then[name], now[name]):
            raise ValueError(
                f"{place} belongs to another {what} than the run's files describe "
                f"now: {'; '.join(wrong[:3])}. Undo the change, or train again"
            )
    data = directory.inputs()["data"]
    learnt = found.record.get("data", data)  # missing in the oldest checkpoints
    if other := [name for name in data | learnt if data.get(name) != learnt.get(name)]:
        raise ValueError(
            f"{place} was trained on other data than the run: {', '.join(other)} "
            "differ. Restore the run's own checkpoints, or train again"
        )
    arrays = to_arrays(like)
    expected = {name: fingerprint(array) for name, array in arrays.items()}
    wrong = differences(_kinds(found.record["arrays"]), _kinds(expected))
    if wrong:
        raise ValueError(f"{place} does not fit this system: {'; '.join(wrong[:3])}")
    leaves, tree = jax.tree.flatten(like)
    restored = iter(found.arrays[name] for name in arrays)
    leaves = [
        _restored(next(restored), leaf) if eqx.is_array(leaf) else leaf
        for leaf in leaves
    ]
    state = jax.tree.unflatten(tree, leaves)
    history = [EpochRecord.from_json(entry) for entry in found.record["history"]]
    return Saved(state, history, found.record["seconds"])


def _younger_fields(now: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of fields that an older configuration does not have."""
    fields = dataclasses.fields(Config)
    return {f.name: f.default for f in fields if f.name in now and _is_plain(f.default)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _kinds(arrays: dict[str, Any]) -> dict[str, str]:
    return {name: f"{known['dtype']}{known['shape']}" for name, known in arrays.items()}
