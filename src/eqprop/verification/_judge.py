"""Compare what theory promises with what was measured, and give the reasons in words.

Each function adds checks, failures and notes to `Findings`.  Why a promise of EP
itself fails is explained in `_causes`.
"""

import math
from typing import Any

import numpy as np

from ..systems._base import AbstractMap, AbstractSystem, has_potential
from . import _causes
from ._derivatives import LIMIT as DERIVATIVE, Slope
from ._exactness import Exactness, TOLERANCE
from ._finite_differences import SettledSlopes
from ._findings import Findings
from ._fixed_point import unit
from ._metrics import Agreement, agreement, flat, relative_error
from ._verification import number, Sweep

IDENTITY = 1e-10
FINITE_DIFFERENCE = 1e-6
SLOPE = 0.05
EXACT = 1e-6
"""relative error of EP's limit that counts as exact"""


def adjoint(found: Findings, residual: float, accurate: bool) -> bool:
    """Without an accurate linear solve there is no exact gradient to compare with."""
    found.add(
        "residual of the adjoint solve",
        residual,
        f"≤ {IDENTITY:g}",
        "holds" if accurate else "fails",
    )
    if not accurate:
        found.failures.append(
            "the adjoint solve (I − Jᵀ)λ = ∂C/∂s did not converge (relative residual "
            f"{number(residual)}): I − Jᵀ is singular at s⁰, so the settled cost has "
            "no gradient. Give every direction of the state a restoring force."
        )
    return accurate


def derivatives(found: Findings, slopes: list[Slope]) -> bool:
    """JAX's derivative of each function against finite differences of its values."""
    if not slopes:
        return True
    return found.check(
        "each function's derivative against finite differences",
        max(slope.error for slope in slopes),
        DERIVATIVE,
        _causes.derivatives([slope for slope in slopes if slope.wrong]),
    )


def finite_differences(found: Findings, slopes: SettledSlopes, explained: bool) -> None:
    """The exact gradient against the settled cost itself."""
    found.check(
        "implicit against finite differences",
        slopes.error,
        FINITE_DIFFERENCE,
        _causes.settled_cost(slopes, explained),
    )
    if slopes.without:
        found.notes.append(
            "without a derivative at s⁰ (frozen, unused, or acting only on units that "
            f"are held or dead): {', '.join(slopes.without)}."
        )


def zero_gradient(found: Findings, reference: Any) -> None:
    """∂C/∂s is not 0, and no parameter has a gradient."""
    if not flat(reference).any():
        found.notes.append(
            "the exact gradient is zero: at s⁰ no parameter acts on the prediction "
            "through a unit that is free to move (all are held at bounds, or dead)."
        )


def no_signal(found: Findings, signal: float, slopes: list[Slope]) -> None:
    """∂C/∂s is 0 in every example: is the model to blame, or are the targets met?"""
    flat = [
        slope
        for slope in slopes
        if slope.flat
        and (slope.function, slope.argument)
        in {("readout", "s"), ("cost", "prediction"), ("total energy", "s")}
    ]
    if flat:
        found.failures.append(
            f"the {flat[0].function} does not change with the {_what(flat[0])} "
            "anywhere near s⁰, so no learning rule gets an error signal: it rounds, "
            "compares or takes an argmax, or its units are dead. Use a smooth function."
        )
    if found.failures:
        return
    found.promise = "the cost has no gradient at s⁰ in any example: nothing to test."
    found.notes.append(
        f"|∂C/∂s| is {signal:.2g} at most: the targets are met, so every gradient "
        "is zero but for rounding; verify on other examples."
    )


def _what(slope: Slope) -> str:
    return "state" if slope.argument == "s" else slope.argument


def references(
    found: Findings,
    grads: dict[str, Any],
    radius: float,
    short: Any,
) -> None:
    """RBP at convergence against implicit; BPTT against it, or RBP cut as short."""
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
    name, other = (
        ("RBP", short) if short is not None else ("implicit", grads["implicit"])
    )
    off = relative_error(grads["BPTT"], other)
    allowed = noise if short is not None else max(noise, 100 * left)
    found.check(
        f"BPTT, {through} steps, against {name}",
        off,
        allowed,
        f"BPTT's gradient through {through} steps is off {name}'s by {number(off)}.",
    )


def identity(found: Findings) -> float:
    """What may be left of an identity: more where ∂C/∂s is hardly above rounding."""
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
    """Whether EP's limit is the exact gradient here; if not, why.

    The gradient decides.  EP's sufficient conditions explain: a violation is a failure
    only if the gradient is wrong, and the system does not declare EP approximate.
    """
    exact = limit.error <= max(EXACT, identity(found))
    declared = isinstance(system, AbstractMap) or not has_potential(system)
    found.facts.update(
        asymmetry=probe.asymmetry,
        mismatch=probe.mismatch,
        misplaced=probe.misplaced,
        held=probe.held,
        limit_error=limit.error,
    )
    name = "EP's limit (β → 0) against implicit"
    if exact or not declared:
        outcome = "holds" if exact else "fails"
        found.add(name, limit.error, f"≤ {EXACT:g}", outcome)
    else:
        found.measure(name, limit.error)
    scale = "" if probe.scale is None else "D "
    rule = (
        f"{scale}∂²potential/∂θ∂s against −∂velocity/∂θ"
        if has_potential(system)
        else "∂learning_field/∂θ against ∂velocity/∂θ"
    )
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
            outcome = "holds" if kept else "fails"
            found.add(name, value, f"≤ {TOLERANCE:g}", outcome)
    if not exact and not declared:
        found.failures.append(_causes.inexact(probe, limit, bounds))
    if exact:
        found.notes += _causes.exact(probe, bounds, found.facts["examples"])
    if probe.held == 1:
        found.notes.append("every unit is held at a bound by `project` at s⁰.")
    return exact


def regime(sweeps: tuple[Sweep, ...]) -> tuple[float, float]:
    """The β, from smallest to largest, at which every order is constant."""
    orders = [sweep.order for sweep in sweeps if not sweep.order.exact]
    orders = [order for order in orders if math.isfinite(order.measured)]
    betas = sweeps[0].betas
    low = max((order.low for order in orders), default=min(betas))
    return low, max(min((order.high for order in orders), default=max(betas)), low)


def exact_rule(
    found: Findings,
    probe: Exactness,
    grads: dict[str, Any],
    other: str,
    beta: float,
) -> None:
    """EP is exact in the limit: orders in β, and the table's rows."""
    found.promise = "EP computes the exact gradient of this system as β → 0"
    if probe.exact:
        times = "" if probe.scale is None else " times D"
        found.promise += (
            ", and its temporal derivatives are RBP's and BPTT's error"
            f"{times} at every step"
        )
    found.promise += "."
    # Without the conditions only the limit is exact, not each step on the way.
    for sweep in found.sweeps if probe.exact else ():
        order, what = sweep.order, f"EP {sweep.nudging}, {sweep.quantity}"
        # An error that stops falling is a floor, unless rounding explains it.
        force = min(found.facts["signal"], found.facts["moved"])
        rounding = 1e-12 / max(force * order.low, 1e-300)
        limit = (1e-4 if sweep.nudging == "one-sided" else 1e-6) + rounding
        falling = order.low <= 1.01 * min(sweep.betas)
        fine = order.holds(SLOPE) and (falling or order.smallest <= limit)
        shown = math.inf if order.exact else order.measured
        promised = f"{order.expected:g} ± {100 * SLOPE:g} %"
        found.add(f"{what}: order in β", shown, promised, "holds" if fine else "fails")
        if not fine:
            found.failures.append(_wrong_order(what, order))
    for name, allowed in (("one-sided", 0.1), ("centered", 0.01)):
        off = agreement(grads[f"EP {name}"], grads[other]).error
        if not flat(grads[other]).any():
            continue
        found.check(
            f"EP {name} at β={beta:.3g} against {other}",
            off,
            allowed,
            _wrong_beta(name, off, beta, found.sweeps),
        )


def single_parameters(found: Findings) -> None:
    """Parameters that are far off in a gradient that is near as a whole."""
    for name in dict.fromkeys(row.estimator for row in found.rows):
        rows = [row for row in found.rows if row.estimator == name]
        *parts, whole = sorted(rows, key=lambda row: row.parameter == "all")
        off = [(row.agreement.angle, row.parameter) for row in parts]
        angle, parameter = max(off, key=lambda o: np.nan_to_num(o[0]), default=(0, ""))
        if whole.agreement.angle <= _causes.FAR < angle:
            found.notes.append(
                f"{name}: the gradient of {parameter} alone is {number(angle)}° "
                "off. It is a small part of the whole gradient, which is "
                f"{number(whole.agreement.angle)}° off: a smaller β or longer phases "
                "matter for this parameter only."
            )


def order_of_estimator(
    found: Findings, name: str, errors: tuple[float, float], ratio: float
) -> None:
    """The estimator itself at β and at β/ratio: its error must fall as its order."""
    expected = {"one-sided": 1.0, "centered": 2.0}[name]
    large, small = errors
    if not large > 0 or small < 1e-8:
        return
    order = math.log(large / small) / math.log(ratio) if small else math.inf
    fine = order >= 0.8 * expected
    found.add(
        f"EP {name}, the estimator: order in β",
        order,
        f"≥ {0.8 * expected:g}",
        "holds" if fine else "fails",
    )
    if not fine:
        found.failures.append(
            f"EP {name}: the estimator's own error falls as β^{order:.2f}, from "
            f"{number(large)} to {number(small)}; theory expects β^{expected:g}, "
            "as its process shows."
        )


def _wrong_order(what: str, order) -> str:
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


def biased_rule(
    found: Findings,
    system: AbstractSystem,
    probe: Exactness,
    moves: float,
    estimate: Any,
    predicted: Any,
    reference: Any,
) -> None:
    """EP is not exact: its bias, and whether it is the one theory predicts."""
    limit, left = predicted
    agrees = agreement(estimate, reference)
    found.measure(f"EP's error at β = {found.facts['beta']:.3g}", agrees.error)
    found.measure("EP's sign agreement", agrees.signs)
    if float(left) < 1e-8 and flat(limit).any():
        found.check(
            "EP's bias against theory's (paper C, eq 18)",
            agreement(estimate, limit).error,
            # Beside its bias a centered estimate has an error of order β².
            max(FINITE_DIFFERENCE, 100 * moves**2),
            "EP's estimate is not the limit that theory predicts for this system: "
            f"off by {number(agreement(estimate, limit).error)}.",
        )
    if isinstance(system, AbstractMap):
        what = "a map: EP is approximate by declaration"
        found.check(
            "EP's angle to the exact gradient, degrees",
            agrees.angle if flat(reference).any() else 0.0,
            90.0,
            f"EP's gradient is {number(agrees.angle)}° off the exact one: at 90° or "
            "more learning does not descend. Train with BPTT, RBP or implicit "
            "differentiation, or make ∂velocity/∂s more nearly symmetric.",
            strict=True,
        )
    elif not has_potential(system):
        what = "a vector field for which EP is biased"
        found.measure("EP's angle to the exact gradient, degrees", agrees.angle)
        found.notes.append(
            f"the Jacobian is not symmetric (asymmetry {number(probe.asymmetry)}): EP "
            "solves with J in place of Jᵀ (paper C, eqs 17–18), which is "
            f"{number(agrees.angle)}° off the exact gradient."
            if not probe.symmetric
            else f"EP is {number(agrees.angle)}° off the exact gradient: "
            + _causes.words(probe)
        )
        if agrees.angle >= 90:
            found.notes.append(
                "warning: at 90° or more the update does not descend the cost."
            )
    else:
        return
    found.promise = (
        f"RBP, BPTT and implicit differentiation agree. This is {what}, here by "
        f"{number(agrees.angle)}° (error {number(agrees.error)}, norm × "
        f"{number(agrees.ratio)}, signs {100 * agrees.signs:.1f} %)."
        f"{_causes.biased(agrees.angle)}"
    )
