"""Any rule, learning from the examples that settled and from no other."""

import dataclasses

from ..relaxations._base import Status
from ._around import AbstractAround
from ._base import AbstractEstimator, Gradient


class SettledOnly(AbstractAround):
    """`estimator` with weight 0 for every example whose free phase did not settle.

    Those that diverged are left out as well.  The loss is the mean over the others.
    """

    estimator: AbstractEstimator

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        kept = (free.status == Status.settled).astype(float)
        kept = kept if weight is None else weight * kept
        found = self.estimator.at(system, cost, x, y, free, keys, kept)
        weight = kept if found.weight is None else found.weight
        return dataclasses.replace(found, weight=weight)


def settled_only(estimator: AbstractEstimator) -> SettledOnly:
    """The rule around `estimator`; a `ValueError` for one that samples instead."""
    if type(estimator).estimate is not AbstractEstimator.estimate:
        raise ValueError(
            f"on_unsettled is 'mask', and {type(estimator).__name__} samples states "
            "that never settle; use 'warn'"
        )
    return SettledOnly(estimator)  # type: ignore[call-arg]
