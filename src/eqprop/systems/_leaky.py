"""Paper C's network: leaky integrators with untied forward and backward weights.

    ds^n/dt = ρ(s^{n−1}) W_n + B_{n+1} ρ(s^{n+1}) + b_n − s^n     (paper C, eqs 6–8)

There is no factor ρ′(s), and no energy where B_n differs from W_n.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from ._activations import Activation, hard_sigmoid
from ._base import AbstractVectorField
from ._initializers import glorot_uniform, Initializer
from ._layered import Layered, Layers


class LeakyIntegrator(Layered, AbstractVectorField):
    """Layered leaky integrators; in discrete time s^n ← ρ(drive) (continual EP's C-VF).

    **Arguments:**

    - `sizes`, `key`, `activation`, `output`, `initializer`: as for every layered
      network; they draw the forward weights and the biases.
    - `angle`: between W_n and B_n at the start, in degrees: B_n is W_n with the signs
      of a share ½(1 − cos angle) of its entries turned.  `None` draws B_n anew.
    - `discrete`: velocity ρ(drive) − s, of which dt = 1 is s ← ρ(drive); then the rates
      are the states themselves.
    """

    backward: tuple[Inexact[Array, "_ _"], ...]
    discrete: bool = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        key: PRNGKeyArray,
        activation: Activation = hard_sigmoid,
        output: Activation | None = None,
        initializer: Initializer = glorot_uniform,
        angle: float | None = 0.0,
        discrete: bool = False,
    ):
        if angle is not None and not 0 <= angle <= 180:
            raise ValueError(
                f"angle is {angle}; it must be between 0 and 180 degrees, or None for "
                "independent backward weights"
            )
        forward_key, backward_key = jax.random.split(key)
        options: dict[str, Any] = {"activation": activation, "output": output}
        super().__init__(sizes, key=forward_key, initializer=initializer, **options)
        keys = jax.random.split(backward_key, len(self.weights))
        self.backward = tuple(
            initializer(k, *weight.shape)[0]
            if angle is None
            else turned(weight, angle, k)
            for k, weight in zip(keys[1:], self.weights[1:], strict=True)
        )
        self.discrete = discrete

    def feedback(self, k: int) -> Array:
        """B_{k+1}, not the transposed forward weights."""
        return self.backward[k]

    def reciprocal(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The pairs W_n and B_n, from the second layer on."""
        return self.weights[1:], self.backward

    def velocity(self, x: Float[Array, " inputs"], s: Layers) -> Layers:
        rates = s if self.discrete else self.rates(s)
        drives = tuple(self.drive(x, rates, k) for k in range(len(s)))
        if self.discrete:
            drives = self.rates(drives)
        return tuple(drive - u for drive, u in zip(drives, s, strict=True))


def turned(weight: Array, angle: float, key: PRNGKeyArray) -> Array:
    """`weight` with random signs turned, so that the two are `angle` degrees apart.

    The share ½(1 − cos angle) of the entries is turned; the angle between the two
    matrices is exact where the entries are of one size, and close where they are many.
    """
    share = 0.5 * (1 - jnp.cos(jnp.deg2rad(angle)))
    order = jax.random.permutation(key, weight.size).reshape(weight.shape)
    return jnp.where(order < jnp.round(share * weight.size), -weight, weight)
