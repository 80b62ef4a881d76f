"""Equilibrium Propagation at a temperature (the stochastic framework of paper A).

Under p^β(s) ∝ e^{−F/T}, F = E + β C, the gradient of J̃ = E_{p⁰}[C] is

    dJ̃/dθ = lim (1/β) (E_{p^β}[∂F/∂θ] − E_{p⁰}[∂F/∂θ])
           = E[∂C/∂θ] − Cov(C, ∂E/∂θ)/T,

the first form being the linear response of which the second is the fluctuation;
likewise d/dβ E_{p^β}[C] = −Var(C)/T ≤ 0.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..relaxations._base import Dynamics
from ..relaxations._langevin import Langevin
from ._base import weighted_mean
from ._sampling import (
    AbstractSampler,
    check_phases,
    energy_gradient,
    start_chains,
    zero_gradient,
)


class StochasticEquilibriumPropagation(AbstractSampler):
    """EP whose phases are samples of p^β, and whose objective is E_{p⁰}[C].

    The gradient is (E_{p^β}[∂F/∂θ] − E_{p^β'}[∂F/∂θ])/(β − β') with β' = −β or 0, a
    mean over `chains` × `samples` for each example.  Both phases start from the free
    chains and draw the same random numbers, so that their noise cancels.  Unadjusted
    phases have the law of their own steps in place of e^{−F/T}.

    **Arguments:**

    - `free`, `nudged`: the chains of each phase, at one temperature; `steps` is the
      burn-in.
    - `beta`: the nudge β ≠ 0 (dimensionless), of either sign.
    - `nudging`: `"centered"` contrasts β with −β (bias O(β²)), `"one-sided"` with 0
      (bias O(β)).
    - `chains`, `samples`, `thinning`: chains for each example, samples of each in
      each phase, and steps between them.
    - `common_noise`: the same random numbers in both phases.

    **Raises:** `ValueError` for a system without a potential, or without a `key`.
    """

    free: Langevin
    """the free phase"""
    nudged: Langevin
    """the nudged phases, from the free chains"""
    beta: float = 0.25
    """strength of the nudge (dimensionless, not 0)"""
    nudging: Literal["centered", "one-sided"] = "centered"
    """β against −β, or β against 0"""
    chains: int = 1
    """chains for each example"""
    samples: int = 10
    """samples of each chain in each phase"""
    thinning: int = 1
    """steps from one sample to the next"""
    common_noise: bool = True
    """the same random numbers in both phases"""

    def __check_init__(self):
        check_phases(
            "StochasticEquilibriumPropagation",
            {"free": self.free, "nudged": self.nudged},
            chains=self.chains,
            samples=self.samples,
            thinning=self.thinning,
        )
        numeric = isinstance(self.beta, int | float | np.number)
        if numeric and not 0 < abs(self.beta) < float("inf"):
            raise ValueError(
                f"beta is {self.beta}; it must be finite and not 0 (without a nudge "
                "the two phases are equal), e.g. 0.25"
            )
        if self.nudging not in ("centered", "one-sided"):
            raise ValueError(
                f"nudging is {self.nudging!r}; choose 'centered' or 'one-sided'"
            )

    @property
    def rule(self) -> str:
        return f"stochastic equilibrium propagation, {self.nudging}"

    def contrast(self, system, cost, x, y, state, keys, weight):
        beta = jnp.asarray(self.beta)
        other = -beta if self.nudging == "centered" else jnp.zeros_like(beta)
        betas = jnp.stack([beta, other])

        def phase(beta, keys):
            def example(x, y):
                return Dynamics(system, x, cost, y, beta)

            def visit(total, chains, k):
                del k
                more = energy_gradient(system, cost, x, y, chains.state, beta, weight)
                return jax.tree.map(jnp.add, total, more)

            chains = start_chains(self.nudged, example, x, y, state)
            _, acceptance, total = self.sampled(
                *(self.nudged, example, x, y, chains, keys, visit),
                zero_gradient(system, cost),
            )
            return acceptance, total

        noise = (keys[0], None) if self.common_noise else (keys, 0)
        acceptance, total = jax.vmap(phase, (0, noise[1]))(betas, noise[0])
        width = (betas[0] - betas[1]) * self.samples
        grads, cost_grads = jax.tree.map(
            lambda g: ((g[0] - g[1]) / width).astype(g.dtype), total
        )
        accepted = weighted_mean(jnp.mean(acceptance, (0, 1)), weight)
        return grads, cost_grads, {"nudged_acceptance": accepted}
