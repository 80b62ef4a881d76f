"""Initial weights and biases of a dense layer, as the papers draw them.

Each initializer is `(key, n_in, n_out) -> (weight [n_in, n_out], bias [n_out])`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

Initializer = Callable[[PRNGKeyArray, int, int], tuple[Array, Array]]


def glorot_uniform(key: PRNGKeyArray, n_in: int, n_out: int) -> tuple[Array, Array]:
    """Draw W uniformly in ±√(6 / (n_in + n_out)); b = 0 (paper A)."""
    return _uniform(key, n_in, n_out, (6 / (n_in + n_out)) ** 0.5), jnp.zeros(n_out)


def fan_in_uniform(key: PRNGKeyArray, n_in: int, n_out: int) -> tuple[Array, Array]:
    """Draw W and b uniformly in ±1/√n_in, as PyTorch's linear layer does (paper D)."""
    weight_key, bias_key = jax.random.split(key)
    limit = n_in**-0.5
    return (
        _uniform(weight_key, n_in, n_out, limit),
        jax.random.uniform(bias_key, (n_out,), minval=-limit, maxval=limit),
    )


def gain_uniform(gain: float) -> Initializer:
    """Draw W uniformly in ±gain/√n_in and b in ±½/√n_in (Scellier et al. 2023)."""
    if not gain > 0:
        raise ValueError(f"gain is {gain}; it must be positive, e.g. 0.5")

    def initialize(key: PRNGKeyArray, n_in: int, n_out: int) -> tuple[Array, Array]:
        weight_key, bias_key = jax.random.split(key)
        limit = 0.5 * n_in**-0.5
        return (
            _uniform(weight_key, n_in, n_out, gain * n_in**-0.5),
            jax.random.uniform(bias_key, (n_out,), minval=-limit, maxval=limit),
        )

    return initialize


def _uniform(key: PRNGKeyArray, n_in: int, n_out: int, limit: float) -> Array:
    return jax.random.uniform(key, (n_in, n_out), minval=-limit, maxval=limit)
