"""What each learning rule claims, measured: one function a claim, one figure each."""

from collections.abc import Callable

from . import _stochastic
from ._demonstration import (
    Curve as Curve,
    Demonstration as Demonstration,
    Panel as Panel,
)

DEMONSTRATIONS: dict[str, Callable[[], Demonstration]] = {**_stochastic.ITEMS}
"""By name, `PAPER.claim`; each takes seconds to two minutes on two cores."""
