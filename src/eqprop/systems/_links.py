"""Links between neighbouring layers: dense, and convolutional with pooling.

A link holds geometry only; the network holds the weights.  All functions take one
example; images are `[height, width, channels]`.  With r the rates of the lower layer
and u those of the upper layer,

    forward   𝒫(W ⋆ r)                  drive of the upper layer, from below
    backward  (∂forward/∂r)ᵀ u           drive of the lower layer, from above

Both are derivatives of one Φ = 𝒫(W ⋆ r)·u.  With max pooling, backward unpools to the
places where the current W ⋆ r has its maxima, then applies the transposed convolution
(paper D).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import get_args, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ..kernels import correlate, Image, Kernel, prepare, Prepared, windows
from ._check import is_whole, whole
from ._initializers import Initializer

Pool = Literal["max", "average", "softmax"]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dense:
    """Join every unit to every unit by a matrix `[n_in, n_out]`; flatten images."""

    units: int

    def shape(self, below: Shape, layer: int) -> Shape:
        """Return the shape of the upper layer."""
        del below, layer
        return (self.units,)

    def initialize(
        self, initializer: Initializer, key: PRNGKeyArray, below: Shape
    ) -> tuple[Array, Array]:
        """Draw weight and bias above a layer of shape `below`."""
        return initializer(key, math.prod(below), self.units)

    def prepared(self, weight: Array) -> Array:
        """Return the weight: a dense link needs no preparation."""
        return weight

    def forward(self, weight: Array, lower: Array) -> Array:
        """Return r W."""
        return jnp.ravel(lower) @ weight

    def both(
        self, weight: Array, feedback: Array | None, lower: Array, upper: Array
    ) -> tuple[Array, Array]:
        """Return forward and backward; B = W where `feedback` is `None`."""
        feedback = weight if feedback is None else feedback
        back = (feedback @ upper).reshape(jnp.shape(lower))
        return self.forward(weight, lower), back


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A layer of images: a convolution of the layer below, then pooling.

    Weights are `[kernel, kernel, channels below, channels]`, not flipped
    (cross-correlation).  Biases are `[channels]`, added after pooling; for the pools
    here this equals adding them before.  Where a size does not divide, the remaining
    rows and columns are dropped, as in PyTorch.

    **Arguments** (sizes in pixels):

    - `channels`: features at each place.
    - `kernel`: height and width of the kernel.
    - `stride`, `padding`: steps of the kernel, and zeros around the image.
    - `pool`: `None`; `"max"` (of equal values the first in reading order wins);
      `"average"`; or `"softmax"`, Σ softmax(z)·z over the window, which is smooth and
      holomorphic (Laborieux & Zenke 2022, temperature 1).
    - `pool_size`, `pool_stride`: the window and its steps; `pool_stride` `None` means
      `pool_size`.
    """

    channels: int
    """features at each place"""
    kernel: int
    """height and width of the kernel (pixels)"""
    stride: int = 1
    """steps of the kernel (pixels)"""
    padding: int = 0
    """zeros around the image (pixels)"""
    pool: Pool | None = None
    """max, average, softmax or none"""
    pool_size: int = 2
    """height and width of the pooling window (pixels)"""
    pool_stride: int | None = None
    """steps of the window (pixels); None: its size"""

    def __post_init__(self):
        least = {"channels": 1, "kernel": 1, "stride": 1, "padding": 0, "pool_size": 1}
        if self.pool_stride is not None:
            least["pool_stride"] = 1
        for name, bound in least.items():
            whole(f"Convolution: {name}", getattr(self, name), bound)
        if self.pool is not None and self.pool not in get_args(Pool):
            raise ValueError(
                f"Convolution: pool is {self.pool!r}; choose "
                f"{', '.join(map(repr, get_args(Pool)))} or None"
            )
        if self.pool is None and (self.pool_size, self.pool_stride) != (2, None):
            raise ValueError(
                f"Convolution: pool_size={self.pool_size} and pool_stride="
                f"{self.pool_stride} have no effect without pool; give pool='max', "
                "'average' or 'softmax'"
            )

    def shape(self, below: Shape, layer: int) -> Shape:
        """Return the shape of the upper layer; errors name it by `layer`."""
        name = f"layer {layer} ({self.channels} channels)"
        if len(below) != 3:
            raise ValueError(
                f"{name} is a Convolution above a vector of {below[0]} units; it needs "
                "an image below: (height, width, channels) as the first size, or "
                "another Convolution"
            )
        size = tuple(n + 2 * self.padding for n in below[:2])
        if min(size) < self.kernel:
            raise ValueError(
                f"{name}: a kernel of {self.kernel} does not fit an image of "
                f"{size[0]} x {size[1]}, padding of {self.padding} included; use a "
                "smaller kernel or more padding"
            )
        size = tuple((n - self.kernel) // self.stride + 1 for n in size)
        if self.pool is None:
            return (*size, self.channels)
        if min(size) < self.pool_size:
            raise ValueError(
                f"{name}: a pool_size of {self.pool_size} does not fit the {size[0]} x "
                f"{size[1]} image that the convolution leaves; pool less, or use more "
                "padding"
            )
        step = self.pool_stride or self.pool_size
        return (*((n - self.pool_size) // step + 1 for n in size), self.channels)

    def initialize(
        self, initializer: Initializer, key: PRNGKeyArray, below: Shape
    ) -> tuple[Array, Array]:
        """Draw weight and bias.

        The fan-in is kernel²·(channels below), the fan-out kernel²·channels.
        """
        area = self.kernel**2
        # Draw for the whole fan-out; the first columns are the kernel.
        weight, bias = initializer(key, area * below[2], area * self.channels)
        shape = (self.kernel, self.kernel, below[2], self.channels)
        return weight[:, : self.channels].reshape(shape), bias[: self.channels]

    def prepared(self, weight: Kernel) -> Kernel | Prepared:
        """Return the weight with what many passes share; the methods below take it."""
        return prepare(weight)

    def forward(self, weight: Kernel | Prepared, lower: Image) -> Image:
        """Return 𝒫(W ⋆ r)."""
        return self.pooled(self.linear(weight, lower))

    def both(
        self,
        weight: Kernel | Prepared,
        feedback: Kernel | None,
        lower: Image,
        upper: Image,
    ) -> tuple[Image, Image]:
        """Return forward and backward Bᵀ ⋆ 𝒫⁻¹(u); B = W where `feedback` is `None`.

        𝒫⁻¹ unpools to the maxima of the current W ⋆ r.
        """
        dtype = jnp.result_type(*jax.tree.leaves((weight, feedback, lower, upper)))
        lower, upper = lower.astype(dtype), upper.astype(dtype)
        if feedback is None:  # one vjp: both directions share the work on W
            forward, back = jax.vjp(lambda r: self.forward(weight, r), lower)
            return forward, back(upper)[0]
        forward, unpool = jax.vjp(self.pooled, self.linear(weight, lower))
        _, back = jax.vjp(lambda r: self.linear(feedback, r), lower)
        return forward, back(*unpool(upper))[0]

    def linear(self, weight: Kernel | Prepared, lower: Image) -> Image:
        """Return W ⋆ r, without pooling."""
        dtype = jnp.result_type(*jax.tree.leaves((weight, lower)))
        image = jnp.asarray(lower, dtype)
        kernel = jax.tree.map(lambda w: jnp.asarray(w, dtype), weight)
        margin = (self.padding, self.padding, 0)
        zero = jnp.zeros((), dtype)
        image = jax.lax.pad(image, zero, (margin, margin, (0, 0, 0)))
        return correlate(self.stride, image, kernel)

    def pooled(self, z: Image) -> Image:
        """Return 𝒫(z)."""
        if self.pool is None:
            return z
        step = self.pool_stride or self.pool_size
        places = windows(z, self.pool_size, step)
        if self.pool == "average":
            return sum(places) / len(places)  # type: ignore[return-value]
        if self.pool == "softmax":
            stacked = jnp.stack(places)
            shift = jax.lax.stop_gradient(jnp.max(jnp.real(stacked), axis=0))
            share = jnp.exp(stacked - shift)
            return jnp.sum(share * stacked, axis=0) / jnp.sum(share, axis=0)
        if jnp.iscomplexobj(z):
            raise ValueError(
                "max pooling cannot take a complex state, because complex numbers have "
                "no order; use pool='softmax' or 'average' for holomorphic EP"
            )
        # Derivatives of every order follow the chosen place, the first of equal ones.
        return functools.reduce(lambda a, b: jnp.where(b > a, b, a), places)


Link = Dense | Convolution
Sizes = Sequence[int | Convolution | tuple[int, int, int]]


def linked(sizes: Sizes) -> tuple[tuple[Link, ...], tuple[Shape, ...]]:
    """Return the links of a network and the shape of each layer, input first."""
    sizes = tuple(sizes)
    first = sizes[0] if sizes else None
    image = isinstance(first, tuple | list) and len(first) == 3
    inputs: Shape = tuple(first) if image else (first,)  # type: ignore[assignment]
    dense = [n for n in sizes[1:] if not isinstance(n, Convolution)]
    if len(sizes) < 2 or any(not is_whole(n) or n < 1 for n in (*inputs, *dense)):  # type: ignore[operator]
        raise ValueError(
            f"sizes are {sizes}; give at least two, input first and output last, each "
            "a positive integer or an ep.Convolution, e.g. (784, 500, 10), or with "
            "(height, width, channels) as input ((28, 28, 1), ep.Convolution(32, 5), "
            "10)"
        )
    links, shapes = [], [tuple(int(n) for n in inputs)]
    for layer, size in enumerate(sizes[1:], 1):
        links.append(size if isinstance(size, Convolution) else Dense(int(size)))  # type: ignore[arg-type]
        shapes.append(links[-1].shape(shapes[-1], layer))
    return tuple(links), tuple(shapes)
