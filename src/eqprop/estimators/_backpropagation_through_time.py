"""Backpropagation through time: reverse mode through the last K steps (paper D)."""

import equinox as eqx
import jax

from ..relaxations._base import AbstractRelaxation
from ..systems._total_energy import cost_of
from ._base import AbstractEstimator, Gradient, Stats, replace_ignored, weighted_mean
from ._step import check_reference, norm, step_map


class BackpropagationThroughTime(AbstractEstimator):
    """The exact gradient of the cost after K = `steps` further steps.

    The free equilibrium is a constant from which K steps
    s ← project(s + dt · velocity) are taken; `loss` is the cost at their end.  Where
    the free phase has settled this is Θ̄_K of RBP (paper D, theorem 1), and elsewhere
    it is the gradient of what it says.  Memory: K states, and one step's insides.

    **Arguments:**

    - `free`: the relaxation of the free phase.
    - `dt`: step size, in units of the neurons' time constant; 1 for a discrete map.
    - `steps`: K.
    """

    free: AbstractRelaxation
    """the free phase"""
    dt: float = 0.5
    """step size, in units of the neurons' time constant"""
    steps: int = 20
    """steps to go back through"""

    def __check_init__(self):
        check_reference("BackpropagationThroughTime", self.free, self.dt, self.steps)

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        x, y, state = replace_ignored((x, y, free.state), weight)
        state = jax.lax.stop_gradient(state)

        @eqx.filter_value_and_grad(has_aux=True)
        def objective(model):
            system, cost = model

            def one(x, y, s):
                # Only the states are kept; each step is done again on the way back.
                step = jax.checkpoint(step_map(system, x, self.dt))
                last, _ = jax.lax.scan(
                    lambda u, _: (step(u), None), s, None, length=self.steps
                )
                moved = jax.tree.map(lambda a, b: a - b, last, s)
                return cost_of(system, cost, x, y, last), norm(
                    jax.lax.stop_gradient(moved)
                )

            loss, moved = jax.vmap(one)(x, y, state)
            return weighted_mean(loss, weight), moved

        (loss, moved), (grads, cost_grads) = objective((system, cost))
        return Gradient(
            loss=loss,
            grads=grads,
            cost_grads=cost_grads,
            equilibrium=free,
            stats=Stats(
                rule="backpropagation through time", values={"further_move": moved}
            ),
        )
