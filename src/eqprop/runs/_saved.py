"""A training state as the arrays and the record of a checkpoint, and back."""

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
    """A state that was saved, its epochs' records, and the seconds of its epoch."""

    state: TrainState
    history: list[EpochRecord]
    seconds: float


def to_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """Copies of the arrays of a state by the path that leads to them."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path): _numbers(leaf) for path, leaf in leaves}


def _numbers(leaf: Any) -> np.ndarray:
    """A copy of an array; of a random key, its data."""
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _restored(numbers: np.ndarray, like: Any) -> jax.Array:
    copy = jnp.array(numbers, copy=True)
    if _is_key(like):
        return jax.random.wrap_key_data(copy, impl=jax.random.key_impl(like))
    return copy


def identity(config: Config, state: TrainState) -> dict[str, Any]:
    """What a checkpoint belongs to; it must not change while a run lasts.

    The number of epochs may, and the places of the data and the model's file: their
    contents are held to the fingerprints in inputs.json.
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
    """The lines of a description by their number, for `differences` to compare."""
    return [(f"line {k}", line.strip()) for k, line in enumerate(text.splitlines(), 1)]


def restore(
    found: Checkpoint, config: Config, like: TrainState, directory: RunDirectory
) -> Saved:
    """The state of a checkpoint of a run, in the structure of `like`.

    **Raises:** `ValueError` that names the difference where the checkpoint was made
    by another eqprop, with another configuration or data, or for another system.
    """
    now = identity(config, like)
    then = {name: found.record.get(name) for name in now}
    if isinstance(then["config"], dict):
        then["config"] = _younger_fields(now["config"]) | then["config"]
    place = f"checkpoint {found.number} of {directory.path}"
    if then["eqprop"] != now["eqprop"]:
        raise ValueError(
            f"{place} was made by eqprop {then['eqprop']}, and this is eqprop "
            f"{now['eqprop']}: install that version to use it, or train anew"
        )
    for name, what in (("config", "configuration"), ("system", "system")):
        if wrong := differences(then[name], now[name]):
            raise ValueError(
                f"{place} belongs to another {what} than the run's files describe "
                f"now: {'; '.join(wrong[:3])}. Undo the change, or train anew"
            )
    data = directory.inputs()["data"]
    learnt = found.record.get("data", data)  # the first checkpoints do not say
    if other := [name for name in data | learnt if data.get(name) != learnt.get(name)]:
        raise ValueError(
            f"{place} was trained on other data than the run: {', '.join(other)} "
            "differ. Bring back the run's own checkpoints, or train anew"
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
    """What a configuration meant before its fields were added: their defaults."""
    fields = dataclasses.fields(Config)
    return {f.name: f.default for f in fields if f.name in now and _is_plain(f.default)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _kinds(arrays: dict[str, Any]) -> dict[str, str]:
    return {name: f"{known['dtype']}{known['shape']}" for name, known in arrays.items()}
