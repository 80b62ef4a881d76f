"""The one word by which a learning rule is chosen."""

import dataclasses
import difflib

from ..relaxations._base import AbstractRelaxation
from ..relaxations._langevin import Langevin
from ._around import AbstractAround
from ._asymmetric import (
    AsymmetricEquilibriumPropagation,
    DyadicEquilibriumPropagation,
)
from ._backpropagation_through_time import BackpropagationThroughTime
from ._base import AbstractEstimator
from ._boltzmann import BoltzmannLearning, ContrastiveDivergence
from ._continual import ContinualEquilibriumPropagation
from ._contrastive import ContrastiveHebbianLearning, CoupledLearning
from ._equilibrium_propagation import EquilibriumPropagation
from ._holomorphic import HolomorphicEquilibriumPropagation
from ._implicit_differentiation import ImplicitDifferentiation
from ._recurrent_backpropagation import RecurrentBackpropagation
from ._sampling import AbstractSampler
from ._spike_timing import SpikeTimingDependentPlasticity
from ._stochastic import StochasticEquilibriumPropagation
from ._vector_field import (
    KolenPollackEquilibriumPropagation,
    VectorFieldEquilibriumPropagation,
)

ESTIMATORS: dict[str, type[AbstractEstimator]] = {
    "ep": EquilibriumPropagation,
    "asym": AsymmetricEquilibriumPropagation,
    "dyadic": DyadicEquilibriumPropagation,
    "cep": ContinualEquilibriumPropagation,
    "stdp": SpikeTimingDependentPlasticity,
    "vf": VectorFieldEquilibriumPropagation,
    "kp": KolenPollackEquilibriumPropagation,
    "holomorphic": HolomorphicEquilibriumPropagation,
    "chl": ContrastiveHebbianLearning,
    "coupled": CoupledLearning,
    "stochastic": StochasticEquilibriumPropagation,
    "boltzmann": BoltzmannLearning,
    "cd": ContrastiveDivergence,
    "rbp": RecurrentBackpropagation,
    "bptt": BackpropagationThroughTime,
    "implicit": ImplicitDifferentiation,
}


def named_estimator(name: str, like: AbstractEstimator) -> AbstractEstimator:
    """The rule of that name with the phases of `like`.

    It keeps the free phase; RBP and BPTT take dt and steps from an Euler nudged
    phase, so that they compute what EP's nudged phase does.  A clamped phase and a
    nudged one stand for each other.  Rules that nudge alike nudge as `like` does; of a
    rule around another, the other counts.
    """
    if name not in ESTIMATORS:
        near = difflib.get_close_matches(name, ESTIMATORS, 1)
        hint = f"did you mean {near[0]}?" if near else "choose " + ", ".join(ESTIMATORS)
        raise ValueError(f"there is no estimator {name!r}; {hint}")
    kind = ESTIMATORS[name]
    if isinstance(like, AbstractAround):
        return named_estimator(name, like.estimator)
    if type(like) is kind:
        return like
    clamped = getattr(like, "clamped", like.free)
    nudged: AbstractRelaxation = getattr(like, "nudged", clamped)
    if issubclass(kind, AbstractSampler):
        return _sampler(kind, like, nudged)
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if names & {"nudged", "clamped"}:
        # CHL's β = 1 belongs to the rule, so it has no field of that name.
        options = {"beta": vars(like).get("beta", 0.25)} if "beta" in names else {}
        ep = EquilibriumPropagation
        nudging = like.nudging if isinstance(like, ep) and issubclass(kind, ep) else ""
        # Two paths cannot both move the parameters: C-EP has no centered nudge.
        two_paths = kind is ContinualEquilibriumPropagation and nudging == "centered"
        if nudging and not two_paths:
            options["nudging"] = nudging
        return kind(like.free, nudged, **options)  # type: ignore[call-arg]
    if "dt" not in names or nudged.dt is None:  # a sweep does more than an Euler step
        return kind(like.free)  # type: ignore[call-arg]
    return kind(like.free, nudged.dt, nudged.steps)  # type: ignore[call-arg]


def _sampler(
    kind: type[AbstractSampler], like: AbstractEstimator, nudged: AbstractRelaxation
) -> AbstractEstimator:
    """A stochastic rule: phases without noise become unadjusted chains at T = 1e-3.

    Those hold for any potential and bounds; a sweep becomes two steps of dt = 0.5.
    """
    free, other = (
        phase if isinstance(phase, Langevin) else _warm(phase)
        for phase in (like.free, getattr(like, "clamped", nudged))
    )
    if kind is StochasticEquilibriumPropagation:
        beta = getattr(like, "beta", 0.25)
        return StochasticEquilibriumPropagation(free=free, nudged=other, beta=beta)
    if kind is ContrastiveDivergence:
        return ContrastiveDivergence(free=free, clamped=other, steps=20)
    return BoltzmannLearning(free=free, clamped=other)


def _warm(phase: AbstractRelaxation) -> Langevin:
    steps = phase.steps if phase.dt is not None else 2 * phase.steps
    return Langevin(dt=phase.dt or 0.5, steps=steps, temperature=1e-3, adjusted=False)
