"""The total energy F(x, y, s, β), and what every rule takes from it: cost and nudge.

In general F = potential + β cost (paper A, eq 3).  A system may bring its own F, with
any dependence on β (paper A, eq 26 and footnote 3): then the free energy is F at β = 0
and the cost is ∂F/∂β there, so that J = ∂F/∂β(s⁰).
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree, Scalar

from ._base import AbstractEnergy, AbstractSystem, has_potential, State, state_gradient


class AbstractTotalEnergy(AbstractEnergy):
    """ds/dt = −∂F/∂s with F = `total_energy(x, y, s, beta)` (paper A, eqs 23 and 26).

    The user writes `total_energy`, `init_state` and `readout`; the estimators' cost is
    `None`, as F brings its own.  F must be smooth in β and, at β = 0, not depend on y.
    A weight penalty may stand in the cost: F = E + β (C + λΩ(θ)) (paper A, eq 23).
    """

    @abc.abstractmethod
    def total_energy(self, x: Any, y: Any, s: State, beta: Any) -> Scalar:
        """The scalar F(x, y, s, β) of one example; β is dimensionless."""

    def energy(self, x: Any, s: State) -> Scalar:
        """E = F at β = 0, with zeros of the prediction's shape in the place of y.

        Override it where y is anything else: F(x, any y, s, 0) without its y.
        """
        prediction = self.readout(s)
        try:
            return self.total_energy(x, jnp.zeros_like(prediction), s, 0.0)
        except Exception as error:
            raise ValueError(
                "total_energy at beta = 0 failed with zeros of the prediction's shape "
                f"{jnp.shape(prediction)} for y ({error}); where y is not like the "
                "prediction define energy(x, s) too: F at beta = 0, without y"
            ) from error


def has_total_energy(system: AbstractSystem) -> bool:
    """Whether the system says itself what F is, and so what the cost is."""
    return callable(getattr(system, "total_energy", None))


def cost_of(system: AbstractSystem, cost: Any, x: Any, y: Any, s: State) -> Scalar:
    """C of one example: cost(readout(s), y), or ∂F/∂β at β = 0 (paper A, eq 26)."""
    if not has_total_energy(system):
        return cost(system.readout(s), y)

    def total(beta):
        return system.total_energy(x, y, s, beta)  # type: ignore[attr-defined]

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(s)))
    return jax.jvp(total, (zero,), (jnp.ones_like(zero),))[1]


def batch_costs(
    system: AbstractSystem, cost: Any, x: PyTree, y: PyTree, state: State
) -> Float[Array, " batch"]:
    """C of every example of a batch."""
    return jax.vmap(lambda *one: cost_of(system, cost, *one))(x, y, state)


def nudge_energy(
    system: AbstractSystem, cost: Any, x: Any, y: Any, s: State, beta: Any
) -> Scalar:
    """What the nudge adds to the potential: β C, or F(β) − F(0)."""
    if not has_total_energy(system):
        return beta * cost(system.readout(s), y)
    total = system.total_energy  # type: ignore[attr-defined]
    return total(x, y, s, beta) - total(x, y, s, 0.0)


def check_total_energy(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    state: State,
) -> None:
    """Refuse a total energy that contradicts the system or the cost given with it.

    At a batch of states: F at β = 0 must generate the forces of the potential, to
    first and second order, and a cost must equal ∂F/∂β.  Nothing is checked inside
    `jax.jit`, nor what is not finite.
    """
    traced = any(isinstance(u, Tracer) for u in jax.tree.leaves((system, x, y, state)))
    if not has_total_energy(system) or traced:
        return
    name = type(system).__name__
    probe = jax.tree.map(
        lambda leaf: jnp.asarray(
            np.random.default_rng(0).normal(size=leaf.shape), leaf.dtype
        ),
        state,
    )
    apart, size, own, given = map(
        np.asarray, _compared(system, cost, x, y, state, probe)
    )
    tolerance = max(1e-8, 1e3 * float(jnp.finfo(own.dtype).eps))
    if apart.max() > tolerance * size.max():
        raise ValueError(
            f"{name}.total_energy at beta = 0 is not the free energy: their forces "
            f"differ by {apart.max():.3g} (of {size.max():.3g}). At beta = 0 it must "
            "not depend on y and have the same derivative in s as energy(x, s), or as "
            "whatever the free dynamics follows"
        )
    wrong = np.abs(own - given) > tolerance * np.maximum(np.abs(own), np.abs(given))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"the cost of example {first} is {given[first]:.6g}, but ∂F/∂β of "
            f"{name}.total_energy at beta = 0 is {own[first]:.6g}; they must be equal. "
            "The total energy brings its own cost: give cost=None, or mend one of them"
        )


@eqx.filter_jit
def _compared(system, cost, x, y, state, probe):
    """Of each example: how far the forces are apart, their size, and both costs."""

    def one(x, y, s, v):
        def of_total(u):
            return state_gradient(
                lambda w: system.total_energy(x, y, w, jnp.zeros(())), u
            )

        def of_system(u):
            if has_potential(system):
                return state_gradient(lambda w: system.potential(x, w), u)
            return jax.tree.map(jnp.negative, system.velocity(x, u))

        total, free = (jax.jvp(f, (s,), (v,)) for f in (of_total, of_system))
        apart = _size(jax.tree.map(jnp.subtract, total, free))
        if not has_potential(system):  # F may be the nudge alone
            apart = jnp.minimum(apart, _size(total))
        own = cost_of(system, None, x, y, s)
        given = own if cost is None else cost(system.readout(s), y)
        return apart, _size(free), own, given

    return jax.vmap(one)(x, y, state, probe)


def _size(tree: Any) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(u)) for u in jax.tree.leaves(tree)]))
