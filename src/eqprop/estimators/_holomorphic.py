"""Holomorphic EP: the gradient as a Fourier coefficient (Laborieux & Zenke 2022).

Nudged by β_k = β e^{2πik/N}, k = 0…N−1, a holomorphic system settles at complex
states, and

    dJ/dθ ≈ Re (1/N) Σ_k (1/β_k) ∂F/∂θ(β_k, s^{β_k}),     F = potential + β cost,

whose bias is of order β^N: N = 2 is centered EP.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Scalar

from ..relaxations import AbstractRelaxation, relax, Status
from ..systems._base import has_potential, learning_field
from ..systems._total_energy import batch_costs, nudge_energy
from ._base import AbstractEstimator, Gradient, Stats, replace_ignored, weighted_mean
from ._equilibrium_propagation import _along
from ._rounding import rounding


class HolomorphicEquilibriumPropagation(AbstractEstimator):
    """EP with N complex nudges on the circle |β|.

    Energy, readout and cost must be holomorphic (`ep.shifted_sigmoid`, `ep.tanh`,
    `ep.identity`; `SquaredError` has no modulus) and `project` the identity: an order
    of complex numbers does not exist, so a hard sigmoid is refused.  An example of
    which a phase did not settle (to the nudged phase's tolerance; without one: did
    not stay finite) is left out of the gradient and counted in `stats["left_out"]`.

    **Arguments:**

    - `free`, `nudged`: the relaxation of each phase.
    - `beta`: the radius |β| (dimensionless, positive).
    - `points`: N ≥ 2.
    """

    free: AbstractRelaxation
    """the free phase"""
    nudged: AbstractRelaxation
    """the nudged phases, from the free equilibrium"""
    beta: float = 0.25
    """radius of the circle of nudges (dimensionless)"""
    points: int = 4
    """nudges N on the circle"""

    def __check_init__(self):
        for name in ("free", "nudged"):
            if not isinstance(getattr(self, name), AbstractRelaxation):
                raise ValueError(f"{name} is no relaxation; give one, e.g. ep.Euler()")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta is {self.beta}; it must be positive and finite")
        if not isinstance(self.points, int) or self.points < 2:
            raise ValueError(
                f"points is {self.points}; give a whole number ≥ 2 (2 is centered EP)"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        angles = 2 * np.pi * np.arange(self.points) / self.points
        dtype = jnp.result_type(*jax.tree.leaves(free.state), jnp.complex64)
        betas = jnp.asarray(self.beta * np.exp(1j * angles), dtype)
        model, x, y, start = _complex((system, cost), x, y, free.state, dtype)
        _check_holomorphic(model[0], x, start)

        def nudge(beta):
            return relax(
                *(model[0], x, self.nudged),
                state=start,
                cost=model[1],
                y=y,
                beta=beta,
                key=keys[0],
            )

        nudged = jax.vmap(nudge)(betas)
        bad = (Status.diverged,) if self.nudged.tol is None else tuple(Status)[1:]
        lost = jnp.any(jnp.isin(nudged.status, jnp.array(bad)), axis=0)
        kept = jnp.ones(len(lost)) if weight is None else weight
        kept = jnp.where(lost, 0, kept)
        x, y, start = replace_ignored((x, y, start), kept)
        phases = jax.vmap(lambda s: replace_ignored(s, kept))(nudged.state)
        grads, cost_grads = _fourier(model, x, y, start, phases, betas, kept)
        pair = (0, self.points // 2)
        opposite = [jax.tree.map(lambda s, k=k: s[k], phases) for k in pair]
        loss = batch_costs(model[0], model[1], x, y, start)
        values = {
            "nudged_steps": nudged.steps,
            "nudged_residual": nudged.residual,
            "nudged_status": nudged.status,
            "left_out": jnp.sum(lost),
            "rounding": rounding(model[0], self.nudged, opposite[0], opposite[1]),
        }
        rule = f"holomorphic equilibrium propagation, N = {self.points}"
        mean = weighted_mean(jnp.real(loss), kept)
        return Gradient(mean, grads, cost_grads, free, Stats(rule, values), kept)


def _complex(model, x, y, state, dtype):
    """Everything inexact as complex numbers, so that derivatives are holomorphic."""

    def widen(leaf):
        return jnp.asarray(leaf, dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(widen, (model, x, y, state))


def _check_holomorphic(system, x, state) -> None:
    """Refuse a system whose `project` orders numbers, with the reason."""
    try:
        jax.eval_shape(jax.vmap(system.project), state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(system).__name__}.project cannot take a complex state ({error}); "
            "holomorphic EP needs holomorphic activations and no bounds, e.g. "
            "ep.shifted_sigmoid or ep.tanh in place of ep.hard_sigmoid"
        ) from error


def _fourier(
    model, x, y, start, phases, betas: Complex[Array, " points"], weight
) -> tuple:
    """Re (1/N) Σ_k (1/β_k) ∂F/∂θ, the states held fixed; paper C's rule without F."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    drift = jax.tree.map(
        lambda s: jnp.mean(s / betas.reshape(-1, *[1] * (s.ndim - 1)), 0), phases
    )

    def total(params) -> Scalar:
        system, cost = eqx.combine(params, static)

        def one(beta, s, x, y):
            value = nudge_energy(system, cost, x, y, s, beta)
            if has_potential(system):
                value = value + system.potential(x, s)  # type: ignore[attr-defined]
            return value / beta

        over_batch = jax.vmap(one, in_axes=(None, 0, 0, 0))
        values = jax.vmap(over_batch, in_axes=(0, 0, None, None))(betas, phases, x, y)
        values = jnp.mean(values, axis=0)
        if not has_potential(system):
            values = values - jax.vmap(_along(learning_field(system)))(x, start, drift)
        return weighted_mean(values, weight)

    return jax.tree.map(jnp.real, jax.grad(total, holomorphic=True)(params))
