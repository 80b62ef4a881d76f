"""The one word by which a learning rule is chosen."""

import dataclasses
import difflib

from ..relaxations._base import AbstractRelaxation
from ._asymmetric import (
    AsymmetricEquilibriumPropagation,
    DyadicEquilibriumPropagation,
)
from ._backpropagation_through_time import BackpropagationThroughTime
from ._base import AbstractEstimator
from ._continual import ContinualEquilibriumPropagation
from ._contrastive import ContrastiveHebbianLearning, CoupledLearning
from ._equilibrium_propagation import EquilibriumPropagation
from ._holomorphic import HolomorphicEquilibriumPropagation
from ._implicit_differentiation import ImplicitDifferentiation
from ._recurrent_backpropagation import RecurrentBackpropagation
from ._spike_timing import SpikeTimingDependentPlasticity
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
    "rbp": RecurrentBackpropagation,
    "bptt": BackpropagationThroughTime,
    "implicit": ImplicitDifferentiation,
}


def named_estimator(name: str, like: AbstractEstimator) -> AbstractEstimator:
    """The rule of that name with the phases of `like`.

    It keeps the free phase; RBP and BPTT take dt and steps from an Euler nudged
    phase, so that they compute what EP's nudged phase does.  A clamped phase and a
    nudged one stand for each other.
    """
    if name not in ESTIMATORS:
        near = difflib.get_close_matches(name, ESTIMATORS, 1)
        hint = f"did you mean {near[0]}?" if near else "choose " + ", ".join(ESTIMATORS)
        raise ValueError(f"there is no estimator {name!r}; {hint}")
    kind = ESTIMATORS[name]
    if type(like) is kind:
        return like
    if kind is ImplicitDifferentiation:
        return ImplicitDifferentiation(like.free)
    clamped = getattr(like, "clamped", like.free)
    nudged: AbstractRelaxation = getattr(like, "nudged", clamped)
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if names & {"nudged", "clamped"}:
        # CHL's β = 1 belongs to the rule, so it has no field of that name.
        options = {"beta": vars(like).get("beta", 0.25)} if "beta" in names else {}
        return kind(like.free, nudged, **options)  # type: ignore[call-arg]
    dt = getattr(nudged, "dt", None)
    if dt is None:  # a sweep does more than a step of Euler's
        return kind(like.free)  # type: ignore[call-arg]
    return kind(like.free, dt, nudged.steps)  # type: ignore[call-arg]
