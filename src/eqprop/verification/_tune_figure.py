"""What `tune` returns: the proposal, the curves behind it, and their figure."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from .._drawing import COLORS, subplots
from ..estimators import EquilibriumPropagation
from ._verification import _aligned, number


@dataclasses.dataclass(frozen=True)
class TuningCurve:
    """One hyper-parameter's values, what was measured at each, and the chosen value.

    `measured` by name, as long as `values`; angles in degrees to the exact gradient:

    - dt (neuron time constants): `"steps"` to settle, infinite where it does not;
    - K (steps): `"angle"` of EP stopped after K steps from s⁰, β → 0;
    - T (steps): `"residual"` (velocity), and `"angle"` of the gradient taken at s_T;
    - β: `"bias"`, the settled EP's angle in float64; `"angle"`, the whole proposal's
      in float32.

    A quantity that is not finite is NaN.
    """

    values: tuple[float, ...]
    measured: dict[str, tuple[float, ...]]
    chosen: float

    @property
    def at_chosen(self) -> dict[str, float]:
        """What was measured at the chosen value, or at the last value below it."""
        below = [k for k, v in enumerate(self.values) if v <= self.chosen * (1 + 1e-9)]
        where = max(below, key=lambda k: self.values[k]) if below else 0
        return {name: column[where] for name, column in self.measured.items()}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Proposed hyper-parameters of EP, and the curves behind them.

    - `estimator`: ready to train with; `None` where the system does not settle.
    - `angle`: of its float32 gradient to the exact one, in degrees, on the worst batch.
    - `bias`: of EP's limit (settled, β → 0) to the exact gradient, in degrees.
    - `target`: degrees asked for; `reached`: whether `angle` is within.
    - `reason`: one sentence on why (not).
    - `curves`: by `"dt"`, `"K"`, `"T"`, `"beta"`, as far as they were measured.
    - `batches`: the angle on each batch; the first is that of the curves.  NaN where
      the exact gradient is zero, infinite where the gradient is not finite or the exact
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
        """The proposal by configuration name: `{"estimator.free.steps": 24, …}`."""
        if self.estimator is None:
            return {}
        found: dict[str, Any] = {}
        for phase in ("free", "nudged"):
            relaxation = getattr(self.estimator, phase)
            if relaxation.dt is not None:
                found[f"estimator.{phase}.dt"] = relaxation.dt
            found[f"estimator.{phase}.steps"] = relaxation.steps
        found["estimator.beta"] = self.estimator.beta
        found["estimator.nudging"] = self.estimator.nudging
        return found

    def flags(self) -> str:
        """The proposal as command-line flags."""
        return " ".join(f"--{name} {value}" for name, value in self.overrides().items())

    def table(self) -> str:
        """Each hyper-parameter, its value, and what was measured there, as text."""
        lines = [("", "chosen", "measured there")]
        for name, curve in self.curves.items():
            there = (f"{k} {number(v)}" for k, v in curve.at_chosen.items())
            lines.append((name, number(curve.chosen), ", ".join(there)))
        worst = f"angle {number(self.angle)}"
        if len(self.batches) > 1:
            worst += f", the worst of {len(self.batches)} batches"
        lines.append(("all, float32", "", worst))
        return _aligned(lines)

    def __str__(self) -> str:
        return "\n\n".join([self.table(), self.reason, self.flags()]).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """A JSON object of everything; the estimator as its overrides."""
        curves = {name: dataclasses.asdict(c) for name, c in self.curves.items()}
        kept = ("angle", "bias", "target", "reached", "reason", "batches")
        record = {name: getattr(self, name) for name in kept}
        return {"overrides": self.overrides(), **record, "curves": curves}

    def plot(self, path: str | Path | None = None) -> Any:
        """A Matplotlib figure of the curves, written to `path` where given."""
        figure = _figure(self)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def outcome(
    found: str,
    angle: float,
    target: float,
    bias: float,
    kind: str,
    nudging: str,
    biases: tuple[float, ...],
) -> str:
    """Whether the proposal `found` reaches the target, and why not, in one sentence.

    `bias` is the angle of EP's limit, `biases` those of the settled EP for each β.
    """
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
        cause = f"the bias of {nudging} nudging, {least:.2g}° at best"
    return (
        f"The best float32 gradient found, with {found}, is {angle:.3g}° off the exact "
        f"one, and {target:g}° were asked for; what is left is {cause}."
    )


def certificate(angles: tuple[float, ...], used: int, size: int) -> str:
    """On which batches the angle was measured, in a sentence or two."""
    if len(angles) == 1:
        return (
            f" Measured on these {size} examples only: no others were given to certify "
            "it on, and another batch may differ."
        )
    rest = len(angles) - used
    text = (
        f" This is the worst of {len(angles)} batches of {size} examples: {used} to "
        f"propose on, {rest} held back (angles {', '.join(map(number, angles))}°)."
    )
    if not rest:
        text += " All batches were needed to propose: others may differ."
    if not np.isfinite(angles).all():
        text += " Without a number, the exact gradient is zero or has no fixed point."
    return text


PANELS = {
    "dt": ("dt (neuron time constants)", "steps to settle"),
    "T": ("T, free steps", "angle to the exact gradient (°)"),
    "K": ("K, nudged steps", "angle to the exact gradient (°)"),
    "beta": ("β (dimensionless)", "angle to the exact gradient (°)"),
}
LABELS = {
    ("T", "angle"): "gradient taken at s_T, float64",
    ("K", "angle"): "EP after K steps, β → 0, float64",
    ("beta", "angle"): "the whole proposal, float32",
    ("beta", "bias"): "settled EP, float64",
}


def _figure(tuning: Tuning) -> Any:
    """A panel for each curve that was measured: the chosen value and the target."""
    panels = [(name, *PANELS[name]) for name in PANELS if name in tuning.curves]
    columns = min(2, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure, axes = subplots(rows, columns, (5 * columns, 3.5 * rows))
    for axis in axes.ravel()[len(panels) :]:
        axis.axis("off")
    for axis, (name, below, beside) in zip(axes.ravel(), panels, strict=False):
        axis.set(xlabel=below, ylabel=beside)
        axis.grid(alpha=0.3)
        curve = tuning.curves[name]
        _panel(axis, name, curve)
        if name != "dt":
            axis.axhline(tuning.target, color="0.4", ls=":", label="target")
        if np.isfinite(curve.chosen):
            label = f"chosen: {curve.chosen:.3g}"
            axis.axvline(curve.chosen, color=COLORS[1], ls="--", label=label)
        axis.legend(fontsize=8, frameon=False)
    figure.suptitle(tuning.reason, fontsize=9, wrap=True)
    return figure


def _panel(axis: Any, name: str, curve: TuningCurve) -> None:
    axis.set(xscale="log", yscale="log")
    axis.set_xlim(min(curve.values) / 1.2, max(curve.values) * 1.2)
    for what, column in curve.measured.items():
        values = np.array(column)
        style: dict[str, Any] = {"marker": "o", "ms": 3}
        if what == "residual":
            twin = axis.twinx()
            twin.plot(curve.values, values, color=COLORS[2], **style)
            twin.set(yscale="log")
            twin.set_ylabel("residual (velocity)", color=COLORS[2])
            continue
        label = LABELS.get((name, what), what)
        color = COLORS[0] if what != "bias" else COLORS[2]
        axis.plot(curve.values, values, color=color, label=label, **style)
        lost = [v for v, m in zip(curve.values, values, strict=True) if np.isinf(m)]
        if lost:
            top = np.full(len(lost), 0.97)
            axis.plot(
                *(lost, top, "x"),
                transform=axis.get_xaxis_transform(),
                color=COLORS[6],
                label="does not settle",
            )
