"""The settings of training: each option once, with its default, help and checks.

`Config` extends `Settings` for a run, `fit` takes them as keywords, and a `Trainer`
holds them.  The other modules of training use the checks at the end.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, get_args, Literal

import numpy as np

from .._precision import check_precision, Precision
from ..estimators import AbstractEstimator, settled_only
from ._step_size import has_dt

OnUnsettled = Literal["error", "warn", "mask"]
StepSize = Literal["given", "auto"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of training that depend neither on the network nor on the data."""

    epochs: int = 10
    """passes over the training examples"""
    batch_size: int = 20
    """training examples per update"""
    seed: int = 0
    """seed of the initial weights, the order of the examples and the signs of β"""
    persistent: bool = False
    """start each free phase from the last free equilibrium of the same example"""
    shuffle: bool = True
    """visit the examples in a new random order in each epoch"""
    precision: Precision = "float32"
    """precision of the operands of matrix products; states, parameters and sums are
    always float32"""
    on_unsettled: OnUnsettled = "warn"
    """what to do if the free phase of an example does not settle: error: stop; mask:
    leave the example out of the gradient and count it; warn: count it and warn at the
    end"""
    dt: StepSize = "given"
    """step size of the Euler phases: given: the dt of each phase; auto: 1/λ, measured
    at the start of each epoch, λ the largest eigenvalue of the network's Jacobian
    (RBP, BPTT and dyadic EP keep their own dt)"""

    def __post_init__(self):
        # JAX counts with 32 bits and keeps 32 bits of a seed: a larger seed would
        # repeat the run of a smaller one.
        check_whole("epochs", self.epochs, 1, 2**31)
        check_whole("batch_size", self.batch_size, 1, 2**31)
        check_whole("seed", self.seed, 0, 2**32)
        check_precision(self.precision)
        check_choice("on_unsettled", self.on_unsettled, get_args(OnUnsettled))
        check_choice("dt", self.dt, get_args(StepSize))


def rule_for(settings: Settings, estimator: AbstractEstimator) -> AbstractEstimator:
    """Return the learning rule that trains with these settings.

    **Raises:** `ValueError` if a setting does not fit the rule.
    """
    if settings.dt == "auto" and not has_dt(estimator):
        raise ValueError(
            f"dt is 'auto', but no phase of {type(estimator).__name__} takes Euler "
            "steps; use ep.Euler, or leave dt out"
        )
    if settings.on_unsettled == "mask":
        return settled_only(estimator)
    return estimator


def check_whole(name: str, value: Any, least: int, below: int | None = None) -> None:
    """Raise `ValueError` if `value` is not an integer from `least` to `below` − 1."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number ≥ {least}")
    if below is not None and value >= below:
        power = below.bit_length() - 1
        raise ValueError(f"{name} is {value}; it must be below 2**{power}")


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise `ValueError` if `value` is not one of the `known` words."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name} is {value!r}; choose {', '.join(known)}")
