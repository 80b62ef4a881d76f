"""Which examples of a batch are put into the wrong class."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def class_errors(prediction: Array, y: Any) -> Float[Array, " batch"]:
    """1 where the largest output is not the labelled one; NaN for other targets.

    Labels are integers `[batch]` or one-hot rows `[batch, classes]`; a single row
    that is not one-hot makes the mean NaN, which is reported as no error at all.
    """
    batch = prediction.shape[0]
    if prediction.ndim != 2 or not hasattr(y, "dtype"):
        return jnp.full(batch, jnp.nan)
    chosen = jnp.argmax(prediction, axis=-1)
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1:
        return (chosen != y).astype(float)
    if y.shape == prediction.shape and y.shape[1] > 1:
        one_hot = jnp.all((y == 0) | (y == 1), -1) & (jnp.sum(y, -1) == 1)
        return jnp.where(one_hot, chosen != jnp.argmax(y, -1), jnp.nan)
    return jnp.full(batch, jnp.nan)
