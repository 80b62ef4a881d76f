"""Learning rules held to what they promise: the exact gradient, at s⁰, as β → 0.

As configured, a rule may stop early and nudge strongly: that is a choice, reported with
its angle.  With phases that settle and a small nudge it must give what it promises.  A
rule of the user's own promises the exact gradient (or EP's, where EP is biased), unless
it declares itself `approximate`.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ..estimators import (
    AbstractEstimator,
    AsymmetricEquilibriumPropagation,
    BackpropagationThroughTime,
    ContinualEquilibriumPropagation,
    DyadicEquilibriumPropagation,
    EquilibriumPropagation,
    Gradient,
    HolomorphicEquilibriumPropagation,
    ImplicitDifferentiation,
    RecurrentBackpropagation,
    SpikeTimingDependentPlasticity,
    VectorFieldEquilibriumPropagation,
)
from ..estimators._around import AbstractAround
from ..relaxations import Euler, Status
from ..relaxations._base import AbstractRelaxation
from ._causes import difference, FAR
from ._findings import Findings
from ._metrics import Agreement, agreement, length_of, named_leaves
from ._verification import number

RULE = 1e-3
"""error left to a settled rule of the library by its small nudge"""
OWN = 1e-2
"""error allowed to a settled rule of the user's"""
LOOSE = 0.1
"""error allowed to a user's rule whose phases or β cannot be set"""
TINY_RATE = 1e-9
"""learning rate of continual EP at which its parameters hardly move"""
SHOWN = (
    EquilibriumPropagation,
    RecurrentBackpropagation,
    BackpropagationThroughTime,
    ImplicitDifferentiation,
)
"""rules that the table shows anyway, with settled phases"""
EXACT, CENTERED, ONE_SIDED = "implicit", "EP centered", "EP one-sided"


def at_rest(
    rule: AbstractEstimator, dt: float, steps: int, beta: float
) -> tuple[AbstractEstimator, str] | None:
    """A rule of the library with settled phases, and the row that it must equal.

    `None` for rules that the table shows already, and for the user's own.
    """
    here, nudged = Euler(dt=dt, steps=0), Euler(dt=dt, steps=steps)
    if type(rule) is AsymmetricEquilibriumPropagation:
        return AsymmetricEquilibriumPropagation(here, nudged, beta), EXACT
    if type(rule) is DyadicEquilibriumPropagation:
        return DyadicEquilibriumPropagation(here, dt, steps, beta), EXACT
    if type(rule) is HolomorphicEquilibriumPropagation:
        circle = HolomorphicEquilibriumPropagation(here, nudged, abs(beta), rule.points)
        return circle, CENTERED
    if type(rule) is SpikeTimingDependentPlasticity:
        path = dataclasses.replace(
            rule, free=here, nudged=nudged, beta=beta, nudging="centered"
        )
        return path, CENTERED
    if type(rule) is VectorFieldEquilibriumPropagation:
        return VectorFieldEquilibriumPropagation(here, nudged, beta), CENTERED
    if type(rule) is ContinualEquilibriumPropagation:
        slow = ContinualEquilibriumPropagation(
            here, nudged, beta, "one-sided", learning_rate=TINY_RATE * abs(beta)
        )
        return slow, ONE_SIDED
    return None


def declared(rule: AbstractEstimator) -> str:
    """Why a rule says that it does not compute the exact gradient; empty if it does."""
    if isinstance(rule, SpikeTimingDependentPlasticity) and rule.rule != "rates":
        return "its weights follow spikes, not rates"
    inner = declared(rule.estimator) if isinstance(rule, AbstractAround) else ""
    return rule.approximate or inner


def is_shown(rule: AbstractEstimator) -> bool:
    """Whether the table has this very rule with settled phases."""
    return type(rule) in SHOWN


def settled_copy(
    rule: Any, dt: float, steps: int, beta: float
) -> tuple[AbstractEstimator, bool] | None:
    """A user's rule with phases that settle, and whether its β could be set too.

    Fields that hold a relaxation become Euler steps that settle, `dt`, `steps` and
    `beta` what those need.  `None` where the rule has no relaxation but `free`, or does
    not take other values.
    """
    changes, nudge = {}, False
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, AbstractRelaxation):
            changes[field.name] = Euler(dt=dt, steps=steps)
        elif isinstance(value, AbstractEstimator):
            inner = settled_copy(value, dt, steps, beta)
            if inner is None:
                return None
            changes[field.name], nudge = inner
        elif field.name == "beta" and np.ndim(value) == 0:
            changes["beta"], nudge = float(np.sign(value)) * abs(beta), True
        elif field.name == "dt":
            changes["dt"] = dt
        elif field.name == "steps":
            changes["steps"] = steps
    try:
        return dataclasses.replace(rule, **changes), nudge
    except (TypeError, ValueError):  # a constructor, or a check, of the user's own
        return None


def check_gradient(name: str, gradient: Any, exact: tuple[Any, Any]) -> None:
    """A `ValueError` for a gradient that is not like the parameters."""
    if not isinstance(gradient, Gradient):
        raise ValueError(
            f"estimators[{name!r}] returned a {type(gradient).__name__}; a rule "
            "returns an ep.Gradient"
        )
    pairs = (("grads", gradient.grads), ("cost_grads", gradient.cost_grads))
    for (what, found), expected in zip(pairs, exact, strict=True):
        shapes = [
            {where: np.shape(leaf) for where, leaf in named_leaves(tree)}
            for tree in (found, expected)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"estimators[{name!r}] returned {what} with the arrays {shapes[0]}; "
                f"they must be those of the parameters, {shapes[1]}"
            )


def judge(found: Findings, name: str, rule: str, row: str, agrees: Agreement) -> bool:
    """A rule of the library with settled phases, against what it must equal."""
    what = "the exact gradient" if row == EXACT else row
    kept = found.check(
        f"{name}, settled, against {row}",
        agrees.error,
        RULE,
        f"{rule}: with phases that settle and a small nudge its gradient must be that "
        f"of {what}, and is off by {number(agrees.error)}: the rule is wrong. It is "
        f"compared with {what}: {difference(agrees)}",
    )
    if kept:
        found.notes.append(
            f"{name}: with phases that settle and a small nudge, {rule} is {what} "
            f"to {number(agrees.error)}."
        )
    return kept


def judge_own(
    found: Findings,
    name: str,
    gradient: tuple[Any, Any],
    grads: dict[str, Any],
    how: str,
    beta: float | None,
) -> bool:
    """A user's rule against the exact gradient, or EP's limit where that is nearer.

    `how`: whether its phases settled; `beta`: the small nudge, `None` where the rule
    has none that could be set, so that more error is allowed.
    """
    # EP itself is a promise only where it is biased.
    biased = agreement(grads[CENTERED], grads[EXACT]).error > OWN
    rows = (EXACT, CENTERED) if biased else (EXACT,)
    row = min(rows, key=lambda row: _worst(gradient, grads[row])[1])
    allowed = LOOSE if beta is None else OWN
    (leaf, part), error = _worst(gradient, grads[row])
    whole = agreement(gradient, grads[row])
    against = "the exact gradient" if row == EXACT else "EP's gradient"
    batch = found.facts["examples"]
    text = difference(whole, batch, beta)
    parts = _parts(gradient, grads[row])
    if whole.error <= allowed < error:
        text = f"the gradient of {leaf} alone is wrong: {difference(part, batch)}"
    elif len(parts) > 1 and all(part.angle <= 0.5 < whole.angle for _, part in parts):
        listed = ", ".join(f"{name} × {number(p.ratio)}" for name, p in parts)
        text = f"each parameter has the right direction and its own factor: {listed}."
    elif len(parts) > 1 and 0.5 < whole.angle <= 179:
        listed = ", ".join(f"{name} {number(p.angle)}°" for name, p in parts[:6])
        text += f" By parameter: {listed}."
    kept = found.check(
        f"{name}, {how}, against {row}",
        max(error, whole.error),
        allowed,
        f"{name}, {how}, does not give {against}: {text} If the rule is approximate "
        "by design, declare it: `approximate: ClassVar[str] = 'the reason'`.",
    )
    if kept:
        found.notes.append(f"{name}, {how}: {against} to {number(whole.error)}.")
    return kept


def _parts(found: Any, exact: Any) -> list[tuple[str, Agreement]]:
    """Each parameter array that has a gradient of any size."""
    total = length_of(exact)
    parts = []
    for part, other, prefix in zip(found, exact, ("", "cost."), strict=True):
        pairs = zip(jax.tree.leaves(part), named_leaves(other, prefix), strict=True)
        parts += [
            (name, agreement(g, e))
            for g, (name, e) in pairs
            if length_of(e) > RULE * total
        ]
    return parts


def _worst(found: Any, exact: Any) -> tuple[tuple[str, Agreement], float]:
    """The parameter array that is off most, and by how much.

    Relative to its own gradient, or to 1e-3 of the whole if that is larger.
    """
    total = length_of(exact)
    worst, error = ("", agreement(found, exact)), 0.0
    for part, other, prefix in zip(found, exact, ("", "cost."), strict=True):
        pairs = zip(jax.tree.leaves(part), named_leaves(other, prefix), strict=True)
        for g, (name, e) in pairs:
            size = max(length_of(e), RULE * total)
            off = length_of(np.asarray(g) - np.asarray(e))
            off = off / size if size else (0.0 if off == 0 else np.inf)
            off = np.inf if np.isnan(off) else off
            if not off <= error:
                worst, error = (name, agreement(g, e)), off
    return worst, error


def as_configured(
    found: Findings,
    name: str,
    rule: AbstractEstimator,
    gradient: Any,
    agrees: Agreement,
    kept: bool,
) -> None:
    """The rule as it is: how far off, what that means, and what to do next.

    `kept`: whether it keeps its promise, so that its settings are to blame.
    """
    status = np.asarray(gradient.equilibrium.status)
    share = float(np.mean(status == Status.settled))
    residual = float(np.max(np.asarray(gradient.equilibrium.residual)))
    text = (
        f"{name}: {number(agrees.angle)}° off the exact gradient (error "
        f"{number(agrees.error)}, norm × {number(agrees.ratio)}); its free phase "
        f"settles {100 * share:.0f} % of the examples (residual {number(residual)})."
    )
    far = not agrees.angle <= FAR and agrees.error > 0
    reason = declared(rule)
    if reason:
        text += f" It is approximate by declaration: {reason}."
    if share < 1 and not far:
        text += (
            " The others add an error that the angle contains: fine below "
            f"{FAR:g}° (docs/theorems.md#have-the-examples-settled)."
        )
    if far and kept and not reason:
        text += _advice(rule, share)
        found.warnings.append(
            f"{name}, the gradient is {number(agrees.angle)}° off the exact one; what "
            "that means and what to do next is said below."
        )
    found.notes.append(text)


def _advice(rule: AbstractEstimator, share: float) -> str:
    """A right rule whose settings give a gradient that is far off."""
    cause = "the nudged phase is short or β is large"
    if share < 1:
        cause = "the free phase is too short, or its dt too large, for most examples"
        cause = cause if share < 0.5 else cause.replace("most", "some")
    next_step = "`eqprop tune` (ep.tune) proposes T, K, dt and β within 5°"
    if not isinstance(rule, EquilibriumPropagation):
        next_step = "use more steps; `eqprop tune` (ep.tune) says how many EP needs"
    return (
        " The theorem holds for phases that settle and β → 0, and these settings are "
        f"far from that: {cause} (docs/theorems.md#have-the-examples-settled). "
        "Training may still lower the cost, but its steps are not the cost's gradient. "
        f"Next: {next_step}."
    )
