"""Paper C's network: leaky integrators with untied forward and backward weights.

    ds^n/dt = ρ(s^{n−1}) W_n + B_{n+1} ρ(s^{n+1}) + b_n − s^n     (paper C, eqs 6–8)

There is no factor ρ′(s), and there is no energy where B_n differs from W_n.  With
convolutional layers B_n is the kernel of the transposed convolution; the maxima of W_n
say where it unpools to.
"""

from typing import Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PRNGKeyArray

from ._base import AbstractVectorField
from ._initializers import glorot_uniform
from ._layered import Input, Layered, Layers, Options
from ._links import Sizes


class LeakyIntegrator(Layered, AbstractVectorField):
    """Layered leaky integrators; in discrete time s^n ← ρ(drive) (continual EP's C-VF).

    **Arguments:**

    - `sizes`, `key`, `activation`, `output`, `initializer`: as for every layered
      network; they draw the forward weights and the biases.
    - `angle`: the angle between W_n and B_n at the start, in degrees.  B_n is W_n with
      the signs of a share ½(1 − cos angle) of its entries flipped.  `None` draws B_n
      independently.
    - `discrete`: use the velocity ρ(drive) − s, so that a step of dt = 1 is
      s ← ρ(drive).  The rates are then the states themselves, and the rule
      dW ∝ s_j ds_i has no factor ρ′ (continual EP's code; with tied weights it is
      paper D's prototypical rule).
    """

    backward: tuple[Inexact[Array, "..."], ...]
    discrete: bool = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sizes,
        *,
        key: PRNGKeyArray,
        angle: float | None = 0.0,
        discrete: bool = False,
        **options: Unpack[Options],
    ):
        if angle is not None and not 0 <= angle <= 180:
            raise ValueError(
                f"angle is {angle}; it must be between 0 and 180 degrees, or None for "
                "independent backward weights"
            )
        forward_key, backward_key = jax.random.split(key)
        super().__init__(sizes, key=forward_key, **options)
        initializer = options.get("initializer", glorot_uniform)
        keys = jax.random.split(backward_key, len(self.weights))
        self.backward = tuple(
            self.links[k].initialize(initializer, keys[k], self.shapes[k])[0]
            if angle is None
            else turned(self.weights[k], angle, keys[k])
            for k in range(1, len(self.weights))
        )
        self.discrete = discrete

    def feedback(self, k: int) -> Array:
        """Return B_{k+1}: the backward weights are independent."""
        return self.backward[k]

    def reciprocal(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return W_n and B_n of the second and later layers."""
        return self.weights[1:], self.backward

    def velocity(self, x: Input, s: Layers) -> Layers:
        rates = s if self.discrete else self.rates(s)
        drives = self.drives(x, rates)
        if self.discrete:
            drives = self.rates(drives)
        return tuple(drive - u for drive, u in zip(drives, s, strict=True))

    def learning_field(self, x: Input, s: Layers) -> Layers:
        """Return the drives: ∂ρ(drive)/∂θ would bring in ρ′ a second time."""
        return self.drives(x, s if self.discrete else self.rates(s))


def turned(weight: Array, angle: float, key: PRNGKeyArray) -> Array:
    """Flip random signs of `weight`, so that the result is `angle` degrees away.

    A share ½(1 − cos angle) of the entries flips.  The angle between both matrices is
    exact if all entries have the same size, and close if there are many entries.
    """
    share = 0.5 * (1 - jnp.cos(jnp.deg2rad(angle)))
    order = jax.random.permutation(key, weight.size).reshape(weight.shape)
    return jnp.where(order < jnp.round(share * weight.size), -weight, weight)
