"""Paper D's prototypical setting: layers that are set to σ of their drive.

    s^n ← σ(s^{n−1} W_n + W_{n+1} s^{n+1} + b_n),   Φ = Σ_n (s^{n−1} W_n + b_n)·s^n

σ stands outside of Φ, so that EP's gradient is approximate by declaration (Ernoult et
al. 2019, section 4).  Steps of dt = 1 are the paper's dynamics; the authors' released
code damps them by dt = 0.2, which the paper does not.
"""

from collections.abc import Sequence
from typing import Unpack

from jaxtyping import Array, Float, Scalar

from ._base import AbstractMap
from ._layered import Layered, Layers, Options


class PrototypicalNetwork(Layered, AbstractMap):
    """A dense network of any depth, trained with dt = 1.

    Arguments as for every layered network: `sizes`, `key`, `activation` (paper D:
    `ep.shifted_sigmoid` for training, `ep.tanh` for the theorem), `output`,
    `initializer` (paper D: `ep.fan_in_uniform`).  There is no projection: a nudged
    output may leave σ's range, as in the paper.
    """

    def __init__(self, sizes: Sequence[int], **options: Unpack[Options]):
        super().__init__(sizes, **options)

    def rates(self, s: Layers) -> Layers:
        """The states themselves: each is a σ of its drive already."""
        return s

    def primitive(self, x: Float[Array, " inputs"], s: Layers) -> Scalar:
        return self.synapses(x, s)

    def map(self, x: Float[Array, " inputs"], s: Layers) -> Layers:
        return tuple(
            sigma(self.drive(x, s, k)) for k, sigma in enumerate(self.activations)
        )
