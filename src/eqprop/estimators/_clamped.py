"""A system whose outputs are held at a target: the clamped phase."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Scalar

from ..systems._base import AbstractSystem, energy_of, State


class Clamped(AbstractSystem):
    """The system of one example with readout(s) held at `target`.

    With J = ∂readout/∂s, which must be constant with orthonormal rows (a readout that
    selects units), `project` sets the outputs, s + Jᵀ(target − readout(s)), and
    `tangent`, 1 − JᵀJ, is where the others move.
    """

    system: AbstractSystem
    target: Array

    def init_state(self, x: Any) -> State:
        return self.project(self.system.init_state(x))

    def velocity(self, x: Any, s: State) -> State:
        return self.system.velocity(x, s)

    def potential(self, x: Any, s: State) -> Scalar:
        return energy_of(self.system)(x, s)

    def readout(self, s: State) -> Array:
        return self.system.readout(s)

    def project(self, s: State) -> State:
        found, pull = jax.vjp(self.system.readout, self.system.project(s))
        (shift,) = pull((self.target - found).astype(found.dtype))
        return jax.tree.map(jnp.add, self.system.project(s), shift)

    def tangent(self, direction: State) -> State:
        """The part of a direction that leaves the outputs where they are."""
        held, pull = jax.vjp(self.system.readout, direction)
        zero = self.system.readout(jax.tree.map(jnp.zeros_like, direction))
        (part,) = pull(held - zero)
        return jax.tree.map(jnp.subtract, direction, part)


def check_clamp(system: AbstractSystem, state: State, y: Any) -> None:
    """A ValueError if readout does not select units, or y is no value for them.

    `state` and `y` are shapes of one example.
    """
    name = type(system).__name__
    expected = jax.eval_shape(system.readout, state)
    if getattr(y, "shape", None) != expected.shape:
        raise ValueError(
            f"one example's target has shape {getattr(y, 'shape', None)} and "
            f"{name}.readout {expected.shape}; outputs are held at the target, so the "
            "two must be equal: class labels become targets with jax.nn.one_hot"
        )
    with jax.ensure_compile_time_eval():
        jacobians = [_jacobian(system, state, seed) for seed in (0, 1)]
    reason = None
    if any(isinstance(j, Tracer) for j in jacobians):
        reason = "depends on parameters"
    else:
        first, second = map(np.asarray, jacobians)
        if not np.allclose(first, second, atol=1e-5):
            reason = "is not linear in the state"
        elif not np.allclose(first @ first.T, np.eye(len(first)), atol=1e-5):
            reason = "does not read each output from one unit of its own"
    if reason is not None:
        raise ValueError(
            f"{name}.readout {reason}, so its outputs cannot be held at a target; "
            "clamping needs a readout that selects state units, e.g. s[-1]"
        )


def _jacobian(system: AbstractSystem, state: State, seed: int) -> Array:
    """∂readout/∂s `[outputs, units]` at a state of random numbers."""
    random = np.random.default_rng(seed)
    s = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), state
    )
    flat, unflatten = ravel_pytree(s)
    return jax.jacrev(lambda u: jnp.ravel(system.readout(unflatten(u))))(flat)
