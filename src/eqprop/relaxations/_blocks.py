"""The blocks of a system and their curvature, by which `Sweep` divides its steps."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..costs import as_cost
from ..systems._base import Block, State
from ..systems._total_energy import has_total_energy
from ._base import Dynamics

LEAST = 0.1
"""the smallest a + β c, as a share of a, that a negative nudge can cause"""


class CurvatureNotPositive(ValueError):
    """The curvature of a block is not positive, so no step can divide by it."""


def leaves_of(block: Block, s: State) -> list[Array]:
    return jax.tree.leaves(block.where(s))


def replace_leaves(block: Block, s: State, new: list[Array]) -> State:
    return eqx.tree_at(lambda u: jax.tree.leaves(block.where(u)), s, new)


def blocks_of(system, s: State) -> tuple[Block, ...]:
    """Return the system's blocks; each leaf of the state must be in exactly one."""
    name = type(system).__name__
    blocks = system.blocks()
    if blocks is None:
        raise ValueError(
            f"Sweep needs a system that declares its blocks, and {name}.blocks() "
            "returns None; return a sequence of ep.Block objects, or use ep.Euler, "
            "which needs no blocks"
        )
    if isinstance(blocks, Block) or not isinstance(blocks, Iterable):
        raise ValueError(
            f"{name}.blocks() returned a {type(blocks).__name__}; return a sequence of "
            "ep.Block, e.g. (ep.Block(lambda s: s),)"
        )
    blocks = tuple(blocks)
    numbers = [_numbers(name, k, block, s) for k, block in enumerate(blocks)]
    _check_partition(name, s, [n for held in numbers for n in held])
    for k, (block, held) in enumerate(zip(blocks, numbers, strict=True)):
        value = block.curvature
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            unit = _names(s)[held[0]]
            raise CurvatureNotPositive(_not_positive(name, k, unit, value))
    return blocks


def _check_partition(name: str, s: State, found: list[int]) -> None:
    """Raise `ValueError` unless `found` numbers each leaf of the state exactly once."""
    names = _names(s)
    if sorted(found) == list(range(len(names))):
        return
    missing = [unit for n, unit in enumerate(names) if n not in found]
    twice = [unit for n, unit in enumerate(names) if found.count(n) > 1]
    faults = [f"{', '.join(missing)} in no block"] * bool(missing)
    faults += [f"{', '.join(twice)} in several blocks"] * bool(twice)
    raise ValueError(
        f"{name}.blocks() has {' and '.join(faults)}; every leaf of the state must be "
        "in exactly one block"
    )


def check_curvature(
    system, x, state: State, cost=None, y=None, beta: Any = 0.0
) -> None:
    """Raise for the first unit of a batch of states without a positive curvature.

    Leave out examples whose state is not finite.
    """
    leaves = jax.tree.leaves(state)
    numbers = jax.tree.unflatten(jax.tree.structure(state), range(len(leaves)))
    found = _batch_curvature(system, x, state, cost, y, jnp.asarray(beta))
    finite = np.logical_and.reduce(
        [np.isfinite(u).reshape(len(u), -1).all(1) for u in map(np.asarray, leaves)]
    )
    for number, (block, pairs) in enumerate(zip(system.blocks(), found, strict=True)):
        places = jax.tree.leaves(block.where(numbers))
        for place, (total, value) in zip(places, pairs, strict=True):
            total = np.real(total)
            bad = np.argwhere(~((total > 0) & np.isfinite(total)))
            bad = bad[finite[bad[:, 0]]]
            if len(bad):
                example, *unit = (int(n) for n in bad[0])
                where = f"{_names(state)[place]}{unit} of example {example}"
                given = np.real(np.asarray(value)[tuple(bad[0])])
                message = _not_positive(type(system).__name__, number, where, given)
                raise CurvatureNotPositive(message)


@eqx.filter_jit
def _batch_curvature(system, x, state, cost, y, beta) -> list:
    """Return the curvature that a step divides by, and a + β c, of every leaf.

    They differ if a negative β makes a + β c too small.
    """

    def one(x, y, s, beta):
        dynamics = Dynamics(system, x, cost, y, beta)

        def of(block):
            old = leaves_of(block, s)
            own = _curvature(block, x, s, len(old))
            given = [
                jnp.asarray(a) + c
                for a, c in zip(own, _cost_curvature(dynamics, block, s), strict=True)
            ]
            total = total_curvature(block, dynamics, s)
            return [
                tuple(jnp.broadcast_to(value, u.shape) for value in pair)
                for u, *pair in zip(old, total, given, strict=True)
            ]

        return [of(block) for block in blocks_of(system, s)]

    return jax.vmap(one, (0, 0, 0, 0 if beta.ndim else None))(x, y, state, beta)


def _not_positive(name: str, number: int, unit: str, value: Any) -> str:
    help = "declare the diagonal of −∂velocity/∂s, or an upper bound of it, in blocks()"
    if value == 0:
        help = (
            "this unit has neither a leak nor a connection: add one, or remove the "
            "unit from the state"
        )
    return (
        f"Sweep: block {number} of {name} has the curvature {value:.3g} at {unit}; a "
        f"curvature must be positive and finite: {help}"
    )


def total_curvature(block: Block, dynamics: Dynamics, s: State) -> list[Array]:
    """Return a + β c of each leaf of a block, but at least LEAST a."""
    count = len(leaves_of(block, s))
    pairs = zip(
        _curvature(block, dynamics.x, s, count),
        _cost_curvature(dynamics, block, s),
        strict=True,
    )
    return [a + jnp.maximum(c, (LEAST - 1) * jnp.real(a)) for a, c in pairs]


def positive(curvature: list[Array]) -> Array:
    """Return whether all curvatures of a block are positive and finite."""
    good = [jnp.all((jnp.real(a) > 0) & jnp.isfinite(a)) for a in curvature]
    return jnp.all(jnp.stack(good))


def _names(s: State) -> list[str]:
    """Return the name of each leaf of the state, e.g. `state['hidden']`."""
    paths = jax.tree_util.tree_leaves_with_path(s)
    return [f"state{jax.tree_util.keystr(path)}" for path, _ in paths]


def _numbers(name: str, k: int, block: Block, s: State) -> list[int]:
    """Return the numbers of the state's leaves in the k-th block."""
    label = f"{name}.blocks()[{k}]"
    if not isinstance(block, Block):
        raise ValueError(
            f"{label} is {block!r}; it must be an ep.Block, e.g. "
            "ep.Block(lambda s: s['hidden'])"
        )
    leaves = [_Leaf(n) for n in range(len(jax.tree.leaves(s)))]
    try:
        found = jax.tree.leaves(block.where(jax.tree.unflatten(_structure(s), leaves)))
    except Exception as error:
        raise ValueError(
            f"{label}.where failed ({type(error).__name__}: {error}); it must return "
            f"whole leaves of the state, whose structure is {_structure(s)}; it cannot "
            "compute with them or return a part of a leaf"
        ) from error
    wrong = [leaf for leaf in found if not isinstance(leaf, _Leaf)]
    if wrong or not found:
        what = f"returned {wrong[0]!r}" if wrong else "returned no leaf"
        raise ValueError(
            f"{label}.where {what}; it must return one or more leaves of the state, "
            f"whose structure is {_structure(s)}"
        )
    return [leaf.number for leaf in found]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Stand-in for a leaf of the state, to find the leaves of a block."""

    number: int


def _structure(s: State) -> Any:
    return jax.tree.structure(s)


def _curvature(block: Block, x, s: State, count: int) -> tuple:
    given = block.curvature
    if callable(given):
        try:
            given = given(x, s)
        except Exception as error:
            raise ValueError(
                f"the curvature of the block that holds {_held(block, s)} failed on "
                f"one example (x, s): {type(error).__name__}: {error}"
            ) from error
    found = jax.tree.leaves(given)
    if len(found) == 1 and found[0] is given and np.ndim(given) == 0:
        return (given,) * count
    own = [jnp.shape(leaf) for leaf in found]
    shapes = [jnp.shape(leaf) for leaf in leaves_of(block, s)]
    if len(own) != count or not all(map(_broadcasts, own, shapes)):
        raise ValueError(
            f"the curvature of the block that holds {_held(block, s)} has the shapes "
            f"{own}, but these leaves have {shapes}; give a number, or for each leaf "
            "an array that broadcasts against it"
        )
    return tuple(found)


def _broadcasts(shape: tuple, onto: tuple) -> bool:
    tail = onto[len(onto) - len(shape) :]
    pairs = zip(shape, tail, strict=False)
    return len(shape) <= len(onto) and all(a in (1, b) for a, b in pairs)


def _held(block: Block, s: State) -> str:
    """Return the names of the leaves of a block."""
    held = jax.tree.leaves(block.where(jax.tree.unflatten(_structure(s), _names(s))))
    return ", ".join(held)


def _cost_curvature(dynamics: Dynamics, block: Block, s: State) -> list:
    """Return β ∂²C/∂s² on the block's diagonal, or a bound with which steps are safe.

    With J = ∂readout/∂s on the block, |J|ᵀ|J|1 bounds JᵀJ from above (Gershgorin) and
    2 diag(JᵀJ) − |J|ᵀ|J|1 from below.  The two are equal if every output reads one
    unit.  A negative β needs the lower bound.
    """
    if dynamics.y is not None and has_total_energy(dynamics.system):
        raise ValueError(
            "Sweep does not know the curvature of "
            f"{type(dynamics.system).__name__}.total_energy in the nudged phase; use "
            "ep.Euler"
        )
    if dynamics.cost is None:
        return [0.0] * len(leaves_of(block, s))
    cost = as_cost(dynamics.cost)
    upper, lower = cost.curvature, cost.least_curvature
    known = isinstance(upper, int | float)  # else it depends on the cost's parameters
    if known and upper == lower == 0:
        return [0.0] * len(leaves_of(block, s))
    readout = dynamics.system.readout

    def of_block(leaves):
        return readout(replace_leaves(block, s, leaves))

    jacobian = jax.jacrev(of_block)(leaves_of(block, s))
    rows = jnp.abs(
        sum(jnp.sum(jnp.abs(j), _unit_axes(readout, s, j)) for j in jacobian)
    )
    curvatures = []
    for j in jacobian:
        outputs = tuple(range(rows.ndim))
        above = jnp.tensordot(rows, jnp.abs(j), (outputs, outputs))
        below = jnp.maximum(2 * jnp.sum(jnp.abs(j) ** 2, outputs) - above, 0)
        beta = jnp.real(dynamics.beta)
        bound = jnp.where(beta > 0, upper * above, lower * below)
        curvatures.append(beta * bound)
    return curvatures


def _unit_axes(readout, s: State, j: Array) -> tuple[int, ...]:
    """Return the axes of a Jacobian leaf that run over units; outputs come first."""
    return tuple(range(jax.eval_shape(readout, s).ndim, j.ndim))
