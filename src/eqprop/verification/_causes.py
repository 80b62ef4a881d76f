"""Why a check of `verify` fails, and what to do about it, in words."""

import math
from typing import Any

from ._derivatives import Slope
from ._exactness import Exactness
from ._finite_differences import SettledSlopes
from ._metrics import Agreement
from ._verification import number

FAR = 5.0
"""degrees beyond which a gradient is not shown without saying what that means"""
NAMES = {"potential": "energy (or primitive)", "bounds": "project"}
DETACHED = {("readout", "s"), ("cost", "prediction"), ("total energy", "s")}
"""what carries the error signal to the state"""


def derivatives(wrong: list[Slope]) -> str:
    """The first function whose derivative is not its slope; the others by name."""
    if not wrong:
        return ""
    first = wrong[0]
    function = NAMES.get(first.function, first.function)
    argument = {"s": "the state"}.get(first.argument, first.argument)
    said = (
        f"along a random direction JAX's derivative in {argument} is "
        f"{number(first.derivative)}, and finite differences of the values give "
        f"{number(first.difference)}"
    )
    if (first.function, first.argument) in DETACHED and first.unused:
        text = (
            f"the {function} is detached: {said}. No learning rule gets an error "
            f"signal through it: remove `stop_gradient` from the {function}."
        )
    elif first.argument in ("s", "prediction"):
        text = (
            f"the {function} and its derivative disagree: {said}. The {function} reads "
            f"{argument} through `stop_gradient`, or uses a function with a derivative "
            "of its own (`custom_jvp`, straight-through). The learning rules see that "
            "derivative and not the function: remove it."
        )
    else:
        text = (
            f"the {function} and its derivative in the parameter {argument} disagree: "
            f"{said}. {argument} is used through a straight-through estimator "
            "(rounded or binarized weights), or partly through `stop_gradient`. The "
            "gradients are those of the function without it, not of this cost. To "
            "freeze a parameter, read it through `stop_gradient` everywhere."
        )
    others = [
        f"{NAMES.get(slope.function, slope.function)} in {slope.argument}"
        for slope in wrong[1:]
    ]
    return text + (f" The same for: {', '.join(others)}." if others else "")


def settled_cost(slopes: SettledSlopes, explained: bool) -> str:
    """The settled cost's slope is not the implicit gradient."""
    text = (
        "the implicit gradient is off the finite differences of the settled cost by "
        f"{number(slopes.error)} in {slopes.parameter or 'every parameter'}"
    )
    if explained:
        return f"{text}, as a derivative above is not that of its function."
    if slopes.kink:
        return (
            f"{text}. The settled cost has a different slope on each side: a unit sits "
            "at the very edge of a bound or at a kink, where there is no gradient. Use "
            "other examples, or a smooth function."
        )
    return (
        f"{text}, though it is smooth there and every function agrees with its "
        "derivative at random states: a function has another derivative at s⁰ itself, "
        "or implicit differentiation is wrong."
    )


def inexact(probe: Exactness, limit: Agreement, bounds: list[str]) -> str:
    """EP's limit is not the exact gradient of a system with a potential."""
    text = (
        f"refused: EP's gradient is wrong for this system as β → 0: {difference(limit)}"
    )
    return f"{text} The cause: {words(probe, bounds)}"


def words(probe: Exactness, bounds: list[str] | None = None) -> str:
    """Which condition of exactness does not hold, and what to do."""
    if probe.scale is not None and not probe.placed:
        low, high = probe.touched
        value = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"
        return (
            f"the velocity is −D ∂potential/∂s with D = {value} on units that the "
            "nudge touches, and the nudge is not scaled by D. Scale it too: define "
            "forced_velocity(x, s, force) = D(−∂E/∂s + force), or set D = 1 on these "
            "units. (Time constants of other units do no harm.)"
        )
    if not probe.generated:
        return (
            "the potential does not generate the velocity (∂²potential/∂θ∂s and "
            f"−(∂velocity/∂θ)ᵀ differ by {number(probe.mismatch)}), so EP's rule is "
            "not this system's. Correct one of the two, or write it as an "
            "AbstractVectorField, or as an AbstractMap if EP is to be approximate."
            + _asymmetric(probe)
        )
    if not probe.symmetric:
        return _asymmetric(probe).lstrip()
    if not probe.placed:
        return (
            "the nudge does not act through the same matrix as the velocity (S ∂C/∂s "
            f"and M ∂C/∂s differ by {number(probe.misplaced)}). Make forced_velocity "
            "the velocity with the force added inside."
        )
    if bounds:
        return (
            f"`project` depends on the parameters {', '.join(bounds)}, and EP's "
            "contrast contains the potential only, so a bound that holds a unit gets "
            "no gradient. Let the state be u = s / bound with fixed bounds and put the "
            "parameter into the energy, freeze it (read it through `stop_gradient` "
            "everywhere), or train with implicit differentiation, RBP or BPTT."
        )
    return (
        "none of the known ones: the velocity derives from the potential. A unit may "
        "sit at the very edge of a bound or kink; verify on other examples."
    )


def _asymmetric(probe: Exactness) -> str:
    if probe.symmetric:
        return ""
    return (
        " The Jacobian of the velocity is not symmetric (‖(J − Jᵀ)w‖ / (‖Jw‖ + ‖Jᵀw‖) "
        f"= {number(probe.asymmetry)}), though the system has a potential. Derive the "
        "velocity from the potential, or write it as an AbstractVectorField."
    )


def exact(probe: Exactness, bounds: list[str], examples: int) -> list[str]:
    """What to know of a system for which EP's limit is exact."""
    notes = []
    if probe.exact and probe.scale is not None:
        notes.append(
            "the velocity is −D ∂potential/∂s with D ≠ 1 on units that the nudge does "
            "not touch: EP is exact, and its temporal derivatives are D times RBP's."
        )
    if not probe.exact:
        notes.append(
            f"EP's gradient is exact on these {examples} examples, but a condition "
            "that guarantees it does not hold (see the checks marked note), so other "
            f"examples may differ: verify on more. The condition: {words(probe)}"
        )
    if bounds:
        notes.append(
            f"`project` depends on the parameters {', '.join(bounds)}; no unit is held "
            "at such a bound here. Where one is, EP gives the bound no gradient."
        )
    return notes


def biased(angle: float) -> str:
    """What EP's bias means for learning, where it is large."""
    if not angle > FAR:
        return ""
    return (
        f" At {number(angle)}° an EP step follows the exact gradient with "
        f"{100 * math.cos(math.radians(angle)):.0f} % of its length; the rest is error "
        "that no T, K or β removes. Training may still work: measure it, or use an "
        "exact rule (AsymmetricEquilibriumPropagation, `--estimator asym`; RBP; BPTT)."
    )


def difference(agrees: Agreement, batch: int | None = None, beta: Any = None) -> str:
    """Scale and direction of a wrong gradient, told apart."""
    if not math.isfinite(agrees.error):
        return "it is not finite, or not zero where the exact one is."
    if math.isnan(agrees.angle):
        return "it is zero."
    ratio = number(agrees.ratio)
    if agrees.angle > 179:
        return (
            f"it points the other way (angle {number(agrees.angle)}°, norm {ratio} "
            "times the exact one): a sign is wrong."
        )
    if agrees.angle <= 0.5:
        guess = _factor(agrees.ratio, batch, beta)
        return (
            f"its direction is right (angle {number(agrees.angle)}°), its norm is "
            f"{ratio} times the exact one: a constant factor is wrong.{guess}"
        )
    return (
        f"its direction is {number(agrees.angle)}° off (norm {ratio} times the exact "
        "one), which no constant factor explains."
    )


def _factor(ratio: float, batch: int | None, beta: Any) -> str:
    known = [
        (2.0, "Is the nudge applied twice?"),
        (0.5, "Is the contrast of ±β divided by 2β where one phase is free?"),
    ]
    if batch is not None and batch > 1:
        known += [
            (1.0 / batch, "Is a mean over the batch divided by the batch again?"),
            (float(batch), "Is it the sum over the batch where the mean is meant?"),
        ]
    if beta is not None:
        size = abs(float(beta))
        known += [
            (size, "Is the division by β missing?"),
            (1 / size, "Is it divided by β twice?"),
        ]
    for value, guess in known:
        if abs(ratio / value - 1) < 0.02:
            return f" {guess}"
    return ""
