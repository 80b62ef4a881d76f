"""Training images that are new in every epoch: moved by some pixels, and mirrored."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

Augment = Callable[[Any, PRNGKeyArray], Any]
"""From one example's x and a key to another x of the same shape."""


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Moves an image by up to `shift` pixels each way, and mirrors half of them.

    **Arguments:**

    - `shape`: `(height, width)` or `(height, width, channels)` of an image; examples
      may be flat.
    - `shift`: the most that an image moves along each axis (pixels), uniformly; zeros
      come in from outside.
    - `flip`: mirror it, left for right, with probability ½.
    """

    shape: tuple[int, ...]
    shift: int = 0
    flip: bool = False

    def __post_init__(self):
        check_augmentation(self.shift, self.flip)
        if len(self.shape) not in (2, 3) or self.shift >= min(self.shape[:2]):
            raise ValueError(
                f"ImageAugmentation: a shift of {self.shift} pixels needs a larger "
                f"image, and its shape is {self.shape}; give shape=(height, width) or "
                "(height, width, channels) and a smaller shift"
            )

    def __call__(self, x: Float[Array, "..."], key: PRNGKeyArray) -> Array:
        if x.size != math.prod(self.shape):
            raise ValueError(
                f"ImageAugmentation: an example has shape {x.shape}, which is no image "
                f"of shape {self.shape}"
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
    """A `ValueError` for what is no number of pixels, or no yes or no."""
    whole = isinstance(shift, int | np.integer) and not isinstance(shift, bool)
    if not whole or shift < 0:
        raise ValueError(f"shift is {shift!r}; give a whole number of pixels ≥ 0")
    if not isinstance(flip, bool):
        raise ValueError(f"flip is {flip!r}; give True or False")


def augmentation(
    shift: int, flip: bool, shape: tuple[int, ...] | None
) -> ImageAugmentation | None:
    """What a configuration asks for, of data whose images have this shape."""
    if not shift and not flip:
        return None
    if shape is None:
        asked = f"shift={shift}" if shift else "flip=True"
        raise ValueError(f"{asked}: these data are no images, so leave it out")
    return ImageAugmentation(tuple(shape), shift, flip)


def check_augment(augment: Augment, x: PyTree[Array], persistent: bool) -> None:
    """A `ValueError` for what cannot take the place of an example."""
    if not callable(augment):
        raise ValueError(
            f"augment is {augment!r}; give a function (x, key) -> x of one example, "
            "e.g. ep.ImageAugmentation((28, 28), shift=2)"
        )
    if persistent:
        raise ValueError(
            "an example's persistent state belongs to one image; train without "
            "persistent, or without shift, flip or augment"
        )
    example = jax.tree.map(lambda leaf: leaf[0], x)
    found = jax.eval_shape(augment, example, jax.random.key(0))
    pairs = itertools.zip_longest(*map(jax.tree.leaves, (found, example)))
    if any(a is None or b is None or a.shape != b.shape for a, b in pairs):
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (found, example)]
        raise ValueError(
            f"augment makes {shapes[0]} of an example of shape {shapes[1]}; it must "
            "keep the shape"
        )


def augmented(augment: Augment, x: PyTree[Array], key: PRNGKeyArray) -> PyTree[Array]:
    """A batch of which every place has a key of its own, however long the batch."""
    count = len(jax.tree.leaves(x)[0])
    own = jax.random.fold_in(key, np.uint32(AUGMENT))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(own, jnp.arange(count))
    moved = jax.vmap(augment)(x, keys)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, x)


AUGMENT = 0x61756766
"""tells the keys of augmentation from those of the learning rule"""
