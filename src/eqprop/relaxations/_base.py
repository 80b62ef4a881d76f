"""What every relaxation shares: the dynamics it steps, the loop, and the result.

A relaxation is a frozen set of hyper-parameters with one method, `step`, written for
one example.  The loop around it is compiled, stops each example on its own where
there is a tolerance, and says of each example how it ended.
"""

import abc
import dataclasses
import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from ..systems import _check
from ..systems._base import AbstractSystem, energy_of, State, state_gradient
from ..systems._norm import norm
from ..systems._total_energy import (
    check_total_energy,
    has_total_energy,
    nudge_energy,
)
from ._keys import example_keys
from ._numbers import traced
from ._outside import hear
from ._projected import largest, projected


class Status(enum.IntEnum):
    """How an example's relaxation ended; `Equilibrium.status` holds these numbers."""

    settled = 0
    """The residual at the returned state is below the tolerance (√ε of the dtype
    where the relaxation has none)."""
    unsettled = 1
    """It is not: the steps ran out, or are too small to change the rounded state."""
    oscillating = 2
    """Unsettled, and the last two steps all but cancel (period 2)."""
    diverged = 3
    """The state or its residual is not finite."""


class Equilibrium(eqx.Module):
    """Where a batch of states ended.

    `residual` is evaluated at `state`: for `Euler` the largest projected velocity
    ‖(project(s + dt·velocity) − s)/dt‖∞ (state per unit time), for `Sweep` the largest
    projected velocity / curvature (units of the state).  It is that of real numbers:
    the rounding of s + dt·velocity does not enter it.  `steps` counts the steps until
    the example stopped; `status` holds `Status` numbers.  All have the shape `[batch]`.
    `remainder` is the part of a device's float64 state that the dtype of `state` rounds
    away; `None` otherwise.
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
    exact: bool | Array = eqx.field(default=True, init=False, repr=False)
    """whether `residual` is evaluated after a fixed number of steps; training asks for
    it on some batches only (`with_exact`)"""

    @abc.abstractmethod
    def step(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> tuple[State, Float[Array, ""]]:
        """One step of one example: the next state, and a measure of how far it moved.

        A loop with a tolerance stops by this measure, and then asks `residual`.
        """

    def residual(self, dynamics: Dynamics, s: State) -> Float[Array, ""]:
        """How far the state s of one example is from rest: ‖projected velocity‖∞.

        That is ‖project(s + velocity) − s‖∞, without the rounding of s + velocity.
        """
        velocity = dynamics.velocity(s)
        return largest(projected(dynamics.system.project, s, velocity))

    def measured(
        self, dynamics: Dynamics, s: State, last: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The residual at s, or `last`, the last step's, where that will do."""

        def at_state():
            return self.residual(dynamics, s).astype(last.dtype)

        if self.tol is not None or self.exact is True:
            return at_state()
        return jax.lax.cond(self.exact, at_state, lambda: last)

    def refuse(
        self,
        system: AbstractSystem,
        x: PyTree[Array],
        start: State | None,
        found: Equilibrium,
        nudge: tuple[Any, Any, Any] = (None, None, 0.0),
    ) -> None:
        """Raise if a batch failed because the system does not suit the relaxation.

        Called outside of `jax.jit`; `nudge` is (cost, y, β).
        """

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
        if self.steps == 0:
            return self._result((s, s, s), jnp.array(0), self.residual(dynamics, s))
        if self.tol is None:
            return self._settle_steps(dynamics, s, key)
        return self._settle_tolerance(dynamics, s, key, self.tol)

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
        residual = self.measured(dynamics, last, residuals[-1])
        # With a single step there is no period to see: s_{T−2} := s_{T−1}.
        return self._result((last, previous, start), jnp.array(self.steps), residual)

    def _settle_tolerance(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None, tol: float
    ) -> Equilibrium:
        """At most `steps` steps, stopping once the residual is below `tol`.

        The steps go on until their own measure is below a goal, first `tol`.  Where
        the residual at that state is not, the goal is lowered and they go on.
        """

        def step(state, t):
            return self.step_number(t, dynamics, state, key)

        def unsettled(carry):
            t, _, residual, _ = carry
            return (t < self.steps) & (residual >= tol) & jnp.isfinite(residual)

        def approach(carry):
            # Under vmap an example that has settled is here again, and must not step.
            going, (t, states, _, goal) = unsettled(carry), carry

            def moving(inner):
                t, _, seen = inner
                return going & (t < self.steps) & (seen >= goal) & jnp.isfinite(seen)

            def body(inner):
                t, (last, previous, _), _ = inner
                moved, seen = step(last, t)
                return t + 1, (moved, last, previous), seen

            t, states, seen = jax.lax.while_loop(moving, body, (t, states, first))
            residual = self.residual(dynamics, states[0]).astype(first.dtype)
            return t, states, residual, jnp.minimum(goal, seen) / 2

        dtype = jax.eval_shape(step, s, 0)[1].dtype
        # The first residual only has to be finite and not below the tolerance.
        first = goal = jnp.asarray(tol, dtype)
        t, states, residual, _ = jax.lax.while_loop(
            unsettled, approach, (jnp.array(0), (s, s, s), first, goal)
        )
        return self._result(states, t, residual)

    def _result(self, states: Any, steps: Array, residual: Array) -> Equilibrium:
        """Status from s_T, s_{T−1}, s_{T−2} and the residual at s_T."""
        last = states[0]
        finite = jnp.isfinite(residual)
        for leaf in jax.tree.leaves(last):
            finite &= jnp.all(jnp.isfinite(leaf))
        tol = jnp.finfo(residual.dtype).eps ** 0.5 if self.tol is None else self.tol
        unsettled = jnp.where(
            _cancel(*states) & (steps >= 2), Status.oscillating, Status.unsettled
        )
        status = jnp.where(residual < tol, Status.settled, unsettled)
        status = jnp.where(finite, status, Status.diverged)
        return Equilibrium(last, steps, residual, status)


def with_exact(tree: Any, exact: bool | Array) -> Any:
    """`tree` with relaxations that evaluate their residual where `exact` is true.

    Those with a tolerance do so in any case.
    """

    def is_relaxation(value):
        return isinstance(value, AbstractRelaxation)

    def replace(value):
        if not is_relaxation(value):
            return value
        # As equinox does; its tree_at cannot reach a field that has its default.
        copy = object.__new__(type(value))
        for field in dataclasses.fields(value):
            given = exact if field.name == "exact" else getattr(value, field.name)
            object.__setattr__(copy, field.name, given)
        return copy

    return jax.tree.map(replace, tree, is_leaf=is_relaxation)


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

    **Raises:** `ValueError` if shapes do not agree, a nudge is incomplete, or
        (outside of `jax.jit`) the curvature that `Sweep` divides by is not positive.
    """
    check_nudge(system, cost, y, beta)
    if not isinstance(beta, Tracer) and not np.isfinite(beta).all():
        raise ValueError(f"beta is {beta}; it must be finite")
    x, *rest = _check.batch(x=x, **({} if y is None else {"y": y}))
    y = None if y is None else rest[0]
    state, batch = _check.as_arrays("state", state), _check.batch_size(x=x)
    if jnp.ndim(beta) > 1 or (jnp.ndim(beta) == 1 and len(beta) != batch):  # type: ignore[arg-type]
        raise ValueError(
            f"beta has shape {jnp.shape(beta)}; give one number or one per example, "
            f"shape ({batch},)"
        )
    relaxation = traced(relaxation, system, x, state, cost, y, beta)
    problem = (system, x, relaxation, state, cost, y, jnp.asarray(beta), key)
    found = hear(_relax, *problem)
    if not isinstance(found.residual, Tracer):
        relaxation.refuse(system, x, state, found, (cost, y, beta))
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
    known = not isinstance(tol, Tracer)
    if tol is not None and known and not 0 < tol < float("inf"):
        raise ValueError(
            f"{name}: tol is {tol}; it must be positive and finite, a residual, "
            "or None for a fixed number of steps"
        )
    for what, value in positive.items():
        if not isinstance(value, Tracer) and not 0 < value < float("inf"):
            raise ValueError(
                f"{name}: {what} is {value}; it must be positive and finite, e.g. 0.5"
            )


def _cancel(last: State, previous: State, before: State) -> Array:
    """Whether ‖s_T − s_{T−2}‖ ≤ 0.1 ‖s_T − s_{T−1}‖ > 0."""
    single, double = (
        norm(jax.tree.map(jnp.subtract, last, other)) for other in (previous, before)
    )
    return (single > 0) & (double <= 0.1 * single)
