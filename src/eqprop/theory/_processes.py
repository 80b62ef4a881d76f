"""EP's, RBP's and BPTT's error processes in discrete time: the theorems step by step.

With F(x, s) = project(s + dt · velocity) and s⁰ the free state (paper B, theorems 1
and 3, in steps of dt; paper D, theorem 1):

- RBP:  S̄_0 = ∂C/∂s(s⁰), S̄_{t+1} = (∂F/∂s)ᵀ S̄_t, Θ̄_{t+1} = Θ̄_t + (∂F/∂θ)ᵀ S̄_t;
- BPTT: S̄_t = ∂C(s_K)/∂s_{K−t} along K further steps, Θ̄_t the part of its last t steps;
- EP:   S̃_t = −(s^β_{t+1} − s^β_t)/(β dt), Θ̃_t the contrast of the phases at s^β_t.

At a fixed point, RBP and BPTT agree for any system.  EP agrees with them as β → 0 if
the potential generates a symmetric velocity.  A unit that `project` holds at a bound
shows the projected error, ∂project · S̄_t.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..estimators._base import AbstractEstimator
from ..estimators._equilibrium_propagation import _contrast
from ..estimators._step import (
    check_reference,
    error_signal,
    inner,
    step_map,
    through_step,
)
from ..relaxations import AbstractRelaxation, Dynamics, relax
from ..relaxations._euler import Euler
from ..relaxations._numbers import traced
from ..systems import _check
from ..systems._base import AbstractSystem, State
from ..systems._total_energy import check_total_energy
from ._problem import Place, Problem

ProcessNudging = Literal["centered", "one-sided"]


class Process(eqx.Module):
    """The error process (S̄_t, Θ̄_t) along t, with the signs of ∂L/∂s and ∂L/∂θ.

    - `states`: S̄_t of each example, leaves `[times, batch, …]`.
    - `grads`: Θ̄_t, the gradient accumulated up to t, the mean over the batch.  It has
      the structure of the system, leaves `[times, …]`, and `None` for a leaf that is
      not a parameter.
    - `cost_grads`: the same for the parameters of the cost.
    - `times`: t in neuron time constants (dt · number of steps).
    """

    states: PyTree[Array]
    grads: PyTree[Array | None]
    cost_grads: PyTree[Array | None]
    times: Float[Array, " times"]


def ep_process(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    free: AbstractRelaxation,
    dt: float,
    steps: int,
    beta: float,
    nudging: ProcessNudging = "centered",
    state: State | None = None,
) -> Process:
    """Compute S̃_t and Θ̃_t of the nudged phase (paper B, eqs 18–19; paper D, GDU).

    **Arguments:**

    - `free`: the relaxation that ends in s⁰; `state`: its initial state.
    - `dt`, `steps`: the nudged Euler steps; t runs from 0 to `steps`.
    - `beta`: the nudge, not 0.
    - `nudging`: `"one-sided"` contrasts β with 0, `"centered"` β with −β, and S̃ is
      then the mean over both phases.

    **Returns:** a `Process`; t = 0…`steps` is the leading axis of its leaves.

    **Raises:** `ValueError` for hyper-parameters out of range or shapes that differ.
    """
    if nudging not in ("centered", "one-sided"):
        raise ValueError(f"nudging is {nudging!r}; choose 'centered' or 'one-sided'")
    if not (np.isfinite(beta) and beta != 0):
        raise ValueError(f"beta is {beta}; it must be finite and not 0, e.g. 1e-3")
    problem, place = _start(Problem(system, cost, x, y), free, dt, steps, state)
    return _ep(problem, place, nudges(beta, nudging))


def nudges(beta: float, nudging: str) -> Float[Array, "two"]:
    """Return β of the two phases that are contrasted."""
    return jnp.stack([jnp.asarray(beta), -beta if nudging == "centered" else 0 * beta])


def rbp_process(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    free: AbstractRelaxation,
    dt: float,
    steps: int,
    state: State | None = None,
) -> Process:
    """Compute S̄_t and Θ̄_t of recurrent backpropagation (paper B, eqs 8–11).

    Arguments, result and errors as for `ep_process`.
    """
    problem, place = _start(Problem(system, cost, x, y), free, dt, steps, state)
    return _rbp(problem, place)


def bptt_process(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    free: AbstractRelaxation,
    dt: float,
    steps: int,
    state: State | None = None,
) -> Process:
    """Compute S̄_t and Θ̄_t of backpropagation through `steps` further steps (paper D).

    Arguments, result and errors as for `ep_process`.
    """
    problem, place = _start(Problem(system, cost, x, y), free, dt, steps, state)
    return _bptt(problem, place)


def _start(problem, free, dt, steps, state) -> tuple[Problem, Place]:
    """Check the arguments, and settle: x and y as arrays, and where t begins."""
    system, cost, x, y = problem
    if isinstance(free, AbstractEstimator):
        free = free.free
    check_reference("the process", free, dt, steps)
    x, y = _check.batch(x=x, y=y)
    s = relax(system, x, free, state=state).state
    _check.check_cost(system, cost, *_check.example((x, y, s)))
    check_total_energy(system, cost, x, y, s)
    return Problem(system, cost, x, y), Place(s, traced(dt, system, x, s), steps)


@eqx.filter_jit
def _ep(problem: Problem, place: Place, betas: Array) -> Process:
    """Compute EP's process from the phases nudged by the two `betas`."""
    state, dt, steps = place
    phases = _nudged_path(problem, place, betas)
    width = betas[0] - betas[1]
    errors = jax.tree.map(
        lambda s: -jnp.diff(s[0] - s[1], axis=0) / (width * dt), phases
    )

    def contrast(s):
        return _contrast(*problem, state, s, betas, None)

    kept = jax.tree.map(lambda s: jnp.moveaxis(s[:, : steps + 1], 1, 0), phases)
    grads, cost_grads = jax.lax.map(contrast, kept)
    return Process(errors, grads, cost_grads, dt * jnp.arange(steps + 1))


def _nudged_path(problem, place, betas) -> State:
    """Return the states at t = 0…`steps` + 1 of both phases: `[2, times, batch, …]`."""
    (system, cost, x, y), (state, dt, steps) = problem, place

    def path(beta, x, y, s):
        dynamics = Dynamics(system, x, cost, y, beta)

        def step(s, _):
            moved, _ = Euler(dt=dt).step(dynamics, s, None)
            moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, s)
            return moved, s

        return jax.lax.scan(step, s, None, length=steps + 2)[1]

    over_batch = jax.vmap(path, in_axes=(None, 0, 0, 0), out_axes=1)
    return jax.vmap(over_batch, in_axes=(0, None, None, None))(betas, x, y, state)


@eqx.filter_jit
def _rbp(problem: Problem, place: Place) -> Process:
    """Iterate the vector-Jacobian product of the step at s⁰."""
    (system, cost, x, y), (state, dt, steps) = problem, place

    def errors(x, y, s):
        _, pull = jax.vjp(step_map(system, x, dt), s)
        first = error_signal(system, cost, x, y, s)
        zero = jax.tree.map(jnp.zeros_like, first)

        def iterate(carry, _):
            error, total = carry
            return (pull(error)[0], jax.tree.map(jnp.add, total, error)), carry

        return jax.lax.scan(iterate, (first, zero), None, length=steps + 1)[1]

    states, totals = jax.vmap(errors, out_axes=1)(x, y, state)

    def gradient(total):
        return through_step(system, cost, x, y, state, total, dt, None)[1]

    grads, cost_grads = jax.lax.map(gradient, totals)
    return Process(states, grads, cost_grads, dt * jnp.arange(steps + 1))


@eqx.filter_jit
def _bptt(problem: Problem, place: Place) -> Process:
    """Run forward from s⁰, then back through every step."""
    (system, cost, x, y), (state, dt, steps) = problem, place

    def forward(x, s):
        step = step_map(system, x, dt)
        return jax.lax.scan(lambda u, _: (step(u), u), s, None, length=steps)

    def back(x, s, error):
        _, pull = jax.vjp(step_map(system, x, dt), s)
        return pull(error)[0]

    def undo(carry, s):
        error, grads = carry
        added = _step_gradient(system, x, s, error, dt)
        carry = jax.vmap(back)(x, s, error), jax.tree.map(jnp.add, grads, added)
        return carry, carry

    last, before = jax.vmap(forward, out_axes=(0, 1))(x, state)
    error = jax.vmap(lambda x, y, s: error_signal(system, cost, x, y, s))(x, y, last)
    # Θ̄_0 = ∂C/∂θ(s_K): the gradient through no step at all.
    zero = jax.tree.map(jnp.zeros_like, error)
    grads, cost_grads = through_step(system, cost, x, y, last, zero, dt, None)[1]
    backwards = jax.tree.map(lambda s: s[::-1], before)
    _, following = jax.lax.scan(undo, (error, grads), backwards)
    states, grads = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]),
        (error, grads),
        following,
    )
    cost_grads = jax.tree.map(
        lambda g: jnp.broadcast_to(g, (steps + 1, *g.shape)), cost_grads
    )
    return Process(states, grads, cost_grads, dt * jnp.arange(steps + 1))


def _step_gradient(system, x, s, error, dt) -> Any:
    """Return (∂F/∂θ)ᵀ S̄ at the states s, the mean over the batch."""

    @eqx.filter_grad
    def gradient(system):
        def one(x, s, error):
            return inner(step_map(system, x, dt)(s), error)

        return jnp.mean(jax.vmap(one)(x, s, error))

    return gradient(system)
