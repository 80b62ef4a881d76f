"""Langevin dynamics: settling at a temperature, ds = velocity dt + √(2T) dB.

Where velocity = −∂F/∂s its stationary law is p(s) ∝ e^{−F(s)/T} (the stochastic
framework of paper A).  An Euler–Maruyama step of finite dt has a law of its own,
with variance T/(k (1 − k dt/2)) along a direction of curvature k; the Metropolis
step makes it e^{−F/T} again (MALA: Roberts & Tweedie 1996).
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
    """Where a chain stands, with the velocity and energy that its next step needs."""

    state: State
    velocity: State
    energy: Scalar | None


class Langevin(AbstractRelaxation):
    """s' = s + dt velocity + √(2 T dt) ξ, accepted or refused where `adjusted`.

    With `adjusted` the law of the chain is e^{−F/T} exactly, F = E + β C, whatever
    dt: this needs an energy.  A proposal outside the bounds is refused (the law is
    e^{−F/T} within them); one that falls far from the law nearly always too.  So a
    chain with many units at their bounds, or one that starts cold and far away, stands
    still: look at the acceptance, take a smaller dt, or start it where an unadjusted
    phase ended.  Without it a step is `project`ed like Euler's, which piles
    probability up on the bounds (it does not reflect at them).

    A sampler never settles: its `status` is `unsettled`, or `diverged` where state
    or velocity are not finite.  Its `residual` is that of the drift.  `ep.relax` and
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
    """accept or refuse each step, so that the law is e^{−F/T} (needs an energy)"""
    tol: float | None = None
    """always None: noise does not settle"""

    def __check_init__(self):
        if self.tol is not None:
            raise ValueError(
                f"Langevin: tol is {self.tol}; a chain with noise never settles, so it "
                "must be None"
            )
        if not isinstance(self.temperature, Tracer) and self.temperature == 0:
            raise ValueError("Langevin: temperature is 0; that is ep.Euler, use it")
        check_hyperparameters(
            *("Langevin", self.steps, None),
            dt=self.dt,
            temperature=self.temperature,
        )

    def step(self, dynamics: Dynamics, s: State, key):
        chain, _ = self.move(dynamics, self.start(dynamics, s), checked_key(key))
        return chain.state, self._residual(dynamics, chain)

    def settle(self, dynamics: Dynamics, s: State, key) -> Equilibrium:
        key, start = checked_key(key), self.start(dynamics, s)
        chain, _ = self.run(dynamics, start, key, 0, self.steps)
        return self.end(dynamics, chain)

    def start(self, dynamics: Dynamics, s: State) -> Chain:
        """The chain that starts at `s`, within the bounds."""
        s = dynamics.system.project(s) if self.adjusted else s
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(s)):
            raise ValueError("Langevin: the state is complex; no law orders its energy")
        return self._chain(dynamics, s)

    def run(
        self, dynamics: Dynamics, chain: Chain, key: PRNGKeyArray, first: Any, last: Any
    ) -> tuple[Chain, Array]:
        """Steps number first, …, last − 1 of the chain, and their acceptances' sum."""

        def body(t, carry):
            chain, total = carry
            chain, acceptance = self.move(dynamics, chain, jax.random.fold_in(key, t))
            return chain, total + acceptance

        zero = jnp.zeros((), jax.tree.leaves(chain.state)[0].dtype)
        return jax.lax.fori_loop(first, last, body, (chain, zero))

    def move(
        self, dynamics: Dynamics, chain: Chain, key: PRNGKeyArray
    ) -> tuple[Chain, Array]:
        """One step, and the probability with which it was accepted."""
        system, dt = dynamics.system, self.dt
        noise, threshold = _draw(key, chain.state)
        noise = _tangent(system, noise)
        width = (2 * self.temperature * dt) ** 0.5
        drifted = jax.tree.map(lambda s, v: s + dt * v, chain.state, chain.velocity)
        raw = jax.tree.map(lambda s, n: s + width * n, drifted, noise)
        proposal = self._chain(dynamics, system.project(raw))
        if not self.adjusted:
            return proposal, jnp.ones_like(threshold)
        back = jax.tree.map(
            lambda new, v, old: (old - new - dt * v) / width,
            *(proposal.state, proposal.velocity, chain.state),
        )
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
        """The state of the chain as a relaxation's result."""
        residual = self._residual(dynamics, chain)
        finite = jnp.isfinite(residual)
        for leaf in jax.tree.leaves(chain.state):
            finite &= jnp.all(jnp.isfinite(leaf))
        status = jnp.where(finite, Status.unsettled, Status.diverged)
        return Equilibrium(chain.state, jnp.array(self.steps), residual, status)

    def _chain(self, dynamics: Dynamics, s: State) -> Chain:
        velocity = _tangent(dynamics.system, dynamics.velocity(s))
        velocity = jax.tree.map(lambda v, u: v.astype(u.dtype), velocity, s)
        return Chain(s, velocity, dynamics.energy(s) if self.adjusted else None)

    def _residual(self, dynamics: Dynamics, chain: Chain) -> Array:
        step = jax.tree.map(lambda v: self.dt * v, chain.velocity)
        project = dynamics.system.project
        return largest(projected(project, chain.state, step)) / self.dt


def checked_key(key: PRNGKeyArray | None) -> PRNGKeyArray:
    """The key, or a ValueError where the random numbers have no seed."""
    if key is None:
        raise ValueError("ep.Langevin draws random numbers; pass key=jax.random.key(0)")
    return key


def _tangent(system: Any, direction: State) -> State:
    """The part of a direction in which a system with held units may move."""
    tangent = getattr(system, "tangent", None)
    return tangent(direction) if callable(tangent) else direction


def _draw(key: PRNGKeyArray, s: State) -> tuple[State, Array]:
    """A standard normal state ξ, and the logarithm of a uniform number in [0, 1]."""
    flat, unflatten = ravel_pytree(s)
    normal = jax.random.normal(key, (flat.size + 1,), flat.dtype)
    return unflatten(normal[:-1]), jnp.log(ndtr(normal[-1]))


def _squares(s: State) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(s)]))


def _equal(raw: State, projected: State) -> Array:
    """Whether `project` left a state where it was, up to rounding."""

    def same(a, b):
        return jnp.all(jnp.abs(a - b) <= 8 * jnp.finfo(a.dtype).eps * (1 + jnp.abs(a)))

    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(same, raw, projected))))
