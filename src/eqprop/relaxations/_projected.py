"""The part of a step that `project` leaves, free of the rounding of the state.

A state s stores a step d only to its own rounding: where |d| is below half an ulp of
s, s + d is s, and a residual computed from (s + d) − s says that nothing moves.  Here
the units are displaced far enough to see what `project` does to them, and what it
leaves of d is scaled back.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ..systems._base import State

FAR = 64
"""ulp of s by which units are displaced at least"""


def projected(project: Callable[[State], State], s: State, step: State) -> State:
    """project(s + d) − s for d = `step`, as exact as d where `project` allows d.

    A `project` that treats each unit by itself sees each unit displaced by FAR ulp of
    itself at least, so that a large unit beside a small one does not matter.  One that
    joins units (a ball, a simplex) sees all of d times one factor.
    """
    if all(map(operator.is_, *map(jax.tree.leaves, (project(s), s)))):
        return step  # no unit is held by anything
    units, unravel = ravel_pytree(s)
    d, as_step = ravel_pytree(step)

    def image(moved):
        return ravel_pytree(project(unravel(moved)))[0]

    ulp = jnp.finfo(units.dtype).eps * jnp.abs(units)
    far = units + jnp.where(jnp.abs(d) < FAR * ulp, FAR * ulp * jnp.sign(d), d)
    far_image = image(far)
    # Units are apart if each ends where it does while its neighbours are not displaced.
    black = _chessboard(s)
    half, other_half = jnp.where(black, far, units), jnp.where(black, units, far)
    alone = jnp.where(black, image(half), image(other_half))
    apart = jnp.all(alone == far_image)
    factor = FAR * jnp.max(ulp) / jnp.max(jnp.abs(d))
    factor = jnp.where((factor > 1) & jnp.isfinite(factor), factor, 1)
    joint = units + factor * d
    displaced = jnp.abs(far - units)
    usual = (displaced > 0) & jnp.isfinite(displaced)
    shrink = jnp.where(usual, jnp.abs(d) / jnp.where(usual, displaced, 1), 1)
    moved = jnp.where(apart, far, joint)
    reached = jnp.where(apart, far_image, image(joint))
    kept = (reached - units) * jnp.where(apart, shrink, 1 / factor)
    return as_step(jnp.where((reached == moved) | jnp.isnan(d), d, kept))


def _chessboard(s: State) -> np.ndarray:
    """Whether a unit stands on a black field of its leaf, all leaves in one row."""
    fields = [
        (number + np.indices(leaf.shape).sum(0)) % 2 == 1
        for number, leaf in enumerate(jax.tree.leaves(s))
    ]
    return np.concatenate([np.ravel(field) for field in fields])


def largest(velocity: State) -> Array:
    """‖velocity‖∞ over all leaves; NaN if any entry is."""
    leaves = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(velocity)]
    return jnp.max(jnp.stack(leaves))
