"""The images that the papers' own networks are shown: MNIST's, or what stands for them.

`eqprop reproduce` must work without a network: nothing is downloaded here.  MNIST is
used where its files lie (EQPROP_DATA or the cache); else the bundled 8 x 8 digits,
enlarged threefold within 28 x 28, and a demonstration's words say which of them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..data import find, load


class Images(NamedTuple):
    """Images in [0, 1], their classes one-hot, and what they are called."""

    x: Float[Array, "count 28 28"]
    y: Float[Array, "count 10"]
    name: str

    @property
    def flat(self) -> Float[Array, "count 784"]:
        """One vector for each image."""
        return self.x.reshape(len(self.x), -1)


def images(count: int) -> Images:
    """The first `count` training images of MNIST, or of the digits where it is not."""
    found = find("mnist") is not None
    data = load("mnist" if found else "digits", flatten=False).train
    x = np.asarray(data.x[:count], float)
    if not found:
        x = np.pad(np.kron(x, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    name = "MNIST" if found else "digits enlarged to 28 x 28 (MNIST is not here)"
    return Images(jnp.asarray(x), jnp.eye(10)[np.asarray(data.y[:count])], name)
