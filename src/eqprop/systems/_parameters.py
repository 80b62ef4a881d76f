"""Names and layers of the parameters of a pair (system, cost)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree


def parameter_groups(model: Any) -> PyTree[str]:
    """The layer of each parameter, as a tree of names, in the order of the layers.

    The first index on the path to a parameter is its layer (`.weights[0]` and
    `.biases[0]` share layer 0); a parameter without an index is a layer of its own.
    A backward weight is of its forward partner's layer, where the system declares such
    pairs by `reciprocal()`: both are one synapse, seen from its two ends.
    """
    params = eqx.filter(model, eqx.is_inexact_array)
    places = jax.tree_util.tree_map_with_path(lambda path, _: _Place(path), params)
    partners = _partners(places[0])

    def name(place: _Place) -> str:
        path = partners.get(place, place).path
        for entry in path[1:]:
            if isinstance(entry, jax.tree_util.SequenceKey):
                return f"{_root(path)}layer {entry.idx + 1}"
        return parameter_name(path)

    return jax.tree.map(name, places)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a parameter stands; what stands for it."""

    path: tuple[Any, ...]


def _partners(system: Any) -> dict[_Place, _Place]:
    """The forward parameter of each backward one, of a system of places."""
    if not callable(getattr(system, "reciprocal", None)):
        return {}
    try:
        forward, backward = (jax.tree.leaves(ends) for ends in system.reciprocal())
        return dict(zip(backward, forward, strict=True))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(system).__name__}.reciprocal() must return two sequences of "
            "parameters that match, forward and backward ones, and the parameters "
            f"themselves, nothing computed of them: {error}"
        ) from error


def by_layer(what: str, values: Sequence[Any], groups: PyTree[str]) -> dict[str, Any]:
    """One of the `values` for each layer of `parameter_groups`; one is for all."""
    names = list(dict.fromkeys(jax.tree.leaves(groups)))
    if len(values) not in (1, len(names)):
        raise ValueError(
            f"{what} has {len(values)} values; give one for all, or one for each of "
            f"the {len(names)} layers: {', '.join(names)}"
        )
    each = values if len(values) == len(names) else [values[0]] * len(names)
    return dict(zip(names, each, strict=True))


def parameter_name(path: tuple[Any, ...]) -> str:
    """`weights[0]` for a parameter of the system, `cost.weight` for one of the cost.

    `path` leads through the pair `(system, cost)`.
    """
    return _root(path) + jax.tree_util.keystr(path[1:]).lstrip(".")


def _root(path: tuple[Any, ...]) -> str:
    return "cost." if path[0].idx == 1 else ""
