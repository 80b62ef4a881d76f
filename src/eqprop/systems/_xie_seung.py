"""Xie & Seung's network, in which a factor γ weakens the feedback (paper A, eqs 33–35).

    E = Σ_k γ^{k−L} [½‖s_k‖² − (r_{k−1} W_k + b_k)·r_k],   r_k = ρ(s_k), r_0 = x

with k = 1 next to the input and L the output: paper A's energy divided by γ^L.  Then

    −∂E/∂s_k = γ^{k−L} [ρ′(s_k)(r_{k−1} W_k + b_k + γ W_{k+1} r_{k+1}) − s_k]

Each layer receives the layer above through γ.  Since ∂E/∂W_k = −γ^{k−L} r_{k−1} r_k,
CHL's contrast is the Hebbian difference Δ(r_{k−1} r_k) at Xie & Seung's rates γ^{k−L},
which grow towards the input.  Paper A's energy, without the division, has the rates
γ^k: the division only takes the common factor γ^L out of the learning rate.

With linear outputs CHL's gradient tends to backprop's gradient of ½‖ŷ − y‖², in the
net whose layers solve s_k = ρ′(s_k)(r_{k−1} W_k + b_k).  The error is of order γ.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Scalar

from ._base import Curvature
from ._hopfield import AbstractHopfield
from ._layered import Input, Layers, Options
from ._links import Sizes


class XieSeungEnergy(AbstractHopfield):
    """A layered network with feedback scaled by γ; with γ = 1 it is `HopfieldEnergy`.

    Use `ep.Sweep`: it solves one layer after another, input side first, exactly for
    any γ.  A nudge then needs L sweeps to reach the first layer, or one sweep with
    `backward=True`.  Layer k is γ^{k−L} times as fast as the output; so is the velocity
    that Euler's residual and tolerance measure, and Euler's steps must be short:
    dt < γ^{L−1}, shorter if ρ bends.  The states of layer k differ between the phases
    by γ^{L−k} only: in float32 keep γ^{L−1} well above 1e-4.

    **Arguments:**

    - `sizes`, `key`, `activation`, `output`, `initializer`: as for every layered
      network; `output=ep.identity` for the limit of backprop.
    - `gamma`: γ in (0, 1] (dimensionless), a constant.
    """

    gamma: float = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sizes,
        *,
        gamma: float,
        key: PRNGKeyArray,
        **options: Unpack[Options],
    ):
        if not 0 < gamma <= 1:
            raise ValueError(
                f"gamma is {gamma}; it must be in (0, 1]: the feedback's strength, 1 "
                "for ep.HopfieldEnergy, and at 0 no layer hears of the target. Take "
                "e.g. 0.1"
            )
        super().__init__(sizes, key=key, **options)
        self.gamma = float(gamma)

    def energy(self, x: Input, s: Layers) -> Scalar:
        leak = self.scaled([0.5 * jnp.sum(layer**2) for layer in s])
        return jnp.asarray(sum(leak) - self.synapses(x, self.rates(s)))

    def terms(self, x: Input, rates: Layers) -> list[Scalar]:
        """Return γ^{k−L} (r_{k−1} W_k + b_k)·r_k of each layer k."""
        return self.scaled(super().terms(x, rates))

    def velocity(self, x: Input, s: Layers) -> Layers:
        """Return γ^{k−L} [ρ′(s_k) drive_k − s_k], the closed form of −∂E/∂s."""
        return tuple(self.scaled(super().velocity(x, s)))

    def sent(self, upper: Array) -> Array:
        """Return γ times the rates."""
        return self.gamma * upper

    def scaled(self, layers: Sequence[Any]) -> list[Any]:
        """Multiply the value of each layer k by γ^{k−L}."""
        last = len(layers) - 1
        return [self.gamma ** (k - last) * u for k, u in enumerate(layers)]

    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Return one layer a turn, input side first.

        With weak feedback one sweep is then nearly a forward pass.  A sweep with
        `backward=True` is nearly a backward pass: a nudge reaches all layers.
        """
        return tuple((k,) for k in range(len(self.weights)))

    def curvature(self, turn: tuple[int, ...]) -> Curvature:
        """Return the bound of `HopfieldEnergy`, times γ^{k−L}."""
        scales, inner = self.scaled([1.0] * len(self.weights)), super().curvature(turn)
        if not callable(inner):
            return tuple(scales[k] for k in turn)

        def bound(x, s):
            pairs = zip(turn, inner(x, s), strict=True)
            return tuple(scales[k] * curvature for k, curvature in pairs)

        return bound
