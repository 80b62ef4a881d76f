"""What `verify` returns: checks with numbers, a verdict in words, table and figures."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ._metrics import Agreement, Order

Outcome = Literal["holds", "fails", "note"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One promise of the theory, what was measured, and whether it holds.

    `outcome` is "note" for what is measured and reported but not promised.
    """

    name: str
    measured: float | None
    promised: str
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator against the exact gradient, for one parameter or all."""

    estimator: str
    parameter: str
    agreement: Agreement


@dataclasses.dataclass(frozen=True)
class Curve:
    """A few neurons' S̄_t, or synapses' Θ̄_t, of one layer: arrays `[times, few]`."""

    kind: Literal["neurons", "synapses"]
    name: str
    times: np.ndarray
    ep: np.ndarray
    rbp: np.ndarray
    bptt: np.ndarray


@dataclasses.dataclass(frozen=True)
class LayerError:
    """Paper D's RMSE of EP's process against BPTT's over one layer: mean and std."""

    kind: Literal["neurons", "synapses"]
    name: str
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The largest error over t of EP's process against RBP's: `[examples][betas]`."""

    nudging: str
    quantity: Literal["states", "gradients"]
    betas: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]
    order: Order


@dataclasses.dataclass(frozen=True)
class Verification:
    """The outcome of `verify`.

    - `holds`: whether all that theory promises for this kind of system was measured.
    - `verdict`: the same in a sentence; `findings`: diagnoses and advice, in words.
    - `checks`, `rows`, `sweeps`, `curves`, `layers`: the numbers behind it.
    - `facts`: residual, spectral radius, dt, steps, examples and the like.
    """

    system: str
    kind: str
    holds: bool
    verdict: str
    findings: tuple[str, ...]
    checks: tuple[Check, ...]
    rows: tuple[Row, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    curves: tuple[Curve, ...] = ()
    layers: tuple[LayerError, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def table(self) -> str:
        """All numbers as text: every estimator and parameter, then the checks."""
        blocks = []
        if self.rows:
            lines = [("estimator", "parameter", "error", "angle", "norm", "signs")]
            for row in self.rows:
                a = row.agreement
                lines.append(
                    (
                        row.estimator,
                        row.parameter,
                        number(a.error),
                        "–" if math.isnan(a.angle) else f"{number(a.angle)}°",
                        "–" if math.isnan(a.ratio) else f"× {number(a.ratio)}",
                        f"{100 * a.signs:.1f} %",
                    )
                )
            blocks.append(_aligned(lines))
        lines = [("check", "measured", "promised", "")]
        lines += [
            (c.name, number(c.measured), c.promised, c.outcome) for c in self.checks
        ]
        blocks.append(_aligned(lines))
        return "\n\n".join(blocks)

    def __str__(self) -> str:
        findings = [f"- {finding}" for finding in self.findings]
        head = f"{self.system} ({self.kind}), float64"
        return "\n".join([head, "", self.table(), "", self.verdict, *findings])

    def to_dict(self) -> dict[str, Any]:
        """A JSON object of all but the curves; NaN where nothing was measured."""
        record = dataclasses.asdict(dataclasses.replace(self, curves=()))
        del record["curves"]
        return record

    def plot(self, folder: str | Path | None = None) -> dict[str, Any]:
        """Matplotlib figures by name, written to `folder` as PNG where one is given.

        `processes`: EP dashed over BPTT solid, a few neurons and synapses a layer;
        `layers`: RMSE per layer; `beta`: error against β with the expected slopes.
        """
        from ._figures import draw

        return draw(self, None if folder is None else Path(folder))


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3g}"


def _aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "─" * max(map(len, text)), *text[1:]])
