"""Relaxations: they move a state to its fixed point and measure how well it settled.

Second stage of the flow.  Only relaxations know time steps.
"""

from ._base import (
    AbstractRelaxation as AbstractRelaxation,
    Dynamics as Dynamics,
    Equilibrium as Equilibrium,
    Status as Status,
)
from ._euler import Euler as Euler
from ._hardware import HardwareInTheLoop as HardwareInTheLoop
from ._keys import example_keys as example_keys
from ._langevin import Langevin as Langevin
from ._relax import initial_state as initial_state, relax as relax
from ._sweep import Sweep as Sweep

RELAXATIONS: dict[str, type[AbstractRelaxation]] = {
    "euler": Euler,
    "sweep": Sweep,
    "langevin": Langevin,
}
"""relaxations that `config.json` of a run can hold"""
