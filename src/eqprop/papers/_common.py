"""Small networks, examples and comparisons that several claims share.

Nothing is downloaded: without MNIST's files (EQPROP_DATA or the cache) `images` takes
the bundled 8 × 8 digits, and the name of the images says so.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import eqprop as ep

from .. import data
from ..theory import agreement

COST = ep.SquaredError()
SETTLE = ep.Euler(dt=0.2, steps=4000, tol=1e-13)
BETAS = tuple(2.0**-k for k in range(2, 8))


class Images(NamedTuple):
    """Images in [0, 1], their classes one-hot, and the name of the data set."""

    x: Float[Array, "count 28 28"]
    y: Float[Array, "count 10"]
    name: str

    @property
    def flat(self) -> Float[Array, "count 784"]:
        """Each image as one vector."""
        return self.x.reshape(len(self.x), -1)

    def part(self, chosen: Any) -> "Images":
        """Some of the images."""
        return Images(self.x[chosen], self.y[chosen], self.name)


def images(count: int) -> Images:
    """The first training images of MNIST, or digits enlarged threefold to 28 × 28."""
    found = data.find("mnist") is not None
    split = data.load("mnist" if found else "digits", flatten=False).train
    x = np.asarray(split.x[:count], float)
    if not found:
        x = np.pad(np.kron(x, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    name = "MNIST" if found else "digits enlarged to 28 × 28 (MNIST is not here)"
    return Images(jnp.asarray(x), jnp.eye(10)[np.asarray(split.y[:count])], name)


def digits(count: int) -> tuple[Float[Array, "count 8 8 1"], Float[Array, "count 10"]]:
    """The first 8 × 8 handwritten digits in [0, 1] and their classes, one-hot."""
    pixels, labels = data.digits()
    x = jnp.asarray(pixels[:count, ..., None])
    return x, jnp.eye(10)[labels[:count]]


def flat_digits(
    count: int,
) -> tuple[Float[Array, "count 64"], Float[Array, "count 10"]]:
    """The same with each image as one vector."""
    x, y = digits(count)
    return x.reshape(count, -1), y


def random_examples(inputs: int, outputs: int, count: int = 4) -> tuple[Array, Array]:
    """Random inputs in [0, 1] and normal targets."""
    x, y = jax.random.split(jax.random.key(1))
    return jax.random.uniform(x, (count, inputs)), jax.random.normal(
        y, (count, outputs)
    )


def step_problem(batch: int = 8) -> tuple[Any, Any, Array, Array]:
    """A 5-8-3 network of tanh units with random examples."""
    keys = jax.random.split(jax.random.key(0), 3)
    system = ep.HopfieldEnergy((5, 8, 3), key=keys[0], activation=ep.tanh)
    x = jax.random.uniform(keys[1], (batch, 5))
    return system, COST, x, 0.5 * jax.random.normal(keys[2], (batch, 3))


def network(
    sizes: Sequence[Any],
    activation: Any = ep.tanh,
    seed: int = 0,
    kind: Any = ep.HopfieldEnergy,
    **options: Any,
) -> Any:
    """A layered network; its weights start uniform within ±1/√(fan-in)."""
    options = {"activation": activation, "initializer": ep.fan_in_uniform, **options}
    return kind(tuple(sizes), key=jax.random.key(seed), **options)


def pooled(channels: int, pool: Any) -> ep.Convolution:
    """A 3 × 3 convolution that keeps the size of its input, then pooling."""
    return ep.Convolution(channels, 3, padding=1, pool=pool)


def off(found: ep.Gradient, exact: ep.Gradient) -> float:
    """‖g − exact‖ / ‖exact‖ over the parameters of the system and of the cost."""
    pair = [(one.grads, one.cost_grads) for one in (found, exact)]
    return agreement(*pair).error


def flat(tree: Any) -> np.ndarray:
    """All leaves `[times, …]` as one matrix `[times, entries]`."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def apart(found: Any, expected: Any) -> float:
    """max |found − expected| / max |expected|."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def slope(x: Any, y: Any) -> float:
    """The exponent p of y ∝ x^p, fitted to all points."""
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])


def order(betas: Any, errors: Any) -> float:
    """The exponent of the error in β at the smaller half of decreasing β."""
    half = len(betas) // 2
    return slope(betas[half:], errors[half:])


def traced(value: float) -> Any:
    """A number as an array: all values share one compiled program."""
    return jnp.asarray(value)


def nudged(beta: float, nudging: Any = "centered") -> ep.EquilibriumPropagation:
    """EP between settled states."""
    return ep.EquilibriumPropagation(SETTLE, SETTLE, traced(beta), nudging)
