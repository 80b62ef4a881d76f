"""The configured rule at rest: what its class promises at s⁰ as β → 0.

As configured a rule may stop early and nudge strongly, which is a choice.  With phases
that settle and a small nudge it must give what its paper says, whatever the choice.
"""

import dataclasses

from ..estimators import (
    AbstractEstimator,
    AsymmetricEquilibriumPropagation,
    ContinualEquilibriumPropagation,
    DyadicEquilibriumPropagation,
    HolomorphicEquilibriumPropagation,
    SpikeTimingDependentPlasticity,
    VectorFieldEquilibriumPropagation,
)
from ..relaxations import Euler
from ._findings import Findings
from ._metrics import Agreement
from ._verification import number

RULE = 1e-3
"""error left to a settled rule by its small nudge"""
TINY_RATE = 1e-9
"""learning rate of continual EP at which its parameters hardly move"""


def at_rest(
    rule: AbstractEstimator, dt: float, steps: int, beta: float
) -> tuple[AbstractEstimator, str] | None:
    """The rule with settled phases, and the row of the table that it must equal.

    `None` for rules that the table holds already, and for those whose objective is
    another (clamped outputs, chains, penalties).
    """
    here, nudged = Euler(dt=dt, steps=0), Euler(dt=dt, steps=steps)
    if type(rule) is AsymmetricEquilibriumPropagation:
        return AsymmetricEquilibriumPropagation(here, nudged, beta), "implicit"
    if type(rule) is DyadicEquilibriumPropagation:
        return DyadicEquilibriumPropagation(here, dt, steps, beta), "implicit"
    if type(rule) is HolomorphicEquilibriumPropagation:
        circle = HolomorphicEquilibriumPropagation(here, nudged, abs(beta), rule.points)
        return circle, "EP centered"
    if type(rule) is SpikeTimingDependentPlasticity and rule.rule == "rates":
        path = dataclasses.replace(
            rule, free=here, nudged=nudged, beta=beta, nudging="centered"
        )
        return path, "EP centered"
    if type(rule) is VectorFieldEquilibriumPropagation:
        return VectorFieldEquilibriumPropagation(here, nudged, beta), "EP centered"
    if type(rule) is ContinualEquilibriumPropagation:
        slow = ContinualEquilibriumPropagation(
            here, nudged, beta, "one-sided", learning_rate=TINY_RATE * abs(beta)
        )
        return slow, "EP one-sided"
    return None


def judge(found: Findings, name: str, rule: str, row: str, agrees: Agreement) -> None:
    """The caller's rule with phases that settle, against what it must equal."""
    what = "the exact gradient" if row == "implicit" else row
    turned = " It points the other way: a sign is wrong." if agrees.angle > 170 else ""
    kept = found.check(
        f"{name}, settled, against {row}",
        agrees.error,
        RULE,
        f"{rule}: with phases that settle and a small nudge its gradient must be that "
        f"of {what}, and is off by {number(agrees.error)} (angle "
        f"{number(agrees.angle)}°): the rule is wrong.{turned}",
    )
    if kept:
        found.notes.append(
            f"{name}: given phases that settle and a small nudge, {rule} is {what} to "
            f"{number(agrees.error)}."
        )
