"""What `tune` returns: a proposal, the curves behind it, and its reasons in words."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from . import _figures
from ..estimators import EquilibriumPropagation
from ..relaxations._euler import Euler
from ._records import TuningCurve
from ._text import aligned, number


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Proposed hyper-parameters of EP, and the curves behind them.

    - `estimator`: ready to train with; `None` if the system does not settle.
    - `angle`: between its float32 gradient and the exact one, in degrees, on the worst
      batch.
    - `bias`: angle between EP's limit (settled, β → 0) and the exact gradient.
    - `target`: the angle asked for; `reached`: whether `angle` is within it.
    - `reason`: why the target is reached or not, in a few sentences.
    - `curves`: by `"dt"`, `"K"`, `"T"`, `"beta"`, as far as they were measured.
    - `batches`: the angle on each batch; the curves are measured on the first.  NaN if
      the exact gradient is zero; infinite if a gradient is not finite or if the exact
      one does not exist.
    """

    estimator: EquilibriumPropagation | None
    angle: float
    bias: float
    target: float
    reached: bool
    reason: str
    curves: dict[str, TuningCurve]
    batches: tuple[float, ...] = ()

    def overrides(self) -> dict[str, Any]:
        """Return the proposal by configuration name, e.g. `"estimator.free.steps"`."""
        if self.estimator is None:
            return {}
        found: dict[str, Any] = {}
        for phase in ("free", "nudged"):
            relaxation = getattr(self.estimator, phase)
            for name in (
                ("dt", "steps") if isinstance(relaxation, Euler) else ("steps",)
            ):
                found[f"estimator.{phase}.{name}"] = getattr(relaxation, name)
        found["estimator.beta"] = self.estimator.beta
        found["estimator.nudging"] = self.estimator.nudging
        return found

    def flags(self) -> str:
        """Return the proposal as command-line flags."""
        return " ".join(f"--{name} {value}" for name, value in self.overrides().items())

    def table(self) -> str:
        """Return each hyper-parameter, its value and the measurements there as text."""
        lines = [("", "chosen", "measured there")]
        for name, curve in self.curves.items():
            there = (f"{k} {number(v)}" for k, v in curve.at_chosen.items())
            lines.append((name, number(curve.chosen), ", ".join(there)))
        worst = f"angle {number(self.angle)}"
        if len(self.batches) > 1:
            worst += f", the worst of {len(self.batches)} batches"
        lines.append(("all, float32", "", worst))
        return aligned(lines)

    def __str__(self) -> str:
        return "\n\n".join([self.table(), self.reason, self.flags()]).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; the estimator as its overrides."""
        curves = {name: dataclasses.asdict(c) for name, c in self.curves.items()}
        kept = ("angle", "bias", "target", "reached", "reason", "batches")
        record = {name: getattr(self, name) for name in kept}
        return {"overrides": self.overrides(), **record, "curves": curves}

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the curves in a Matplotlib figure, and write it to `path` if given."""
        return _figures.saved(
            _figures.tuning(self.curves, self.target, self.reason), path
        )


def outcome(
    rule: EquilibriumPropagation,
    angle: float,
    target: float,
    bias: float,
    kind: str,
    biases: tuple[float, ...],
) -> str:
    """Say in one sentence whether a proposed rule reaches the target, or why not.

    `bias` is the angle of EP's limit, `biases` those of settled EP for each β; `kind`
    describes the system.
    """
    steps = [phase.steps for phase in (rule.free, rule.nudged)]  # type: ignore[attr-defined]
    found = f"T = {steps[0]}, K = {steps[1]} and β = {rule.beta:g}"
    if angle <= target:
        return (
            f"With {found} the float32 gradient is {angle:.2g}° off the exact one; "
            f"{target:g}° were asked for."
        )
    if bias > target:
        return (
            f"EP's own limit (settled phases, β → 0) is {bias:.3g}° off the exact "
            f"gradient of this system ({kind}), more than the {target:g}° asked for: "
            "no T, K or β can be relied on to do better."
        )
    least = min((b for b in biases if np.isfinite(b)), default=np.inf)
    cause = "rounding, or phases that are still too short"
    if least > target:
        cause = f"the bias of {rule.nudging} nudging, {least:.2g}° at best"
    return (
        f"The best float32 gradient found, with {found}, is {angle:.3g}° off the exact "
        f"one, and {target:g}° were asked for; what is left is {cause}."
    )


def certificate(angles: tuple[float, ...], used: int, size: int) -> str:
    """Say on which batches the angle was measured."""
    if len(angles) == 1:
        return (
            f" It was measured on these {size} examples only: there were no others to "
            "certify it on, and another batch may differ."
        )
    rest = len(angles) - used
    text = (
        f" This is the worst of {len(angles)} batches of {size} examples: {used} to "
        f"propose on, {rest} held back (angles {', '.join(map(number, angles))}°)."
    )
    if not rest:
        text += " All batches were needed to propose: others may differ."
    if not np.isfinite(angles).all():
        text += " No number: no fixed point, or an exact gradient of zero."
    return text
