"""Judge whether the dynamics settles, at which dt, and why it does not."""

import numpy as np

from ..relaxations._base import AbstractRelaxation, Equilibrium, Status
from ._findings import Findings
from ._fixed_point import FixedPoint, STABLE
from ._text import number

IDENTITY = 1e-10
"""distance from `project` that rounding can cause"""


def free_phase(
    found: Findings,
    free: AbstractRelaxation,
    first: Equilibrium,
    point: FixedPoint,
    more: int | None,
) -> None:
    """Check that the caller's free phase settles every example."""
    status = np.asarray(first.status)
    wrong = int(np.sum(status != Status.settled))
    residual = float(np.max(np.asarray(first.residual)))
    found.facts["free_residual"] = residual
    advice = "see the dynamics below"
    if point.settled and more is not None:
        advice = f"{more} more steps settle it: use steps={free.steps + more}"
    found.add(
        "free phase settled",
        residual,
        "settled",
        not wrong,
        f"the free phase has not settled: after {free.steps} steps {wrong} of "
        f"{len(status)} examples still move, residual {number(residual)} (velocity); "
        f"{advice}.",
    )


def unsettled(found: Findings, point: FixedPoint, calmer: FixedPoint) -> None:
    """Fail because there is no fixed point; say why and what to do."""
    name = {
        Status.diverged: "diverges",
        Status.oscillating: "oscillates with period 2",
    }.get(point.status, "does not settle")
    advice = (
        "No dt settles it, neither 1 to 2⁻¹⁰ nor smaller ones taken from the spectral "
        "radius of ∂velocity/∂s: there is no stable fixed point, or the state "
        "approaches it too slowly to tell"
    )
    if calmer.settled and calmer.radius < STABLE:
        advice = f"It settles with Euler steps of dt={calmer.dt:g}: use that dt"
    elif 1e-9 < point.residual < 1e-5:
        advice = (
            "A residual of this size is that of single precision: look for a float32 "
            "cast inside the model"
        )
    limit = f"≤ {point.limit:.3g}"
    found.add(
        "residual of the fixed point",
        point.residual,
        limit,
        False,
        f"the dynamics {name} at dt={point.dt:g}: residual {number(point.residual)} "
        f"(velocity) after {point.steps} steps. {advice}.",
    )


def settled(
    found: Findings, point: FixedPoint, outside: float, contracting: float | None
) -> bool:
    """Check the fixed point: its residual, `project`, and stability under the step.

    **Returns:** whether theorems can be tested there.
    """
    found.facts.update(residual=point.residual, spectral_radius=point.radius)
    found.facts.update(dt=point.dt, settling_steps=point.steps)
    found.check("residual of the fixed point", point.residual, point.limit)
    found.check(
        "distance of s⁰ from project(s⁰)",
        outside,
        IDENTITY,
        "the settled state is not one that `project` allows: the relaxation does not "
        "apply the projection.",
    )
    if contracting is not None:
        why = f"RBP and the nudged phase do not converge: use dt={contracting:g}"
    elif point.radius > 1 + 1e-6:
        why = (
            "the fixed point is unstable (a saddle or a maximum), at every dt: let "
            "init_state start elsewhere"
        )
    else:
        why = "the state has a direction without restoring force: give it a curvature"
    return found.add(
        "spectral radius of the step",
        point.radius,
        f"< {STABLE:.3g}",
        point.radius < STABLE,
        f"the spectral radius of the step at s⁰ is {point.radius:.9g} with "
        f"dt={point.dt:g}; {why}.",
    )


def several(found: Findings, count: int) -> None:
    """Note that displaced starts reach other fixed points, which is no failure."""
    if count:
        found.notes.append(
            f"there are several fixed points: {count} of {found.facts['examples']} "
            "examples settle elsewhere from a displaced start. Gradients are taken at "
            "the fixed point that init_state leads to."
        )
