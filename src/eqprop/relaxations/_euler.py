"""Explicit Euler steps of the dynamics, all units at once (paper A, eq 43)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..systems._base import State
from ._base import AbstractRelaxation, Dynamics, check_hyperparameters
from ._projected import largest, projected


class Euler(AbstractRelaxation):
    """s ← project(s + dt (velocity − β ∂C/∂s)).

    **Arguments:**

    - `dt`: step size, in units of the neurons' time constant; 1 for a discrete map
      (paper D).
    - `steps`: the largest number of steps; if `tol` is `None`, exactly this number.
    - `tol`: an example stops moving once its residual is below this velocity.
    """

    dt: float = 0.5
    """step size, in units of the neurons' time constant"""
    steps: int = 20
    """number of steps (with a tolerance: the largest number)"""
    tol: float | None = None
    """residual below which an example stops (velocity); None: all steps"""

    def __check_init__(self):
        check_hyperparameters("Euler", self.steps, self.tol, dt=self.dt)

    def step(self, dynamics: Dynamics, s: State, key):
        del key
        velocity = dynamics.velocity(s)
        raw = jax.tree.map(lambda u, v: u + self.dt * v, s, velocity)
        moved = dynamics.system.project(raw)

        def kept(u, v, r, m):
            # Use v if it is not projected: m − u contains the rounding of u.
            return jnp.where(m == r, v, (m - u) / self.dt)

        return moved, largest(jax.tree.map(kept, s, velocity, raw, moved))

    def residual(self, dynamics: Dynamics, s: State) -> Array:
        step = jax.tree.map(lambda v: self.dt * v, dynamics.velocity(s))
        return largest(projected(dynamics.system.project, s, step)) / self.dt
