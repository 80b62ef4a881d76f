"""The base of layered networks: links between neighbouring layers, dense or not.

The state is a tuple of layers, input side first, output last; the prediction is the
output layer.  Hopfield, prototypical and leaky networks differ in how a layer responds
to the drive from its neighbours; they share the rest.
"""

from typing import Any, Self, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray, Scalar

from ._activations import Activation, hard_sigmoid
from ._base import Block, Curvature
from ._initializers import glorot_uniform, Initializer
from ._links import Link, linked, Shape, Sizes

Layers = tuple[Inexact[Array, "..."], ...]
Input = Float[Array, "..."]


class Options(TypedDict, total=False):
    """Keyword arguments of every layered network besides `key`."""

    activation: Activation
    output: Activation | None
    initializer: Initializer


class Layered(eqx.Module):
    """Weights between neighbouring layers, biases, and the activation ρ of each layer.

    A dense layer has weights `[n_in, n_out]` and biases `[n_out]`; a convolution has
    weights `[kernel, kernel, n_in, n_out]` and biases `[n_out]`, n in channels.

    **Arguments:**

    - `sizes`: layers from input to output: the units of a dense layer, or an
      `ep.Convolution`.  The input is the length of a vector or `(height, width,
      channels)`.  Examples: `(784, 500, 10)`;
      `((28, 28, 1), ep.Convolution(32, 5, pool="max"), 10)`, whose layers are
      12 x 12 x 32 and 10 units.
    - `activation`: ρ of the hidden layers, and of the output where `output` is `None`.
    - `output`: ρ of the output layer, e.g. `ep.identity` for linear outputs.
    - `initializer`: `(key, n_in, n_out) -> (weight, bias)` of each layer.  n_in of a
      convolution is its fan-in: the number of inputs of one unit.
    - `key`: a `jax.random.key`.
    """

    weights: tuple[Inexact[Array, "..."], ...]
    biases: tuple[Inexact[Array, " _"], ...]
    activations: tuple[Activation, ...]
    links: tuple[Link, ...] = eqx.field(static=True)
    shapes: tuple[Shape, ...] = eqx.field(static=True)
    prepared_weights: tuple[Any, ...] | None
    """set by `prepared`, for the steps of one relaxation; no parameters"""

    def __init__(
        self,
        sizes: Sizes,
        *,
        key: PRNGKeyArray,
        activation: Activation = hard_sigmoid,
        output: Activation | None = None,
        initializer: Initializer = glorot_uniform,
    ):
        self.links, self.shapes = linked(sizes)
        for rho in (activation, output or activation):
            if not isinstance(rho, Activation):
                raise ValueError(
                    f"activation is {rho!r}; give an ep.Activation, e.g. "
                    "ep.hard_sigmoid, ep.shifted_sigmoid, ep.tanh or ep.identity"
                )
        keys = jax.random.split(key, len(self.links))
        layers = [
            link.initialize(initializer, k, below)
            for k, link, below in zip(keys, self.links, self.shapes, strict=False)
        ]
        self.weights = tuple(weight for weight, _ in layers)
        self.biases = tuple(bias for _, bias in layers)
        self.activations = (activation,) * (len(layers) - 1) + (output or activation,)
        self.prepared_weights = None

    def init_state(self, x: Input) -> Layers:
        """Return every unit at zero."""
        checked_input(x, self.shapes[0])
        return tuple(
            jnp.zeros(shape, bias.dtype)
            for shape, bias in zip(self.shapes[1:], self.biases, strict=True)
        )

    def readout(self, s: Layers) -> Inexact[Array, "..."]:
        return s[-1]

    def rates(self, s: Layers) -> Layers:
        """Return ρ(s) of each layer."""
        return tuple(rho(u) for rho, u in zip(self.activations, s, strict=True))

    def synapses(self, x: Input, rates: Layers) -> Scalar:
        """Return Σ_n (𝒫(W_n ⋆ r_{n−1}) + b_n)·r_n with the layers' rates r, r_0 = x.

        For a dense layer W_n ⋆ r means r W_n.  𝒫 is the pooling, if there is one.
        """
        return sum(self.terms(x, rates))  # type: ignore[return-value]

    def terms(self, x: Input, rates: Layers) -> list[Scalar]:
        """Return (𝒫(W_n ⋆ r_{n−1}) + b_n)·r_n of each layer n."""
        # Matrix products, not sums of products: where two phases share the input's
        # drive, their derivative adds up the phases 20 times faster on CPUs.
        below = (checked_input(x, self.shapes[0]), *rates[:-1])
        layers = (self.links, self.passed_weights, self.biases, below, rates)
        return [
            jnp.tensordot(
                link.forward(weight, lower) + bias,
                upper,
                upper.ndim,
                precision="highest",  # a sum, whatever the products' operands are
            )
            for link, weight, bias, lower, upper in zip(*layers, strict=True)
        ]

    def drives(self, x: Input, rates: Layers) -> Layers:
        """Return each layer's drive: from below, from its bias and from above."""
        weights = self.passed_weights
        first = self.links[0].forward(weights[0], checked_input(x, self.shapes[0]))
        drives = [first + self.biases[0]]
        for k, link in enumerate(self.links[1:]):
            forward, back = link.both(
                weights[k + 1], self.feedback(k), rates[k], self.sent(rates[k + 1])
            )
            drives[k] = drives[k] + back
            drives.append(forward + self.biases[k + 1])
        return tuple(drives)

    def prepared(self) -> Self:
        """Return the network with all that depends on weights alone computed.

        A relaxation calls this once for its many steps.  `weights` stay arrays.
        """
        pairs = zip(self.links, self.weights, strict=True)
        weights = tuple(link.prepared(weight) for link, weight in pairs)
        return eqx.tree_at(
            lambda net: net.prepared_weights, self, weights, is_leaf=lambda u: u is None
        )

    @property
    def passed_weights(self) -> tuple[Any, ...]:
        """The weights as the links take them: prepared ones where there are some."""
        return self.prepared_weights or self.weights

    def feedback(self, k: int) -> Array | None:
        """Return the weights from layer k + 1 down to layer k, shaped like W_{k+1}.

        `None`: W_{k+1} itself, i.e. symmetric weights.
        """
        del k
        return None

    def sent(self, upper: Array) -> Array:
        """Return what a layer sends down to the layer below: its rates."""
        return upper

    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Return the layers that relax together: layers 1, 3, 5…, then 2, 4, 6….

        No two layers of a turn are neighbours.
        """
        layers = range(len(self.weights))
        return tuple(tuple(layers[p::2]) for p in (0, 1) if layers[p::2])

    def blocks(self) -> tuple[Block, ...]:
        """Return the layers of each turn; given the others they are separable."""
        return tuple(
            Block(lambda s, turn=turn: [s[k] for k in turn], self.curvature(turn))
            for turn in self.turns()
        )

    def curvature(self, turn: tuple[int, ...]) -> Curvature:
        """Return the curvature of these layers for their `Block`: 1, that of a leak."""
        del turn
        return 1.0


def checked_input(x: Array, shape: Shape) -> Array:
    """Return x in this shape; a one-channel image may lack its channel axis."""
    if jnp.shape(x) == shape:
        return x
    if len(shape) == 3 and (*jnp.shape(x), 1) == shape:
        return x[..., None]
    batch = ", ".join(map(str, ("batch", *shape)))
    advice = "(height, width, channels). Reshape images"
    if len(shape) == 1:
        advice = "a vector. Flatten images"
    raise ValueError(
        f"an example has shape {jnp.shape(x)}; the network takes {shape}, {advice}, "
        f"add the batch axis so that a batch is [{batch}], or build the network with "
        "sizes that fit the data."
    )
