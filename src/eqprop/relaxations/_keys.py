"""Random keys of examples, which do not depend on the number of devices."""

import jax
from jaxtyping import PRNGKeyArray

DATA_AXIS = "data"
"""the mesh axis over which a batch is split"""


def example_keys(
    key: PRNGKeyArray, batch: int, shape: tuple[int, ...] = ()
) -> PRNGKeyArray:
    """Return keys `[*shape, batch]`, one for each example.

    If `batch` is one device's part of a larger batch, split over the mesh axis
    `DATA_AXIS`, return the keys of these examples in the whole batch.  A rule that
    draws its noise from them learns the same on any number of devices.
    """
    try:
        device = jax.lax.axis_index(DATA_AXIS)
    except NameError:  # no such axis: the batch is whole
        return jax.random.split(key, (*shape, batch))
    whole = jax.random.split(key, (*shape, batch * jax.lax.axis_size(DATA_AXIS)))
    return jax.lax.dynamic_slice_in_dim(whole, device * batch, batch, len(shape))
