"""Paper B in continuous time, in one figure: both phases and both error processes."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from . import _figures
from ..relaxations import Dynamics, initial_state
from ..systems._base import AbstractSystem, State
from ._fixed_point import find_fixed_point
from ._flow import ep_flow, rbp_flow, truncation
from ._problem import double, Problem


def flow_figure(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    state: State | None = None,
    times: Any = None,
    key: PRNGKeyArray | None = None,
    beta: float = 0.1,
    noise: float = 1e-3,
    chains: int = 256,
    dt: float = 0.02,
    path: str | Path | None = None,
) -> Any:
    """Draw both phases, both error processes, and the error of truncation.

    The figure shows the unit with the largest integral of |S̃_t|.  Everything is
    computed in float64.

    **Arguments:**

    - `state`: the settled state; found if `None`.
    - `times`: of the processes (neuron time constants); by default 60 times until the
      error is a hundredth, at most 60 time constants.  The free phase is as long.
    - `beta`, `dt`: the nudge ±β, and the Euler step of traces and noisy runs.
    - `noise`: a temperature (energy units); each step adds √(2 · noise · dt) ξ, with ξ
      normal from `key`, the same for β and −β.
    - `chains`: how many noisy runs are averaged.
    """
    with jax.enable_x64(True):
        system, cost, x, y, state = jax.tree.map(double, (system, cost, x, y, state))
        point = find_fixed_point(system, x, None, None, state)
        if state is None:
            if not point.settled:
                raise ValueError(
                    f"{type(system).__name__} does not settle (residual "
                    f"{point.residual:.2g}); eqprop verify says more"
                )
            state = point.state
        if times is None:
            rate = -np.log(min(max(point.radius, 1e-3), 0.999)) / point.dt
            times = np.linspace(0, min(np.log(100) / rate, 60.0), 60)
        key = jax.random.key(0) if key is None else key
        problem = Problem(system, cost, x, y)
        noisy = _Noisy(key, beta, noise, chains, dt)
        return _figures.saved(_figure(problem, state, times, noisy), path)


@dataclasses.dataclass(frozen=True)
class _Noisy:
    """How the runs of both phases are simulated."""

    key: PRNGKeyArray
    beta: float
    noise: float
    chains: int
    dt: float


def _figure(problem: Problem, state, times, noisy: _Noisy) -> Any:
    """Compute the processes, the angles and the runs, and draw them."""
    beta, noise, chains, dt = noisy.beta, noisy.noise, noisy.chains, noisy.dt
    data = {"state": state, "times": times}
    nudged, count = ep_flow(*problem, **data), np.size(times)
    end = float(nudged.times[-1])
    if count < 2 or not (noise >= 0 and chains >= 1 and 0 < dt < end and beta != 0):
        raise ValueError(
            f"{count} times, noise={noise}, chains={chains}, dt={dt}, beta={beta}; "
            f"need two times, noise ≥ 0, chains ≥ 1, 0 < dt < {end} and beta ≠ 0"
        )
    data["times"] = np.append(times, 10 * end)  # there Θ̄ is the exact gradient
    rbp = rbp_flow(*problem, **data)
    limit = jax.tree.map(lambda g: g[-1], (rbp.grads, rbp.cost_grads))
    angles = [truncation(process, *limit)[:count] for process in (rbp, nudged)]
    units = jax.vmap(jax.vmap(lambda s: ravel_pytree(s)[0]))
    size = jnp.trapezoid(jnp.abs(units(nudged.states)), nudged.times, axis=0)
    example, unit = (int(i) for i in np.unravel_index(jnp.argmax(size), size.shape))
    # A unit that moves is not held: D S̄ and S̄ are the same there.
    errors = [units(p.states)[:count, example, unit] for p in (rbp, nudged)]
    x, y = problem.x, problem.y
    start = (x, y, initial_state(problem.system, x, None))
    one = jax.tree.map(lambda leaf: leaf[example], start)
    plan = (unit, beta, dt, round(end / dt))
    heat = jnp.full(chains + 1, noise, nudged.times.dtype).at[0].set(0)
    keys = jax.random.split(noisy.key, chains + 1)
    runs = np.asarray(_runs(problem.system, problem.cost, one, plan, heat, keys))
    title = f"unit {unit} of example {example}, β = ±{beta:g}, temperature {noise:g}"
    return _figures.flow(title, nudged.times, errors, angles, (runs, beta, dt))


@eqx.filter_jit
def _runs(system, cost, one, plan, heat, keys):
    """Simulate one unit, free and nudged by β and −β: `[3, runs, steps]`."""
    (x, y, first), (unit, beta, dt, steps) = one, plan

    def phase(beta, noise, key, s):
        def step(s, key):
            flat, unflatten = ravel_pytree(s)
            rate, _ = ravel_pytree(Dynamics(system, x, cost, y, beta).velocity(s))
            xi = jax.random.normal(key, flat.shape, flat.dtype)
            moved = flat + dt * rate + jnp.sqrt(2 * noise * dt) * xi
            return system.project(unflatten(moved.astype(flat.dtype))), flat[unit]

        return jax.lax.scan(step, s, jax.random.split(key, steps))

    def run(noise, key):
        settled, free = phase(0.0, noise, key, first)
        args = (noise, jax.random.fold_in(key, 1), settled)
        return jnp.stack([free, phase(beta, *args)[1], phase(-beta, *args)[1]])

    return jax.vmap(run, out_axes=1)(heat, keys)
