"""Jacobian homeostasis: learn to be symmetric (Laborieux & Zenke 2023, 2309.02214).

A vector field's EP gradient is biased by J − Jᵀ, the asymmetry of J = ∂velocity/∂s at
s⁰ (paper C, eq 18).  The penalty E_v ‖(J − Jᵀ)v‖² = ‖J − Jᵀ‖²_F, v standard normal,
costs one Jacobian-vector and one vector-Jacobian product a probe, and shrinks it.
"""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from ..relaxations._keys import example_keys
from ..systems._base import AbstractSystem, State
from ._around import AbstractAround
from ._base import AbstractEstimator, Gradient, Stats, replace_ignored, weighted_mean
from ._step import inner


class JacobianHomeostasis(AbstractAround):
    """A learning rule, with the gradient of strength · ‖J − Jᵀ‖²_F at s⁰ added.

    The states are held fixed; J is that of the velocity, `project` left out.  Needs a
    `key` for its probes.  The loss stays the cost; `stats["asymmetry"]` is the
    penalty's estimate for each example.

    **Arguments:**

    - `estimator`: the rule.
    - `strength`: of the penalty (cost units × time constant²), ≥ 0.
    - `probes`: random vectors v an example; their number lowers the noise only.
    """

    no_adjoint: ClassVar[str] = (
        "adds a penalty that is no part of what comes after the layer"
    )
    approximate: ClassVar[str] = "it adds the gradient of a penalty to the cost's"
    estimator: AbstractEstimator
    """the learning rule"""
    strength: float
    """strength of the penalty ‖J − Jᵀ‖²"""
    probes: int = 1
    """random vectors for each example"""

    def __init__(self, estimator: AbstractEstimator, strength: float, probes: int = 1):
        self.estimator, self.strength, self.probes = estimator, strength, probes

    def __check_init__(self):
        if not isinstance(self.estimator, AbstractEstimator):
            raise ValueError(
                f"estimator is {self.estimator!r}; give a learning rule, e.g. "
                "ep.EquilibriumPropagation(...)"
            )
        if not 0 <= self.strength < float("inf"):
            raise ValueError(
                f"strength is {self.strength}; it must be ≥ 0 and finite, e.g. 0.1"
            )
        if isinstance(self.probes, bool) or not (
            isinstance(self.probes, int) and self.probes >= 1
        ):
            raise ValueError(
                f"probes is {self.probes!r}; it must be a whole number ≥ 1"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        nudged_key, key = keys
        if key is None:
            raise ValueError(
                "JacobianHomeostasis draws random vectors; pass key=jax.random.key(0)"
            )
        probe_key, key = jax.random.split(key)
        gradient = self.estimator.at(
            system, cost, x, y, free, (nudged_key, key), weight
        )
        problem = (system, x, free.state, probe_key, weight)
        (_, asymmetry), penalty = self._penalty(*problem)
        grads = jax.tree.map(
            lambda g, p: g + self.strength * p, gradient.grads, penalty
        )
        stats = Stats(
            f"{gradient.stats.rule}, Jacobian homeostasis",
            gradient.stats.values | {"asymmetry": asymmetry},
        )
        return dataclasses.replace(gradient, grads=grads, stats=stats)

    def _penalty(self, system, x, state, key, weight) -> tuple[Any, Any]:
        """The mean and each example's ‖J − Jᵀ‖², and ∂mean/∂θ."""
        x, state = jax.lax.stop_gradient(replace_ignored((x, state), weight))
        keys = example_keys(key, len(jax.tree.leaves(state)[0]))

        @eqx.filter_value_and_grad(has_aux=True)
        def mean(system):
            values = jax.vmap(lambda *one: self._of_example(system, *one))
            asymmetry = values(x, state, keys)
            return weighted_mean(asymmetry, weight), asymmetry

        return mean(system)

    def _of_example(
        self, system: AbstractSystem, x: Any, s: State, key: PRNGKeyArray
    ) -> Scalar:
        def squared(key):
            return asymmetry_along(system, x, s, _normal_like(s, key))

        return jnp.mean(jax.vmap(squared)(jax.random.split(key, self.probes)))


def asymmetry_along(system: AbstractSystem, x: Any, s: State, v: State) -> Scalar:
    """‖(J − Jᵀ)v‖² of one example at s."""

    def velocity(u):
        return system.velocity(x, u)

    _, forward = jax.jvp(velocity, (s,), (v,))
    (backward,) = jax.vjp(velocity, s)[1](v)
    off = jax.tree.map(jnp.subtract, forward, backward)
    return inner(off, off)


def _normal_like(s: State, key: PRNGKeyArray) -> State:
    leaves, tree = jax.tree.flatten(s)
    keys = jax.random.split(key, len(leaves))
    drawn: list[Float[Array, ...]] = [
        jax.random.normal(k, u.shape, u.dtype)
        for k, u in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)
