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

from collections.abc import Sequence
from typing import Any, Unpack

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Scalar

from ._base import Curvature
from ._hopfield import HopfieldEnergy
from ._layered import Input, Layers, Options
from ._links import Sizes


class XieSeungEnergy(HopfieldEnergy):
    """A layered network with feedback scaled by γ; γ = 1 is `HopfieldEnergy`.

    Use `ep.Sweep`: it solves each layer exactly whatever γ is, one after another from
    the input on.  A nudge then needs L sweeps to reach the first layer, or one with
    `backward=True`.  Layer k is γ^{k−L} times as fast as the output, and a residual or
    tolerance is of that velocity; Euler steps must be short, dt < γ^{L−1} (for ρ
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
        leak = self.scaled([0.5 * jnp.sum(layer**2) for layer in s])
        return jnp.asarray(sum(leak) - self.synapses(x, self.rates(s)))

    def terms(self, x: Input, rates: Layers) -> list[Scalar]:
        """γ^{k−L} (r_{k−1} W_k + b_k)·r_k of each layer k."""
        return self.scaled(super().terms(x, rates))

    def velocity(self, x: Input, s: Layers) -> Layers:
        """γ^{k−L} [ρ′(s_k) drive_k − s_k]; of a subclass's own energy −∂E/∂s."""
        if not self.written_by(XieSeungEnergy):
            return super().velocity(x, s)
        return tuple(self.scaled(self.forces(x, s)))

    def sent(self, upper: Array) -> Array:
        """γ times the rates."""
        return self.gamma * upper

    def scaled(self, layers: Sequence[Any]) -> list[Any]:
        """Times γ^{k−L} of each layer, the one next to the input first."""
        last = len(layers) - 1
        return [self.gamma ** (k - last) * u for k, u in enumerate(layers)]

    def turns(self) -> tuple[tuple[int, ...], ...]:
        """One layer after another, from the input on.

        Where the feedback is weak one sweep is then nearly a forward pass, and one of
        `ep.Sweep(backward=True)` a backward pass: a nudge that reaches all layers.
        """
        return tuple((k,) for k in range(len(self.weights)))

    def curvature(self, turn: tuple[int, ...]) -> Curvature:
        """γ^{k−L}(1 − ρ″(s)·drive) from above, as `HopfieldEnergy` bounds it."""
        scales, inner = self.scaled([1.0] * len(self.weights)), super().curvature(turn)
        if not callable(inner):
            return tuple(scales[k] for k in turn)

        def bound(x, s):
            pairs = zip(turn, inner(x, s), strict=True)
            return tuple(scales[k] * curvature for k, curvature in pairs)

        return bound
