"""The problem on which theorems are measured, and the gradient of a rule at a state.

The bottom of the package: `verify`, `tune`, the error processes and all measurements
take a `Problem`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators import AbstractEstimator, Gradient
from ..relaxations._base import Equilibrium, Status
from ..systems._base import (
    AbstractEnergy,
    AbstractMap,
    AbstractPrimitive,
    AbstractSystem,
    has_potential,
    State,
)
from ..systems._total_energy import AbstractTotalEnergy


class Problem(NamedTuple):
    """A system, its cost, and batches of inputs and targets."""

    system: AbstractSystem
    cost: Any
    x: PyTree[Array]
    y: PyTree[Array]

    @property
    def model(self) -> tuple[AbstractSystem, Any]:
        """The system and the cost: whatever has parameters."""
        return self.system, self.cost

    def on(self, x: PyTree[Array], y: PyTree[Array]) -> "Problem":
        """Return the same model with other examples."""
        return self._replace(x=x, y=y)

    @property
    def size(self) -> int:
        """The number of parameters of system and cost."""
        params = eqx.filter(self.model, eqx.is_inexact_array)
        return sum(leaf.size for leaf in jax.tree.leaves(params))


class Place(NamedTuple):
    """Where an error process starts, its step size, and its number of steps."""

    state: State
    dt: Any
    steps: int


def kind(system: AbstractSystem) -> str:
    """Name the description of the dynamics that a system gives."""
    for cls, name in (
        (AbstractTotalEnergy, "total energy"),
        (AbstractEnergy, "energy"),
        (AbstractPrimitive, "primitive function"),
        (AbstractMap, "map, EP approximate by declaration"),
    ):
        if isinstance(system, cls):
            return name
    return "velocity and potential" if has_potential(system) else "vector field"


@eqx.filter_jit
def gradient_at(rule: AbstractEstimator, problem: Problem, state: State) -> Gradient:
    """Apply a rule at a batched state, as if the free phase had settled there."""
    none = jnp.zeros(len(jax.tree.leaves(state)[0]))
    settled = jnp.full(none.shape, int(Status.settled))
    free = Equilibrium(state, none.astype(int), none, settled)
    return rule.at(*problem, free, (None, None), None)


@eqx.filter_jit
def whole_gradient(rule: AbstractEstimator, problem: Problem, key: Any = None):
    """Run a rule with its own phases, without the warnings of a call from outside."""
    return rule(*problem, key=key)


def random_like(state: State, seed: int, count: int | None = None) -> State:
    """Draw standard normal numbers of a batched state's shape, or `count` of them each.

    NumPy draws them: compiling JAX's generator takes longer than all the rest.
    """
    random = np.random.default_rng(seed)

    def draw(leaf):
        extra = () if count is None else (count,)
        shape = (len(leaf), *extra, *leaf.shape[1:])
        return jnp.asarray(random.normal(size=shape), leaf.dtype)

    return jax.tree.map(draw, state)


def double(leaf: Any) -> Any:
    """Convert an inexact array to double precision; leave everything else as it is."""
    if not eqx.is_inexact_array_like(leaf) or isinstance(leaf, float | complex):
        return leaf
    wide = np.complex128 if np.iscomplexobj(leaf) else np.float64
    return jnp.asarray(np.asarray(leaf), wide)


def single(leaf: Any) -> Any:
    """Convert an array to the dtype in which JAX holds it while float64 is off."""
    if not jnp.issubdtype(getattr(leaf, "dtype", str), np.number):
        return leaf
    return jnp.asarray(np.asarray(leaf))
