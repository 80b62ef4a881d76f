"""Continual EP: the parameters move at every step of the nudged phase.

With F = potential + β cost and s_{t+1} the step from s_t under θ_t (Ernoult et al.
2020, arXiv 2005.04168),

    θ_{t+1} = θ_t − η (1/β) (∂F/∂θ(s_{t+1}) − ∂F/∂θ(s_t)),  both at θ_t,

mean over the batch, and −(∂μ/∂θ(s_t))ᵀ (s_{t+1} − s_t) in place of potential
differences where there is no potential (its C-VF).  The first step adds ∂C/∂θ(s⁰), so
that for η → 0 the sum telescopes to EP's contrast.  A system with
`project_parameters` applies it to every θ_{t+1}.
"""

import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Scalar

from ..systems._base import has_potential, learning_field
from ..systems._total_energy import nudge_energy
from ..systems._parameters import by_layer, inside_bounds, parameter_groups
from ._base import Gradient, replace_ignored, Stats, weighted_mean
from ._equilibrium_propagation import _along, _stats, Nudging
from ._path import NudgedPath, PathRule
from ._rounding import rounding
from ._step import mean_cost


class ContinualEquilibriumPropagation(PathRule):
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

    no_adjoint: ClassVar[str] = (
        "moves the parameters and gives no gradient of the loss above the layer"
    )
    nudging: Nudging = "one-sided"
    """β against 0, or ±β at random against 0"""
    learning_rate: float | tuple[float, ...] = 0.05
    """η of every step: one, or one per layer from the input side on"""

    def __check_init__(self):
        if self.nudging == "centered":
            raise ValueError(
                "nudging is 'centered'; two paths cannot both move the parameters: "
                "choose 'one-sided' or 'random-sign'"
            )
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

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        nudged_key, sign_key = keys
        beta = self._betas(sign_key)[0]
        x, y, start = replace_ignored((x, y, free.state), weight)
        model = (system, cost)
        params, static = eqx.partition(model, eqx.is_inexact_array)
        rates = self._rates_of(params)

        def learn(total):
            moved = jax.tree.map(
                lambda p, eta, d: (p - eta * d).astype(p.dtype), params, rates, total
            )
            inside = inside_bounds(moved, static)
            if inside is moved:
                return moved, total
            reached = jax.tree.map(
                lambda p, eta, q: ((p - q) / eta).astype(p.dtype), params, rates, inside
            )
            return inside, reached

        def increment(model, before, after):
            return _difference(model, x, y, before, after, beta, weight)

        loss, first = mean_cost(model, x, y, start, weight)
        path = NudgedPath(self.nudged, model, x, y, start, beta, nudged_key)
        nudged, total = path.accumulate(first, increment, learn, self.recorded)
        phases = jax.tree.map(lambda leaf: leaf[None], nudged)
        error = rounding(system, self.nudged, nudged.state, start)
        measured = _stats(self.nudging, has_potential(system), phases, error)
        stats = Stats(f"continual {measured['rule']}", measured.values)
        grads, cost_grads = total
        return Gradient(loss, grads, cost_grads, free, stats)

    def _rates_of(self, params: PyTree) -> PyTree:
        """η of every parameter."""
        groups = parameter_groups(params)
        rates = by_layer("learning_rate", self._rates, groups)
        return jax.tree.map(lambda name: rates[name], groups)

    def check_devices(self, devices, batch_size) -> None:
        if devices > 1:
            raise ValueError(
                f"{type(self).__name__} moves the parameters by a step of the whole "
                f"batch while it settles, and {devices} devices would each move them "
                "by a part of it; train it on one device"
            )

    def check_optimizer(self, optimizer, params) -> None:
        rates = self._rates_of(params)
        # Drawn parameters: a decay of parameters that start at 0 shows too.
        params = _drawn(params, 2, 1.0)
        state = optimizer.init(params)
        plain = not jax.tree.leaves(eqx.filter(state, eqx.is_array))
        # Two sizes of gradient, so that a clip shows too.
        for number, size in enumerate((1.0, 1e6)):
            grads = _drawn(params, number, size)
            updates, state = optimizer.update(grads, state, params)
            plain &= _is_step(updates, grads, rates)
        if not plain:
            names = ", ".join(str(rate) for rate in self._rates)
            raise ValueError(
                "the optimizer is not plain SGD at the rule's own learning_rate "
                f"{self.learning_rate}; continual EP has already moved the parameters "
                f"at that rate: use ep.Optimizer('sgd', ({names},)) without momentum, "
                "schedule, decay or projection (--optimizer.name sgd --optimizer.lr "
                "…), or change estimator.learning_rate with it. Bounds belong into the "
                "system's project_parameters"
            )


def _difference(model, x, y, before, after, beta, weight) -> PyTree:
    """(1/β)(∂F/∂θ(s_{t+1}) − ∂F/∂θ(s_t)), mean over the batch."""

    @eqx.filter_grad
    def gradient(model):
        system, cost = model

        def one(x, y, s, moved) -> Scalar:
            energy = functools.partial(nudge_energy, system, cost, x, y)
            value = (energy(moved, beta) - energy(s, beta)) / beta
            if has_potential(system):
                change = system.potential(x, moved) - system.potential(x, s)
                return value + change / beta
            drift = jax.tree.map(lambda a, b: (a - b) / beta, moved, s)
            return value - _along(learning_field(system))(x, s, drift)

        return weighted_mean(jax.vmap(one)(x, y, before, after), weight)

    return gradient(model)


def _drawn(params: PyTree, seed: int, size: float) -> PyTree:
    """Random numbers like these parameters."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(
        lambda p: jnp.asarray(size * draw(size=p.shape), p.dtype), params
    )


def _is_step(updates: PyTree, grads: PyTree, rates: PyTree) -> bool:
    """Whether updates are −η g, to rounding."""

    def same(update, grad, rate):
        rounding = 8 * float(jnp.finfo(grad.dtype).eps)
        step = -float(rate) * np.asarray(grad)
        return np.allclose(np.asarray(update), step, rtol=rounding, atol=0)

    return all(jax.tree.leaves(jax.tree.map(same, updates, grads, rates)))
