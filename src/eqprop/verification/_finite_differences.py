"""The exact gradient by a route that shares nothing with it: settle again, and divide.

dJ/dθ·d ≈ (J(θ + h d) − J(θ − h d)) / 2h, where J is the cost of the state that the
perturbed system settles to.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators._step import through_step
from ..systems._base import AbstractSystem
from ..systems._total_energy import batch_costs
from ._fixed_point import FixedPoint, random_like, settle
from ._metrics import length_of, named_leaves

STEPS = (1e-5, 1e-4, 1e-6)
LEAVES = 24
"""parameters (arrays) tested at most"""
KINK = 1e-2
"""relative difference of the slopes on both sides that shows a kink"""


@dataclasses.dataclass(frozen=True)
class SettledSlopes:
    """The exact gradient against finite differences, in the worst parameter array.

    - `error`: relative; `parameter`: the array's name.
    - `kink`: whether the settled cost has two slopes there, on both sides.
    - `without`: parameters without any derivative (frozen, or unused), left out.
    """

    error: float
    parameter: str
    kink: bool
    without: list[str]


def settled_slopes(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    point: FixedPoint,
    grads: tuple[PyTree, PyTree],
) -> SettledSlopes:
    """Compare `grads` along one direction for each parameter array.

    Of three h the best counts: one may be lost in rounding, or cross a unit's bound.
    """
    params, static = eqx.partition((system, cost), eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    gradients = jax.tree.leaves(grads)

    def settled_cost(number, direction, h):
        moved = list(leaves)
        moved[number] = moved[number] + h * direction
        model = eqx.combine(jax.tree.unflatten(treedef, moved), static)
        state = settle(model[0], x, point.relaxation, point.state)[0]
        return float(_mean_cost(model, x, y, state))

    active = _active(system, cost, x, y, point)
    here = settled_cost(0, 0 * leaves[0], 0.0)
    total = length_of(grads)
    names = [name for name, _ in named_leaves(params[0])]
    names += [name for name, _ in named_leaves(params[1], "cost.")]
    worst = SettledSlopes(0.0, "", False, [])
    chosen = np.linspace(0, len(leaves) - 1, min(len(leaves), LEAVES)).astype(int)
    for number in chosen:
        if not active[number]:
            continue
        g = gradients[number]
        direction = _direction(g, int(number))
        expected = float(np.sum(np.asarray(g) * direction))
        # A parameter without effect here is held to the size of all the others.
        size = max(length_of(g), 1e-6 * total)
        best, kink = np.inf, False
        for h in STEPS:
            up = settled_cost(number, direction, h)
            down = settled_cost(number, direction, -h)
            noise = 1e-14 * (abs(here) + total) / h
            slope = (up - down) / (2 * h)
            wrong = max(abs(slope - expected) - noise, 0.0)
            # A gradient of exactly 0 has the slope's own size for a scale.
            scale = size or abs(slope)
            off = wrong / scale if wrong else 0.0
            if off < best:
                bend = abs(up - 2 * here + down) / h - 2 * noise
                best, kink = off, bend > KINK * max(scale, abs(slope))
            if best < 1e-7:
                break
        if not best <= worst.error:
            worst = SettledSlopes(best, names[number], kink, [])
    without = [name for name, used in zip(names, active, strict=True) if not used]
    return dataclasses.replace(worst, without=without)


def _active(system, cost, x, y, point: FixedPoint) -> list[bool]:
    """Which parameters have any derivative in the step, the readout or the cost."""
    probe = random_like(point.state, 3)
    grads = _any_gradient(system, cost, x, y, point.state, probe, point.dt)
    return [bool(np.any(np.asarray(g) != 0)) for g in jax.tree.leaves(grads)]


@eqx.filter_jit
def _any_gradient(system, cost, x, y, state, probe, dt):
    return through_step(system, cost, x, y, state, probe, dt, None)[1]


def _direction(g: Array, number: int) -> Array:
    """A unit direction that is neither along the gradient nor across it."""
    slope = np.asarray(g)
    draw = np.random.default_rng(number).normal(size=slope.shape)
    # Never against the gradient, where the two could cancel.
    draw = draw if np.sum(draw * _unit(slope)) >= 0 else -draw
    direction = _unit(draw) + _unit(slope)
    return jnp.asarray(_unit(direction), slope.dtype)


def _unit(values: np.ndarray) -> np.ndarray:
    """The direction of an array; zeros stay zeros."""
    return values / (length_of(values) or 1.0)


@eqx.filter_jit
def _mean_cost(model, x, y, state) -> Array:
    system, cost = model
    return jnp.mean(batch_costs(system, cost, x, y, state))
