"""Equilibrium Propagation: the contrast of two phases is the gradient.

With F = potential + β cost and s^β the state nudged by β,

    dJ/dθ = lim_{β→0} (1/β) (∂F/∂θ(β, s^β) − ∂F/∂θ(0, s⁰))    (paper A, eqs 22–24)

which is ∂C/∂θ + (∂E/∂θ(s^β) − ∂E/∂θ(s⁰))/β where F is affine in β.  F(β) may be any
total energy; the parameters in it learn wherever they stand.  For a system without a
potential it is (paper C, eq 16, its finite-β form)

    dJ/dθ ≈ ∂C/∂θ − (∂μ/∂θ(s⁰))ᵀ (s^β − s⁰)/β

where μ is the velocity, or the system's `learning_field`.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from ..relaxations._base import AbstractRelaxation, Equilibrium, relax
from ..systems._base import (
    AbstractSystem,
    has_potential,
    learning_field,
    State,
)
from ..systems._total_energy import batch_costs, nudge_energy
from ._base import (
    AbstractEstimator,
    Gradient,
    Stats,
    replace_ignored,
    weighted_mean,
)
from ._rounding import rounding

Nudging = Literal["centered", "one-sided", "random-sign"]


class EquilibriumPropagation(AbstractEstimator):
    """EP with one or two nudged phases (paper A; centered: Laborieux et al. 2021).

    **Arguments:**

    - `free`, `nudged`: the relaxation of each phase; the nudged one starts from the
      free equilibrium.
    - `beta`: the nudge β ≠ 0 (dimensionless), of either sign.
    - `nudging`: `"one-sided"` contrasts β with 0 (bias O(β)); `"random-sign"` the
      same with the sign of β drawn anew for each batch (needs `key`); `"centered"`
      contrasts β with −β, both relaxed as one double batch (bias O(β²)).

    `stats["rounding"]` estimates the relative error that rounding leaves in the
    gradient, which is inverse to β; above 0.1 a `RoundedGradient` warning names a β
    that would do.
    """

    free: AbstractRelaxation
    """the free phase"""
    nudged: AbstractRelaxation
    """the nudged phase, from the free equilibrium"""
    beta: float = 0.25
    """strength of the nudge (dimensionless, not 0)"""
    nudging: Nudging = "centered"
    """β against −β, β against 0, or ±β at random against 0"""

    def __check_init__(self):
        check_phases(free=self.free, nudged=self.nudged)
        check_beta(self.beta)
        if self.nudging not in ("centered", "one-sided", "random-sign"):
            raise ValueError(
                f"nudging is {self.nudging!r}; choose 'centered', 'one-sided' or "
                "'random-sign'"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        nudged_key, sign_key = keys
        betas = self._betas(sign_key)

        def nudge(beta):
            return relax(
                system,
                x,
                self.nudged,
                state=free.state,
                cost=cost,
                y=y,
                beta=beta,
                key=nudged_key,
            )

        # x and y carry no phase axis: what depends on them alone is computed once.
        nudged = jax.vmap(nudge)(betas)
        if len(betas) == 1:
            betas = jnp.concatenate([betas, jnp.zeros_like(betas)])
            phases = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b[None]]), nudged.state, free.state
            )
        else:
            phases = nudged.state
        x, y, start = replace_ignored((x, y, free.state), weight)
        phases = jax.vmap(lambda s: replace_ignored(s, weight))(phases)
        potential = self.contrasts_potential(system)
        error = rounding(system, self.nudged, *ends(phases))
        grads, cost_grads = _contrast(
            *(system, cost, x, y, start, phases, betas, weight, potential)
        )
        loss = batch_costs(system, cost, x, y, start)
        return Gradient(
            loss=weighted_mean(loss, weight),
            grads=grads,
            cost_grads=cost_grads,
            equilibrium=free,
            stats=_stats(self.nudging, potential, nudged, error),
        )

    def contrasts_potential(self, system: AbstractSystem) -> bool:
        """Whether the phases' potentials are contrasted, or paper C's rule is used."""
        return has_potential(system)

    def _betas(self, key) -> Float[Array, " phases"]:
        beta = jnp.asarray(self.beta)
        if self.nudging == "centered":
            return jnp.stack([beta, -beta])
        if self.nudging == "one-sided":
            return beta[None]
        if key is None:
            raise ValueError(
                "nudging='random-sign' draws the sign of beta; pass "
                "key=jax.random.key(0)"
            )
        return beta[None] * jax.random.rademacher(key, (1,), beta.dtype)


def check_phases(**phases: Any) -> None:
    """Errors for phases that are no relaxations."""
    for name, phase in phases.items():
        if not isinstance(phase, AbstractRelaxation):
            raise ValueError(
                f"{name} is {phase!r}; give a relaxation, e.g. "
                "ep.Euler(dt=0.5, steps=20)"
            )


def check_beta(beta: Any) -> None:
    """Errors for a β without which the two phases are equal; traced values pass."""
    numeric = isinstance(beta, int | float | np.number) and not isinstance(beta, bool)
    if not numeric and not hasattr(beta, "dtype"):
        raise ValueError(f"beta is {beta!r}; give a number, e.g. 0.25")
    if numeric and not 0 < abs(beta) < float("inf"):
        raise ValueError(
            f"beta is {beta}; it must be finite and not 0 (without a nudge "
            "the two phases are equal), e.g. 0.25"
        )


def _contrast(
    system: AbstractSystem,
    cost: Any,
    x: Array,
    y: Array,
    start: State,
    phases: State,
    betas: Float[Array, "two"],
    weight: Float[Array, " batch"] | None,
    potential: bool | None = None,
) -> tuple[Any, Any]:
    """∂/∂θ of Σ_phases ±F/(β₂ − β₁), the states held fixed.

    `phases` holds the states at β₂ and β₁ = `betas` on a leading axis of two;
    `potential` says whether to contrast one (`None`: where the system has one).
    """
    potential = has_potential(system) if potential is None else potential
    width = betas[0] - betas[1]
    signs = jnp.array([1, -1], width.dtype) / width
    drift = jax.tree.map(lambda s: (s[0] - s[1]) / width, phases)

    @eqx.filter_grad
    def gradient(model):
        system, cost = model

        def total(sign, beta, s, x, y) -> Scalar:
            value = nudge_energy(system, cost, x, y, s, beta)
            if potential:
                value = value + system.potential(x, s)
            return sign * value

        over_batch = jax.vmap(total, in_axes=(None, None, 0, 0, 0))
        over_phases = jax.vmap(over_batch, in_axes=(0, 0, 0, None, None))
        values = jnp.sum(over_phases(signs, betas, phases, x, y), axis=0)
        if not potential:
            values = values - jax.vmap(_along(learning_field(system)))(x, start, drift)
        return weighted_mean(values, weight)

    return gradient((system, cost))


def _along(field: Callable[[Any, State], State]):
    """⟨μ(x, s⁰), q⟩ of a field μ, whose derivative in θ is (∂μ/∂θ)ᵀ q."""

    def product(x, s, q) -> Scalar:
        products = jax.tree.map(lambda v, d: jnp.sum(v * d), field(x, s), q)
        return sum(jax.tree.leaves(products))  # type: ignore[return-value]

    return product


def ends(phases: State) -> tuple[State, State]:
    """The first and the second of two phases on a leading axis."""
    return tuple(jax.tree.map(lambda leaf, k=k: leaf[k], phases) for k in (0, 1))  # type: ignore[return-value]


def _stats(nudging: str, potential: bool, nudged: Equilibrium, error: Scalar) -> Stats:
    contrast = "potential" if potential else "vector-field rule"
    return Stats(
        rule=f"equilibrium propagation, {nudging}, {contrast}",
        values={
            "nudged_steps": nudged.steps,
            "nudged_residual": nudged.residual,
            "nudged_status": nudged.status,
            "rounding": error,
        },
    )
