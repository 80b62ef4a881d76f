"""What layered networks share: one weight matrix between layers, one bias a unit.

The state is a tuple of layers, the one next to the input first, the output last; the
prediction is the output layer.  Hopfield, prototypical and leaky networks differ in
what they make of the drive that a layer gets from its neighbours, and share the rest.
"""

from collections.abc import Sequence
from typing import Required, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray, Scalar

from ._activations import Activation, hard_sigmoid
from ._base import Block
from ._initializers import glorot_uniform, Initializer

Layers = tuple[Inexact[Array, " _"], ...]


class Options(TypedDict, total=False):
    """Keyword arguments of every layered network."""

    key: Required[PRNGKeyArray]
    activation: Activation
    output: Activation | None
    initializer: Initializer


class Layered(eqx.Module):
    """Weights `[n_in, n_out]` between neighbouring layers, biases, and ρ of each layer.

    **Arguments:**

    - `sizes`: units per layer from input to output, e.g. `(784, 500, 10)`.
    - `activation`: ρ of the hidden layers, and of the output where `output` is `None`.
    - `output`: ρ of the output layer, e.g. `ep.identity` for linear outputs.
    - `initializer`: `(key, n_in, n_out) -> (weight, bias)` of each layer.
    - `key`: a `jax.random.key`.
    """

    weights: tuple[Inexact[Array, "_ _"], ...]
    biases: tuple[Inexact[Array, " _"], ...]
    activations: tuple[Activation, ...]

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        key: PRNGKeyArray,
        activation: Activation = hard_sigmoid,
        output: Activation | None = None,
        initializer: Initializer = glorot_uniform,
    ):
        sizes = tuple(sizes)
        if len(sizes) < 2 or any(int(n) != n or n < 1 for n in sizes):
            raise ValueError(
                f"sizes are {sizes}; give at least two positive integers, "
                "input first and output last, e.g. (784, 500, 10)"
            )
        for rho in (activation, output or activation):
            if not isinstance(rho, Activation):
                raise ValueError(
                    f"activation is {rho!r}; give an ep.Activation, e.g. "
                    "ep.hard_sigmoid, ep.shifted_sigmoid, ep.tanh or ep.identity"
                )
        keys = jax.random.split(key, len(sizes) - 1)
        layers = [
            initializer(k, n_in, n_out)
            for k, n_in, n_out in zip(keys, sizes, sizes[1:], strict=False)
        ]
        self.weights = tuple(weight for weight, _ in layers)
        self.biases = tuple(bias for _, bias in layers)
        self.activations = (activation,) * (len(layers) - 1) + (output or activation,)

    def init_state(self, x: Float[Array, " inputs"]) -> Layers:
        """Every unit at zero."""
        check_input(x, self.weights[0].shape[0])
        return tuple(jnp.zeros_like(bias) for bias in self.biases)

    def readout(self, s: Layers) -> Inexact[Array, " outputs"]:
        return s[-1]

    def rates(self, s: Layers) -> Layers:
        """ρ(s), layer by layer."""
        return tuple(rho(u) for rho, u in zip(self.activations, s, strict=True))

    def synapses(self, x: Float[Array, " inputs"], rates: Layers) -> Scalar:
        """Σ_n (r_{n−1} W_n + b_n)·r_n over the layers' rates r, with r_0 = x."""
        below = (x, *rates[:-1])
        return sum(  # type: ignore[return-value]
            jnp.sum((lower @ weight + bias) * upper)
            for lower, weight, bias, upper in zip(
                below, self.weights, self.biases, rates, strict=True
            )
        )

    def drive(self, x: Float[Array, " inputs"], rates: Layers, k: int) -> Array:
        """What layer k gets: from below, from its bias and from above."""
        drive = (rates[k - 1] if k else x) @ self.weights[k] + self.biases[k]
        if k + 1 < len(rates):
            drive = drive + self.feedback(k) @ rates[k + 1]
        return drive

    def feedback(self, k: int) -> Array:
        """The weights `[n_k, n_{k+1}]` through which layer k hears the layer above."""
        return self.weights[k + 1]

    def parities(self) -> tuple[int, ...]:
        """Layers next to the input, third, fifth… together; then the others."""
        return (0, 1) if len(self.weights) > 1 else (0,)

    def blocks(self) -> tuple[Block, ...]:
        """Odd and even layers, of which no two are neighbours; curvature 1."""
        return tuple(Block(lambda s, p=p: s[p::2]) for p in self.parities())


def check_input(x: Array, inputs: int) -> None:
    if jnp.shape(x) != (inputs,):
        raise ValueError(
            f"an example has shape {jnp.shape(x)}; the network takes ({inputs},), so a "
            f"batch is [batch, {inputs}]. Flatten images, add the batch axis, or build "
            "the network with sizes that fit the data."
        )
