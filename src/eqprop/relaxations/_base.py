"""The base of relaxations: the dynamics, the loop around a step, and the result.

A relaxation is a frozen set of hyper-parameters with one method, `step`, written for
one example.  The loop around it is compiled.  With a tolerance it stops each example
separately.  It returns a status for each example.
"""

import abc
import dataclasses
import enum
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from ..systems._base import (
    AbstractSystem,
    Declared,
    energy_of,
    State,
    state_gradient,
)
from ..systems._check import is_whole
from ..systems._norm import norm
from ..systems._total_energy import nudge_energy
from ._projected import largest, projected


class Status(enum.IntEnum):
    """How an example's relaxation ended; `Equilibrium.status` holds these numbers."""

    settled = 0
    """The residual at the returned state is below the tolerance (√ε of the dtype if
    the relaxation has no tolerance)."""
    unsettled = 1
    """The residual is not below the tolerance: the steps ran out, or they are too small
    to change the rounded state."""
    oscillating = 2
    """Unsettled, and the last two steps nearly cancel (period 2)."""
    diverged = 3
    """The state or its residual is not finite."""


class Equilibrium(eqx.Module):
    """The states of a batch after a relaxation, and how it ended for each example.

    - `residual`, evaluated at `state`: for `Euler` the largest projected velocity
      ‖(project(s + dt·velocity) − s)/dt‖∞ (state per unit time), for `Sweep` the
      largest projected velocity / curvature (units of the state).  It excludes the
      rounding of s + dt·velocity.
    - `steps`: the steps until the example stopped.
    - `status`: `Status` numbers.
    - `remainder`: the part of a device's float64 state that the dtype of `state` cannot
      hold; `None` for computed states.

    `residual`, `steps` and `status` have the shape `[batch]`.
    """

    state: State
    steps: Int[Array, " *batch"]
    residual: Float[Array, " *batch"]
    status: Int[Array, " *batch"]
    remainder: State | None = None


class Dynamics(eqx.Module):
    """One example's system under a nudge, the force −β ∂C/∂s (paper A, eq 4).

    For a total energy F(β) the force is −∂/∂s (F(β) − F(0)).  Without y the phase is
    free.
    """

    system: AbstractSystem
    x: Any
    cost: Any
    y: Any
    beta: Any

    def prepared(self) -> "Dynamics":
        """Return these dynamics with the system prepared for many steps."""
        return dataclasses.replace(self, system=self.system.prepared())

    def velocity(self, s: State) -> State:
        """Return the system's `forced_velocity` under −β ∂C(readout(s), y)/∂s."""
        if self.y is None:
            return self.system.velocity(self.x, s)
        problem = (self.system, self.cost, self.x, self.y)
        slope = state_gradient(lambda u: nudge_energy(*problem, u, self.beta), s)
        force = jax.tree.map(jnp.negative, slope)
        return self.system.forced_velocity(self.x, s, force)

    def energy(self, s: State) -> Scalar:
        """Return F = E + β C, which the velocity descends (paper A, eq 3)."""
        value = energy_of(self.system)(self.x, s)
        if self.y is None:
            return value
        problem = (self.system, self.cost, self.x, self.y)
        return value + nudge_energy(*problem, s, self.beta)


class AbstractRelaxation(Declared):
    """Hyper-parameters of a relaxation; a subclass defines `steps`, `tol` and `step`.

    The other members have defaults.  Learning rules, training and verification read
    them; they do not ask for the class.
    """

    steps: eqx.AbstractVar[int]
    tol: eqx.AbstractVar[float | None]
    exact: bool | Array = eqx.field(default=True, init=False, repr=False)
    """whether to evaluate `residual` after a fixed number of steps; training does so on
    some batches only (`with_exact`)"""

    dt = cast(float | None, None)
    """step size, in units of the neurons' time constant; `None` without such steps"""
    blockwise = False
    """whether it moves the system's blocks in turn, and so needs `blocks()`"""
    draws_noise = False
    """whether it draws random numbers: it needs a key, and never settles"""
    outside = False
    """whether it calls a user's program (a device) for the states: it has no `step`"""

    @abc.abstractmethod
    def step(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> tuple[State, Float[Array, ""]]:
        """Return the next state of one example, and a measure of how far it moved.

        A loop with a tolerance stops by this measure, and then evaluates `residual`.
        """

    def residual(self, dynamics: Dynamics, s: State) -> Float[Array, ""]:
        """Return ‖projected velocity‖∞ of one example at the state s.

        That is ‖project(s + velocity) − s‖∞, without the rounding of s + velocity.
        """
        velocity = dynamics.velocity(s)
        return largest(projected(dynamics.system.project, s, velocity))

    def measured(
        self, dynamics: Dynamics, s: State, last: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Return the residual at s, or `last` (of the last step) if that suffices."""

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
        """Raise `ValueError` if a batch failed because the system is unsuitable.

        `relax` calls it outside `jax.jit`; `nudge` is (cost, y, β).
        """

    def step_number(
        self, t: Any, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> tuple[State, Float[Array, ""]]:
        """Make step t = 0, 1, … of one example, with its own key, in the dtype of s."""
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
        """Settle a batch of examples; by default, each example separately."""

        def settle(x, y, state, beta, key):
            return self.settle(Dynamics(system, x, cost, y, beta), state, key)

        axes = (0, 0, 0, 0 if beta.ndim else None, 0)
        return jax.vmap(settle, in_axes=axes)(x, y, state, beta, keys)

    def _settle_steps(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None
    ) -> Equilibrium:
        """Make exactly `steps` ≥ 1 steps; measure only the last two."""

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
        # A single step shows no period: s_{T−2} := s_{T−1}.
        return self._result((last, previous, start), jnp.array(self.steps), residual)

    def _settle_tolerance(
        self, dynamics: Dynamics, s: State, key: PRNGKeyArray | None, tol: float
    ) -> Equilibrium:
        """Make at most `steps` steps; stop once the residual is below `tol`.

        The steps continue until their own measure is below a goal, at first `tol`.  If
        the residual at that state is not below `tol`, lower the goal and continue.
        """

        def step(state, t):
            return self.step_number(t, dynamics, state, key)

        def unsettled(carry):
            t, _, residual, _ = carry
            return (t < self.steps) & (residual >= tol) & jnp.isfinite(residual)

        def approach(carry):
            # Under vmap, an example that has settled gets here again; do not step it.
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
        # The first residual must only be finite and not below the tolerance.
        first = goal = jnp.asarray(tol, dtype)
        t, states, residual, _ = jax.lax.while_loop(
            unsettled, approach, (jnp.array(0), (s, s, s), first, goal)
        )
        return self._result(states, t, residual)

    def _result(self, states: Any, steps: Array, residual: Array) -> Equilibrium:
        """Return the result; its status follows from s_T, s_{T−1}, s_{T−2}."""
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
    """Return `tree` with relaxations that evaluate their residual if `exact` is true.

    Relaxations with a tolerance always evaluate it.
    """

    def is_relaxation(value):
        return isinstance(value, AbstractRelaxation)

    def replace(value):
        if not is_relaxation(value):
            return value
        # Copy as equinox does: its tree_at cannot reach a field that has its default.
        copy = object.__new__(type(value))
        for field in dataclasses.fields(value):
            given = exact if field.name == "exact" else getattr(value, field.name)
            object.__setattr__(copy, field.name, given)
        return copy

    return jax.tree.map(replace, tree, is_leaf=is_relaxation)


def check_hyperparameters(name: str, steps: Any, tol: Any, **positive: Any) -> None:
    """Raise `ValueError` for values that no relaxation accepts; traced values pass."""
    if not is_whole(steps) or not 0 <= steps < 2**31:
        raise ValueError(
            f"{name}: steps is {steps}; it must be a whole number ≥ 0 (below 2**31), "
            "e.g. 20"
        )
    known = not isinstance(tol, Tracer)
    if tol is not None and known and not 0 < tol < float("inf"):
        raise ValueError(
            f"{name}: tol is {tol}; it must be positive and finite (a residual), or "
            "None for a fixed number of steps"
        )
    for what, value in positive.items():
        if not isinstance(value, Tracer) and not 0 < value < float("inf"):
            raise ValueError(
                f"{name}: {what} is {value}; it must be positive and finite, e.g. 0.5"
            )


def _cancel(last: State, previous: State, before: State) -> Array:
    """Return whether ‖s_T − s_{T−2}‖ ≤ 0.1 ‖s_T − s_{T−1}‖ > 0."""
    single, double = (
        norm(jax.tree.map(jnp.subtract, last, other)) for other in (previous, before)
    )
    return (single > 0) & (double <= 0.1 * single)
