"""Collect what a verification finds, and give its verdict."""

import dataclasses
from typing import Any

from ._verification import (
    Check,
    Curve,
    LayerError,
    number,
    Outcome,
    Row,
    Sweep,
    Verification,
)


@dataclasses.dataclass
class Findings:
    """Checks, table rows and sentences found while a verification proceeds.

    `failures` decide the verdict; `warnings` are added to one that holds; `notes` are
    everything else worth knowing.
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
    sweeps: tuple[Sweep, ...] = ()
    curves: tuple[Curve, ...] = ()
    layers: tuple[LayerError, ...] = ()

    def check(
        self,
        name: str,
        measured: float,
        limit: float,
        reason: str = "",
        strict: bool = False,
    ) -> bool:
        """A promise `measured ≤ limit`; `reason` becomes a failure's sentence."""
        # NaN is not ≤ anything.
        fine = bool(measured < limit if strict else measured <= limit)
        promised = f"{'<' if strict else '≤'} {limit:.3g}"
        self.add(name, measured, promised, "holds" if fine else "fails")
        if not fine:
            self.failures.append(reason or f"{name}: {number(measured)} > {limit:g}.")
        return fine

    def measure(self, name: str, measured: float) -> None:
        """Something that is reported and not promised."""
        self.add(name, measured, "–", "note")

    def add(self, name: str, measured: float, promised: str, outcome: Outcome) -> None:
        """One line of the table of checks."""
        self.checks.append(Check(name, float(measured), promised, outcome))

    def verification(self) -> Verification:
        """Everything found, and the verdict."""
        holds = not self.failures
        verdict = (
            " But ".join([f"HOLDS: {self.promise}", *self.warnings])
            if holds
            else f"DOES NOT HOLD: {self.failures[0]}"
        )
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
