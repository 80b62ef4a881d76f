"""The Hopfield energy of paper A, layered and on an arbitrary graph.

E(u) = ½ Σ_i s_i² − Σ_{i<j} W_ij ρ(u_i) ρ(u_j) − Σ_i b_i ρ(s_i)     (paper A, eq 1)

over the units u = (x, s); the inputs x are clamped.  An input is its own firing rate
(ρ(x) = x), so data need not lie in ρ's range.  The leak ½ x² of clamped units is a
constant and is left out.
"""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, PRNGKeyArray, Scalar

from ._activations import Activation, hard_sigmoid
from ._base import AbstractEnergy, Curvature
from ._layered import checked_input, Input, Layered, Layers, Options
from ._links import Sizes


class AbstractHopfield(Layered, AbstractEnergy):
    """What layered Hopfield networks share: velocity, bounds and curvature."""

    def __init__(self, sizes: Sizes, *, key: PRNGKeyArray, **options: Unpack[Options]):
        super().__init__(sizes, key=key, **options)

    def __init_subclass__(cls, **options: Any):
        """Let a user's subclass descend its own energy, not ours in closed form."""
        super().__init_subclass__(**options)
        if AbstractHopfield not in cls.__bases__ and "velocity" not in vars(cls):
            cls.velocity = AbstractEnergy.velocity

    def velocity(self, x: Input, s: Layers) -> Layers:
        """Return ρ′(s)∘drive − s, the closed form of −∂E/∂s (paper A, eq 8).

        A sweep's curvature needs the same drives where ρ bends.  In closed form XLA
        sees that they are the same, and computes them once.
        """
        rates, pull = jax.vjp(self.rates, s)
        pairs = zip(self.drives(x, rates), rates, strict=True)
        felt = pull(tuple(drive.astype(rate.dtype) for drive, rate in pairs))[0]
        return jax.tree.map(jnp.subtract, felt, s)

    def project(self, s: Layers) -> Layers:
        return tuple(rho.project(u) for rho, u in zip(self.activations, s, strict=True))

    def curvature(self, turn: tuple[int, ...]) -> Curvature:
        """Return 1 where ρ is straight, else the bound 1 + sup|ρ″| |drive|."""
        if not any(self.activations[k].bend for k in turn):
            return 1.0

        def bound(x, s):
            drives = self.drives(x, self.rates(s))
            return tuple(
                1 + self.activations[k].bend * jnp.abs(drives[k]) for k in turn
            )

        return bound


class HopfieldEnergy(AbstractHopfield):
    """A layered network with symmetric weights (paper A, section 5).

    The state is a tuple of layers, input side first, output last; the prediction is
    the output layer.  Arguments of every layered network: `sizes`, `key`,
    `activation`, `output`, `initializer`.  With `ep.Convolution` layers it is the deep
    convolutional Hopfield network (Scellier et al. 2023).

    Under `ep.Sweep` the energy never rises for dense layers, and for convolutions
    without pooling or with average pooling.  It never rises with max pooling either if
    the rates above are ≥ 0 (`ep.hard_sigmoid`): −u·max(W ⋆ r) is concave in r, so its
    tangent lies above it, and the step minimises the tangent.  Rates below 0
    (`ep.tanh`) pull a window towards ties; the state can then jump between them without
    settling.
    With softmax pooling the energy can rise; use `ep.Euler` with a small `dt`.
    """

    def __init__(self, sizes: Sizes, *, key: PRNGKeyArray, **options: Unpack[Options]):
        super().__init__(sizes, key=key, **options)

    def energy(self, x: Input, s: Layers) -> Scalar:
        leak = sum(0.5 * jnp.sum(layer**2) for layer in s)
        return jnp.asarray(leak - self.synapses(x, self.rates(s)))


class MaskedHopfieldEnergy(AbstractEnergy):
    """The same energy on any undirected graph, with lateral and skip links.

    The units are in the order inputs, hidden, outputs; the state is one array of the
    hidden and output units.  Each pair has one weight, above the diagonal of `weight`:
    W stays symmetric with a zero diagonal whatever the optimizer does.

    **Arguments:**

    - `mask`: which pairs are joined: boolean `[units, units]`, symmetric, with a
      `False` diagonal.  Links between two inputs have no effect and are refused.
    - `inputs`, `outputs`: the number of clamped units at the start, and of units read
      at the end.
    - `activation`: ρ of all units except the inputs.
    - `key`: a `jax.random.key`.  W_ij is uniform in ±√(6 / (d_i + d_j)), where d is the
      number of a unit's links; biases are zero.
    """

    weight: Float[Array, "units units"]
    bias: Inexact[Array, " units"]
    mask: Bool[Array, "units units"]
    activation: Activation
    outputs: int = eqx.field(static=True)

    def __init__(
        self,
        mask: Array | np.ndarray,
        *,
        inputs: int,
        outputs: int,
        key: PRNGKeyArray,
        activation: Activation = hard_sigmoid,
    ):
        mask = _checked_mask(np.asarray(mask), inputs, outputs)
        degree = np.maximum(mask.sum(0), 1)
        limit = jnp.asarray(np.sqrt(6 / (degree[:, None] + degree[None, :])))
        self.mask = jnp.asarray(np.triu(mask))
        draw = jax.random.uniform(key, mask.shape, minval=-1.0, maxval=1.0)
        self.weight = jnp.where(self.mask, limit * draw, 0.0).astype(draw.dtype)
        self.bias = jnp.zeros(len(mask) - inputs)
        self.activation = activation
        self.outputs = outputs

    def init_state(self, x: Float[Array, " inputs"]) -> Inexact[Array, " units"]:
        """Return every unit at zero."""
        checked_input(x, (self.weight.shape[0] - self.bias.shape[0],))
        return jnp.zeros_like(self.bias)

    def energy(self, x: Float[Array, " inputs"], s: Inexact[Array, " units"]) -> Scalar:
        rate = self.activation(s)
        units = jnp.concatenate([x, rate])
        links = jnp.where(self.mask, self.weight, 0)
        return 0.5 * jnp.sum(s**2) - units @ links @ units - jnp.sum(self.bias * rate)

    def project(self, s: Inexact[Array, " units"]) -> Inexact[Array, " units"]:
        return self.activation.project(s)

    def readout(self, s: Inexact[Array, " units"]) -> Inexact[Array, " outputs"]:
        return s[-self.outputs :]


def _checked_mask(mask: np.ndarray, inputs: int, outputs: int) -> np.ndarray:
    if mask.dtype != bool or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise ValueError(
            f"mask is {mask.dtype} of shape {mask.shape}; give a square boolean array"
        )
    if (mask != mask.T).any() or mask.diagonal().any():
        raise ValueError(
            "mask must be symmetric with a False diagonal: links are undirected and "
            "no unit is joined to itself. Use mask | mask.T and np.fill_diagonal."
        )
    if not (inputs >= 0 and outputs >= 1 and inputs + outputs <= len(mask)):
        raise ValueError(
            f"inputs={inputs} and outputs={outputs} do not fit {len(mask)} units; "
            "need inputs ≥ 0, outputs ≥ 1 and inputs + outputs ≤ units"
        )
    if mask[:inputs, :inputs].any():
        raise ValueError(
            "mask joins inputs with each other; clamped units do not move, so clear "
            "mask[:inputs, :inputs]"
        )
    return mask
