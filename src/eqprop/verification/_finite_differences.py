"""The exact gradient by a route that shares nothing with it: settle again, and divide.

dJ/dθ·d ≈ (J(θ + h d) − J(θ − h d)) / 2h, where J is the cost of the state that the
perturbed system settles to.
"""

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
from ._metrics import flat

STEPS = (1e-5, 1e-4, 1e-6)
LEAVES = 24
"""parameters (arrays) tested at most"""


def finite_difference_error(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    point: FixedPoint,
    grads: tuple[PyTree, PyTree],
) -> tuple[float, list[str]]:
    """The worst relative error of `grads` along one direction per parameter array.

    Of three h the best counts: one may be lost in rounding, or cross a unit's bound.
    Parameters of which nothing has a derivative (frozen by `stop_gradient`, or unused)
    are left out.

    **Returns:** the error, and the names of those left out.
    """
    params, static = eqx.partition((system, cost), eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    slopes = jax.tree.leaves(grads)

    def settled_cost(number, direction, h):
        moved = list(leaves)
        moved[number] = moved[number] + h * direction
        model = eqx.combine(jax.tree.unflatten(treedef, moved), static)
        state = settle(model[0], x, point.relaxation, point.state)[0]
        return float(_mean_cost(model, x, y, state))

    active = _active(system, cost, x, y, point)
    here = settled_cost(0, 0 * leaves[0], 0.0)
    total = float(np.linalg.norm(flat(grads)))
    worst = 0.0
    chosen = np.linspace(0, len(leaves) - 1, min(len(leaves), LEAVES)).astype(int)
    for number in chosen:
        if not active[number]:
            continue
        g = slopes[number]
        direction = _direction(g, int(number))
        expected = float(np.sum(np.asarray(g) * direction))
        # A parameter without effect here is held to the size of all the others.
        size = max(float(np.linalg.norm(g)), 1e-6 * total)
        off = np.inf
        for h in STEPS:
            up = settled_cost(number, direction, h)
            down = settled_cost(number, direction, -h)
            noise = 1e-14 * (abs(here) + total) / h
            wrong = max(abs((up - down) / (2 * h) - expected) - noise, 0.0)
            off = min(off, wrong / size if wrong else 0.0)
            if off < 1e-7:
                break
        worst = max(worst, off)
    paths = jax.tree_util.tree_leaves_with_path(params)
    without = [
        jax.tree_util.keystr(path[1:]).lstrip(".")
        for (path, _), used in zip(paths, active, strict=True)
        if not used
    ]
    return worst, without


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
    draw = draw if np.sum(draw * slope) >= 0 else -draw
    size = np.linalg.norm(slope)
    direction = draw / np.linalg.norm(draw) + slope / (size or 1.0)
    return jnp.asarray(direction / np.linalg.norm(direction), slope.dtype)


@eqx.filter_jit
def _mean_cost(model, x, y, state) -> Array:
    system, cost = model
    return jnp.mean(batch_costs(system, cost, x, y, state))
