"""Paper B in physical time, in one figure: both phases, both error processes."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._drawing import COLORS
from ..relaxations import Dynamics, initial_state
from ..systems._base import AbstractSystem, State
from ._fixed_point import double, find_fixed_point
from ._flow import ep_flow, rbp_flow, truncation


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
    """A `matplotlib` figure of both phases, both error processes, and truncation.

    It shows the unit whose |S̃_t| integrates to most.  Traces and noisy runs are Euler
    steps `dt` with `project` and the nudge ±`beta`; the noise is √(2 · noise · dt) ξ, ξ
    normal from `key`, the same for β and −β, with `noise` a temperature (energy units);
    `chains` runs are averaged.  The free phase takes as long as `times`.

    `state` is the settled state, found where `None`; `times` are by default 60 until
    the error has decayed to a hundredth, at most 60 neuron time constants.  All is
    computed in float64.
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
        settings = (beta, noise, chains, dt)
        figure = _figure(system, cost, x, y, state, times, key, settings)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _figure(system, cost, x, y, state, times, key, settings) -> Any:
    beta, noise, chains, dt = settings
    data = {"state": state, "times": times}
    nudged, count = ep_flow(system, cost, x, y, **data), np.size(times)
    end = float(nudged.times[-1])
    if count < 2 or not (noise >= 0 and chains >= 1 and 0 < dt < end and beta != 0):
        raise ValueError(
            f"{count} times, noise={noise}, chains={chains}, dt={dt}, beta={beta}; "
            f"need two times, noise ≥ 0, chains ≥ 1, 0 < dt < {end} and beta ≠ 0"
        )
    data["times"] = np.append(times, 10 * end)  # there Θ̄ is the exact gradient
    rbp = rbp_flow(system, cost, x, y, **data)
    limit = jax.tree.map(lambda g: g[-1], (rbp.grads, rbp.cost_grads))
    angles = [truncation(process, *limit)[:count] for process in (rbp, nudged)]
    units = jax.vmap(jax.vmap(lambda s: ravel_pytree(s)[0]))
    size = jnp.trapezoid(jnp.abs(units(nudged.states)), nudged.times, axis=0)
    example, unit = (int(i) for i in np.unravel_index(jnp.argmax(size), size.shape))
    # A unit that moves is not held: D S̄ and S̄ are the same there.
    errors = [units(p.states)[:count, example, unit] for p in (rbp, nudged)]
    start = (x, y, initial_state(system, x, None))
    one = jax.tree.map(lambda leaf: leaf[example], start)
    plan = (unit, beta, dt, round(end / dt))
    heat = jnp.full(chains + 1, noise, nudged.times.dtype).at[0].set(0)
    runs = _runs(system, cost, one, plan, heat, jax.random.split(key, chains + 1))
    title = f"unit {unit} of example {example}, β = ±{beta:g}, temperature {noise:g}"
    figure = _draw(title, nudged.times, errors, angles, np.asarray(runs), beta, dt)
    return figure


@eqx.filter_jit
def _runs(system, cost, one, plan, heat, keys):
    """`[3, runs, steps]`: one unit in the free phase, and nudged by β and −β."""
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


def _draw(title, times, errors, angles, runs, beta, dt):
    from matplotlib.figure import Figure

    black, blue, red, light = COLORS[6], COLORS[0], COLORS[1], COLORS[5]
    clock = dt * np.arange(runs.shape[-1])
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplot_mosaic("AA;BC", height_ratios=(1, 1.15))
    names, colors = ("free", "nudged by β", "nudged by −β"), (black, blue, red)
    for k, (name, color) in enumerate(zip(names, colors, strict=True)):
        span = clock if k else clock - clock[-1] - dt
        label = None if k else "one run with noise"
        axes["A"].plot(span, runs[k, 1], color=light, lw=0.8, alpha=0.7, label=label)
        axes["A"].plot(span, runs[k, 0], color=color, lw=1.8, label=name)
    rates = np.diff(runs[2, 1:] - runs[1, 1:]) / (2 * beta * dt)
    middle, mean, spread = clock[1:] - dt / 2, rates.mean(0), rates.std(0)
    axes["B"].fill_between(middle, mean - spread, mean + spread, color=light, alpha=0.2)
    label = f"EP with noise: mean ± s.d., {len(rates)} runs"
    axes["B"].plot(middle, mean, color=light, lw=7, alpha=0.6, label=label)
    for name, curves, labels in (
        ("B", errors, ("RBP: S̄", "EP: −(ds/dt)/β, β → 0")),
        ("C", angles, ("RBP stopped at t", "nudged phase stopped at t")),
    ):
        axes[name].plot(times, curves[0], color=black, lw=2.4, label=labels[0])
        axes[name].plot(times, curves[1], "--", color=red, lw=1.8, label=labels[1])
    axes["C"].set_ylim(bottom=0)
    axes["A"].set_title(f"state of {title}", fontsize=10, loc="left")
    axes["B"].set_title("error process of that unit", fontsize=10, loc="left")
    axes["C"].set_title("angle to exact gradient (degrees)", fontsize=10, loc="left")
    for axis in axes.values():
        axis.set_xlabel("time (neuron time constants)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    return figure
