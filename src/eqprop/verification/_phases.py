"""The phases that `tune` measures: one compiled program for every β and length."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..estimators._equilibrium_propagation import _contrast
from ..relaxations._base import Dynamics


def advance(problem, state, relaxation, betas, count: int, tol: float = 0.0):
    """At most `count` steps of phases nudged by `betas`, until the residual is ≤ tol.

    Leaves of `state` are `[phases, batch, …]`.  Returns it, the largest residual of the
    last step, and the steps taken.
    """
    # Arrays are dynamic arguments: one program serves every β, count and tolerance.
    numbers = jnp.asarray(betas, float), jnp.asarray(count), jnp.asarray(tol, float)
    return _jitted_advance(problem, state, relaxation, *numbers)


@eqx.filter_jit
def _jitted_advance(problem, state, relaxation, betas, count, tol):
    system, cost, x, y = problem

    def one(beta, x, y, s):
        moved, residual = relaxation.step(Dynamics(system, x, cost, y, beta), s, None)
        return jax.tree.map(lambda m, u: m.astype(u.dtype), moved, s), residual

    over_batch = jax.vmap(one, in_axes=(None, 0, 0, 0))
    step = jax.vmap(over_batch, in_axes=(0, None, None, 0))

    def moving(carry):
        t, _, residual = carry
        return (t < count) & ((t == 0) | (jnp.isfinite(residual) & (residual > tol)))

    def body(carry):
        t, s, _ = carry
        s, residual = step(betas, x, y, s)
        return t + 1, s, jnp.max(residual)

    first = (jnp.zeros((), int), state, jnp.zeros(()))
    taken, state, residual = jax.lax.while_loop(moving, body, first)
    return state, residual, taken


@eqx.filter_jit
def gradient(problem, free, phases, betas):
    system, cost, x, y = problem
    return _contrast(system, cost, x, y, free, phases, betas, None)


def one_phase(state):
    return jax.tree.map(lambda s: s[None], state)


def ladder(end: float) -> list[int]:
    """1, 2, 3, …, then steps of a fifth, as far as `end`."""
    values = [1]
    while values[-1] < end:
        values.append(max(values[-1] + 1, round(1.2 * values[-1])))
    return values
