"""What layered networks share: the links between layers, dense or convolutional.

The state is a tuple of layers, the one next to the input first, the output last; the
prediction is the output layer.  Hopfield, prototypical and leaky networks differ in
what they make of the drive that a layer gets from its neighbours, and share the rest.
"""

from typing import Self, TypedDict

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
    """Keyword arguments of every layered network, besides `key`."""

    activation: Activation
    output: Activation | None
    initializer: Initializer


class Layered(eqx.Module):
    """Weights between neighbouring layers, biases, and ρ of each layer.

    Weights are `[n_in, n_out]` and biases `[n_out]` of a dense layer, and
    `[kernel, kernel, n_in, n_out]` and `[n_out]` of a convolution, n its channels.

    **Arguments:**

    - `sizes`: layers from input to output: units of a dense layer, or an
      `ep.Convolution`; the input is a vector's length or `(height, width, channels)`.
      E.g. `(784, 500, 10)`, or, with layers of 12 x 12 x 32 and 10 units,
      `((28, 28, 1), ep.Convolution(32, 5, pool="max"), 10)`.
    - `activation`: ρ of the hidden layers, and of the output where `output` is `None`.
    - `output`: ρ of the output layer, e.g. `ep.identity` for linear outputs.
    - `initializer`: `(key, n_in, n_out) -> (weight, bias)` of each layer; n_in of a
      convolution is its fan-in, the numbers that one unit hears.
    - `key`: a `jax.random.key`.
    """

    weights: tuple[Inexact[Array, "..."], ...]
    biases: tuple[Inexact[Array, " _"], ...]
    activations: tuple[Activation, ...]
    links: tuple[Link, ...] = eqx.field(static=True)
    shapes: tuple[Shape, ...] = eqx.field(static=True)

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

    def init_state(self, x: Input) -> Layers:
        """Every unit at zero."""
        checked_input(x, self.shapes[0])
        return tuple(
            jnp.zeros(shape, bias.dtype)
            for shape, bias in zip(self.shapes[1:], self.biases, strict=True)
        )

    def readout(self, s: Layers) -> Inexact[Array, "..."]:
        return s[-1]

    def rates(self, s: Layers) -> Layers:
        """ρ(s), layer by layer."""
        return tuple(rho(u) for rho, u in zip(self.activations, s, strict=True))

    def synapses(self, x: Input, rates: Layers) -> Scalar:
        """Σ_n (𝒫(W_n ⋆ r_{n−1}) + b_n)·r_n over the layers' rates r, with r_0 = x.

        A dense layer's W_n ⋆ r is r W_n, and 𝒫 the pooling, if any.
        """
        return sum(self.terms(x, rates))  # type: ignore[return-value]

    def terms(self, x: Input, rates: Layers) -> list[Scalar]:
        """(𝒫(W_n ⋆ r_{n−1}) + b_n)·r_n of each layer n."""
        # As products of matrices: their derivative in an input's drive that two phases
        # share adds up the phases 20 times faster than XLA's sum of products on CPUs.
        below = (checked_input(x, self.shapes[0]), *rates[:-1])
        layers = (self.links, self.weights, self.biases, below, rates)
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
        """What the layers get: from below, from their biases and from above."""
        first = self.links[0].forward(self.weights[0], checked_input(x, self.shapes[0]))
        drives = [first + self.biases[0]]
        for k, link in enumerate(self.links[1:]):
            weights = (self.weights[k + 1], self.feedback(k))
            forward, back = link.both(*weights, rates[k], self.sent(rates[k + 1]))
            drives[k] = drives[k] + back
            drives.append(forward + self.biases[k + 1])
        return tuple(drives)

    def prepared(self) -> Self:
        """The same network for many steps: what depends on weights alone is computed.

        Its weights are for its own methods only: a subclass of the user's, whose
        methods may read them as arrays, stays as it is.
        """
        home, own = (
            name.partition(".")[0] for name in (__name__, type(self).__module__)
        )
        if own != home:
            return self
        pairs = zip(self.links, self.weights, strict=True)
        weights = tuple(link.prepared(weight) for link, weight in pairs)
        return eqx.tree_at(lambda system: system.weights, self, weights)

    def feedback(self, k: int) -> Array:
        """The weights, shaped like those of layer k + 1, by which layer k hears it."""
        return self.weights[k + 1]

    def sent(self, upper: Array) -> Array:
        """What a layer sends down to the one below: its rates."""
        return upper

    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Which layers relax together: those next to the input, third, fifth…; then
        the others.  No two of them are neighbours."""
        layers = range(len(self.weights))
        return tuple(tuple(layers[p::2]) for p in (0, 1) if layers[p::2])

    def blocks(self) -> tuple[Block, ...]:
        """The layers of each turn, which are separable given the others."""
        return tuple(
            Block(lambda s, turn=turn: [s[k] for k in turn], self.curvature(turn))
            for turn in self.turns()
        )

    def curvature(self, turn: tuple[int, ...]) -> Curvature:
        """Of these layers, for their `Block`: 1, as of a leak."""
        del turn
        return 1.0


def checked_input(x: Array, shape: Shape) -> Array:
    """An example of this shape; an image of one channel may come without its axis."""
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
