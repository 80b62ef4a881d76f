"""Explicit Euler steps of the dynamics, all units at once (paper A, eq 43)."""

import jax
import jax.numpy as jnp

from ..systems._base import State
from ._base import AbstractRelaxation, Dynamics, check_hyperparameters


class Euler(AbstractRelaxation):
    """s ← project(s + dt (velocity − β ∂C/∂s)).

    **Arguments:**

    - `dt`: step size, in units of the neurons' time constant; 1 for a discrete map
      (paper D).
    - `steps`: steps at most, or exactly where `tol` is `None`.
    - `tol`: an example stops moving once its residual is below this velocity.
    """

    dt: float = 0.5
    """step size, in units of the neurons' time constant"""
    steps: int = 20
    """number of steps (at most, where there is a tolerance)"""
    tol: float | None = None
    """residual below which an example stops (velocity); None: all steps"""

    def __check_init__(self):
        check_hyperparameters("Euler", self.steps, self.tol, dt=self.dt)

    def step(self, dynamics: Dynamics, s: State, key):
        del key
        velocity = dynamics.velocity(s)
        moved = jax.tree.map(lambda u, v: u + self.dt * v, s, velocity)
        moved = dynamics.system.project(moved)
        return moved, largest(jax.tree.map(lambda m, u: (m - u) / self.dt, moved, s))


def largest(velocity: State) -> jax.Array:
    """‖velocity‖∞ over all leaves; NaN if any entry is."""
    leaves = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(velocity)]
    return jnp.max(jnp.stack(leaves))
