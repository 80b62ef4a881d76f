"""Paper C's rule for any system, and Kolen and Pollack's way to symmetric weights."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..systems import _check
from ..systems._base import AbstractSystem
from ..systems._parameters import frozen_parameters
from ._base import Gradient, Stats, UnsuitableRule
from ._equilibrium_propagation import EquilibriumPropagation


class VectorFieldEquilibriumPropagation(EquilibriumPropagation):
    """−(∂μ/∂θ(s⁰))ᵀ (s^β − s⁰)/β, with or without a potential (paper C, eq 16).

    μ is the velocity, or the system's `learning_field`: ∂Φ/∂s of an `AbstractMap`.

    `EquilibriumPropagation` uses this rule where a system has no potential; here it
    is used for every system.  For an energy both have the same limit β → 0 and differ
    in their bias.  Arguments as for `EquilibriumPropagation`.
    """

    def contrasts_potential(self, system: AbstractSystem) -> bool:
        return False


class KolenPollackEquilibriumPropagation(VectorFieldEquilibriumPropagation):
    """KP-VF: forward and backward weights learn alike and forget (Laborieux 2021).

    Both members W and B of a pair get ½ (g_W + g_B) + decay · their own value, g the
    vector-field rule's gradients; under SGD at rate η, W − B then shrinks by the
    factor 1 − η decay at every update.  The system declares the pairs: `reciprocal()`
    returns its forward and its backward parameters, two sequences that match.

    A member that the system reads through `stop_gradient` is frozen: it neither learns
    nor decays, and its partner gets its own gradient g in place of the mean.

    **Arguments:**

    - `free`, `nudged`, `beta`, `nudging`: as for `EquilibriumPropagation`.
    - `decay`: of the paired parameters, not negative.
    """

    no_adjoint: ClassVar[str] = (
        "adds a decay and gives no gradient of the loss above the layer"
    )
    approximate: ClassVar[str] = "it gives forward and backward weights one update"
    decay: float = 1e-3
    """decay of paired forward and backward weights"""

    def __check_init__(self):
        if not 0 <= self.decay < float("inf"):
            raise ValueError(
                f"decay is {self.decay}; it must be finite and not negative, e.g. 1e-3"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        pairs = reciprocal_pairs(system)
        gradient = super().at(system, cost, x, y, free, keys, weight)
        learned = reciprocal_pairs(gradient.grads)
        example = _check.example((x, y, free.state))
        frozen = reciprocal_pairs(frozen_parameters((system, cost), *example)[0])
        forward, backward = [], []
        for (w, b), (g_w, g_b), (still_w, still_b) in zip(
            pairs, learned, frozen, strict=True
        ):
            if not (still_w or still_b):
                g_w = g_b = 0.5 * (g_w + g_b)
            forward.append(g_w if still_w else g_w + self.decay * w)
            backward.append(g_b if still_b else g_b + self.decay * b)
        grads = eqx.tree_at(_members, gradient.grads, [*forward, *backward])
        rule = f"Kolen–Pollack equilibrium propagation, {self.nudging}"
        return dataclasses.replace(
            gradient, grads=grads, stats=Stats(rule, gradient.stats.values)
        )


def reciprocal_pairs(system: Any) -> list[tuple[Array, Array]]:
    """The pairs (W, B) that a system, or a tree of its gradients, declares."""
    name = type(system).__name__
    pairs = system.reciprocal()
    if pairs is None:
        raise UnsuitableRule(
            f"{name} declares no pairs of forward and backward weights, so there is "
            "nothing to align; define reciprocal() that returns both sequences, or "
            "use ep.VectorFieldEquilibriumPropagation",
            "vf",
        )
    forward, backward = map(jax.tree.leaves, pairs)
    shapes = [[jnp.shape(leaf) for leaf in members] for members in (forward, backward)]
    if shapes[0] != shapes[1] or not forward:
        raise ValueError(
            f"{name}.reciprocal() returns forward parameters of shapes {shapes[0]} and "
            f"backward ones of {shapes[1]}; there must be at least one pair, and both "
            "sequences must match"
        )
    return list(zip(forward, backward, strict=True))


def _members(system: Any) -> list[Array]:
    """Forward, then backward parameters."""
    return jax.tree.leaves(system.reciprocal())
