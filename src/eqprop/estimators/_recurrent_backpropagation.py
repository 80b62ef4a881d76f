"""Recurrent backpropagation: the error process iterated at the fixed point.

    S̄_0 = ∂C/∂s,  S̄_{t+1} = (∂F/∂s)ᵀ S̄_t,  Θ̄_{t+1} = Θ̄_t + (∂F/∂θ)ᵀ S̄_t,  Θ̄_0 = ∂C/∂θ

with F the step of the dynamics (paper B, eqs 8–11, in steps of dt; Almeida, Pineda
1987).  Θ̄_K is truncated RBP; it tends to the exact gradient as K grows.
"""

import jax
import jax.numpy as jnp

from ..relaxations._base import AbstractRelaxation
from ._base import AbstractEstimator, Gradient, Stats, replace_ignored
from ._step import check_reference, error_signal, norm, step_map, through_step


class RecurrentBackpropagation(AbstractEstimator):
    """Truncated recurrent backpropagation: Θ̄_K after K = `steps` iterations.

    Memory does not grow with `steps`.

    **Arguments:**

    - `free`: the relaxation of the free phase.
    - `dt`: step of the error process, in units of the neurons' time constant; 1 for a
      discrete map.  It converges where steps of that size settle.
    - `steps`: iterations K; EP with K nudged Euler steps of `dt` tends to the same.
    """

    free: AbstractRelaxation
    """the free phase"""
    dt: float = 0.5
    """step of the error process, in units of the neurons' time constant"""
    steps: int = 20
    """iterations of the error process"""

    def __check_init__(self):
        check_reference("RecurrentBackpropagation", self.free, self.dt, self.steps)

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        x, y, state = replace_ignored((x, y, free.state), weight)

        def errors(x, y, s):
            first = error_signal(system, cost, x, y, s)
            _, pull = jax.vjp(step_map(system, x, self.dt), s)

            def iterate(_, carry):
                error, total = carry
                return pull(error)[0], jax.tree.map(jnp.add, total, error)

            start = (first, jax.tree.map(jnp.zeros_like, first))
            last, total = jax.lax.fori_loop(0, self.steps, iterate, start)
            return total, norm(last), norm(first)

        total, last, first = jax.vmap(errors)(x, y, state)
        loss, (grads, cost_grads) = through_step(
            system, cost, x, y, state, total, self.dt, weight
        )
        return Gradient(
            loss=loss,
            grads=grads,
            cost_grads=cost_grads,
            equilibrium=free,
            stats=Stats(
                rule="recurrent backpropagation",
                # What a longer process would still add, relative to where it began.
                values={"error_left": last / jnp.where(first == 0, 1, first)},
            ),
        )
