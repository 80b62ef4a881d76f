"""Exact EP gradients for dynamics whose Jacobian is not symmetric (arXiv 2602.03670).

With J = ∂velocity/∂s at s⁰, AsymEP relaxes its nudged phases under

    ds/dt = velocity − β ∂C/∂s − (J − Jᵀ)(s − s⁰),

whose linearisation at s⁰ is Jᵀ: (s^β − s^{−β})/2β tends to the q that solves
Jᵀ q = ∂C/∂s, and ∂C/∂θ − (∂velocity/∂θ)ᵀ q is the exact gradient.  Its temporal
derivatives are RBP's error process (paper B, theorem 3, without symmetry).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..relaxations._base import AbstractRelaxation, Dynamics
from ..relaxations._euler import Euler
from ..systems._base import AbstractSystem, AbstractVectorField, State
from ..systems._total_energy import cost_of
from ._base import AbstractEstimator, Gradient, Stats, replace_ignored, weighted_mean
from ._equilibrium_propagation import _along, EquilibriumPropagation
from ._step import check_reference, error_signal, norm


class AsymmetricEquilibriumPropagation(EquilibriumPropagation):
    """AsymEP: EP on the dynamics corrected by −(J − Jᵀ)(s − s⁰) in the nudged phases.

    Exact as β → 0 for every system, with or without a potential, `project` included;
    one Jacobian-vector and one vector-Jacobian product more a step than EP.
    Arguments as for `EquilibriumPropagation`; the nudged phase takes Euler steps.
    """

    def __check_init__(self):
        kind = type(self.nudged).__name__
        if self.nudged.blockwise:
            raise ValueError(
                f"nudged is a {kind}; the correction −(J − Jᵀ)(s − s⁰) couples all "
                "units, so no block is separable: use ep.Euler"
            )
        if self.nudged.outside:
            raise ValueError(
                f"nudged is a {kind}, but a device does not apply the correction "
                "−(J − Jᵀ)(s − s⁰): use ep.Euler (`free` may be the device)"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        corrected = Symmetrized(system)
        anchored = (x, jax.lax.stop_gradient(free.state))
        gradient = super().at(corrected, cost, anchored, y, free, keys, weight)
        rule = f"asymmetric equilibrium propagation, {self.nudging}"
        return Gradient(
            gradient.loss,
            gradient.grads.system,
            gradient.cost_grads,
            free,
            Stats(rule, gradient.stats.values),
        )


class Symmetrized(AbstractVectorField):
    """A system of which the Jacobian at s⁰ is transposed; an example's x is (x, s⁰).

    At s⁰ its velocity and ∂velocity/∂θ are the system's own.
    """

    system: AbstractSystem

    def init_state(self, x: Any) -> State:
        return x[1]

    def project(self, s: State) -> State:
        return self.system.project(s)

    def readout(self, s: State) -> Array:
        return self.system.readout(s)

    @property
    def total_energy(self):
        total = self.system.total_energy
        return total and (lambda x, y, s, beta: total(x[0], y, s, beta))

    def velocity(self, x: Any, s: State) -> State:
        x, anchor = x
        anchor = jax.tree.map(lambda a, u: a.astype(u.dtype), anchor, s)
        away = jax.tree.map(jnp.subtract, s, anchor)

        def velocity(u):
            return self.system.velocity(x, u)

        _, forward = jax.jvp(velocity, (anchor,), (away,))
        (backward,) = jax.vjp(velocity, anchor)[1](away)
        return jax.tree.map(lambda v, f, b: v - f + b, velocity(s), forward, backward)


class DyadicEquilibriumPropagation(AbstractEstimator):
    """Dyadic EP: the state m and a second variable d relax together (arXiv 2602.03670).

    dm/dt = velocity(m), dd/dt = J(m)ᵀ d − β ∂C(m), from (s⁰, 0); the gradient is
    ∂C/∂θ − (∂velocity/∂θ)ᵀ d/β.  d is linear in β, so there is no bias in β: this is
    RBP, carried by a second set of units.

    **Arguments:**

    - `free`: the relaxation of the free phase, which also is m's.
    - `dt`, `steps`: Euler steps of both variables, in neuron time constants.
    - `beta`: scale of d (dimensionless, not 0).
    """

    free: AbstractRelaxation
    """the free phase"""
    dt: float = 0.5
    """step size, in units of the neurons' time constant"""
    steps: int = 20
    """steps of both variables"""
    beta: float = 1.0
    """scale of the second variable (dimensionless, not 0)"""

    def __check_init__(self):
        check_reference("DyadicEquilibriumPropagation", self.free, self.dt, self.steps)
        if not 0 < abs(self.beta) < float("inf"):
            raise ValueError(f"beta is {self.beta}; it must be finite and not 0")

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        x, y, start = replace_ignored((x, y, free.state), weight)

        def dyad(x, y, s):
            dynamics = Dynamics(system, x, None, None, 0.0)

            def step(_, pair):
                m, d = pair
                _, pull = jax.vjp(dynamics.velocity, m)
                push = error_signal(system, cost, x, y, m)
                rate = jax.tree.map(lambda j, c: j - self.beta * c, pull(d)[0], push)
                moved = jax.tree.map(lambda u, v: u + self.dt * v, d, rate)
                at = jax.tree.map(lambda u, v: u + self.dt * v, m, dynamics.velocity(m))
                # A unit of m that `project` holds holds its partner in d at zero.
                _, moved = jax.jvp(system.project, (at,), (moved,))
                return Euler(dt=self.dt).step(dynamics, m, None)[0], moved

            zero = jax.tree.map(jnp.zeros_like, s)
            m, d = jax.lax.fori_loop(0, self.steps, step, (s, zero))
            return m, jax.tree.map(lambda u: u / self.beta, d)

        state, drift = jax.lax.stop_gradient(jax.vmap(dyad)(x, y, start))
        loss, (grads, cost_grads) = _along_drift(
            system, cost, x, y, state, drift, weight
        )
        size = {"error_size": jax.vmap(norm)(drift)}
        stats = Stats("dyadic equilibrium propagation", size)
        return Gradient(loss, grads, cost_grads, free, stats)


def _along_drift(system, cost, x, y, state, drift, weight):
    """Loss, and ∂C/∂θ − (∂velocity/∂θ)ᵀ q, both means over the batch."""

    @eqx.filter_grad(has_aux=True)
    def gradient(model):
        system, cost = model

        def one(x, y, s, q):
            value = cost_of(system, cost, x, y, s)
            return value - _along(system.velocity)(x, s, q), value

        total, value = jax.vmap(one)(x, y, state, drift)
        return weighted_mean(total, weight), weighted_mean(value, weight)

    grads, loss = gradient((system, cost))
    return loss, grads
