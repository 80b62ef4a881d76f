"""Xie & Seung's network, in which a factor γ weakens the feedback (paper A, eqs 33–35).

    E = Σ_k γ^{k−L} [½‖s_k‖² − (r_{k−1} W_k + b_k)·r_k],   r_k = ρ(s_k), r_0 = x

with k = 1 next to the input and L the output: paper A's energy divided by γ^L.  Then

    −∂E/∂s_k = γ^{k−L} [ρ′(s_k)(r_{k−1} W_k + b_k + γ W_{k+1} r_{k+1}) − s_k]

so each layer hears the one above through γ, and since ∂E/∂W_k = −γ^{k−L} r_{k−1} r_k,
CHL's plain contrast is the Hebbian difference Δ(r_{k−1} r_k) at Xie & Seung's rates
γ^{k−L}, larger towards the input.  Paper A's undivided energy has the rates γ^k: the
division takes the common γ^L out of the learning rate and changes nothing else.

With linear outputs CHL's gradient tends to backprop's of ½‖ŷ − y‖², in the net whose
layers solve s_k = ρ′(s_k)(r_{k−1} W_k + b_k), with an error of order γ.
"""

from typing import Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, Scalar

from ._hopfield import HopfieldEnergy
from ._layered import Input, Layers, Options
from ._links import Sizes


class XieSeungEnergy(HopfieldEnergy):
    """A layered network with feedback scaled by γ; γ = 1 is `HopfieldEnergy`.

    Use `ep.Sweep`: it solves each layer exactly whatever γ is.  Layer k is γ^{k−L}
    times as fast as the output, so Euler steps must be short, dt < γ^{L−1} (for ρ
    without bend, else shorter).  The lower layers' states differ between the phases by
    γ^{L−k} only: in float32 keep γ^{L−1} well above 1e-4.

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
        leak = sum(
            0.5 * scale * jnp.sum(layer**2)
            for scale, layer in zip(self.scales(), s, strict=True)
        )
        return jnp.asarray(leak - self.synapses(x, self.rates(s)))

    def synapses(self, x: Input, rates: Layers) -> Scalar:
        """Σ_k γ^{k−L} (r_{k−1} W_k + b_k)·r_k."""
        return super(XieSeungEnergy, self._scaled()).synapses(x, rates)

    def scales(self) -> tuple[float, ...]:
        """γ^{k−L} of each layer, the one next to the input first; the output's is 1."""
        layers = len(self.activations)
        return tuple(self.gamma ** (k - layers) for k in range(1, layers + 1))

    def _scaled(self) -> "XieSeungEnergy":
        """The network with the weights and biases into layer k times γ^{k−L}."""
        scaled = [
            jax.tree.map(lambda p, scale=scale: scale * p, layer)
            for scale, *layer in zip(
                self.scales(), self.weights, self.biases, strict=True
            )
        ]
        weights, biases = zip(*scaled, strict=True)
        return eqx.tree_at(lambda n: (n.weights, n.biases), self, (weights, biases))

    def _curvature(self, parity: int):
        """γ^{k−L}(1 − ρ″(s)·input) from above, as `HopfieldEnergy` bounds it."""

        def bound(x, s):
            drives = self._scaled().drives(x, self.rates(s))
            scales = self.scales()
            bends = [rho.bend for rho in self.activations]
            return tuple(
                scales[k] + bends[k] * jnp.abs(drives[k])
                for k in range(parity, len(s), 2)
            )

        return bound
