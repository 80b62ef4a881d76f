"""Parameters of a pair (system, cost): their names, layers and bounds.

The optimizer and the reports ask here which parameters exist, and which are frozen.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree

from ._base import AbstractSystem, has_potential
from ._total_energy import cost_of, has_total_energy, nudge_energy


def parameter_groups(model: Any) -> PyTree[str]:
    """Return the layer of each parameter, as a tree of names in the order of layers.

    The first index on the path to a parameter is its layer (`.weights[0]` and
    `.biases[0]` share layer 0).  A parameter without an index is a layer of its own.
    A backward weight belongs to the layer of its forward counterpart, if the system
    declares such pairs by `reciprocal()`.
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
    """Path of a parameter, used as a stand-in leaf."""

    path: tuple[Any, ...]


def _partners(system: Any) -> dict[_Place, _Place]:
    """Return the forward counterpart of each backward parameter, both as places."""
    if not isinstance(system, AbstractSystem):
        return {}
    try:
        pairs = system.reciprocal()
        if pairs is None:
            return {}
        forward, backward = map(jax.tree.leaves, pairs)
        return dict(zip(backward, forward, strict=True))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(system).__name__}.reciprocal() must return two sequences of equal "
            "length, the forward and the backward parameters. Return the parameters "
            f"themselves, not values computed from them: {error}"
        ) from error


def by_layer(what: str, values: Sequence[Any], groups: PyTree[str]) -> dict[str, Any]:
    """Return the value of each layer of `parameter_groups`; a single one is for all."""
    names = list(dict.fromkeys(jax.tree.leaves(groups)))
    if len(values) not in (1, len(names)):
        raise ValueError(
            f"{what} has {len(values)} values; give one for all, or one for each of "
            f"the {len(names)} layers: {', '.join(names)}"
        )
    each = values if len(values) == len(names) else [values[0]] * len(names)
    return dict(zip(names, each, strict=True))


def parameter_name(path: tuple[Any, ...]) -> str:
    """Return `weights[0]` for a parameter of the system, `cost.weight` for the cost's.

    `path` starts at the pair `(system, cost)`.
    """
    return _root(path) + jax.tree_util.keystr(path[1:]).lstrip(".")


def _root(path: tuple[Any, ...]) -> str:
    return "cost." if path[0].idx == 1 else ""


def frozen_parameters(model: Any, x: Any, y: Any, s: Any) -> PyTree[bool]:
    """Return whether each parameter is frozen: no derivative of the model reaches it.

    The result has the tree of the parameters of `model`, the pair (system, cost); x, y
    and s are the shapes of one example.  A parameter is frozen if JAX finds a symbolic
    zero for the derivative of every function that a rule can differentiate.  A
    derivative that happens to be 0, as for a dead unit, does not freeze a parameter.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(params)
    frozen = [True] * len(leaves)
    for function in _differentiated(model[0]):

        @jax.jit
        def value(leaves, x, y, s, function=function):
            params = jax.tree.unflatten(tree, leaves)
            return function(*eqx.combine(params, static), x, y, s)

        def visit(leaves, x, y, s, value=value):
            for k, leaf in enumerate(leaves):

                def along(leaf, k=k):
                    return value([*leaves[:k], leaf, *leaves[k + 1 :]], x, y, s)

                frozen[k] = frozen[k] and not _depends(along, leaf)

        if any(frozen):
            jax.eval_shape(visit, leaves, x, y, s)
    return jax.tree.unflatten(tree, frozen)


def _differentiated(system: Any) -> Iterator[Callable]:
    """Yield the functions (system, cost, x, y, s) that rules differentiate."""
    if has_potential(system):
        yield lambda system, cost, x, y, s: system.potential(x, s)
    yield lambda system, cost, x, y, s: cost_of(system, cost, x, y, s)
    yield lambda system, cost, x, y, s: system.velocity(x, s)
    if has_total_energy(system):
        yield lambda system, cost, x, y, s: nudge_energy(system, cost, x, y, s, 1.0)
    if system.learning_field is not None:
        yield lambda system, cost, x, y, s: system.learning_field(x, s)
    yield lambda system, cost, x, y, s: system.project(s)


def _depends(function: Callable, leaf: Any) -> bool:
    """Return whether a derivative of `function` is more than a symbolic zero."""
    found: list[bool] = []

    @jax.custom_jvp
    def output(value):
        return value

    def rule(primals, tangents):
        ((value,), (tangent,)) = primals, tangents
        if isinstance(tangent, SymbolicZero):
            return value, jnp.zeros_like(value)
        found.append(True)
        return value, tangent

    output.defjvp(rule, symbolic_zeros=True)
    jax.jvp(lambda v: jax.tree.map(output, function(v)), (leaf,), (leaf,))
    return bool(found)


def inside_bounds(params: PyTree[Array], static: PyTree) -> PyTree[Array]:
    """Apply the system's `project_parameters`; keep numbers that are not finite."""
    system, cost = eqx.combine(params, static)
    projected = system.project_parameters()
    if projected is system:
        return params
    inside = eqx.filter((projected, cost), eqx.is_inexact_array)

    def kept(new, old):
        return jnp.where(jnp.isfinite(old), new, old).astype(old.dtype)

    return jax.tree.map(kept, inside, params)


def shared_arrays(model: Any) -> list[tuple[str, str]]:
    """Return pairs of names of parameters that share one array in memory.

    Training copies every leaf, so that they become independent parameters.
    """
    found: list[tuple[str, str]] = []
    seen: list[tuple[str, Any]] = []
    params = eqx.filter(model, eqx.is_inexact_array)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = parameter_name(path)
        first = next((n for n, other in seen if _same_memory(leaf, other)), None)
        if first is None:
            seen.append((name, leaf))
        else:
            found.append((first, name))
    return found


def _same_memory(a: Any, b: Any) -> bool:
    if a is b:
        return True
    both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return both and np.shares_memory(a, b)
