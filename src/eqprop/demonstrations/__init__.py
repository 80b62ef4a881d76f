"""What each learning rule claims, measured: one function a claim, one figure each."""

from collections.abc import Callable

from . import _external, _homeostasis, _total_energy
from ._demonstration import (
    Curve as Curve,
    Demonstration as Demonstration,
    Panel as Panel,
)

DEMONSTRATIONS: dict[str, Callable[[], Demonstration]] = {
    **_external.ITEMS,
    **_homeostasis.ITEMS,
    **_total_energy.ITEMS,
}
"""By name, `PAPER.claim`; each takes seconds to two minutes on two cores."""
