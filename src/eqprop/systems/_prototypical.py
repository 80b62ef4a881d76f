"""Paper D's prototypical setting: each step sets a layer to σ of its drive.

    s^n ← σ(s^{n−1} W_n + W_{n+1} s^{n+1} + b_n),   Φ = Σ_n (s^{n−1} W_n + b_n)·s^n

and with `ep.Convolution` layers s^n ← σ(𝒫(W_n ⋆ s^{n−1}) + W̃_{n+1} ⋆ 𝒫⁻¹(s^{n+1}) +
b_n), where 𝒫⁻¹ unpools by the indices of the current 𝒫 (W_{n+1} ⋆ s^n).

σ is outside Φ, so EP's gradient is declared as approximate (Ernoult et al. 2019).
Steps of dt = 1 are the paper's dynamics.  The authors' released code damps the steps
by dt = 0.2; the paper does not.
"""

from typing import Unpack

from jaxtyping import PRNGKeyArray, Scalar

from ._base import AbstractMap
from ._layered import Input, Layered, Layers, Options
from ._links import Sizes


class PrototypicalNetwork(Layered, AbstractMap):
    """A dense or convolutional network of any depth, trained with dt = 1.

    The arguments are those of every layered network: `sizes`, `key`, `activation`
    (paper D: `ep.shifted_sigmoid` for training, `ep.tanh` for the theorem), `output`,
    `initializer` (paper D: `ep.fan_in_uniform`).  No state is projected: a nudged
    output may leave σ's range, as in the paper.
    """

    def __init__(self, sizes: Sizes, *, key: PRNGKeyArray, **options: Unpack[Options]):
        super().__init__(sizes, key=key, **options)

    def rates(self, s: Layers) -> Layers:
        """Return the states: each is already σ of its drive."""
        return s

    def primitive(self, x: Input, s: Layers) -> Scalar:
        return self.synapses(x, s)

    def map(self, x: Input, s: Layers) -> Layers:
        drives = self.drives(x, s)
        return tuple(
            sigma(u) for sigma, u in zip(self.activations, drives, strict=True)
        )
