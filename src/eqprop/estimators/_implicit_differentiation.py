"""Implicit differentiation: the exact gradient at a fixed point, by a linear solve."""

import jax
import jax.numpy as jnp
import numpy as np

from ..relaxations._base import AbstractRelaxation
from ..relaxations._euler import largest
from ._base import AbstractEstimator, Gradient, Stats, replace_ignored
from ._step import (
    check_reference,
    error_signal,
    solve_fixed_point,
    step_map,
    through_step,
)


class AdjointNotConverged(RuntimeError):
    """The linear solve of implicit differentiation has no accurate solution."""


class ImplicitDifferentiation(AbstractEstimator):
    """dJ/dθ = ∂C/∂θ + (∂F/∂θ)ᵀ λ with (I − ∂F/∂sᵀ) λ = ∂C/∂s at the free state.

    The implicit function theorem (paper C, eq 17; the limit of paper B, eq 12) for
    the step F = project(s + dt · velocity), solved for each example, directly or, for
    large states, by GMRES with vector-Jacobian products only.  It is exact at a fixed
    point; dt, that of `free` or 1, does not change it.  A solve that is not accurate
    to `tol` raises `AdjointNotConverged`; inside another `jax.jit`, where nothing can
    be raised, its gradient is NaN.

    **Arguments:**

    - `free`: the relaxation of the free phase.
    - `tol`: relative residual of the solve demanded; `None`: the dtype's ε^0.6.
    """

    free: AbstractRelaxation
    """the free phase"""
    tol: float | None = None
    """relative residual demanded of the linear solve; None: the dtype's ε^0.6"""

    def __check_init__(self):
        check_reference("ImplicitDifferentiation", self.free, 1.0, 1)
        if self.tol is not None and not 0 < self.tol < 1:
            raise ValueError(
                f"ImplicitDifferentiation: tol is {self.tol}; it must be between 0 and "
                "1 (relative residual), e.g. 1e-8"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        x, y, state = replace_ignored((x, y, free.state), weight)
        dt = 1.0 if self.free.dt is None else self.free.dt

        def solve(x, y, s):
            first = error_signal(system, cost, x, y, s)
            _, pull = jax.vjp(step_map(system, x, dt), s)
            return solve_fixed_point(lambda u: pull(u)[0], first)

        adjoint, residual = jax.vmap(solve)(x, y, state)
        eps = jnp.finfo(residual.dtype).eps
        accurate = residual <= (eps**0.6 if self.tol is None else self.tol)

        def poison(leaf):
            known = accurate.reshape(-1, *[1] * (leaf.ndim - 1))
            return jnp.where(known, leaf, jnp.nan)

        loss, (grads, cost_grads) = through_step(
            *(system, cost, x, y, state, jax.tree.map(poison, adjoint), dt, weight)
        )
        return Gradient(
            loss=loss,
            grads=grads,
            cost_grads=cost_grads,
            equilibrium=free,
            stats=Stats(
                rule="implicit differentiation",
                values={
                    "adjoint_residual": residual,
                    "adjoint_converged": accurate,
                    "adjoint_size": jax.vmap(largest)(adjoint),
                },
            ),
        )

    def check(self, gradient: Gradient) -> None:
        """Raise `AdjointNotConverged` where a finite state has no accurate adjoint."""
        accurate = np.asarray(gradient.stats["adjoint_converged"])
        finite = np.isfinite(np.asarray(gradient.equilibrium.residual))
        wrong = np.flatnonzero(~accurate & finite)
        if not len(wrong) or not np.isfinite(np.asarray(gradient.loss)):
            return
        residual = np.asarray(gradient.stats["adjoint_residual"])[wrong]
        raise AdjointNotConverged(
            f"the adjoint solve (I − Jᵀ)λ = ∂C/∂s did not converge for {len(wrong)} of "
            f"{len(accurate)} examples, the first {wrong[0]} (relative residual "
            f"{np.max(residual):.2g}): I − Jᵀ is singular or nearly so at this state. "
            "Let the free phase settle further, or give the flat direction a curvature"
        )
