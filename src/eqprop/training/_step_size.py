"""The step size of `dt="auto"`, which follows the fastest rate of the network.

An Euler step of size dt multiplies a perturbation along an eigenvector of the Jacobian
J = ∂velocity/∂s by 1 + dt λ.  For rates λ from −λmax to 0, the steps converge if
dt < 2/λmax, and converge without oscillation if dt ≤ 1/λmax.  We use dt = 1/λmax.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..estimators import AbstractEstimator
from ..estimators._step import norm
from ..relaxations import Euler, initial_state, relax
from ..systems import AbstractSystem

EXAMPLES = 64
ITERATIONS = 30
AVERAGED = 10
"""number of last iterations over which the growth is averaged, because it varies from
one to the next if the eigenvalue is one of a complex pair"""


def has_dt(estimator: AbstractEstimator) -> bool:
    """Return whether any phase of the rule takes Euler steps."""
    phases = jax.tree.leaves(estimator, is_leaf=_is_euler)
    return any(map(_is_euler, phases))


def with_dt(estimator: AbstractEstimator, dt: Any) -> AbstractEstimator:
    """Return the rule with this step size in all Euler phases; unchanged for `None`."""
    if dt is None:
        return estimator

    def replace(phase):
        if _is_euler(phase):
            return eqx.tree_at(lambda euler: euler.dt, phase, dt)
        return phase

    return jax.tree.map(replace, estimator, is_leaf=_is_euler)


@eqx.filter_jit
def auto_dt(
    system: AbstractSystem, x: PyTree[Array], estimator: AbstractEstimator
) -> Float[Array, ""]:
    """Return 1/λmax, with λmax the largest rate over the first examples.

    It is measured in the initial states, and in the states that the free phase reaches
    with the step size found so far.  The result depends on the arguments alone, so that
    a resumed run finds the same.
    """
    x = jax.tree.map(lambda leaf: leaf[:EXAMPLES], x)
    state = initial_state(system, x, None)
    rate = fastest_rate(system, x, state)
    for _ in range(2):
        phase = with_dt(Euler(steps=estimator.free.steps), 1 / rate)  # type: ignore[arg-type]
        settled = relax(system, x, phase, state=state).state  # type: ignore[arg-type]
        rate = jnp.maximum(rate, fastest_rate(system, x, settled))
    return 1 / rate


def fastest_rate(
    system: AbstractSystem, x: PyTree[Array], state: PyTree[Array]
) -> Float[Array, ""]:
    """Return |λ|max of ∂velocity/∂s in these states by power iteration; 1 for 0."""

    def of_example(x, s):
        leaves, tree = jax.tree.flatten(s)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        start = [
            jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]

        def push(v, _):
            moved = jax.jvp(lambda u: system.velocity(x, u), (s,), (v,))[1]
            size = norm(moved)
            scale = jnp.where(size == 0, 1, size)
            return jax.tree.map(lambda w: w / scale, moved), size

        v = jax.tree.unflatten(tree, start)
        _, growth = jax.lax.scan(push, v, None, length=ITERATIONS)
        return jnp.exp(jnp.mean(jnp.log(growth[-AVERAGED:])))

    rate = jnp.max(jax.vmap(of_example)(x, state))
    return jnp.where(rate == 0, 1, rate)


def _is_euler(value: Any) -> bool:
    return isinstance(value, Euler)
