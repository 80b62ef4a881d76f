"""What `verify` returns: checks with numbers, a verdict in words, table and figures."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from . import _figures
from ._metrics import Agreement
from ._records import BetaErrors, Check, Curve, LayerError, Row
from ._text import aligned, number


@dataclasses.dataclass(frozen=True)
class Verification:
    """The outcome of `verify`.

    - `holds`: whether every promise of theory for this kind of system was kept.
    - `verdict`: the same in a sentence; `findings`: causes and advice in sentences.
    - `checks`, `rows`, `sweeps`, `curves`, `layers`: the numbers behind the verdict.
    - `facts`: residual, spectral radius, dt, steps, number of examples and so on.
    """

    system: str
    kind: str
    holds: bool
    verdict: str
    findings: tuple[str, ...]
    checks: tuple[Check, ...]
    rows: tuple[Row, ...] = ()
    sweeps: tuple[BetaErrors, ...] = ()
    curves: tuple[Curve, ...] = ()
    layers: tuple[LayerError, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def table(self) -> str:
        """Return all numbers as text: estimators by parameter, then the checks."""
        blocks = []
        if self.rows:
            lines = [("estimator", "parameter", "error", "angle", "norm", "signs")]
            lines += [
                (r.estimator, r.parameter, *_cells(r.agreement)) for r in self.rows
            ]
            blocks.append(aligned(lines))
        lines = [("check", "measured", "promised", "")]
        lines += [
            (c.name, number(c.measured), c.promised, c.outcome) for c in self.checks
        ]
        blocks.append(aligned(lines))
        return "\n\n".join(blocks)

    def __str__(self) -> str:
        findings = [f"- {finding}" for finding in self.findings]
        head = f"{self.system} ({self.kind}), float64"
        return "\n".join([head, "", self.table(), "", self.verdict, *findings])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the curves for JSON; NaN means not measured."""
        record = dataclasses.asdict(dataclasses.replace(self, curves=()))
        del record["curves"]
        return record

    def plot(self, folder: str | Path | None = None) -> dict[str, Any]:
        """Draw Matplotlib figures by name, and write them to `folder` as PNG if given.

        - `processes`: EP dashed over BPTT solid, a few neurons and synapses per layer.
        - `layers`: RMSE per layer.
        - `beta`: error against β, with the expected slopes.
        """
        drawn: dict[str, Any] = {}
        beta = self.facts.get("beta")
        if self.curves:
            drawn["processes"] = _figures.processes(self.system, beta, self.curves)
            drawn["layers"] = _figures.layers(self.system, beta, self.layers)
        if self.sweeps:
            drawn["beta"] = _figures.errors_against_beta(beta, self.sweeps)
        for name, figure in drawn.items():
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
                _figures.saved(figure, Path(folder) / f"{name}.png")
        return drawn


def _cells(found: Agreement) -> tuple[str, str, str, str]:
    """Write error, angle, norm and signs of a row of the table."""
    angle = "–" if math.isnan(found.angle) else f"{number(found.angle)}°"
    norm = "–" if math.isnan(found.ratio) else f"× {number(found.ratio)}"
    return number(found.error), angle, norm, f"{100 * found.signs:.1f} %"
