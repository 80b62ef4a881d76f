"""Paper D's prototypical setting: layers that are set to σ of their drive.

    s^n ← σ(s^{n−1} W_n + W_{n+1} s^{n+1} + b_n),   Φ = Σ_n (s^{n−1} W_n + b_n)·s^n

and with `ep.Convolution` layers s^n ← σ(𝒫(W_n ⋆ s^{n−1}) + W̃_{n+1} ⋆ 𝒫⁻¹(s^{n+1}) +
b_n), where 𝒫⁻¹ unpools by the indices of the current 𝒫 (W_{n+1} ⋆ s^n).

σ stands outside of Φ, so that EP's gradient is approximate by declaration (Ernoult et
al. 2019).  Steps of dt = 1 are the paper's dynamics; the authors' released
code damps them by dt = 0.2, which the paper does not.
"""

from typing import Unpack

from jaxtyping import PRNGKeyArray, Scalar

from ._base import AbstractMap
from ._layered import Input, Layered, Layers, Options
from ._links import Sizes


class PrototypicalNetwork(Layered, AbstractMap):
    """A dense or convolutional network of any depth, trained with dt = 1.

    Arguments as for every layered network: `sizes`, `key`, `activation` (paper D:
    `ep.shifted_sigmoid` for training, `ep.tanh` for the theorem), `output`,
    `initializer` (paper D: `ep.fan_in_uniform`).  There is no projection: a nudged
    output may leave σ's range, as in the paper.
    """

    def __init__(self, sizes: Sizes, *, key: PRNGKeyArray, **options: Unpack[Options]):
        super().__init__(sizes, key=key, **options)

    def rates(self, s: Layers) -> Layers:
        """The states themselves: each is a σ of its drive already."""
        return s

    def primitive(self, x: Input, s: Layers) -> Scalar:
        return self.synapses(x, s)

    def map(self, x: Input, s: Layers) -> Layers:
        drives = self.drives(x, s)
        return tuple(
            sigma(u) for sigma, u in zip(self.activations, drives, strict=True)
        )
