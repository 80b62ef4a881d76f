"""The step that every reference differentiates, `project` included.

    F(x, s) = project(s + dt · velocity(x, s))

RBP iterates its vector-Jacobian product at the fixed point, BPTT goes back through
its last K applications, and implicit differentiation solves (I − ∂F/∂sᵀ) λ = ∂C/∂s.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import gmres
from jaxtyping import Array, Float, PyTree, Scalar

from ..relaxations._base import AbstractRelaxation, check_hyperparameters, Dynamics
from ..relaxations._euler import Euler
from ..systems._base import AbstractSystem, State, state_gradient
from ..systems._norm import inner as inner, norm as norm
from ..systems._total_energy import batch_costs, cost_of
from ._base import weighted_mean

DENSE = 1500
"""numbers of a state up to which a linear system is solved directly"""
RESTART = 40
CYCLES = 60
"""GMRES: vectors kept, and restarts at most"""


def step_map(system: AbstractSystem, x: Any, dt: Any) -> Callable[[State], State]:
    """s ↦ project(s + dt · velocity(x, s)) of one example, as `Euler` steps."""
    free = Dynamics(system, x, None, None, 0.0)

    def step(s: State) -> State:
        moved, _ = Euler(dt=dt).step(free, s, None)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, s)

    return step


def error_signal(system: AbstractSystem, cost: Any, x: Any, y: Any, s: State) -> State:
    """∂C/∂s of one example: S̄_0."""
    return state_gradient(lambda u: cost_of(system, cost, x, y, u), s)


def mean_cost(
    model: Any, x: Any, y: Any, state: State, weight: Float[Array, " batch"] | None
) -> tuple[Scalar, Any]:
    """Mean over the batch of C at these states, and its ∂/∂θ; model: (system, cost)."""

    @eqx.filter_value_and_grad
    def mean(model):
        system, cost = model
        values = batch_costs(system, cost, x, y, state)
        return weighted_mean(values, weight)

    return mean(model)


def through_step(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    state: State,
    adjoint: State,
    dt: Any,
    weight: Float[Array, " batch"] | None,
) -> tuple[Scalar, tuple[Any, Any]]:
    """Loss, and ∂C/∂θ + (∂F/∂θ)ᵀ λ, both means over the batch (paper B, eqs 7–11)."""
    state, adjoint = jax.lax.stop_gradient((state, adjoint))

    @eqx.filter_grad(has_aux=True)
    def gradient(model):
        system, cost = model

        def one(x, y, s, error) -> tuple[Scalar, Scalar]:
            value = cost_of(system, cost, x, y, s)
            return value + inner(step_map(system, x, dt)(s), error), value

        total, value = jax.vmap(one)(x, y, state, adjoint)
        return weighted_mean(total, weight), weighted_mean(value, weight)

    grads, loss = gradient((system, cost))
    return loss, grads


def solve_fixed_point(
    linear: Callable[[State], State], right: State
) -> tuple[State, Scalar]:
    """λ = linear(λ) + right of one example, and its relative residual.

    A state of up to `DENSE` numbers is solved directly, which is 20 times faster
    than GMRES at 266 of them and does not break down; a larger one by GMRES with
    products of `linear` alone.
    """
    flat, unflatten = ravel_pytree(right)
    scale = norm(flat)
    unit = flat / jnp.where(scale == 0, 1, scale)

    def operator(u: Array) -> Array:
        return u - ravel_pytree(linear(unflatten(u)))[0]

    if flat.size <= DENSE:
        matrix = jax.vmap(operator)(jnp.eye(flat.size, dtype=flat.dtype)).T
        solution = jnp.linalg.solve(matrix, unit)
    else:
        solution, _ = gmres(
            operator,
            unit,
            tol=50 * float(jnp.finfo(flat.dtype).eps),
            restart=RESTART,
            maxiter=CYCLES,
            solve_method="incremental",
        )
    residual = jnp.linalg.norm(operator(solution) - unit)
    return unflatten(solution * scale), residual


def check_reference(name: str, free: Any, dt: Any, steps: Any) -> None:
    """Errors for hyper-parameters that no error process accepts."""
    if not isinstance(free, AbstractRelaxation):
        raise ValueError(
            f"{name}: free is {free!r}; give a relaxation, e.g. "
            "ep.Euler(dt=0.5, steps=20)"
        )
    check_hyperparameters(name, steps, None, dt=dt)
