"""Boltzmann learning: the two phases of contrastive Hebbian learning at T > 0.

Clamped (positive) and free (negative) phase are paper A's table 1; sampled, their
contrast is the gradient of −log p(y|x), the outputs' law under e^{−E/T}/Z:

    −d log p(y|x)/dθ = (E_clamped[∂E/∂θ] − E_free[∂E/∂θ])/T.

Contrastive divergence (Hinton 2002) replaces the negative phase by k steps from the
clamped sample, its outputs released.
"""

import jax
import jax.numpy as jnp

from ..relaxations._base import Dynamics
from ..relaxations._langevin import Langevin
from ..systems import _check
from ._base import weighted_mean
from ._clamped import check_clamp, Clamped
from ._sampling import (
    AbstractSampler,
    advance_chains,
    check_phases,
    energy_gradient,
    start_chains,
    zero_gradient,
)


class BoltzmannLearning(AbstractSampler):
    """The gradient of −log p(y|x), sampled with the outputs held at y and free.

    The readout must select units of the state.  `loss` is the cost of the free
    samples, not −log p(y|x): that needs the normaliser Z.  The cost has no part in
    the gradient.  Both phases start from the free chains and draw the same random
    numbers, those of the outputs aside.

    **Arguments:**

    - `free`, `clamped`: the chains of each phase, at one temperature; `steps` is the
      burn-in.  The negative phase goes on from the free chains as `clamped` steps, in
      number, `dt` and acceptance.
    - `chains`, `samples`, `thinning`: chains for each example, samples of each in
      each phase, and steps between them.

    **Raises:** `ValueError` for a readout that does not select units, a system
    without a potential, or without a `key`.
    """

    free: Langevin
    """the free phase"""
    clamped: Langevin
    """the phase with outputs held at the target, from the free chains"""
    chains: int = 1
    """chains for each example"""
    samples: int = 10
    """samples of each chain in each phase"""
    thinning: int = 1
    """steps from one sample to the next"""

    def __check_init__(self):
        _check_clamped(self)

    @property
    def rule(self) -> str:
        return "Boltzmann learning"

    def contrast(self, system, cost, x, y, state, keys, weight):
        check_clamp(type(self).__name__, system, *_check.example((_first(state), y)))

        def phase(example):
            def visit(total, chains, k):
                del k
                more = energy_gradient(system, cost, x, y, chains.state, 0.0, weight)
                return jax.tree.map(jnp.add, total, more)

            chains = start_chains(self.clamped, example, x, y, state)
            _, acceptance, total = self.sampled(
                *(self.clamped, example, x, y, chains, keys[0], visit),
                zero_gradient(system, cost),
            )
            return acceptance, total

        negative = phase(lambda x, y: _released(system, x))
        positive = phase(lambda x, y: _held(system, x, y))
        return _contrast(self, negative, positive, weight)


class ContrastiveDivergence(AbstractSampler):
    """CD-k: each negative sample is k steps from a positive one, outputs released.

    Biased for small k, Boltzmann learning as k grows.  Arguments as for
    `BoltzmannLearning`, and `steps`, the k.  The free phase serves `loss` and
    `equilibrium` alone.
    """

    free: Langevin
    """the free phase"""
    clamped: Langevin
    """the phase with outputs held at the target, from the free chains"""
    steps: int = 1
    """k, the steps from a clamped sample to its negative one"""
    chains: int = 1
    """chains for each example"""
    samples: int = 10
    """samples of each chain in each phase"""
    thinning: int = 1
    """steps from one sample to the next"""

    def __check_init__(self):
        _check_clamped(self, steps=self.steps)

    @property
    def rule(self) -> str:
        return f"contrastive divergence, k = {self.steps}"

    def contrast(self, system, cost, x, y, state, keys, weight):
        check_clamp(type(self).__name__, system, *_check.example((_first(state), y)))

        def released(x, y):
            return _released(system, x)

        def held(x, y):
            return _held(system, x, y)

        def negative(chains, k):
            start = start_chains(self.clamped, released, x, y, chains.state)
            first = k * self.steps
            return advance_chains(
                *(self.clamped, released, x, y, start, keys[1]),
                *(first, first + self.steps),
            )

        def visit(carry, chains, k):
            ends, acceptance = negative(chains, k)
            more = tuple(
                energy_gradient(system, cost, x, y, s, 0.0, weight)
                for s in (ends.state, chains.state)
            )
            total, accepted = carry
            return jax.tree.map(jnp.add, total, more), accepted + acceptance

        zero = zero_gradient(system, cost)
        none = jnp.zeros(keys.shape[1:], jax.tree.leaves(state)[0].dtype)
        chains = start_chains(self.clamped, held, x, y, state)
        _, acceptance, (totals, accepted) = self.sampled(
            *(self.clamped, held, x, y, chains, keys[0], visit, ((zero, zero), none))
        )
        negative_phase = (accepted / (self.samples * self.steps), totals[0])
        return _contrast(self, negative_phase, (acceptance, totals[1]), weight)


def _contrast(rule, negative, positive, weight):
    """(positive − negative)/T, and the acceptances of both phases."""
    scale = rule.clamped.temperature * rule.samples
    grads, cost_grads = jax.tree.map(
        lambda p, n: (p - n) / scale, positive[1], negative[1]
    )
    values = {
        f"{name}_acceptance": weighted_mean(jnp.mean(phase[0], 0), weight)
        for name, phase in (("negative", negative), ("clamped", positive))
    }
    return grads, cost_grads, values


def _released(system, x) -> Dynamics:
    return Dynamics(system, x, None, None, 0.0)


def _held(system, x, y) -> Dynamics:
    return Dynamics(Clamped(system, y), x, None, None, 0.0)


def _first(state):
    return jax.tree.map(lambda leaf: leaf[0], state)


def _check_clamped(rule, **counts) -> None:
    check_phases(
        type(rule).__name__,
        {"free": rule.free, "clamped": rule.clamped},
        chains=rule.chains,
        samples=rule.samples,
        thinning=rule.thinning,
        **counts,
    )
