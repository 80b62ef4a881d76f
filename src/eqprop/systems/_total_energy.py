"""The total energy F(x, y, s, β), and the cost and nudge that every rule takes from it.

In general F = potential + β cost (paper A, eq 3).  A system may bring its own F, with
any dependence on β (paper A, eq 26 and footnote 3).  The free energy is then F at β = 0
and the cost is ∂F/∂β at β = 0, so that J = ∂F/∂β(s⁰).
"""

import abc
import functools
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

    The user writes `total_energy`, `init_state` and `readout`, and passes `None` as the
    cost, because F contains it.  F must be smooth in β.  At β = 0 it must not depend
    on y.  The cost may contain a weight penalty, F = E + β (C + λΩ(θ)) (eq 23).
    """

    @abc.abstractmethod
    def total_energy(self, x: Any, y: Any, s: State, beta: Any) -> Scalar:
        """Return the scalar F(x, y, s, β) of one example; β is dimensionless."""

    def energy(self, x: Any, s: State) -> Scalar:
        """Return E = F at β = 0, with zeros of the prediction's shape as y.

        Override it if y has another structure or shape.
        """
        prediction = self.readout(s)
        try:
            return self.total_energy(x, jnp.zeros_like(prediction), s, 0.0)
        except Exception as error:
            raise ValueError(
                "total_energy at beta = 0 failed with zeros of the prediction's shape "
                f"{jnp.shape(prediction)} as y ({error}). If y differs from the "
                "prediction in structure or shape, define energy(x, s) too: F at "
                "beta = 0, without y"
            ) from error


def has_total_energy(system: AbstractSystem) -> bool:
    """Return whether the system defines its own F, and with it the cost."""
    return system.total_energy is not None


def cost_of(system: AbstractSystem, cost: Any, x: Any, y: Any, s: State) -> Scalar:
    """Return C of one example: cost(readout(s), y), or ∂F/∂β at 0 (paper A, eq 26)."""
    total = system.total_energy
    if total is None:
        return cost(system.readout(s), y)
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(s)))
    of_beta = functools.partial(total, x, y, s)
    return jax.jvp(of_beta, (zero,), (jnp.ones_like(zero),))[1]


def batch_costs(
    system: AbstractSystem, cost: Any, x: PyTree, y: PyTree, state: State
) -> Float[Array, " batch"]:
    """Return C of every example of a batch."""
    return jax.vmap(lambda *one: cost_of(system, cost, *one))(x, y, state)


def nudge_energy(
    system: AbstractSystem, cost: Any, x: Any, y: Any, s: State, beta: Any
) -> Scalar:
    """Return the scalar that the nudge adds to the potential: β C, or F(β) − F(0)."""
    total = system.total_energy
    if total is None:
        return beta * cost(system.readout(s), y)
    return total(x, y, s, beta) - total(x, y, s, 0.0)


def check_total_energy(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    state: State,
) -> None:
    """Refuse a total energy that contradicts the system or the given cost.

    In a batch of states, F at β = 0 must generate the forces of the potential, to
    first and second order, and the cost must equal ∂F/∂β.  Values that are not finite
    pass, and inside `jax.jit` nothing is checked.
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
            "not depend on y, and its derivative in s must equal that of the energy "
            "that the free dynamics descends, e.g. energy(x, s)"
        )
    wrong = np.abs(own - given) > tolerance * np.maximum(np.abs(own), np.abs(given))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"the cost of example {first} is {given[first]:.6g}, but ∂F/∂β of "
            f"{name}.total_energy at beta = 0 is {own[first]:.6g}; they must be equal. "
            "The total energy contains its own cost: give cost=None, or correct one "
            "of the two"
        )


@eqx.filter_jit
def _compared(system, cost, x, y, state, probe):
    """Return the difference and size of the forces and both costs, of each example."""

    def one(x, y, s, v):
        def of_total(u):
            zero = jnp.zeros(())
            return state_gradient(lambda w: system.total_energy(x, y, w, zero), u)

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
