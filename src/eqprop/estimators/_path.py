"""A batch on its nudged path, for the rules that learn at every step of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ..relaxations._base import AbstractRelaxation, Dynamics, Equilibrium
from ..relaxations._keys import example_keys
from ..systems import _check
from ..systems._base import AbstractSystem, State
from ._base import Gradient
from ._equilibrium_propagation import EquilibriumPropagation


class Walk(eqx.Module):
    """Where the examples are: s_t, s_{t−1}, s_{t−2}, and the last step of each."""

    states: tuple[State, State, State]
    steps: Int[Array, " batch"]
    residual: Float[Array, " batch"]


class NudgedPath(eqx.Module):
    """The nudged phase of a batch; `model` is the pair (system, cost) at its start."""

    relaxation: AbstractRelaxation
    model: Any
    x: PyTree[Array]
    y: PyTree[Array]
    start: State
    beta: Any
    key: PRNGKeyArray | None

    def accumulate(
        self,
        first: PyTree,
        increment: Callable[[Any, State, State], PyTree],
        learn: Callable[[PyTree], tuple[PyTree, PyTree]] | None = None,
        record: bool = False,
    ) -> tuple[Equilibrium, PyTree]:
        """total_{t+1} = total_t + increment(model_t, s_t, s_{t+1}), total_0 = `first`.

        - `learn(total_{t+1})`: the parameters of model_{t+1}, and the total that leads
          to them; without it the parameters stay.
        - `record`: return every total_t, t = 0…steps on a leading axis, not the last.
        """
        params, static = eqx.partition(self.model, eqx.is_inexact_array)

        def step(t, carry):
            walk, params, total = carry
            model = eqx.combine(params, static)
            moved = self._step(t, model, walk)
            added = increment(model, walk.states[0], moved.states[0])
            total = jax.tree.map(jnp.add, total, added)
            if learn is not None:
                params, total = learn(total)
            return moved, params, total

        def body(carry, t):
            if self.relaxation.tol is None:
                carry = step(t, carry)
            else:
                moving = jnp.any(self._moving(carry[0]))
                carry = jax.lax.cond(
                    moving, lambda carry: step(t, carry), lambda carry: carry, carry
                )
            return carry, carry[2] if record else None

        times = jnp.arange(self.relaxation.steps)
        carry = (self._begin(), params, first)
        (walk, params, total), totals = jax.lax.scan(body, carry, times)
        if record:
            total = jax.tree.map(
                lambda a, rest: jnp.concatenate([a[None], rest]), first, totals
            )
        residual = self._residual(eqx.combine(params, static), walk)
        result = jax.vmap(self.relaxation._result)
        return result(walk.states, walk.steps, residual), total

    def _residual(self, model: Any, walk: Walk) -> Float[Array, " batch"]:
        """Where the walk ends, under the parameters of its end."""
        system, cost = model

        def one(x, y, s, last):
            dynamics = Dynamics(system, x, cost, y, self.beta)
            return self.relaxation.measured(dynamics, s, last)

        return jax.vmap(one)(self.x, self.y, walk.states[0], walk.residual)

    def _begin(self) -> Walk:
        batch = _check.batch_size(x=self.x)
        start = (self.start,) * 3
        moved = jax.eval_shape(lambda s: self._move(0, self.model, s), self.start)
        # The first residual only has to be finite and not below the tolerance.
        residual = jnp.full(batch, self._tol, float)
        return Walk(start, jnp.zeros(batch, int), residual.astype(moved[1].dtype))

    def _move(self, t: Any, model: Any, s: State) -> tuple[State, Array]:
        """The next states of the batch under the parameters of `model`."""
        system, cost = model
        batch = _check.batch_size(x=self.x)
        keys = None if self.key is None else example_keys(self.key, batch)

        def one(x, y, s, key):
            dynamics = Dynamics(system, x, cost, y, self.beta)
            return self.relaxation.step_number(t, dynamics, s, key)

        return jax.vmap(one)(self.x, self.y, s, keys)

    def _step(self, t: Any, model: Any, walk: Walk) -> Walk:
        """One step, at which an example that has settled stays where it is."""
        state, residual = self._move(t, model, walk.states[0])
        moved = Walk((state, *walk.states[:2]), walk.steps + 1, residual)
        if self.relaxation.tol is None:
            return moved
        moving = self._moving(walk)

        def keep(new, old):
            return jnp.where(moving.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(keep, moved, walk)

    @property
    def _tol(self) -> Any:
        return 0.0 if self.relaxation.tol is None else self.relaxation.tol

    def _moving(self, walk: Walk) -> Bool[Array, " batch"]:
        return (walk.residual >= self._tol) & jnp.isfinite(walk.residual)


class PathRule(EquilibriumPropagation):
    """EP whose nudged phase is repeated steps, at each of which something is learnt."""

    recorded: ClassVar[bool] = False

    def __check_init__(self):
        if not isinstance(self.nudged, AbstractRelaxation):
            return  # refused by EP's own check
        if not self.common_noise:
            raise ValueError(
                "common_noise is False; the rule learns along one nudged path and "
                "contrasts no phases of other noise: leave common_noise out"
            )
        if self.nudged.steps == 0:
            raise ValueError(
                "nudged.steps is 0; the rule learns along the nudged path, so it must "
                "be at least 1"
            )
        if type(self.nudged).settle is not AbstractRelaxation.settle:
            raise ValueError(
                f"nudged is a {type(self.nudged).__name__}, which settles in a way of "
                "its own and not step after step; the rule learns at every step: use "
                "ep.Euler or ep.Sweep"
            )

    def path(
        self,
        system: AbstractSystem,
        cost: Any,
        x: PyTree[Array],
        y: PyTree[Array],
        *,
        state: State | None = None,
        key: PRNGKeyArray | None = None,
        weight: Float[Array, " batch"] | None = None,
    ) -> Gradient:
        """The rule itself, of which the gradients are those after t = 0…K steps.

        **Returns:** a `Gradient` whose `grads` and `cost_grads` lead with t, K the
        nudged steps; at t = 0 they are ∂C/∂θ(s⁰), like those of `ep.ep_process`.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rule = _recorded(type(self))(**fields)
        return rule(system, cost, x, y, state=state, key=key, weight=weight)


@functools.cache
def _recorded(kind: type[PathRule]) -> type[PathRule]:
    """The same rule with gradients that lead with t."""
    return type(kind.__name__, (kind,), {"recorded": True})
