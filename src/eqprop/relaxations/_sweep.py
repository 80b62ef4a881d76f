"""Block-asynchronous relaxation: groups of layers in turn, each solved in one step.

For a layered network the blocks are the odd and the even layers (Scellier et al.
2023), or single layers if the feedback is weak (`XieSeungEnergy`).  With fixed
neighbours, the energy of a layer is separable: one step minimises it exactly if it is
quadratic, and safely if its curvature is only bounded.  A few sweeps replace hundreds
of Euler steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..systems._base import Block, State
from ._base import (
    AbstractRelaxation,
    check_hyperparameters,
    Dynamics,
    Equilibrium,
)
from ._blocks import (
    blocks_of,
    check_curvature,
    leaves_of,
    positive,
    replace_leaves,
    total_curvature,
)
from ._projected import largest, projected
from ._relax import initial_state


class Sweep(AbstractRelaxation):
    """s_k ← project(s_k + ω (velocity_k − β ∂C_k/∂s) / (a_k + β c_k)), block by block.

    a is the curvature that the system's `blocks()` declare, c that of the cost.  If
    both are upper bounds of the true curvature, potential + β cost never rises, for any
    ω between 0 and 2.  Reason: a block's energy lies below a parabola in each unit;
    ω = 1 moves to its lowest point, ω = 2 to the same height on the other side.  A
    negative β can make a + β c less than a/10; the step then divides by a/10 and
    descends towards the bounds.  A larger ω (successive over-relaxation, Young 1954)
    settles deep networks in fewer sweeps.

    The residual is ‖projected velocity / (a + β c)‖∞ over all blocks at the same state:
    the distance that the units would move, in units of the state.  If a + β c is not
    positive, `ep.relax` raises `ValueError`.  Inside `jax.jit`, which cannot raise, the
    residual is infinite (status `diverged`).

    **Arguments:**

    - `steps`: the largest number of sweeps over all blocks; if `tol` is `None`, exactly
      this number.
    - `tol`: an example stops moving once its residual is below `tol` (state).
    - `backward`: the blocks in reverse order.  A nudge starts at the output.  If the
      output is in the last block, the nudge reaches the first layer sooner: with an odd
      number of hidden layers one sweep sooner, in `XieSeungEnergy` in the first sweep.
    - `omega`: ω, over-relaxation.  With 1.5 to 1.8, a small residual takes a fraction
      of the sweeps.  For a few sweeps that end early, 1 is safe.
    """

    steps: int = 10
    """number of sweeps (with a tolerance: the largest number)"""
    tol: float | None = None
    """residual below which an example stops (state); None: all sweeps"""
    backward: bool = False
    """blocks in reverse order, for a nudge if the output is in the last block"""
    omega: float = 1.0
    """over-relaxation, between 0 and 2"""
    blockwise = True

    def __check_init__(self):
        check_hyperparameters("Sweep", self.steps, self.tol, omega=self.omega)
        if not isinstance(self.omega, Tracer) and self.omega >= 2:
            raise ValueError(
                f"Sweep: omega is {self.omega}; it must be below 2, because a sweep "
                "with omega = 2 lowers no energy. Try 1.5"
            )

    def step(self, dynamics: Dynamics, s: State, key):
        del key
        residuals = []
        for block in self._turns(dynamics, s):
            s, residual = self._update(block, dynamics, s)
            residuals.append(residual)
        return s, jnp.max(jnp.stack(residuals))

    def _turns(self, dynamics: Dynamics, s: State) -> tuple[Block, ...]:
        blocks = blocks_of(dynamics.system, s)
        return blocks[::-1] if self.backward else blocks

    def _update(
        self, block: Block, dynamics: Dynamics, s: State
    ) -> tuple[State, Array]:
        """Solve one block; return the state, and the residual before the step."""
        old = leaves_of(block, s)
        velocity = leaves_of(block, dynamics.velocity(s))
        curvature = total_curvature(block, dynamics, s)
        moved = [
            u + self.omega * v / a
            for u, v, a in zip(old, velocity, curvature, strict=True)
        ]
        new = leaves_of(block, dynamics.system.project(replace_leaves(block, s, moved)))
        # Use v if it is not projected: n − u contains the rounding of u.
        kept = [
            jnp.where(n == m, v / a, (n - u) / self.omega)
            for n, m, v, a, u in zip(new, moved, velocity, curvature, old, strict=True)
        ]
        residual = jnp.where(positive(curvature), largest(kept), jnp.inf)
        return replace_leaves(block, s, new), residual

    def residual(self, dynamics: Dynamics, s: State) -> Array:
        velocity = dynamics.velocity(s)
        step, good = velocity, jnp.array(True)
        for block in blocks_of(dynamics.system, s):
            curvature = total_curvature(block, dynamics, s)
            good &= positive(curvature)
            parts = zip(leaves_of(block, velocity), curvature, strict=True)
            step = replace_leaves(block, step, [v / a for v, a in parts])
        kept = projected(dynamics.system.project, s, step)
        return jnp.where(good, largest(kept), jnp.inf)

    def refuse(self, system, x, start, found, nudge=(None, None, 0.0)) -> None:
        if np.isfinite(np.asarray(found.residual)).all():
            return
        for state in (initial_state(system, x, start), found.state):
            check_curvature(system, x, state, *nudge)

    def _settle_steps(self, dynamics: Dynamics, s: State, key) -> Equilibrium:
        """Make exactly `steps` sweeps; the loop begins after the first block's turn.

        The first block's next turn needs the values that it sends to the other blocks
        again (e.g. its convolution, to go back through a pooling).  In this order, both
        uses are in the loop's body, and the compiler computes the values once.
        """
        del key
        first, *rest = self._turns(dynamics, s)

        def turn(block, s):
            moved, residual = self._update(block, dynamics, s)
            return jax.tree.map(lambda n, u: n.astype(u.dtype), moved, s), residual

        def others(s):
            residuals = []
            for block in rest:
                s, residual = turn(block, s)
                residuals.append(residual)
            return s, residuals

        def sweep(_, carry):
            end, _ = others(carry[0])
            return turn(first, end)[0], end

        started, residual = turn(first, s)
        carry = (started, s)
        started, before = jax.lax.fori_loop(0, max(self.steps - 2, 0), sweep, carry)
        previous = before
        if self.steps > 1:
            previous, _ = others(started)
            started, residual = turn(first, previous)
        last, residuals = others(started)
        residual = jnp.max(jnp.stack([residual, *residuals]))
        residual = self.measured(dynamics, last, residual)
        return self._result((last, previous, before), jnp.array(self.steps), residual)
