"""Inner product and norm of states over all leaves."""

import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from ._base import State


def inner(a: State, b: State) -> Scalar:
    """Return Σ a·b over all leaves."""
    products = jax.tree.map(lambda u, v: jnp.sum(u * v), a, b)
    return sum(jax.tree.leaves(products))  # type: ignore[return-value]


def norm(a: State) -> Scalar:
    """Return ‖a‖₂ over all leaves, for numbers of any size.

    In float32 the square of 1e-20 is 0 and that of 1e20 is infinite.  Therefore divide
    all numbers first by a power of two near the largest; this rounds nothing.
    """
    leaves = jax.tree.leaves(a)
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(u), initial=0) for u in leaves]))
    # frexp returns top = m · 2^e with m in [½, 1); 2^e may be infinite, 2^(e−1) not.
    exponent = jnp.where(jnp.isfinite(top) & (top > 0), jnp.frexp(top)[1] - 1, 0)
    scale = jnp.ldexp(jnp.ones_like(top), exponent)
    squares = [jnp.sum(jnp.abs(u / scale.astype(u.dtype)) ** 2) for u in leaves]
    return scale * jnp.sqrt(sum(squares))
