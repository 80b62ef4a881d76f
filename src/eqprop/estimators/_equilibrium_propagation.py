"""Equilibrium Propagation: the contrast of two phases is the gradient.

With F = potential + β cost and s^β the state nudged by β,

    dJ/dθ = lim_{β→0} (1/β) (∂F/∂θ(β, s^β) − ∂F/∂θ(0, s⁰))    (paper A, eqs 22–24)

which is ∂C/∂θ + (∂E/∂θ(s^β) − ∂E/∂θ(s⁰))/β where F is affine in β.  F(β) may be any
total energy; the parameters in it learn wherever they stand.  For a system without a
potential it is (paper C, eq 16, its finite-β form)

    dJ/dθ ≈ ∂C/∂θ − (∂μ/∂θ(s⁰))ᵀ (s^β − s⁰)/β

where μ is the velocity, or the system's `learning_field`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from ..relaxations import AbstractRelaxation, Equilibrium, relax, Status
from ..relaxations._euler import Euler
from ..relaxations._outside import uses_outside
from ..relaxations._sweep import Sweep
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
    - `common_noise`: phases that draw random numbers (`Langevin`, a device with a
      `key`) all get the same key, the free phase too, so that noise cancels in the
      contrast; `False` gives each phase a key of its own, as independent reads do.

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
    common_noise: bool = eqx.field(default=True, kw_only=True)
    """the same random numbers in all phases, or others in each"""

    def __check_init__(self):
        check_phases(free=self.free, nudged=self.nudged)
        check_beta(self.beta)
        if self.nudging not in ("centered", "one-sided", "random-sign"):
            raise ValueError(
                f"nudging is {self.nudging!r}; choose 'centered', 'one-sided' or "
                "'random-sign'"
            )
        silent = all(
            type(phase) in (Euler, Sweep) for phase in (self.free, self.nudged)
        )
        if not self.common_noise and silent:
            raise ValueError(
                "common_noise is False, and neither ep.Euler nor ep.Sweep draws random "
                "numbers; leave common_noise out"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        free_key, sign_key = keys
        betas = self._betas(sign_key)
        phase_keys, mapped = free_key, None
        if free_key is not None and not self.common_noise:
            fresh = jax.random.fold_in(free_key, 1)
            phase_keys, mapped = jax.random.split(fresh, len(betas)), 0

        def nudge(beta, key):
            return relax(
                system,
                x,
                self.nudged,
                state=free.state,
                cost=cost,
                y=y,
                beta=beta,
                key=key,
            )

        # x and y carry no phase axis: what depends on them alone is computed once.
        nudged = jax.vmap(nudge, (0, mapped))(betas, phase_keys)
        if uses_outside(self.nudged):
            weight = _answered(weight, nudged.status)
        remainder = _remainders(nudged, free)
        if len(betas) == 1:
            betas = jnp.concatenate([betas, jnp.zeros_like(betas)])
            phases = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b[None]]), nudged.state, free.state
            )
        else:
            phases = nudged.state
        x, y, start = replace_ignored((x, y, free.state), weight)
        phases, remainder = jax.vmap(lambda s: replace_ignored(s, weight))(
            (phases, remainder)
        )
        potential = self.contrasts_potential(system)
        contrast, error = _contrast, rounding(system, self.nudged, *ends(phases))
        if remainder is not None:
            contrast = functools.partial(_float64_contrast, remainder)
            error = jnp.zeros_like(error)
        grads, cost_grads = contrast(
            *(system, cost, x, y, start, phases, betas, weight, potential)
        )
        loss = batch_costs(system, cost, x, y, start)
        return Gradient(
            loss=weighted_mean(loss, weight),
            grads=grads,
            cost_grads=cost_grads,
            equilibrium=free,
            stats=_stats(self.nudging, potential, nudged, error),
            weight=weight,
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


def _answered(
    weight: Float[Array, " batch"] | None, status: Int[Array, "phases batch"]
) -> Float[Array, " batch"]:
    """Weights that leave out examples of which a device failed in a nudged phase."""
    kept = jnp.all(status != Status.diverged, axis=0).astype(float)
    return kept if weight is None else weight * kept


def _remainders(nudged: Equilibrium, free: Equilibrium) -> State | None:
    """What rounding took from the states of both phases, on a leading axis of two."""
    if nudged.remainder is None and free.remainder is None:
        return None

    def of(found):
        zeros = jax.tree.map(jnp.zeros_like, found.state)
        return zeros if found.remainder is None else found.remainder

    if len(nudged.status) == 2:
        return of(nudged)
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]), of(nudged), of(free)
    )


def _float64_contrast(
    remainder: State, system, cost, x, y, start, phases, betas, weight, potential
) -> tuple[Any, Any]:
    """`_contrast` of the states phases + remainder in float64, also without x64."""

    def wide(leaf):
        return leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf

    with jax.enable_x64(True):
        both, (model, data, numbers) = jax.tree.map(
            wide,
            ((phases, remainder), ((system, cost), (x, y, start), (betas, weight))),
        )
        phases = jax.tree.map(jnp.add, *both)
        grads = _contrast(*(*model, *data, phases, *numbers, potential))
        params = eqx.filter((system, cost), eqx.is_inexact_array)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)


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
