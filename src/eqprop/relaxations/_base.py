"""What every relaxation shares: the dynamics it steps, the loop, and the result.

A relaxation is a frozen set of hyper-parameters with one method, `step`, written for
one example.  The loop around it is compiled, stops each example on its own where
there is a tolerance, and says of each example how it ended.
"""

import abc
import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from ..systems import _check
from ..systems._base import AbstractSystem, energy_of, State, state_gradient
from ..systems._total_energy import (
    check_total_energy,
    has_total_energy,
    nudge_energy,
)
from ._keys import example_keys
from ._outside import hear


class Status(enum.IntEnum):
    """How an example's relaxation ended; `Equilibrium.status` holds these numbers."""

    settled = 0
    """The residual of the last step is below the tolerance."""
    unsettled = 1
    """The steps ran out before that."""
    oscillating = 2
    """Unsettled, and the last two steps all but cancel (period 2)."""
    diverged = 3
    """The state or its residual is not finite."""


class Equilibrium(eqx.Module):
    """Where a batch of states ended.

    `residual` is ‖(project(s + dt·velocity) − s)/dt‖∞ of the last step, in units of
    velocity; `steps` counts the steps until the example stopped; `status` holds
    `Status` numbers.  All three have the shape `[batch]`.  `remainder` is what the
    state's dtype rounds away from a device's float64 states; `None` otherwise.
    """

    state: State
    steps: Int[Array, " *batch"]
    residual: Float[Array, " *batch"]
    status: Int[Array, " *batch"]
    remainder: State | None = None


class Dynamics(eqx.Module):
    """One example's system under a nudge, the force −β ∂C/∂s (paper A, eq 4).

    A total energy F(β) nudges by −∂/∂s (F(β) − F(0)).  Without y the phase is free.
    """

    system: AbstractSystem
    x: Any
    cost: Any
    y: Any
    beta: Any

    def prepared(self) -> "Dynamics":
        """For many steps: with what the system's `prepared()` makes of it, if any."""
        prepare = getattr(self.system, "prepared", None)
        if prepare is None:
            return self
        return dataclasses.replace(self, system=prepare())

    def velocity(self, s: State) -> State:
        """The system's `forced_velocity` under −β ∂C(readout(s), y)/∂s."""
        if self.y is None:
            return self.system.velocity(self.x, s)
        problem = (self.system, self.cost, self.x, self.y)
        slope = state_gradient(lambda u: nudge_energy(*problem, u, self.beta), s)
        force = jax.tree.map(jnp.negative, slope)
        return self.system.forced_velocity(self.x, s, force)

    def energy(self, s: State) -> Scalar:
        """F = E + β C, which the velocity descends (paper A, eq 3)."""
        value = energy_of(self.system)(self.x, s)
        if self.y is None:
            return value
        problem = (self.system, self.cost, self.x, self.y)
        return value + nudge_energy(*problem, s, self.beta)


class AbstractRelaxation(eqx.Module):
    """Hyper-parameters of a relaxation; subclasses define `step`."""

    steps: eqx.AbstractVar[int]
    tol: eqx.AbstractVar[float | None]

    @abc.abstractmethod
    def step(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> tuple[State, Float[Array, ""]]:
        """One step of one example: the next state and the residual of the step."""

    def step_number(
        self, t: Any, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> tuple[State, Float[Array, ""]]:
        """Step t = 0, 1, … of one example, with a key of its own, in the dtype of s."""
        step_key = None if key is None else jax.random.fold_in(key, t)
        moved, residual = self.step(dynamics, s, step_key)
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, s)
        return moved, residual

    def settle(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> Equilibrium:
        """Step one example until it has settled or the steps have run out."""
        dynamics = dynamics.prepared()

        def step(state, t):
            return self.step_number(t, dynamics, state, key)

        if self.steps == 0:
            # Nothing moves; the residual is that of the step that would be taken.
            _, residual = step(s, 0)
            return self._result((s, s, s), jnp.array(0), residual)
        if self.tol is None:
            return self._settle_steps(dynamics, s, key)
        return self._settle_tolerance(step, s, self.tol)

    def settle_batch(
        self,
        system: AbstractSystem,
        x: PyTree[Array],
        y: PyTree[Array] | None,
        state: State,
        cost: Any,
        beta: Float[Array, "*batch"],
        keys: PRNGKeyArray | None,
    ) -> Equilibrium:
        """A batch of examples, each settled on its own unless overridden."""

        def settle(x, y, state, beta, key):
            return self.settle(Dynamics(system, x, cost, y, beta), state, key)

        axes = (0, 0, 0, 0 if beta.ndim else None, 0)
        return jax.vmap(settle, in_axes=axes)(x, y, state, beta, keys)

    def _settle_steps(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> Equilibrium:
        """Exactly `steps` ≥ 1 steps; only the last two are measured."""

        def step(state, t):
            return self.step_number(t, dynamics, state, key)

        tail = min(2, self.steps)
        head = self.steps - tail
        start = jax.lax.fori_loop(0, head, lambda t, u: step(u, t)[0], s)

        def measured(state, t):
            moved, residual = step(state, t)
            return moved, (state, residual)

        last, (before, residuals) = jax.lax.scan(
            measured, start, head + jnp.arange(tail)
        )
        previous = jax.tree.map(lambda leaf: leaf[-1], before)
        # With a single step there is no period to see: s_{T−2} := s_{T−1}.
        return self._result(
            (last, previous, start), jnp.array(self.steps), residuals[-1]
        )

    def _settle_tolerance(self, step: Callable, s: State, tol: float) -> Equilibrium:
        """At most `steps` steps, stopping once the residual is below `tol`."""

        def moving(carry):
            t, _, residual = carry
            return (t < self.steps) & (residual >= tol) & jnp.isfinite(residual)

        def body(carry):
            t, (last, previous, _), _ = carry
            moved, residual = step(last, t)
            return t + 1, (moved, last, previous), residual

        dtype = jax.eval_shape(step, s, 0)[1].dtype
        # The first residual only has to be finite and not below the tolerance.
        first = (jnp.array(0), (s, s, s), jnp.array(max(2 * tol, 1.0), dtype))
        t, states, residual = jax.lax.while_loop(moving, body, first)
        return self._result(states, t, residual)

    def _result(self, states: Any, steps: Array, residual: Array) -> Equilibrium:
        """Status from s_T, s_{T−1}, s_{T−2} and the residual of the last step."""
        last, previous, before = states
        finite = jnp.isfinite(residual)
        for leaf in jax.tree.leaves(last):
            finite &= jnp.all(jnp.isfinite(leaf))
        tol = jnp.finfo(residual.dtype).eps ** 0.5 if self.tol is None else self.tol
        swing = _distance(last, before) <= 0.1 * _distance(last, previous)
        unsettled = jnp.where(
            swing & (steps >= 2), Status.oscillating, Status.unsettled
        )
        status = jnp.where(residual < tol, Status.settled, unsettled)
        status = jnp.where(finite, status, Status.diverged)
        return Equilibrium(last, steps, residual, status)


def relax(
    system: AbstractSystem,
    x: PyTree[Array],
    relaxation: AbstractRelaxation,
    *,
    state: State | None = None,
    cost: Any = None,
    y: PyTree[Array] | None = None,
    beta: float | Array = 0.0,
    key: PRNGKeyArray | None = None,
) -> Equilibrium:
    """Let a batch of examples settle, freely or nudged by β.

    Each step moves s to project(s + dt (velocity − β ∂C/∂s)) (paper A, eq 43; paper
    D, with dt = 1).

    **Arguments:**

    - `x`, `y`: inputs and targets with a leading batch axis.
    - `state`: batched initial state; `system.init_state(x)` where `None`.
    - `cost`, `y`, `beta`: the nudge; `beta` is one number or one per example
      (dimensionless), and needs the other two.  Of a total energy, y and `beta`.
    - `key`: for stochastic relaxations, split over the batch.

    **Returns:** an `Equilibrium`; it never raises for a state that did not settle.

    **Raises:** `ValueError` if shapes do not agree or a nudge is incomplete.
    """
    check_nudge(system, cost, y, beta)
    if not isinstance(beta, Tracer) and not np.isfinite(beta).all():
        raise ValueError(f"beta is {beta}; it must be finite")
    batch = _check.batch_size(x=x, **({} if y is None else {"y": y}))
    if jnp.ndim(beta) > 1 or (jnp.ndim(beta) == 1 and len(beta) != batch):  # type: ignore[arg-type]
        raise ValueError(
            f"beta has shape {jnp.shape(beta)}; give one number or one per example, "
            f"shape ({batch},)"
        )
    problem = (system, x, relaxation, state, cost, y, jnp.asarray(beta), key)
    found = hear(_relax, *problem)
    if y is not None:
        check_total_energy(system, cost, x, y, found.state)
    return found


def check_nudge(system: AbstractSystem, cost: Any, y: Any, beta: Any) -> None:
    """Errors for half a nudge; a total energy brings its own cost."""
    if cost is None and y is not None and has_total_energy(system):
        return
    if (cost is None) != (y is None):
        raise ValueError("a nudge needs both cost and y; give both or neither")
    if cost is None and not (isinstance(beta, int | float) and beta == 0):
        raise ValueError(f"beta={beta} has no effect without cost and y; give both")


@eqx.filter_jit
def _relax(system, x, relaxation, state, cost, y, beta, key) -> Equilibrium:
    state = initial_state(system, x, state)
    if y is not None:
        _check.check_cost(system, cost, *_check.example((x, y, state)))
    keys = None if key is None else example_keys(key, _check.batch_size(x=x))
    return relaxation.settle_batch(system, x, y, state, cost, beta, keys)


def initial_state(system: AbstractSystem, x: Any, state: State | None) -> State:
    """The checked batched state to start from, in the widest dtype of the system."""
    one = _check.example(x)
    # Holomorphic EP's systems are complex; an init_state of jnp.zeros(n) is not.
    complex_ = [
        jax.ShapeDtypeStruct((), leaf.dtype)
        for leaf in jax.tree.leaves(eqx.filter((system, x), eqx.is_inexact_array))
        if jnp.iscomplexobj(leaf)
    ]

    def start(x):
        return jax.tree.map(
            lambda s: jnp.asarray(s, jnp.result_type(s, *complex_)),
            system.init_state(x),
        )

    _check.initial_state(system, one)
    expected = jax.eval_shape(start, one)
    _check.check_system(system, one, expected)
    if state is None:
        state = jax.vmap(start)(x)
    else:
        _check.batch_size(x=x, state=state)
        _check.check_given_state(system, expected, _check.example(state))
    # A float32 init_state must not round a float64 system, nor a real one a complex.
    real = [
        leaf.dtype
        for leaf in jax.tree.leaves(eqx.filter((system, x), eqx.is_inexact_array))
        if not jnp.iscomplexobj(leaf)
    ]
    velocity = jax.eval_shape(jax.vmap(system.velocity), x, state)
    return jax.tree.map(
        lambda u, v: jnp.asarray(u, jnp.result_type(u, v, *real)), state, velocity
    )


def check_hyperparameters(name: str, steps: Any, tol: Any, **positive: Any) -> None:
    """Errors for what no relaxation accepts; traced values pass."""
    whole = isinstance(steps, int | np.integer) and not isinstance(steps, bool)
    if not whole or not 0 <= steps < 2**31:
        raise ValueError(
            f"{name}: steps is {steps}; it must be a whole number ≥ 0 (below 2**31), "
            "e.g. 20"
        )
    if tol is not None and not 0 < tol < float("inf"):
        raise ValueError(
            f"{name}: tol is {tol}; it must be positive and finite (velocity units), "
            "or None for a fixed number of steps"
        )
    for what, value in positive.items():
        if not (value > 0 and value < float("inf")):
            raise ValueError(
                f"{name}: {what} is {value}; it must be positive and finite, e.g. 0.5"
            )


def _distance(a: State, b: State) -> Array:
    squares = jax.tree.map(lambda u, v: jnp.sum(jnp.abs(u - v) ** 2), a, b)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))
