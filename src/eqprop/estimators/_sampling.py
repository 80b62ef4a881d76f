"""Parallel Markov chains, and means over them: what the stochastic rules share.

A rule's free phase is `chains` Langevin chains for every example.  Each phase takes
its `steps` as burn-in, then `samples` samples `thinning` steps apart; sums are kept,
never the samples.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from ..relaxations import Dynamics, Equilibrium, initial_state
from ..relaxations._keys import example_keys
from ..relaxations._langevin import Chain, checked_key, Langevin
from ..systems import _check
from ..systems._base import AbstractMap, AbstractSystem, has_potential, State
from ..systems._total_energy import cost_of, nudge_energy
from ._base import (
    AbstractEstimator,
    Gradient,
    replace_ignored,
    Stats,
    UnsuitableRule,
    weighted_mean,
)
from ._step import norm

SEGMENTS = 32
"""segments at most into which a chain is cut to measure its autocorrelation"""

Example = Callable[[Any, Any], Dynamics]
"""The dynamics of one example (x, y)."""


class AbstractSampler(AbstractEstimator):
    """A rule whose phases are `chains` chains for every example.

    `loss` is the mean cost of the free phase's samples, `equilibrium` the last state
    of the first chain.  `stats` holds each phase's mean acceptance (burn-in included)
    and, of the cost in the free phase, by batch means (segments of the chains, Geyer
    1992): `effective_samples[batch]` and `loss_error`, the Monte-Carlo standard error
    of the loss; both NaN where one chain takes too few samples to tell.
    """

    no_adjoint: ClassVar[str] = (
        "has no gradient at one given state: its loss is a mean over a law"
    )
    approximate: ClassVar[str] = "its states are samples of a law, not a fixed point"
    free: eqx.AbstractVar[Langevin]  # type: ignore[override]
    chains: eqx.AbstractVar[int]
    samples: eqx.AbstractVar[int]
    thinning: eqx.AbstractVar[int]

    @abc.abstractmethod
    def contrast(
        self,
        system: AbstractSystem,
        cost: Any,
        x: PyTree[Array],
        y: PyTree[Array],
        state: State,
        keys: PRNGKeyArray,
        weight: Float[Array, " batch"] | None,
    ) -> tuple[PyTree, PyTree, dict[str, Array]]:
        """Gradients and stats, from the free states `[chains, batch]`.

        `keys[2, chains, batch]` are two for each chain.
        """

    @property
    @abc.abstractmethod
    def rule(self) -> str:
        """The name in `stats`."""

    def estimate(self, system, cost, x, y, state, key, weight) -> Gradient:
        key = checked_key(key)
        if not has_potential(system):
            raise UnsuitableRule(
                f"{type(system).__name__} has no potential, and without one there is "
                "no law e^(−E/T) to differentiate; use ep.EquilibriumPropagation, or "
                "write the model as an AbstractEnergy",
                "ep",
            )
        if isinstance(system, AbstractMap):
            raise UnsuitableRule(
                f"{type(system).__name__} is a map: its steps do not descend its "
                "potential, so that they sample no law e^(−E/T); use "
                "ep.EquilibriumPropagation, or an energy, e.g. ep.HopfieldEnergy",
                "ep",
            )
        state = initial_state(system, x, state)
        _check.check_cost(system, cost, *_check.example((x, y, state)))
        batch = _check.batch_size(x=x)
        keys = example_keys(key, batch, (3, self.chains))
        # Every chain starts at the example's state; the burn-in parts them.
        start = jax.tree.map(
            lambda s: jnp.broadcast_to(s, (self.chains, *s.shape)), state
        )
        equilibrium, state, loss, values = self._free(
            system, cost, x, y, start, keys[0], weight
        )
        x, y = replace_ignored((x, y), weight)
        state = jax.vmap(lambda s: replace_ignored(s, weight))(state)
        state = jax.lax.stop_gradient(state)
        grads, cost_grads, more = self.contrast(
            system, cost, x, y, state, keys[1:], weight
        )
        stats = Stats(self.rule, values | more)
        return Gradient(loss, grads, cost_grads, equilibrium, stats)

    def check_devices(self, devices, batch_size) -> None:
        super().check_devices(devices, batch_size)
        if batch_size % devices:
            raise ValueError(
                f"batch_size is {batch_size} on {devices} devices; "
                f"{type(self).__name__} draws the noise of a whole batch, which stays "
                "the same only where the devices divide it: choose "
                f"{-(-batch_size // devices) * devices}"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        raise ValueError(
            f"{type(self).__name__} {self.no_adjoint}. Call the estimator itself, or "
            "use ep.EquilibriumPropagation"
        )

    def _free(self, system, cost, x, y, start, keys, weight):
        """The free phase: one chain's end, all chains' ends, the loss and its stats."""

        def example(x, y):
            return Dynamics(system, x, None, None, 0.0)

        one_cost = functools.partial(cost_of, system, cost)
        costs = jax.vmap(jax.vmap(one_cost), (None, None, 0))
        first = costs(x, y, start)
        segments = max(min(int(self.samples**0.5), SEGMENTS), 1)

        def visit(carry, chain, k):
            # Costs relative to the first lose no digits where they vary little.
            sums, squares = carry
            value = costs(x, y, chain.state) - first
            sums = sums.at[k * segments // self.samples].add(value)
            return sums, squares + value**2

        carry = (
            jnp.zeros((segments, *first.shape), first.dtype),
            jnp.zeros_like(first),
        )
        chains = start_chains(self.free, example, x, y, start)
        chains, acceptance, carry = self.sampled(
            *(self.free, example, x, y, chains, keys, visit, carry)
        )
        mean, error, effective = _monte_carlo(carry[0], carry[1], self.samples)
        # All chains of an example start at the same state, so at the same cost.
        loss = weighted_mean(first[0] + mean, weight)
        one = jax.tree.map(lambda leaf: leaf[0], chains)
        end = jax.vmap(lambda x, y, c: self.free.end(example(x, y), c))(x, y, one)
        steps = self.free.steps + self.samples * self.thinning
        equilibrium = Equilibrium(
            end.state, jnp.full_like(end.steps, steps), end.residual, end.status
        )
        batch = len(error)
        share = jnp.ones(batch, error.dtype) if weight is None else weight
        share = share / jnp.where(jnp.sum(share) == 0, 1, jnp.sum(share))
        values = {
            "acceptance": weighted_mean(jnp.mean(acceptance, 0), weight),
            "effective_samples": effective,
            "loss_error": norm(jnp.where(share != 0, share * error, 0)),
        }
        return equilibrium, chains.state, loss, values

    def sampled(
        self,
        langevin: Langevin,
        example: Example,
        x: PyTree[Array],
        y: PyTree[Array],
        chains: Chain,
        keys: PRNGKeyArray,
        visit: Callable,
        carry: Any,
    ) -> tuple[Chain, Array, Any]:
        """Burn in, then visit every sample; the acceptance is each chain's mean."""
        burn_in, thinning = langevin.steps, self.thinning

        def body(k, carry):
            chains, total, carry = carry
            last = burn_in + (k + 1) * thinning
            first = jnp.where(k == 0, 0, last - thinning)
            chains, accepted = advance_chains(
                langevin, example, x, y, chains, keys, first, last
            )
            return chains, total + accepted, visit(carry, chains, k)

        zero = jnp.zeros(keys.shape, jax.tree.leaves(chains.state)[0].dtype)
        chains, total, carry = jax.lax.fori_loop(
            0, self.samples, body, (chains, zero, carry)
        )
        return chains, total / (burn_in + self.samples * thinning), carry


def start_chains(langevin: Langevin, example: Example, x, y, state: State) -> Chain:
    """Chains `[chains, batch]` at the given states."""

    def one(x, y, s):
        return langevin.start(example(x, y), s)

    return jax.vmap(jax.vmap(one), (None, None, 0))(x, y, state)


def advance_chains(
    langevin: Langevin, example: Example, x, y, chains: Chain, keys, first, last
) -> tuple[Chain, Array]:
    """Steps number first, …, last − 1 of all chains, and their acceptances' sums."""

    def one(x, y, chain, key):
        return langevin.run(example(x, y), chain, key, first, last)

    return jax.vmap(jax.vmap(one), (None, None, 0, 0))(x, y, chains, keys)


def energy_gradient(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    state: State,
    beta: Any,
    weight: Float[Array, " batch"] | None,
) -> tuple[PyTree, PyTree]:
    """∂/∂θ of F = potential + β cost, the mean over chains and the batch."""

    @eqx.filter_grad
    def gradient(model):
        system, cost = model

        def total(x, y, s) -> Scalar:
            return system.potential(x, s) + nudge_energy(system, cost, x, y, s, beta)

        values = jax.vmap(jax.vmap(total), (None, None, 0))(x, y, state)
        return weighted_mean(jnp.mean(values, 0), weight)

    return gradient((system, cost))


def zero_gradient(system: AbstractSystem, cost: Any) -> tuple[PyTree, PyTree]:
    """What `energy_gradient`s are added to."""
    params = eqx.filter((system, cost), eqx.is_inexact_array)
    return jax.tree.map(jnp.zeros_like, params)


def check_phases(name: str, phases: dict[str, Any], **counts: Any) -> None:
    """Errors for phases that are no chains or differ in T, and for counts below 1."""
    for phase, langevin in phases.items():
        if not isinstance(langevin, Langevin):
            raise ValueError(
                f"{name}: {phase} is {langevin!r}; its law must be e^(−F/T): give an "
                "ep.Langevin(dt=0.2, steps=100, temperature=1e-3)"
            )
    found = {phase: langevin.temperature for phase, langevin in phases.items()}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{phase}: {value}" for phase, value in found.items())
        raise ValueError(
            f"{name}: the temperatures of the phases differ ({listed}); the contrast "
            "is a gradient only where they are equal"
        )
    for count, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name}: {count} is {value}; it must be a whole number ≥ 1"
            )


def _monte_carlo(
    sums: Float[Array, "segments chains batch"],
    squares: Float[Array, "chains batch"],
    samples: int,
) -> tuple[Array, Array, Array]:
    """Mean, its standard error and the effective sample size, by batch means.

    With N samples in all, in B segments of lengths n with means m: the error is
    σ/√N with σ² = Σ n (m − mean)² / (B − 1), and N var/σ² the effective size.
    """
    segments, chains, _ = sums.shape
    place = jnp.arange(samples) * segments // samples
    lengths = jnp.bincount(place, length=segments).astype(sums.dtype)[:, None, None]
    total = samples * chains
    mean = jnp.sum(sums, (0, 1)) / total
    if segments * chains < 2:
        return mean, jnp.full_like(mean, jnp.nan), jnp.full_like(mean, jnp.nan)
    spread = jnp.sum(lengths * (sums / lengths - mean) ** 2, (0, 1))
    asymptotic = spread / (segments * chains - 1)
    variance = (jnp.sum(squares, 0) - total * mean**2) / (total - 1)
    constant = asymptotic == 0
    ratio = jnp.maximum(variance, 0) / jnp.where(constant, 1, asymptotic)
    effective = jnp.where(constant, total, total * ratio)
    return mean, jnp.sqrt(asymptotic / total), effective
