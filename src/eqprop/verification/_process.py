"""What every error process returns, in discrete and in continuous time."""

import equinox as eqx
from jaxtyping import Array, Float, PyTree


class Process(eqx.Module):
    """The error process (S̄_t, Θ̄_t) along t, one sign for all: that of ∂L/∂s, ∂L/∂θ.

    - `states`: S̄_t for each example, leaves `[times, batch, …]`.
    - `grads`: Θ̄_t, the gradient through t, cumulated, mean over the batch; like the
      system, leaves `[times, …]`, `None` where a leaf is no parameter.
    - `cost_grads`: the same for the cost's own parameters.
    - `times`: t in units of the neurons' time constant (dt · number of steps).
    """

    states: PyTree[Array]
    grads: PyTree[Array | None]
    cost_grads: PyTree[Array | None]
    times: Float[Array, " times"]
