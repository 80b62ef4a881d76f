"""Learning by clamping: the second phase holds the output units at given values.

With o the free prediction and s^β the state that settles while the outputs are held
at (1 − β) o + β y, coupled learning (Stern et al. 2021; Scellier et al. 2023) follows

    [∂E/∂θ(s^{β₂}) − ∂E/∂θ(s^{β₁})] / (β₂ − β₁),     E = potential.

It is the gradient of [E(s^{β₂}) − E(s^{β₁})] / (β₂ − β₁) with the held values fixed
(for a primitive Φ with E = ½‖s‖² − Φ; for a map that is not ∂Φ/∂s of no scalar).
Contrastive Hebbian learning (Movellan 1990; paper A, eqs 27–32) is β = 1 against 0:
its objective J = E(s^∞) − E(s⁰) is negative where the clamped phase finds a mode of
lower energy, and then says nothing of the cost.

As β → 0 coupled learning tends to the gradient of ½ (o − y)ᵀK(o − y), K held fixed:
K is the stiffness of the outputs, ∂²E/∂o² once all other units have settled.  With one
output that is EP's direction for the squared error; with more it need not be.
"""

import abc
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ..relaxations._base import AbstractRelaxation, Dynamics, Equilibrium
from ..relaxations._keys import example_keys
from ..systems import _check
from ..systems._base import (
    AbstractMap,
    AbstractPrimitive,
    AbstractSystem,
    has_potential,
    State,
)
from ..systems._total_energy import batch_costs
from ._base import (
    AbstractEstimator,
    Gradient,
    replace_ignored,
    Stats,
    UnsuitableRule,
    weighted_mean,
)
from ._clamped import check_clamp, Clamped
from ._equilibrium_propagation import _contrast, check_beta, check_phases, ends
from ._rounding import rounding
from ._step import inner


class AbstractClampedContrast(AbstractEstimator):
    """What the rules share that contrast a free with a clamped phase.

    The cost is only measured: `loss` is its mean at the free equilibrium, and it must
    not have parameters.  Targets have the readout's shape; a cost makes sense if it is
    least at ŷ = y, as `SquaredError` is.  `stats["contrast"]` is the rule's objective,
    for each example.
    """

    clamped: eqx.AbstractVar[AbstractRelaxation]
    no_adjoint: ClassVar[str] = "holds outputs at targets; a layer has none"
    approximate: ClassVar[str] = "it contrasts phases with held outputs, not the cost"

    @abc.abstractmethod
    def betas(self) -> tuple[Any, ...]:
        """β of the clamped phases: two, or one that is held against the free phase."""

    @abc.abstractmethod
    def rule(self) -> str:
        """What `stats["rule"]` says."""

    def __check_init__(self):
        check_phases(free=self.free, clamped=self.clamped)
        if self.clamped.outside:
            raise ValueError(
                f"clamped is a {type(self.clamped).__name__}, which nudges outputs "
                "and does not hold them; use ep.EquilibriumPropagation, or ep.Euler"
            )

    def at(self, system, cost, x, y, free, keys, weight) -> Gradient:
        self._check(system, cost, free, y)
        betas = jnp.stack([jnp.asarray(beta) for beta in self.betas()])
        settled = self._clamp(system, x, y, free, keys[0], betas)
        phases = settled.state
        if len(betas) == 1:
            betas = jnp.concatenate([betas, jnp.zeros_like(betas)])
            phases = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b[None]]), phases, free.state
            )
        over_batch = jax.vmap(_energy, (None, 0, 0))
        energy = jax.vmap(over_batch, (None, None, 0))(system, x, phases)
        values = {
            "clamped_steps": settled.steps,
            "clamped_residual": settled.residual,
            "clamped_status": settled.status,
            "contrast": (energy[0] - energy[1]) / (betas[0] - betas[1]),
        }
        x, y, start = replace_ignored((x, y, free.state), weight)
        phases = jax.vmap(lambda s: replace_ignored(s, weight))(phases)
        values["rounding"] = rounding(system, self.clamped, *ends(phases))
        grads, _ = _contrast(system, _nothing, x, y, start, phases, betas, weight)
        loss = batch_costs(system, cost, x, y, start)
        return Gradient(
            loss=weighted_mean(loss, weight),
            grads=grads,
            cost_grads=eqx.filter(cost, eqx.is_inexact_array),
            equilibrium=free,
            stats=Stats(self.rule(), values),
        )

    def _clamp(
        self, system, x, y, free: Equilibrium, key, betas: Float[Array, " phases"]
    ) -> Equilibrium:
        """All clamped phases as one batch, each from s⁰ with its outputs set."""
        keys = None if key is None else example_keys(key, _check.batch_size(x=x))

        def settle(beta, x, y, s, key):
            target = (1 - beta) * system.readout(s) + beta * y
            clamped = Clamped(system, target)
            dynamics = Dynamics(clamped, x, None, None, 0.0)
            return self.clamped.settle(dynamics, clamped.project(s), key)

        over_batch = jax.vmap(settle, in_axes=(None, 0, 0, 0, 0))
        over_phases = jax.vmap(over_batch, in_axes=(0, None, None, None, None))
        return over_phases(betas, x, y, free.state, keys)

    def _check(self, system: AbstractSystem, cost: Any, free: Equilibrium, y) -> None:
        """Refuse a system or a cost that a clamped phase cannot train."""
        rule = type(self).__name__
        if not has_potential(system):
            raise UnsuitableRule(
                f"{rule} contrasts an energy, and {type(system).__name__} has no "
                "potential; use ep.EquilibriumPropagation, which has a rule for vector "
                "fields, or ep.AsymmetricEquilibriumPropagation",
                "ep",
                "asym",
            )
        if jax.tree.leaves(eqx.filter(cost, eqx.is_inexact_array)):
            raise UnsuitableRule(
                f"{rule} only measures the cost, and {type(cost).__name__} has "
                "parameters, which would never learn; use ep.EquilibriumPropagation "
                "or a cost without them",
                "ep",
            )
        check_clamp(rule, system, *_check.example((free.state, y)))


class ContrastiveHebbianLearning(AbstractClampedContrast):
    """CHL: outputs held at y against free (Movellan 1990; paper A, eqs 27–32).

    The gradient of J = E(s^∞) − E(s⁰): coupled learning with β = 1, one-sided.

    **Arguments:**

    - `free`, `clamped`: the relaxation of each phase; the clamped one starts from the
      free equilibrium with the outputs set to y.
    """

    free: AbstractRelaxation
    """the free phase"""
    clamped: AbstractRelaxation
    """the phase with the outputs held at the target"""

    def betas(self):
        return (1.0,)

    def rule(self):
        return "contrastive Hebbian learning"


class CoupledLearning(AbstractClampedContrast):
    """Outputs held at (1 − β) o + β y (Stern et al. 2021; Scellier et al. 2023).

    **Arguments:**

    - `free`, `clamped`: the relaxation of each phase; a clamped one starts from the
      free equilibrium with the outputs set.
    - `beta`: how far from the free prediction o to the target y (dimensionless, not
      0; 1 holds y itself).
    - `nudging`: `"one-sided"` contrasts β with the free phase (P-CpL for β > 0, N-CpL
      for β < 0); `"centered"` contrasts β with −β, both as one double batch (C-CpL).
    """

    free: AbstractRelaxation
    """the free phase"""
    clamped: AbstractRelaxation
    """the phases with the outputs held between prediction and target"""
    beta: float = 0.25
    """share of the way from the prediction to the target (dimensionless, not 0)"""
    nudging: Literal["centered", "one-sided"] = "centered"
    """β against −β, or β against the free phase"""

    def __check_init__(self):
        check_beta(self.beta)
        if self.nudging not in ("centered", "one-sided"):
            raise ValueError(
                f"nudging is {self.nudging!r}; choose 'centered' or 'one-sided'"
            )

    def betas(self):
        if self.nudging == "centered":
            return self.beta, -self.beta
        return (self.beta,)

    def rule(self):
        return f"coupled learning, {self.nudging}"


def _energy(system: AbstractSystem, x: Any, s: State) -> Scalar:
    """What the dynamics lowers: the potential, which for a primitive lacks ½‖s‖²."""
    energy = system.potential(x, s)  # type: ignore[attr-defined]
    if isinstance(system, AbstractPrimitive | AbstractMap):
        energy = energy + 0.5 * inner(s, s)
    return energy


def _nothing(prediction: Array, y: Array) -> float:
    """In place of the cost, which is no part of the contrast."""
    del prediction, y
    return 0.0
