"""Check the exact gradient by finite differences of the settled cost.

dJ/dθ·d ≈ (J(θ + h d) − J(θ − h d)) / 2h, where J is the cost of the state that the
perturbed system settles to.  Nothing is shared with implicit differentiation.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators._step import through_step
from ..systems._total_energy import batch_costs
from ._fixed_point import FixedPoint, settle
from ._metrics import length_of, parameter_names
from ._problem import Problem, random_like

STEPS = (1e-5, 1e-4, 1e-6)
LEAVES = 24
"""parameter arrays tested at most"""
KINK = 1e-2
"""relative difference of the slopes on both sides above which there is a kink"""


@dataclasses.dataclass(frozen=True)
class SettledSlopes:
    """The exact gradient against finite differences, in the worst parameter array.

    - `error`: relative; `parameter`: the array's name.
    - `kink`: whether the settled cost has another slope on each side.
    - `without`: parameters without a derivative (frozen or unused); left out.
    """

    error: float
    parameter: str
    kink: bool
    without: list[str]


def settled_slopes(
    problem: Problem, point: FixedPoint, grads: tuple[PyTree, PyTree]
) -> SettledSlopes:
    """Compare `grads` along one direction for each parameter array.

    The best of three h counts: rounding or the bound of a unit may spoil one.
    """
    params, static = eqx.partition(problem.model, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    gradients = jax.tree.leaves(grads)

    def settled_cost(number, direction, h):
        moved = list(leaves)
        moved[number] = moved[number] + h * direction
        system, cost = eqx.combine(jax.tree.unflatten(treedef, moved), static)
        near = problem._replace(system=system, cost=cost)
        state = settle(system, near.x, point.relaxation, point.state)[0]
        return float(_mean_cost(near, state))

    active = _active(problem, point)
    here = settled_cost(0, 0 * leaves[0], 0.0)
    total = length_of(grads)
    names = parameter_names(params)
    worst = SettledSlopes(0.0, "", False, [])
    chosen = np.linspace(0, len(leaves) - 1, min(len(leaves), LEAVES)).astype(int)
    for number in chosen:
        if not active[number]:
            continue
        g = gradients[number]
        direction = _direction(g, int(number))
        expected = float(np.sum(np.asarray(g) * direction))
        # A parameter without effect here is compared with the size of all others.
        size = max(length_of(g), 1e-6 * total)
        best, kink = np.inf, False
        for h in STEPS:
            up = settled_cost(number, direction, h)
            down = settled_cost(number, direction, -h)
            noise = 1e-14 * (abs(here) + total) / h
            slope = (up - down) / (2 * h)
            wrong = max(abs(slope - expected) - noise, 0.0)
            # If the gradient is exactly 0, the slope is the scale.
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


def _active(problem: Problem, point: FixedPoint) -> list[bool]:
    """Tell which parameters have a derivative in the step, the readout or the cost."""
    probe = random_like(point.state, 3)
    grads = _any_gradient(problem, point.state, probe, point.dt)
    return [bool(np.any(np.asarray(g) != 0)) for g in jax.tree.leaves(grads)]


@eqx.filter_jit
def _any_gradient(problem: Problem, state, probe, dt):
    """Return the gradient for a random error signal."""
    return through_step(*problem, state, probe, dt, None)[1]


def _direction(g: Array, number: int) -> Array:
    """Choose a unit direction neither along the gradient nor across it."""
    slope = np.asarray(g)
    draw = np.random.default_rng(number).normal(size=slope.shape)
    # Not against the gradient: the two could cancel.
    draw = draw if np.sum(draw * _unit(slope)) >= 0 else -draw
    direction = _unit(draw) + _unit(slope)
    return jnp.asarray(_unit(direction), slope.dtype)


def _unit(values: np.ndarray) -> np.ndarray:
    """Scale an array to length 1; zeros stay zeros."""
    return values / (length_of(values) or 1.0)


@eqx.filter_jit
def _mean_cost(problem: Problem, state) -> Array:
    return jnp.mean(batch_costs(*problem, state))
