"""Langevin dynamics at a temperature T: ds = velocity dt + √(2T) dB.

If velocity = −∂F/∂s, its stationary law is p(s) ∝ e^{−F(s)/T} (the stochastic
framework of paper A).  Euler–Maruyama steps of finite dt have another law, with
variance T/(k (1 − k dt/2)) along a direction of curvature k.  The Metropolis step
restores e^{−F/T} (MALA: Roberts & Tweedie 1996).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.scipy.special import ndtr
from jaxtyping import Array, PRNGKeyArray, Scalar

from ..systems._base import State
from ._base import (
    AbstractRelaxation,
    check_hyperparameters,
    Dynamics,
    Equilibrium,
    Status,
)
from ._projected import largest, projected


class Chain(eqx.Module):
    """The state of a chain, with the velocity and energy that its next step needs."""

    state: State
    velocity: State
    energy: Scalar | None


class Langevin(AbstractRelaxation):
    """s' = s + dt velocity + √(2 T dt) ξ, accepted or rejected if `adjusted`.

    With `adjusted`, the law of the chain is exactly e^{−F/T}, F = E + β C, for any dt.
    This needs an energy.  Proposals outside the bounds are rejected (the law is
    e^{−F/T} within them), and so are nearly all proposals of low probability.  So a
    chain does not move if many units are at their bounds, or if it starts cold and far
    away.  Then look at the acceptance, use a smaller dt, or start the chain at the end
    of an unadjusted phase.  Without `adjusted`, each step is projected like Euler's;
    probability accumulates at the bounds (they do not reflect).

    A chain never settles: its `status` is `unsettled`, or `diverged` if the state or
    the velocity is not finite.  Its `residual` is that of the drift.  `ep.relax` and
    the estimators need a `key`.

    **Arguments:**

    - `dt`: step size, in units of the neurons' time constant.
    - `steps`: steps of the chain.
    - `temperature`: T, in units of energy; positive (`ep.Euler` is T = 0).
    - `adjusted`: Metropolis–Hastings steps.
    """

    dt: float = 0.2
    """step size, in units of the neurons' time constant"""
    steps: int = 100
    """number of steps of the chain"""
    temperature: float = 1e-3
    """T, in units of energy"""
    adjusted: bool = True
    """accept or reject each step, so that the law is e^{−F/T} (needs an energy)"""
    tol: float | None = None
    """always None, because noise does not settle"""
    draws_noise = True

    def __check_init__(self):
        if self.tol is not None:
            raise ValueError(
                f"Langevin: tol is {self.tol}; it must be None, because a chain with "
                "noise never settles"
            )
        if not isinstance(self.temperature, Tracer) and self.temperature == 0:
            raise ValueError("Langevin: temperature is 0; use ep.Euler, which is T = 0")
        positive = {"dt": self.dt, "temperature": self.temperature}
        check_hyperparameters("Langevin", self.steps, None, **positive)

    def step(self, dynamics: Dynamics, s: State, key):
        chain, _ = self.move(dynamics, self.start(dynamics, s), checked_key(key))
        return chain.state, self._residual(dynamics, chain)

    def settle(self, dynamics: Dynamics, s: State, key) -> Equilibrium:
        key, start = checked_key(key), self.start(dynamics, s)
        chain, _ = self.run(dynamics, start, key, 0, self.steps)
        return self.end(dynamics, chain)

    def start(self, dynamics: Dynamics, s: State) -> Chain:
        """Return the chain that starts at `s`, projected if `adjusted`."""
        s = dynamics.system.project(s) if self.adjusted else s
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(s)):
            raise ValueError(
                "Langevin: the state is complex, but e^(−F/T) needs a real energy; "
                "use ep.Euler"
            )
        return self._chain(dynamics, s)

    def run(
        self, dynamics: Dynamics, chain: Chain, key: PRNGKeyArray, first: Any, last: Any
    ) -> tuple[Chain, Array]:
        """Make steps first, …, last − 1; return the chain and its acceptances' sum."""

        def body(t, carry):
            chain, total = carry
            chain, acceptance = self.move(dynamics, chain, jax.random.fold_in(key, t))
            return chain, total + acceptance

        zero = jnp.zeros((), jax.tree.leaves(chain.state)[0].dtype)
        return jax.lax.fori_loop(first, last, body, (chain, zero))

    def move(
        self, dynamics: Dynamics, chain: Chain, key: PRNGKeyArray
    ) -> tuple[Chain, Array]:
        """Make one step; return the chain and the probability of acceptance."""
        system, dt = dynamics.system, self.dt
        noise, threshold = _draw(key, chain.state)
        noise = system.tangent(noise)
        width = (2 * self.temperature * dt) ** 0.5
        drifted = jax.tree.map(lambda s, v: s + dt * v, chain.state, chain.velocity)
        raw = jax.tree.map(lambda s, n: s + width * n, drifted, noise)
        proposal = self._chain(dynamics, system.project(raw))
        if not self.adjusted:
            return proposal, jnp.ones_like(threshold)

        def noise_back(new, v, old):
            return (old - new - dt * v) / width

        back = jax.tree.map(noise_back, proposal.state, proposal.velocity, chain.state)
        fall = (chain.energy - proposal.energy) / self.temperature  # type: ignore[operator]
        # log of e^{−F(s')/T} q(s|s') / (e^{−F(s)/T} q(s'|s))
        log_ratio = fall + (_squares(noise) - _squares(back)) / 2
        inside = _equal(raw, proposal.state) & ~jnp.isnan(log_ratio)
        log_ratio = jnp.where(inside, log_ratio, -jnp.inf)
        accepted = threshold < log_ratio
        chain = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old), proposal, chain
        )
        acceptance = jnp.exp(jnp.minimum(log_ratio, 0)).astype(threshold.dtype)
        return chain, acceptance

    def end(self, dynamics: Dynamics, chain: Chain) -> Equilibrium:
        """Return the state of the chain as the result of a relaxation."""
        residual = self._residual(dynamics, chain)
        finite = jnp.isfinite(residual)
        for leaf in jax.tree.leaves(chain.state):
            finite &= jnp.all(jnp.isfinite(leaf))
        status = jnp.where(finite, Status.unsettled, Status.diverged)
        return Equilibrium(chain.state, jnp.array(self.steps), residual, status)

    def _chain(self, dynamics: Dynamics, s: State) -> Chain:
        velocity = dynamics.system.tangent(dynamics.velocity(s))
        velocity = jax.tree.map(lambda v, u: v.astype(u.dtype), velocity, s)
        return Chain(s, velocity, dynamics.energy(s) if self.adjusted else None)

    def _residual(self, dynamics: Dynamics, chain: Chain) -> Array:
        step = jax.tree.map(lambda v: self.dt * v, chain.velocity)
        project = dynamics.system.project
        return largest(projected(project, chain.state, step)) / self.dt


def checked_key(key: PRNGKeyArray | None) -> PRNGKeyArray:
    """Return the key; raise `ValueError` if it is `None`."""
    if key is None:
        raise ValueError("ep.Langevin draws random numbers; pass key=jax.random.key(0)")
    return key


def _draw(key: PRNGKeyArray, s: State) -> tuple[State, Array]:
    """Draw a standard normal state ξ and the logarithm of a uniform number."""
    flat, unflatten = ravel_pytree(s)
    normal = jax.random.normal(key, (flat.size + 1,), flat.dtype)
    return unflatten(normal[:-1]), jnp.log(ndtr(normal[-1]))


def _squares(s: State) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(s)]))


def _equal(raw: State, projected: State) -> Array:
    """Return whether `project` kept a state, up to rounding."""

    def same(a, b):
        return jnp.all(jnp.abs(a - b) <= 8 * jnp.finfo(a.dtype).eps * (1 + jnp.abs(a)))

    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(same, raw, projected))))
