"""Explain in words why a check of `verify` fails, and what to do about it."""

import math
from typing import Any

from ._derivatives import Slope
from ._exactness import Exactness
from ._finite_differences import SettledSlopes
from ._metrics import Agreement
from ._text import number

FAR = 5.0
"""degrees above which a verdict explains what the angle means"""
NAMES = {"potential": "energy (or primitive)", "bounds": "project"}
DETACHED = {("readout", "s"), ("cost", "prediction"), ("total energy", "s")}
"""the functions, with their argument, that carry the error signal to the state"""


def derivatives(wrong: list[Slope]) -> str:
    """Explain the first function whose derivative is not its slope; list others."""
    if not wrong:
        return ""
    first = wrong[0]
    function = NAMES.get(first.function, first.function)
    argument = "the state" if first.argument == "s" else first.argument
    said = (
        f"along a random direction JAX's derivative in {argument} is "
        f"{number(first.derivative)}; differences {number(first.difference)}"
    )
    if (first.function, first.argument) in DETACHED and first.unused:
        text = (
            f"the {function} is detached: {said}. No learning rule gets an error "
            f"signal through it: remove `stop_gradient` from the {function}."
        )
    elif first.argument in ("s", "prediction"):
        text = (
            f"the {function} and its derivative disagree: {said}. The {function} reads "
            f"{argument} through `stop_gradient`, or replaces its derivative "
            "(`custom_jvp`, straight-through). The learning rules use the replaced "
            "derivative: remove it."
        )
    else:
        text = (
            f"the {function} and its derivative in the parameter {argument} disagree: "
            f"{said}. {argument} passes a straight-through estimator (rounded or "
            "binarized weights), or `stop_gradient` in some places only, so the "
            "gradients are not those of this cost. To freeze a parameter, read it "
            "through `stop_gradient` everywhere."
        )
    others = [
        f"{NAMES.get(slope.function, slope.function)} in {slope.argument}"
        for slope in wrong[1:]
    ]
    return text + (f" The same for: {', '.join(others)}." if others else "")


def settled_cost(slopes: SettledSlopes, explained: bool) -> str:
    """Explain why the slope of the settled cost is not the implicit gradient."""
    text = (
        "the implicit gradient is off the finite differences of the settled cost by "
        f"{number(slopes.error)} in {slopes.parameter or 'every parameter'}"
    )
    if explained:
        return f"{text}, because of the wrong derivative above."
    if slopes.kink:
        return (
            f"{text}. The settled cost has a different slope on each side: a unit sits "
            "at the edge of a bound or a kink, where there is no gradient. Use other "
            "examples, or a smooth function."
        )
    return (
        f"{text}. The settled cost is smooth, and every function agrees with its "
        "derivative at random states: either a function has another derivative at s⁰, "
        "or implicit differentiation is wrong."
    )


def inexact(probe: Exactness, limit: Agreement, bounds: list[str]) -> str:
    """Explain why EP's limit is wrong for a system with a potential."""
    text = (
        f"refused: EP's gradient is wrong for this system as β → 0: {difference(limit)}"
    )
    return f"{text} The cause: {words(probe, bounds)}"


def words(probe: Exactness, bounds: list[str] | None = None) -> str:
    """Say which condition of exactness does not hold, and what to do."""
    if probe.scale is not None and not probe.placed:
        low, high = probe.touched
        value = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"
        return (
            f"the velocity is −D ∂potential/∂s with D = {value} on units that the "
            "nudge touches, and the nudge is not scaled by D. Define "
            "forced_velocity(x, s, force) = D(−∂E/∂s + force), or set D = 1 on these "
            "units. (Time constants of other units are fine.)"
        )
    if not probe.generated:
        return (
            "the potential does not generate the velocity (∂²potential/∂θ∂s and "
            f"−(∂velocity/∂θ)ᵀ differ by {number(probe.mismatch)}), so EP's rule is "
            "wrong for it. Correct one of the two, or write the system as an "
            "AbstractVectorField, or as an AbstractMap if EP may be approximate."
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
            "no gradient. Use the state u = s / bound with fixed bounds and the "
            "parameter in the energy; or freeze it (read it through `stop_gradient` "
            "everywhere); or train with implicit differentiation, RBP or BPTT."
        )
    return (
        "unknown: the velocity derives from the potential. A unit may sit at the edge "
        "of a bound or kink; verify on other examples."
    )


def _asymmetric(probe: Exactness) -> str:
    """Explain an asymmetric Jacobian; empty if it is symmetric."""
    if probe.symmetric:
        return ""
    return (
        " The Jacobian of the velocity is not symmetric (‖(J − Jᵀ)w‖ / (‖Jw‖ + ‖Jᵀw‖) "
        f"= {number(probe.asymmetry)}), though the system has a potential. Derive the "
        "velocity from the potential, or write it as an AbstractVectorField."
    )


def exact(probe: Exactness, bounds: list[str], examples: int) -> list[str]:
    """Note what to know about a system for which EP's limit is exact."""
    notes = []
    if probe.exact and probe.scale is not None:
        notes.append(
            "the velocity is −D ∂potential/∂s with D ≠ 1 on units that the nudge does "
            "not touch: EP is exact, and its temporal derivatives are D times RBP's."
        )
    if not probe.exact:
        notes.append(
            f"EP's gradient is exact on these {examples} examples, but a condition "
            "that guarantees it does not hold (see the checks marked note). Other "
            f"examples may differ: verify on more. The condition: {words(probe)}"
        )
    if bounds:
        notes.append(
            f"`project` depends on the parameters {', '.join(bounds)}; no unit is held "
            "at such a bound here. Where one is, EP gives the bound no gradient."
        )
    return notes


def biased(angle: float) -> str:
    """Say what a large bias of EP means for learning; empty for a small one."""
    if not angle > FAR:
        return ""
    return (
        f" At {number(angle)}° an EP step follows the exact gradient with "
        f"{100 * math.cos(math.radians(angle)):.0f} % of its length; the rest is error "
        "that no T, K or β removes. Training may still work: measure it, or use an "
        "exact rule (AsymmetricEquilibriumPropagation, `--estimator asym`; RBP; BPTT)."
    )


def difference(agrees: Agreement, batch: int | None = None, beta: Any = None) -> str:
    """Say whether the scale or the direction of a gradient is wrong."""
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
    """Guess the cause of a wrong factor; empty if no known one fits."""
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
