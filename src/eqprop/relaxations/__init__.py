"""Relaxations: how a state moves to its fixed point, and how well it settled.

Second stage of the flow.  Only relaxations know time steps.
"""

from ._base import (
    AbstractRelaxation as AbstractRelaxation,
    Dynamics as Dynamics,
    Equilibrium as Equilibrium,
    initial_state as initial_state,
    Status as Status,
    relax as relax,
)
from ._euler import Euler as Euler
from ._hardware import HardwareInTheLoop as HardwareInTheLoop
from ._keys import example_keys as example_keys
from ._langevin import Langevin as Langevin
from ._sweep import Sweep as Sweep
