"""Continual EP: the parameters move at every step of the nudged phase.

With F = potential + β cost and s_{t+1} the step from s_t under θ_t (Ernoult et al.
2020, arXiv 2005.04168),

    θ_{t+1} = θ_t − η (1/β) (∂F/∂θ(s_{t+1}) − ∂F/∂θ(s_t)),  both at θ_t,

mean over the batch, and −(∂velocity/∂θ(s_t))ᵀ (s_{t+1} − s_t) in place of potential
differences where there is no potential (its C-VF).  The first step adds ∂C/∂θ(s⁰), so
that for η → 0 the sum telescopes to EP's contrast.
"""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from ..systems._base import AbstractSystem, has_potential, State
from ..systems._parameters import by_layer, parameter_groups
from ._base import Gradient, replace_ignored, Stats, weighted_mean
from ._equilibrium_propagation import _along, EquilibriumPropagation, Nudging
from ._path import check_nudged, NudgedPath
from ._step import cost_of


class ContinualEquilibriumPropagation(EquilibriumPropagation):
    """C-EP: local in time as in space; the path's end θ_K is what plain SGD reaches.

    The gradient is (θ_0 − θ_K)/η: it is meant for `ep.Optimizer("sgd", (η,))` with η
    the same `learning_rate`, and training with any other optimizer is refused.  As
    η → 0 each step's update is EP's, and as β → 0 also BPTT's.

    **Arguments:**

    - `free`, `nudged`, `beta`: as for `EquilibriumPropagation`; the nudged phase is
      repeated steps (`ep.Euler`, `ep.Sweep`).
    - `nudging`: `"one-sided"` or `"random-sign"`.
    - `learning_rate`: η, one number or one for each layer, positive.
    """

    nudging: Nudging = "one-sided"
    """β against 0, or ±β at random against 0"""
    learning_rate: float | tuple[float, ...] = 0.05
    """η of every step: one, or one per layer from the input side on"""
    recorded: ClassVar[bool] = False

    def __check_init__(self):
        if self.nudging == "centered":
            raise ValueError(
                "nudging is 'centered'; two paths cannot both move the parameters: "
                "choose 'one-sided' or 'random-sign'"
            )
        check_nudged("ContinualEquilibriumPropagation", self.nudged)
        for rate in self._rates or (None,):
            number = isinstance(rate, int | float | np.number | None)
            if number and not (rate is not None and 0 < rate < float("inf")):
                raise ValueError(
                    f"learning_rate is {self.learning_rate}; it must be positive and "
                    "finite, one number or one for each layer, e.g. 0.05"
                )

    @property
    def _rates(self) -> tuple[Any, ...]:
        rate = self.learning_rate
        return tuple(rate) if isinstance(rate, tuple | list) else (rate,)

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
        """The rule itself, step by step: (θ_0 − θ_t)/η in place of its last value.

        **Returns:** a `Gradient` whose `grads` and `cost_grads` lead with t = 0…K, K
        the nudged steps; at t = 0 they are ∂C/∂θ(s⁰), like those of `ep.ep_process`.
        """
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        rule = _Recorded(*fields)
        return rule(system, cost, x, y, state=state, key=key, weight=weight)

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        nudged_key, sign_key = keys
        beta = self._betas(sign_key)[0]
        x, y, start = replace_ignored((x, y, free.state), weight)
        model = (system, cost)
        params = eqx.filter(model, eqx.is_inexact_array)
        rates = self._rates_of(params)

        def learn(total):
            return jax.tree.map(
                lambda p, eta, d: (p - eta * d).astype(p.dtype), params, rates, total
            )

        def increment(model, before, after):
            return _difference(model, x, y, before, after, beta, weight)

        loss, first = _cost_gradient(model, y, start, weight)
        path = NudgedPath(self.nudged, model, x, y, start, beta, nudged_key)
        nudged, total = path.accumulate(first, increment, learn, self.recorded)
        contrast = "potential" if has_potential(system) else "vector-field rule"
        rule = f"continual equilibrium propagation, {self.nudging}, {contrast}"
        values = {
            "nudged_steps": nudged.steps[None],
            "nudged_residual": nudged.residual[None],
            "nudged_status": nudged.status[None],
        }
        grads, cost_grads = total
        return Gradient(loss, grads, cost_grads, free, Stats(rule, values))

    def _rates_of(self, params: PyTree) -> PyTree:
        """η of every parameter."""
        groups = parameter_groups(params)
        rates = by_layer("learning_rate", self._rates, groups)
        return jax.tree.map(lambda name: rates[name], groups)

    def check_optimizer(self, optimizer, params) -> None:
        rates = self._rates_of(params)
        state = optimizer.init(params)
        plain = not jax.tree.leaves(eqx.filter(state, eqx.is_array))
        # Two sizes of gradient, so that a clip shows too.
        for number, size in enumerate((1.0, 1e6)):
            grads = _random_like(params, jax.random.key(number), size)
            updates, state = optimizer.update(grads, state, params)
            plain &= _is_step(updates, grads, rates)
        if not plain:
            names = ", ".join(str(rate) for rate in self._rates)
            raise ValueError(
                "the optimizer is not plain SGD at the rule's own learning_rate "
                f"{self.learning_rate}; continual EP has already moved the parameters "
                f"at that rate: use ep.Optimizer('sgd', ({names},)) without momentum, "
                "schedule or decay, or change estimator.learning_rate"
            )


class _Recorded(ContinualEquilibriumPropagation):
    """The same, of which the gradients lead with t."""

    recorded: ClassVar[bool] = True


def _difference(model, x, y, before, after, beta, weight) -> PyTree:
    """(1/β)(∂F/∂θ(s_{t+1}) − ∂F/∂θ(s_t)), mean over the batch."""

    @eqx.filter_grad
    def gradient(model):
        system, cost = model

        def one(x, y, s, moved) -> Scalar:
            value = cost_of(system, cost, moved, y) - cost_of(system, cost, s, y)
            if has_potential(system):
                change = system.potential(x, moved) - system.potential(x, s)
                return value + change / beta
            drift = jax.tree.map(lambda a, b: (a - b) / beta, moved, s)
            return value - _along(system)(x, s, drift)

        return weighted_mean(jax.vmap(one)(x, y, before, after), weight)

    return gradient(model)


def _cost_gradient(model, y, state, weight) -> tuple[Scalar, PyTree]:
    """Mean cost of the states, and its ∂/∂θ."""

    @eqx.filter_value_and_grad
    def mean_cost(model):
        system, cost = model
        values = jax.vmap(lambda s, y: cost_of(system, cost, s, y))(state, y)
        return weighted_mean(values, weight)

    return mean_cost(model)


def _random_like(params: PyTree, key: PRNGKeyArray, size: float) -> PyTree:
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        size * jax.random.normal(k, jnp.shape(leaf), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def _is_step(updates: PyTree, grads: PyTree, rates: PyTree) -> bool:
    """Whether updates are −η g, to rounding."""
    same = jax.tree.map(
        lambda u, g, eta: bool(
            jnp.allclose(u, -eta * g, rtol=8 * float(jnp.finfo(g.dtype).eps), atol=0)
        ),
        updates,
        grads,
        rates,
    )
    return all(jax.tree.leaves(same))
