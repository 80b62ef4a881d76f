"""Paper A's link to spike-timing-dependent plasticity: learning from rates of change.

Along the nudged path a synapse changes by

    dW_ij ∝ ρ(u_i) dρ(u_j)  ("rates", Xie and Seung 2000)
    dW_ij ∝ ρ(u_i) du_j     ("potentials", Bengio et al. 2015)    (paper A, eqs 11–14)

which differ by ρ′(u_j).  A tied weight gets both of its directed synapses, and the
integral of the first is EP's contrast of the path's ends.  The updates are summed
over the steps; how exactly the sum telescopes depends on where they are taken:

- where the potential has its parameters in −synapses(x, rates), bilinear in the rates
  r: at the mean rates of the two ends, r̄_i Δr_j + r̄_j Δr_i = Δ(r_i r_j), exactly;
- for another potential: the trapezoid ½ (g(s_t) + g(s_{t+1}))·Δs of g = ∂²P/∂θ∂s, which
  is off by O(‖Δs‖³) a step and O(dt²) a path, and exact where g is linear in s;
- without a potential: the trapezoid of g = −∂μ/∂θ, paper C's dW ∝ ρ(s_i) ds_j.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from ..systems._base import AbstractSystem, has_potential, learning_field, State
from ..systems._total_energy import nudge_energy
from ._base import Gradient, replace_ignored, Stats, weighted_mean
from ._equilibrium_propagation import _along, _stats, ends
from ._path import NudgedPath, PathRule
from ._rounding import rounding
from ._step import mean_cost

PlasticityRule = Literal["rates", "potentials"]
MISMATCH = "synapse_mismatch"


class SpikeTimingDependentPlasticity(PathRule):
    """The gradient as an integral along the nudged phase, not a contrast of its ends.

    Parameters of cost and readout get ∂C/∂θ(s⁰) and its change along the path.

    **Arguments:**

    - `free`, `beta`, `nudging`: as for `EquilibriumPropagation`; `"centered"` takes
      half the difference of the two paths' integrals.
    - `nudged`: repeated steps (`ep.Euler`, `ep.Sweep`), of which the path is made.
    - `rule`: `"rates"`, ρ(u_i) dρ(u_j), for any system; `"potentials"`, ρ(u_i) du_j,
      for systems with a potential that declare `rates(s)` and `synapses(x, rates)`.
    """

    rule: PlasticityRule = "rates"
    """rates: ρ(u_i) dρ(u_j); potentials: ρ(u_i) du_j"""

    def __check_init__(self):
        if self.rule not in ("rates", "potentials"):
            raise ValueError(
                f"rule is {self.rule!r}; choose 'rates', ρ(u_i) dρ(u_j), or "
                "'potentials', ρ(u_i) du_j"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        nudged_key, sign_key = keys
        betas = self._betas(sign_key)
        x, y, start = replace_ignored((x, y, free.state), weight)
        model = (system, cost)
        change = self._change(system)
        loss, first = mean_cost(model, x, y, start, weight)

        def phase(beta):
            def increment(model, before, after):
                def one(system, cost, x, y, s, moved):
                    energy = functools.partial(nudge_energy, system, cost, x, y)
                    paid = energy(moved, beta) - energy(s, beta)
                    return (change(system, x, s, moved) + paid) / beta

                def values(model):
                    one_of = functools.partial(one, *model)
                    return jax.vmap(one_of)(x, y, before, after)

                return _gradient(values, model, weight)

            path = NudgedPath(self.nudged, model, x, y, start, beta, nudged_key)
            return path.accumulate(first, increment, record=self.recorded)

        # Two phases, β and −β: half of what one gives less what the other gives.
        nudged, totals = jax.vmap(phase)(betas)
        grads, cost_grads = jax.tree.map(lambda total: jnp.mean(total, 0), totals)
        first_end = jax.tree.map(lambda leaf: leaf[0], nudged.state)
        last = start if len(betas) == 1 else ends(nudged.state)[1]
        error = rounding(system, self.nudged, first_end, last)
        stats = _stats(self.nudging, has_potential(system), nudged, error)
        values = dict(stats.values)
        if _through_synapses(system):
            values[MISMATCH] = _mismatch(system, x, nudged.state, weight)
        law = "ρ dρ" if self.rule == "rates" else "ρ du"
        rule = f"spike-timing-dependent plasticity {law}, {self.nudging}"
        return Gradient(loss, grads, cost_grads, free, Stats(rule, values))

    def _change(
        self, system: AbstractSystem
    ) -> Callable[[AbstractSystem, Any, State, State], Scalar]:
        """(system, x, s_t, s_{t+1}) ↦ a scalar of which ∂/∂θ is the step's update."""
        if _through_synapses(system):
            return _of_rates if self.rule == "rates" else _of_potentials
        if self.rule == "rates":
            return _of_potential if has_potential(system) else _of_field
        name = type(system).__name__
        reason = (
            "declares no rates(s) and synapses(x, rates), so there is no ρ(u_i) to "
            "pair with du_j"
        )
        if not has_potential(system):
            reason = (
                "has no potential: the factor ρ′ is not in its velocity, and "
                "rule='rates' gives ρ(u_i) du_j already"
            )
        raise ValueError(f"rule is 'potentials', but {name} {reason}; use rule='rates'")

    def check(self, gradient: Gradient) -> None:
        super().check(gradient)
        found = float(gradient.stats.values.get(MISMATCH, 0.0))
        if found > float(jnp.finfo(gradient.loss.dtype).eps) ** 0.5:
            raise ValueError(
                f"{type(gradient.grads).__name__}: ∂potential/∂θ is not "
                f"−∂synapses(x, rates(s))/∂θ (off by {found:.2g} of its size), so a "
                "synapse's rates are not what its weight multiplies; override "
                "synapses or rates, or set them to None to integrate the potential "
                "itself"
            )


def _gradient(values: Callable[[Any], Array], model: Any, weight: Any) -> PyTree:
    """∂/∂θ of the mean over the batch."""
    return eqx.filter_grad(lambda model: weighted_mean(values(model), weight))(model)


def _through_synapses(system: Any) -> bool:
    """Whether parameters act through −synapses(x, rates(s)) in a potential."""
    return has_potential(system) and system.synapses is not None


def _of_rates(system: Any, x: Any, s: State, moved: State) -> Scalar:
    """−∂synapses/∂r (r̄)·Δr: ρ̄(u_i) Δρ(u_j) at every directed synapse."""
    before, after = system.rates(s), system.rates(moved)
    return -_slope(
        lambda rates: system.synapses(x, rates),
        *(_halfway(before, after), _step(before, after)),
    )


def _of_potentials(system: Any, x: Any, s: State, moved: State) -> Scalar:
    """−∂synapses/∂r (r̄)·Δs: ρ̄(u_i) Δu_j at every directed synapse."""
    halfway = _halfway(system.rates(s), system.rates(moved))
    return -_slope(lambda rates: system.synapses(x, rates), halfway, _step(s, moved))


def _of_potential(system: Any, x: Any, s: State, moved: State) -> Scalar:
    """½ (∂P/∂s(s_t) + ∂P/∂s(s_{t+1}))·Δs."""
    slopes = (
        _slope(lambda u: system.potential(x, u), at, _step(s, moved))
        for at in (s, moved)
    )
    return 0.5 * sum(slopes)  # type: ignore[return-value]


def _of_field(system: Any, x: Any, s: State, moved: State) -> Scalar:
    """−½ (μ(s_t) + μ(s_{t+1}))·Δs."""
    along = _along(learning_field(system))
    return -0.5 * sum(along(x, at, _step(s, moved)) for at in (s, moved))  # type: ignore[return-value]


def _slope(function: Callable[[State], Scalar], at: State, direction: State) -> Scalar:
    return jax.jvp(function, (at,), (direction,))[1]


def _step(before: State, after: State) -> State:
    return jax.tree.map(lambda a, b: b - a, before, after)


def _halfway(before: State, after: State) -> State:
    return jax.tree.map(lambda a, b: 0.5 * (a + b), before, after)


def _mismatch(system: Any, x: Any, phases: State, weight: Any) -> Scalar:
    """Size of ∂(P + synapses)/∂θ over that of ∂P/∂θ, where the first path ends."""
    state = jax.tree.map(lambda leaf: leaf[0], phases)

    def potential(system, x, s):
        return system.potential(x, s)

    def remainder(system, x, s):
        return system.potential(x, s) + system.synapses(x, system.rates(s))

    def size(function):
        def values(system):
            return jax.vmap(functools.partial(function, system))(x, state)

        grads = _gradient(values, system, weight)
        return jnp.max(jnp.stack([jnp.max(abs(g)) for g in jax.tree.leaves(grads)]))

    scale = size(potential)
    return size(remainder) / jnp.where(scale == 0, 1, scale)
