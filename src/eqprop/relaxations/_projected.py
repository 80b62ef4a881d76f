"""The part of a step that `project` keeps, without the rounding of the state.

If |d| is below half an ulp of s, s + d equals s: a residual computed from (s + d) − s
is 0, although the state moves.  This module displaces the units far enough to see the
effect of `project`, and scales the result back to d.
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
    """Return project(s + d) − s for d = `step`, as exact as d where `project` keeps d.

    If `project` treats each unit separately, displace each unit by at least FAR of its
    own ulp: a large unit does not hide a small one.  If it couples units (a ball, a
    simplex), multiply all of d by one factor.
    """
    if all(map(operator.is_, *map(jax.tree.leaves, (project(s), s)))):
        return step  # project changes nothing
    units, unravel = ravel_pytree(s)
    d, as_step = ravel_pytree(step)

    def image(moved):
        return ravel_pytree(project(unravel(moved)))[0]

    ulp = jnp.finfo(units.dtype).eps * jnp.abs(units)
    far = units + jnp.where(jnp.abs(d) < FAR * ulp, FAR * ulp * jnp.sign(d), d)
    far_image = image(far)
    # Units are separate if displaced neighbours do not change where a unit ends.
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
    """Return whether each unit is on a black field of its leaf, in one flat array."""
    fields = [
        (number + np.indices(leaf.shape).sum(0)) % 2 == 1
        for number, leaf in enumerate(jax.tree.leaves(s))
    ]
    return np.concatenate([np.ravel(field) for field in fields])


def largest(velocity: State) -> Array:
    """Return ‖velocity‖∞ over all leaves; NaN if any entry is NaN."""
    leaves = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(velocity)]
    return jnp.max(jnp.stack(leaves))
