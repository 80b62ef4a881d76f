"""Compare each promise of theory with its measurement, and give the reasons in words.

Each function adds checks, failures and notes to `Findings`.  `_causes` explains why a
promise fails; `_judge_point` judges the fixed point itself, `_promises` the caller's
learning rules.
"""

import math
from typing import Any

import numpy as np

from ..systems._base import AbstractMap, AbstractSystem, has_potential
from . import _causes
from ._derivatives import LIMIT as DERIVATIVE, Slope
from ._exactness import Exactness, TOLERANCE
from ._findings import Findings
from ._finite_differences import SettledSlopes
from ._fixed_point import unit
from ._metrics import Agreement, agreement, flat, Order, relative_error
from ._records import BetaErrors
from ._text import number

IDENTITY = 1e-10
FINITE_DIFFERENCE = 1e-6
SLOPE = 0.05
EXACT = 1e-6
"""relative error of EP's limit that counts as exact"""


def adjoint(found: Findings, residual: float, accurate: bool) -> bool:
    """Require an accurate linear solve: without it there is no exact gradient."""
    return found.add(
        "residual of the adjoint solve",
        residual,
        f"≤ {IDENTITY:g}",
        accurate,
        "the adjoint solve (I − Jᵀ)λ = ∂C/∂s did not converge (relative residual "
        f"{number(residual)}): I − Jᵀ is singular at s⁰, so the settled cost has no "
        "gradient. Give every direction of the state a restoring force.",
    )


def derivatives(found: Findings, slopes: list[Slope]) -> bool:
    """Check JAX's derivative of each function by finite differences of its values."""
    if not slopes:
        return True
    return found.check(
        "each function's derivative against finite differences",
        max(slope.error for slope in slopes),
        DERIVATIVE,
        _causes.derivatives([slope for slope in slopes if slope.wrong]),
    )


def finite_differences(found: Findings, slopes: SettledSlopes, explained: bool) -> None:
    """Check the exact gradient by finite differences of the settled cost."""
    name = "implicit against finite differences"
    cause = _causes.settled_cost(slopes, explained)
    found.check(name, slopes.error, FINITE_DIFFERENCE, cause)
    if slopes.without:
        found.notes.append(
            "parameters without a derivative at s⁰ (frozen, unused, or acting only on "
            f"units that are held or dead): {', '.join(slopes.without)}."
        )


def zero_gradient(found: Findings, reference: Any) -> None:
    """Note that no parameter has a gradient, though ∂C/∂s is not 0."""
    if not flat(reference).any():
        found.notes.append(
            "the exact gradient is zero: at s⁰ no parameter acts on the prediction "
            "through a unit that is free to move (all are held at bounds, or dead)."
        )


def no_signal(found: Findings, signal: float, slopes: list[Slope]) -> None:
    """Say why ∂C/∂s is 0 in every example: a flat function, or targets that are met."""
    flat = [
        slope
        for slope in slopes
        if slope.flat and (slope.function, slope.argument) in _causes.DETACHED
    ]
    if flat:
        what = "state" if flat[0].argument == "s" else flat[0].argument
        found.failures.append(
            f"the {flat[0].function} does not change with the {what} anywhere near s⁰, "
            "so no learning rule gets an error signal: it rounds, compares or takes an "
            "argmax, or its units are dead. Use a smooth function."
        )
    if found.failures:
        return
    found.promise = "the cost has no gradient at s⁰ in any example: nothing to test."
    found.notes.append(
        f"|∂C/∂s| is {signal:.2g} at most: the targets are met, so every gradient is "
        "zero except for rounding. Verify on other examples."
    )


def references(
    found: Findings, grads: dict[str, Any], radius: float, short: Any
) -> None:
    """Check RBP against implicit; and BPTT against it, or against RBP cut as short."""
    length, through = found.facts["rbp_steps"], found.facts["bptt_steps"]
    noise = identity(found)
    left = 0.0 if radius == 0 else min(radius, 1.0) ** length
    off = relative_error(grads["RBP"], grads["implicit"])
    found.check(
        f"RBP, {length} steps, against implicit",
        off,
        # A process that had to be cut short differs by what is left of it.
        max(noise, 100 * left / max(1 - radius, 1e-6)),
        f"RBP's gradient after {length} steps is off the exact one by {number(off)}.",
    )
    name, other, allowed = "RBP", short, noise
    if short is None:
        name, other, allowed = "implicit", grads["implicit"], max(noise, 100 * left)
    off = relative_error(grads["BPTT"], other)
    found.check(
        f"BPTT, {through} steps, against {name}",
        off,
        allowed,
        f"BPTT's gradient through {through} steps is off {name}'s by {number(off)}.",
    )


def identity(found: Findings) -> float:
    """Return the error allowed to an identity: more if ∂C/∂s is close to rounding."""
    facts = found.facts
    slow = 1 / max(1 - facts["spectral_radius"], 1e-6)
    residual = facts["residual"] / unit(facts["dt"])
    return max(IDENTITY, 100 * residual * slow / max(facts["signal"], 1e-300))


def exactness(
    found: Findings,
    system: AbstractSystem,
    probe: Exactness,
    limit: Agreement,
    bounds: list[str],
) -> bool:
    """Judge whether EP's limit is the exact gradient; if not, say why.

    The gradient decides.  EP's sufficient conditions explain: a violation is a failure
    only if the gradient is wrong and the system does not declare EP approximate.
    """
    exact = limit.error <= max(EXACT, identity(found))
    declared = isinstance(system, AbstractMap) or not has_potential(system)
    for name in ("asymmetry", "mismatch", "misplaced", "held"):
        found.facts[name] = getattr(probe, name)
    found.facts["limit_error"] = limit.error
    name = "EP's limit (β → 0) against implicit"
    if declared and not exact:
        found.measure(name, limit.error)
    else:
        reason = "" if exact else _causes.inexact(probe, limit, bounds)
        found.add(name, limit.error, f"≤ {EXACT:g}", exact, reason)
    scale = "" if probe.scale is None else "D "
    rule = f"{scale}∂²potential/∂θ∂s against −∂velocity/∂θ"
    if not has_potential(system):
        rule = "∂learning_field/∂θ against ∂velocity/∂θ"
    for name, value in (
        (f"asymmetry of ∂velocity/∂s{scale and ' D'}", probe.asymmetry),
        (rule, probe.mismatch),
        ("nudge against the one that EP needs", probe.misplaced),
    ):
        if value is None:
            continue
        kept = value <= TOLERANCE
        if declared or (exact and not kept):
            found.measure(name, value)
        else:
            found.add(name, value, f"≤ {TOLERANCE:g}", kept)
    if exact:
        found.notes += _causes.exact(probe, bounds, found.facts["examples"])
    if probe.held == 1:
        found.notes.append("every unit is held at a bound by `project` at s⁰.")
    return exact


def regime(sweeps: tuple[BetaErrors, ...]) -> tuple[float, float]:
    """Return the smallest and largest β between which every order is constant."""
    orders = [sweep.order for sweep in sweeps if not sweep.order.exact]
    orders = [order for order in orders if math.isfinite(order.measured)]
    betas = sweeps[0].betas
    low = max((order.low for order in orders), default=min(betas))
    return low, max(min((order.high for order in orders), default=max(betas)), low)


def exact_rule(
    found: Findings, probe: Exactness, grads: dict[str, Any], other: str
) -> None:
    """Check EP where its limit is exact: orders in β, and the table's rows."""
    found.promise = "EP computes the exact gradient of this system as β → 0"
    # Without the conditions only the limit is exact, not each step on the way.
    if probe.exact:
        times = "" if probe.scale is None else " times D"
        found.promise += (
            ", and its temporal derivatives are RBP's and BPTT's error"
            f"{times} at every step"
        )
        for sweep in found.sweeps:
            _order(found, sweep)
    found.promise += "."
    if not flat(grads[other]).any():
        return
    beta = found.facts["beta"]
    for name, allowed in (("one-sided", 0.1), ("centered", 0.01)):
        off = agreement(grads[f"EP {name}"], grads[other]).error
        found.check(
            f"EP {name} at β={beta:.3g} against {other}",
            off,
            allowed,
            _wrong_beta(name, off, beta, found.sweeps),
        )


def _order(found: Findings, sweep: BetaErrors) -> None:
    """Check the order in β of EP's process."""
    order, what = sweep.order, f"EP {sweep.nudging}, {sweep.quantity}"
    # An error that stops falling is a floor, unless rounding explains it.
    force = min(found.facts["signal"], found.facts["moved"])
    rounding = 1e-12 / max(force * order.low, 1e-300)
    limit = (1e-4 if sweep.nudging == "one-sided" else 1e-6) + rounding
    falling = order.low <= 1.01 * min(sweep.betas)
    found.add(
        f"{what}: order in β",
        math.inf if order.exact else order.measured,
        f"{order.expected:g} ± {100 * SLOPE:g} %",
        order.holds(SLOPE) and (falling or order.smallest <= limit),
        _wrong_order(what, order),
    )


def single_parameters(found: Findings) -> None:
    """Note parameters that are far off in a gradient that is near as a whole."""
    for name in dict.fromkeys(row.estimator for row in found.rows):
        rows = [row for row in found.rows if row.estimator == name]
        *parts, whole = sorted(rows, key=lambda row: row.parameter == "all")
        off = [(row.agreement.angle, row.parameter) for row in parts]
        angle, parameter = max(off, key=lambda o: np.nan_to_num(o[0]), default=(0, ""))
        if whole.agreement.angle <= _causes.FAR < angle:
            found.notes.append(
                f"{name}: the gradient of {parameter} alone is {number(angle)}° "
                "off. It is a small part of the whole gradient, which is "
                f"{number(whole.agreement.angle)}° off. A smaller β or longer phases "
                "matter for this parameter only."
            )


def order_of_estimator(found: Findings, name: str, large: float, small: float) -> None:
    """Check how the estimator's own error falls from β to β/4."""
    expected = {"one-sided": 1.0, "centered": 2.0}[name]
    if not large > 0 or small < 1e-8:
        return
    order = math.log(large / small) / math.log(4.0)
    found.add(
        f"EP {name}, the estimator: order in β",
        order,
        f"≥ {0.8 * expected:g}",
        order >= 0.8 * expected,
        f"EP {name}: the estimator's own error falls as β^{order:.2f}, from "
        f"{number(large)} to {number(small)}; theory expects β^{expected:g}, "
        "as its process shows.",
    )


def _wrong_order(what: str, order: Order) -> str:
    """Say how the error falls instead."""
    if math.isnan(order.measured):
        return (
            f"{what}: the error falls with a constant order in β for only "
            f"{100 * order.share:.0f} % of the examples (smallest error "
            f"{number(order.smallest)}); theory expects {order.expected:g}. Either the "
            "learning rule is not this system's, or a unit sits at the very edge of a "
            "bound or kink."
        )
    return (
        f"{what}: the error falls as β^{order.measured:.2f} down to "
        f"{number(order.smallest)}; theory expects β^{order.expected:g} and no floor."
    )


def _wrong_beta(name: str, off: float, beta: float, sweeps: Any) -> str:
    """Say whether β is too large, too small, or not the cause."""
    low, high = regime(sweeps)
    start = f"EP {name} at β={beta:.3g} is off the exact gradient by {number(off)}: "
    fits = f"the error is of constant order from β = {low:.1g} to {high:.1g}"
    if abs(beta) > high:
        return f"{start}β is too large; {fits}. Use β ≤ {high:.1g}."
    if abs(beta) < low:
        return f"{start}β is lost in rounding; {fits}. Use β ≥ {low:.1g}."
    return (
        f"{start}the nudged phase does not reach its fixed point, or the rule is wrong."
    )


def _predicted_bias(found: Findings, moves: float, estimate: Any, predicted: Any):
    """Check EP's estimate against its limit, if that could be solved for."""
    limit, left = predicted
    if float(left) >= 1e-8 or not flat(limit).any():
        return
    off = agreement(estimate, limit).error
    found.check(
        "EP's bias against theory's (paper C, eq 18)",
        off,
        # Besides its bias, a centered estimate has an error of order β².
        max(FINITE_DIFFERENCE, 100 * moves**2),
        "EP's estimate is not the limit that theory predicts for this system: "
        f"off by {number(off)}.",
    )


def biased_rule(
    found: Findings,
    system: AbstractSystem,
    probe: Exactness,
    moves: float,
    grads: dict[str, Any],
    predicted: Any,
) -> None:
    """Check that EP's bias is the one that theory predicts, and report it.

    `moves` is how far the table's β moves the state; `predicted` is EP's limit, and the
    residual of its solve.
    """
    estimate, reference = grads["EP centered"], grads["implicit"]
    agrees = agreement(estimate, reference)
    angle = number(agrees.angle)
    found.measure(f"EP's error at β = {found.facts['beta']:.3g}", agrees.error)
    found.measure("EP's sign agreement", agrees.signs)
    _predicted_bias(found, moves, estimate, predicted)
    name = "EP's angle to the exact gradient, degrees"
    if isinstance(system, AbstractMap):
        what = "a map: EP is approximate by declaration"
        measured = agrees.angle if flat(reference).any() else 0.0
        found.add(
            name,
            measured,
            "< 90",
            measured < 90,
            f"EP's gradient is {angle}° off the exact one: at 90° or more learning "
            "does not descend. Train with BPTT, RBP or implicit differentiation, or "
            "make ∂velocity/∂s more nearly symmetric.",
        )
    elif not has_potential(system):
        what = "a vector field for which EP is biased"
        found.measure(name, agrees.angle)
        cause = f"EP is {angle}° off the exact gradient: " + _causes.words(probe)
        if not probe.symmetric:
            cause = (
                f"the Jacobian is not symmetric (asymmetry {number(probe.asymmetry)}): "
                "EP solves with J in place of Jᵀ (paper C, eqs 17–18), which is "
                f"{angle}° off the exact gradient."
            )
        found.notes.append(cause)
        if agrees.angle >= 90:
            found.notes.append(
                "warning: at 90° or more the update does not descend the cost."
            )
    else:
        return
    found.promise = (
        f"RBP, BPTT and implicit differentiation agree. This is {what}, here by "
        f"{angle}° (error {number(agrees.error)}, norm × {number(agrees.ratio)}, signs "
        f"{100 * agrees.signs:.1f} %).{_causes.biased(agrees.angle)}"
    )
