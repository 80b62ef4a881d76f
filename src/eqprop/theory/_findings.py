"""Collect what a verification finds, and give its verdict."""

import dataclasses
from typing import Any

from ._records import BetaErrors, Check, Curve, LayerError, Row
from ._text import number
from ._verification import Verification


@dataclasses.dataclass
class Findings:
    """Checks, table rows and sentences, collected while a verification proceeds.

    `failures` decide the verdict; `warnings` are added to a verdict that holds; `notes`
    hold everything else that is worth knowing.
    """

    system: str
    kind: str
    checks: list[Check] = dataclasses.field(default_factory=list)
    rows: list[Row] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    promise: str = ""
    sweeps: tuple[BetaErrors, ...] = ()
    curves: tuple[Curve, ...] = ()
    layers: tuple[LayerError, ...] = ()

    def check(self, name: str, measured: float, limit: float, reason: str = "") -> bool:
        """Add the promise `measured ≤ limit`; `reason` says why it fails."""
        reason = reason or f"{name}: {number(measured)} > {limit:g}."
        # NaN is not ≤ anything.
        return self.add(name, measured, f"≤ {limit:.3g}", measured <= limit, reason)

    def measure(self, name: str, measured: float) -> None:
        """Add a number that is reported and not promised."""
        self.checks.append(Check(name, float(measured), "–", "note"))

    def add(
        self, name: str, measured: float, promised: str, fine: Any, reason: str = ""
    ) -> bool:
        """Add a line to the table of checks; if it fails, `reason` is a failure."""
        outcome = "holds" if fine else "fails"
        self.checks.append(Check(name, float(measured), promised, outcome))
        if reason and not fine:
            self.failures.append(reason)
        return bool(fine)

    def verification(self) -> Verification:
        """Return everything found, and the verdict."""
        holds = not self.failures
        verdict = f"DOES NOT HOLD: {self.failures[0]}" if self.failures else ""
        if holds:
            verdict = " But ".join([f"HOLDS: {self.promise}", *self.warnings])
        return Verification(
            system=self.system,
            kind=self.kind,
            holds=holds,
            verdict=verdict,
            findings=(*self.failures[1:], *self.notes),
            checks=tuple(self.checks),
            rows=tuple(self.rows),
            sweeps=self.sweeps,
            curves=self.curves,
            layers=self.layers,
            facts=self.facts,
        )
