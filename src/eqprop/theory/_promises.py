"""Judge learning rules by what they promise: the exact gradient at s⁰ as β → 0.

As configured, a rule may stop early and nudge strongly; this choice is reported with
its angle.  With phases that settle and a small nudge the rule must keep its promise.  A
user's rule promises the exact gradient (or EP's, if EP is biased), unless it declares
itself `approximate`.
"""

import dataclasses
from typing import Any

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
from ._metrics import Agreement, agreement, by_parameter, length_of, named_leaves
from ._text import number

RULE = 1e-3
"""error allowed to a settled rule of the library, for its small nudge"""
OWN = 1e-2
"""error allowed to a user's rule that has settled"""
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
"""rules that the table always shows, with settled phases"""
EXACT, CENTERED, ONE_SIDED = "implicit", "EP centered", "EP one-sided"
LIBRARY = {
    AsymmetricEquilibriumPropagation: (EXACT, "centered"),
    DyadicEquilibriumPropagation: (EXACT, None),
    HolomorphicEquilibriumPropagation: (CENTERED, None),
    SpikeTimingDependentPlasticity: (CENTERED, "centered"),
    VectorFieldEquilibriumPropagation: (CENTERED, "centered"),
    ContinualEquilibriumPropagation: (ONE_SIDED, "one-sided"),
}
"""the row that each rule of the library must equal, and the nudging for it"""


@dataclasses.dataclass(frozen=True)
class Phases:
    """Nudged phases that settle: `steps` Euler steps of `dt`, and a small β."""

    dt: float
    steps: int
    beta: float


def at_rest(
    rule: AbstractEstimator, phases: Phases
) -> tuple[AbstractEstimator, str] | None:
    """Return a rule of the library with settled phases, and the row that it must equal.

    `None` for rules that the table shows already, and for the user's own.
    """
    if type(rule) not in LIBRARY:
        return None
    row, nudging = LIBRARY[type(rule)]
    settings = {
        "free": Euler(dt=phases.dt, steps=0),
        "nudged": Euler(dt=phases.dt, steps=phases.steps),
        "learning_rate": TINY_RATE * abs(phases.beta),
        "nudging": nudging,
        **dataclasses.asdict(phases),
    }
    names = {field.name for field in dataclasses.fields(rule)}
    changes: Any = {name: v for name, v in settings.items() if name in names}
    return dataclasses.replace(rule, **changes), row


def declared(rule: AbstractEstimator) -> str:
    """Return the reason why a rule declares itself approximate; empty if exact."""
    if isinstance(rule, SpikeTimingDependentPlasticity) and rule.rule != "rates":
        return "its weights follow spikes, not rates"
    inner = declared(rule.estimator) if isinstance(rule, AbstractAround) else ""
    return rule.approximate or inner


def is_shown(rule: AbstractEstimator) -> bool:
    """Tell whether the table shows this very rule with settled phases."""
    return type(rule) in SHOWN


def settled_copy(rule: Any, phases: Phases) -> tuple[AbstractEstimator, bool] | None:
    """Copy a user's rule with phases that settle; tell whether its β could be set too.

    Fields that hold a relaxation become Euler steps that settle; `dt`, `steps` and
    `beta` become those of `phases`.  `None` if the rule does not accept other values.
    """
    changes, nudge = {}, False
    settings = {"dt": phases.dt, "steps": phases.steps}
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        if isinstance(value, AbstractRelaxation):
            changes[field.name] = Euler(**settings)
        elif isinstance(value, AbstractEstimator):
            inner = settled_copy(value, phases)
            if inner is None:
                return None
            changes[field.name], nudge = inner
        elif field.name == "beta" and np.ndim(value) == 0:
            changes["beta"], nudge = float(np.sign(value)) * abs(phases.beta), True
        elif field.name in settings:
            changes[field.name] = settings[field.name]
    try:
        return dataclasses.replace(rule, **changes), nudge
    except (TypeError, ValueError):  # a constructor, or a check, of the user's own
        return None


def check_gradient(name: str, gradient: Any, exact: tuple[Any, Any]) -> None:
    """Raise `ValueError` for a gradient that does not match the parameters."""
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
    """Check a rule of the library with settled phases against what it must equal."""
    what = "the exact gradient" if row == EXACT else row
    kept = found.check(
        f"{name}, settled, against {row}",
        agrees.error,
        RULE,
        f"{rule}: with phases that settle and a small nudge its gradient must equal "
        f"{what}, and is off by {number(agrees.error)}: the rule is wrong. Compared "
        f"with {what}, {difference(agrees)}",
    )
    if kept:
        found.notes.append(
            f"{name}: with phases that settle and a small nudge, {rule} is {what} "
            f"to {number(agrees.error)}."
        )
    return kept


def judge_own(
    found: Findings,
    what: str,
    gradient: tuple[Any, Any],
    grads: dict[str, Any],
    beta: float | None = None,
) -> bool:
    """Check a user's rule against the exact gradient, or EP's limit if that is nearer.

    `what` names the rule and says whether its phases settled.  `beta` is the small
    nudge; `None` for a rule whose nudge could not be set, which is allowed more error.
    """
    # EP itself is a promise only if it is biased.
    biased = agreement(grads[CENTERED], grads[EXACT]).error > OWN
    rows = (EXACT, CENTERED) if biased else (EXACT,)
    row = min(rows, key=lambda row: _worst(gradient, grads[row])[1])
    allowed = LOOSE if beta is None else OWN
    (leaf, part), error = _worst(gradient, grads[row])
    whole = agreement(gradient, grads[row])
    against = "the exact gradient" if row == EXACT else "EP's gradient"
    batch = found.facts["examples"]
    text = difference(whole, batch, beta)
    total = length_of(grads[row])
    parts = [
        (name, agreement(g, e))
        for name, g, e in by_parameter(gradient, grads[row])
        if length_of(e) > RULE * total
    ]
    if whole.error <= allowed < error:
        text = f"the gradient of {leaf} alone is wrong: {difference(part, batch)}"
    elif len(parts) > 1 and all(part.angle <= 0.5 < whole.angle for _, part in parts):
        listed = ", ".join(f"{name} × {number(p.ratio)}" for name, p in parts)
        text = f"each parameter has the right direction and its own factor: {listed}."
    elif len(parts) > 1 and 0.5 < whole.angle <= 179:
        listed = ", ".join(f"{name} {number(p.angle)}°" for name, p in parts[:6])
        text += f" By parameter: {listed}."
    kept = found.check(
        f"{what}, against {row}",
        max(error, whole.error),
        allowed,
        f"{what}, does not give {against}: {text} If the rule is approximate by "
        "design, declare it: `approximate: ClassVar[str] = 'the reason'`.",
    )
    if kept:
        found.notes.append(f"{what}: {against} to {number(whole.error)}.")
    return kept


def _worst(found: Any, exact: Any) -> tuple[tuple[str, Agreement], float]:
    """Return the parameter array that is off most, and by how much.

    Relative to its own gradient, or to 1e-3 of the whole if that is larger.
    """
    total = length_of(exact)
    worst, error = ("", agreement(found, exact)), 0.0
    for name, g, e in by_parameter(found, exact):
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
    """Note how far off a rule is as configured, what that means, and what to do next.

    `kept`: whether it keeps its promise, so that only its settings can be the cause.
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
            " The others add an error, which the angle contains: this is fine below "
            f"{FAR:g}° (docs/theorems.md#have-the-examples-settled)."
        )
    if far and kept and not reason:
        text += _advice(rule, share)
        found.warnings.append(
            f"{name}, the gradient is {number(agrees.angle)}° off the exact one; the "
            "notes below say what this means and what to do next."
        )
    found.notes.append(text)


def _advice(rule: AbstractEstimator, share: float) -> str:
    """Advise on a right rule whose settings give a gradient that is far off."""
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
