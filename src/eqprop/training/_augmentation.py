"""Random changes of the training images in each epoch: shifts and mirror images."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._settings import check_whole

Augment = Callable[[Any, PRNGKeyArray], Any]
"""a function from one example's x and a random key to an x of the same shape"""
AUGMENT = 0x61756766
"""separates the random keys of augmentation from those of the learning rule"""


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Shift an image by up to `shift` pixels along each axis, and mirror it or not.

    **Arguments:**

    - `shape`: `(height, width)` or `(height, width, channels)` of an image; the
      examples may be flat.
    - `shift`: largest shift along each axis (pixels); every shift is equally likely.
      Zeros fill the margin.
    - `flip`: mirror the image (left ↔ right) with probability ½.
    """

    shape: tuple[int, ...]
    shift: int = 0
    flip: bool = False

    def __post_init__(self):
        check_augmentation(self.shift, self.flip)
        if len(self.shape) not in (2, 3) or self.shift >= min(self.shape[:2]):
            raise ValueError(
                f"ImageAugmentation: shift is {self.shift} pixels and shape is "
                f"{self.shape}; give shape=(height, width) or (height, width, channels)"
                " and a shift smaller than height and width"
            )

    def __call__(self, x: Float[Array, "..."], key: PRNGKeyArray) -> Array:
        if x.size != math.prod(self.shape):
            raise ValueError(
                f"ImageAugmentation: an example has shape {x.shape}; it must be an "
                f"image of shape {self.shape}, or that image as a vector"
            )
        image = x.reshape(self.shape)
        place, side = jax.random.split(key)
        if self.shift:
            margin = [(self.shift, self.shift)] * 2 + [(0, 0)] * (image.ndim - 2)
            corner = jax.random.randint(place, (2,), 0, 2 * self.shift + 1)
            corner = (*corner, *(0,) * (image.ndim - 2))
            image = jax.lax.dynamic_slice(jnp.pad(image, margin), corner, self.shape)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(side), image[:, ::-1], image)
        return image.reshape(x.shape)


def check_augmentation(shift: Any, flip: Any) -> None:
    """Raise `ValueError` if `shift` is not an integer ≥ 0 or `flip` is not a bool."""
    check_whole("shift", shift, 0)
    if not isinstance(flip, bool):
        raise ValueError(f"flip is {flip!r}; give True or False")


def augmentation(
    shift: int, flip: bool, shape: tuple[int, ...] | None
) -> ImageAugmentation | None:
    """Return the augmentation of images of this shape; `None` if it changes nothing.

    **Raises:** `ValueError` if the data are not images (`shape` is `None`).
    """
    if not shift and not flip:
        return None
    if shape is None:
        asked = f"shift={shift}" if shift else "flip=True"
        raise ValueError(f"{asked}, but the data are not images; leave it out")
    return ImageAugmentation(tuple(shape), shift, flip)


def check_augment(augment: Augment, x: PyTree[Array], persistent: bool) -> None:
    """Raise `ValueError` if `augment` cannot be applied to the examples `x`."""
    if not callable(augment):
        raise ValueError(
            f"augment is {augment!r}; give a function (x, key) -> x of one example, "
            "e.g. ep.ImageAugmentation((28, 28), shift=2)"
        )
    if persistent:
        raise ValueError(
            "persistent is True, but augmentation changes the image to which an "
            "example's persistent state belongs; train without persistent, or without "
            "shift, flip or augment"
        )
    example = jax.tree.map(lambda leaf: leaf[0], x)
    found = jax.eval_shape(augment, example, jax.random.key(0))
    pairs = itertools.zip_longest(*map(jax.tree.leaves, (found, example)))
    if any(a is None or b is None or a.shape != b.shape for a, b in pairs):
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (found, example)]
        raise ValueError(
            f"augment returns shape {shapes[0]} for an example of shape {shapes[1]}; "
            "it must keep the shape"
        )


def augmented(augment: Augment, x: PyTree[Array], key: PRNGKeyArray) -> PyTree[Array]:
    """Apply `augment` to each example of a batch, with a random key for each place.

    The key of a place does not depend on the length of the batch.
    """
    count = len(jax.tree.leaves(x)[0])
    own = jax.random.fold_in(key, np.uint32(AUGMENT))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(own, jnp.arange(count))
    moved = jax.vmap(augment)(x, keys)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, x)
