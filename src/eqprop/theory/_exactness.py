"""Test by random probes at s⁰ whether EP is exact.

Let v(x, s, f) be the velocity under a force f, A = ∂v/∂s and M = ∂v/∂f at (s⁰, 0).
EP's gradient is exact as β → 0 if some symmetric S has, on the units that `project`
leaves free to move,

    A S symmetric,   ∂v/∂θ = −S ∂²potential/∂s∂θ   and   S ∂C/∂s = M ∂C/∂s.

EP's temporal derivatives are then S times RBP's.  If a system has no potential, its
`learning_field` takes the place of −∂potential/∂s.  The conditions are sufficient, not
necessary: `verify` judges EP's limit (`ep_limit`) and explains a failure by them.

For most systems S = M (the identity for a plain velocity).  For a velocity
−D ∂potential/∂s with time constants D, S = D, and D is fitted here.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..estimators._base import weighted_mean
from ..estimators._step import (
    error_signal,
    inner,
    norm,
    solve_fixed_point,
    step_map,
)
from ..relaxations._base import Dynamics
from ..relaxations._euler import Euler, largest
from ..systems._base import (
    AbstractMap,
    AbstractSystem,
    energy_of,
    has_potential,
    learning_field,
    State,
    state_gradient,
)
from ..systems._total_energy import cost_of
from ._problem import Problem, random_like

PROBES = 3
TOLERANCE = 1e-8
"""relative violation of a condition that rounding can cause"""


@dataclasses.dataclass(frozen=True)
class Exactness:
    """Relative violations of EP's conditions; 0 if they hold.

    - `asymmetry`: ‖(A S − S Aᵀ)w‖ / (‖A S w‖ + ‖S Aᵀ w‖), the largest over probes w.
    - `mismatch`: the same for −∂velocity/∂θ and S ∂²potential/∂s∂θ (or −S
      ∂learning_field/∂θ); `None` if the system has neither.
    - `misplaced`: the same for S ∂C/∂s and M ∂C/∂s, the nudge.
    - `held`: share of the units that `project` holds at s⁰.
    - `scale`: the fitted diagonal S, shaped as the batched state; `None`: S = M.
    - `touched`: smallest and largest entry of that S on units that the nudge touches.
    """

    asymmetry: float
    mismatch: float | None
    misplaced: float
    held: float
    scale: State | None = None
    touched: tuple[float, float] = (1.0, 1.0)

    @property
    def symmetric(self) -> bool:
        return self.asymmetry <= TOLERANCE

    @property
    def generated(self) -> bool:
        """Whether the potential (or learning field) generates the velocity, up to S."""
        return self.mismatch is None or self.mismatch <= TOLERANCE

    @property
    def placed(self) -> bool:
        """Whether the nudge acts through S."""
        return self.misplaced <= TOLERANCE

    @property
    def exact(self) -> bool:
        return self.symmetric and self.generated and self.placed


def exactness(problem: Problem, state: State, dt: float) -> Exactness:
    """Probe the conditions at every example's state, with S = M or, failing that, D.

    The fitted diagonal D is used only if the velocity is −D ∂potential/∂s with it.
    """
    plain, system = _exactness(problem, state, dt, None), problem.system
    if plain.exact or not has_potential(system) or isinstance(system, AbstractMap):
        return plain
    scale, touched = _fitted(problem, state)
    fitted = _exactness(problem, state, dt, scale)
    if not (fitted.symmetric and fitted.generated):
        return plain
    return dataclasses.replace(fitted, scale=scale, touched=touched)


def _exactness(problem: Problem, state, dt, scale) -> Exactness:
    """Probe the conditions with one S: `scale`, or M if `None`."""
    probes = random_like(state, 1, PROBES)
    *violations, held = _probe(problem, state, probes, dt, scale)
    asymmetry, mismatch, misplaced = (float(jnp.max(v)) for v in violations)
    learns = _learns_apart(problem.system)
    held = float(jnp.mean(held))
    return Exactness(asymmetry, mismatch if learns else None, misplaced, held)


@eqx.filter_jit
def _probe(problem: Problem, state, probes, dt, scale):
    """Return asymmetry, mismatch, misplaced and held of each example."""
    system, cost, x, y = problem

    def one(example):
        x, y, s, probes, diagonal = example
        free = projector(system, x, s, dt)
        scaled = scaling(system, x, s, diagonal)
        probes = jax.vmap(free)(probes)
        ones = free(jax.tree.map(jnp.ones_like, s))
        moving = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(ones))
        held = 1 - moving / sum(leaf.size for leaf in jax.tree.leaves(s))
        asymmetry = jax.vmap(lambda w: _asymmetry(system, x, s, free, scaled, w))
        asymmetry, mismatch = asymmetry(probes), jnp.zeros(PROBES)
        if _learns_apart(system):
            mismatch = jax.vmap(lambda w: _mismatch(system, x, s, scaled, w))(probes)
        # d/dβ of the nudged velocity is −M ∂C/∂s, wherever the nudge acts.
        signal = scaled(error_signal(system, cost, x, y, s))
        force = _nudge(system, cost, x, y, s)
        misplaced = _relative(free(signal), free(jax.tree.map(jnp.negative, force)))
        return jnp.max(asymmetry), jnp.max(mismatch), misplaced, held

    # One example after the other: a probe takes as much memory as the parameters.
    return jax.lax.map(one, (x, y, state, probes, scale))


def _nudge(system, cost, x, y, s) -> State:
    """Return ∂/∂β of the nudged velocity at β = 0."""

    def velocity(beta):
        return Dynamics(system, x, cost, y, beta).velocity(s)

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(s)))
    return jax.jvp(velocity, (zero,), (jnp.ones_like(zero),))[1]


def _learns_apart(system: AbstractSystem) -> bool:
    """Tell whether a potential or a learning field generates the rule."""
    return has_potential(system) or system.learning_field is not None


def scaling(system: AbstractSystem, x: Any, s: State, diagonal: State | None):
    """Return w ↦ S w of one example: a fitted diagonal, or M = ∂velocity/∂force."""
    if diagonal is not None:
        return lambda w: jax.tree.map(jnp.multiply, diagonal, w)

    def velocity(force):
        return system.forced_velocity(x, s, force)

    zero = jax.tree.map(jnp.zeros_like, s)
    return lambda w: jax.jvp(velocity, (zero,), (w,))[1]


def projector(system: AbstractSystem, x: Any, s: State, dt: Any):
    """Return w ↦ ∂project/∂s · w at s + dt · velocity: 0 on units held at a bound."""
    velocity = system.velocity(x, s)
    at = jax.tree.map(lambda u, v: u + dt * v, s, velocity)

    def apply(w):
        w = jax.tree.map(lambda a, u: a.astype(u.dtype), w, at)
        return jax.jvp(system.project, (at,), (w,))[1]

    return apply


def _asymmetry(system, x, s, free, scaled, w) -> Array:
    """Compare A S w with S Aᵀ w on the free units."""

    def velocity(u):
        return system.velocity(x, u)

    forward = free(jax.jvp(velocity, (s,), (scaled(w),))[1])
    backward = free(scaled(jax.vjp(velocity, s)[1](w)[0]))
    return _relative(forward, backward)


def _mismatch(system, x, s, scaled, w) -> Array:
    """Compare ∂/∂θ ⟨learning, S w⟩ with ∂/∂θ ⟨velocity, w⟩ in the worst parameter."""
    params, static = eqx.partition(system, eqx.is_inexact_array)
    moved = scaled(w)

    def of_rule(params):
        return inner(_learning(eqx.combine(params, static), x, s), moved)

    def of_velocity(params):
        return inner(eqx.combine(params, static).velocity(x, s), w)

    pairs = zip(
        jax.tree.leaves(jax.grad(of_rule)(params)),
        jax.tree.leaves(jax.grad(of_velocity)(params)),
        strict=True,
    )
    # Relative to all parameters: one without effect here differs by rounding.
    pairs = list(pairs)
    if not pairs:
        return jnp.zeros(())
    off = jnp.stack([norm(a - b) for a, b in pairs])
    size = jnp.stack([norm(a) + norm(b) for a, b in pairs])
    floor = 1e-6 * jnp.max(size)
    return jnp.max(off / jnp.where(size > floor, size, jnp.where(floor > 0, floor, 1)))


def _learning(system, x, s) -> State:
    """Return −∂potential/∂s, or the field of the vector-field rule."""
    if not has_potential(system):
        return learning_field(system)(x, s)
    return jax.tree.map(
        jnp.negative, state_gradient(lambda u: system.potential(x, u), s)
    )


def _relative(a: State, b: State) -> Array:
    """Return ‖a − b‖ / (‖a‖ + ‖b‖), at any scale."""
    biggest = jnp.maximum(largest(a), largest(b))
    a, b = jax.tree.map(lambda u: u / jnp.where(biggest == 0, 1, biggest), (a, b))
    size = norm(a) + norm(b)
    off = norm(jax.tree.map(jnp.subtract, a, b))
    return off / jnp.where(size == 0, 1, size)


def _fitted(problem: Problem, state: State) -> tuple[State, tuple[float, float]]:
    """Fit D of velocity = −D ∂potential/∂s; return it and its range on nudged units."""
    params = eqx.filter(problem.system, eqx.is_inexact_array)
    random = np.random.default_rng(6)
    thetas = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=(PROBES, *leaf.shape)), leaf.dtype),
        params,
    )
    probes = random_like(state, 7, PROBES)
    scale, signals = _fit(problem, state, thetas, probes)
    floor = 1e-9 * float(largest(signals))
    touched = [
        np.asarray(d)[np.abs(np.asarray(c)) > floor]
        for d, c in zip(jax.tree.leaves(scale), jax.tree.leaves(signals), strict=True)
    ]
    values = np.concatenate([np.ravel(part) for part in touched])
    if not values.size:
        return scale, (1.0, 1.0)
    return scale, (float(values.min()), float(values.max()))


@eqx.filter_jit
def _fit(problem: Problem, state, thetas, probes):
    """Fit D by least squares to ∂v/∂θ and −∂²P/∂s∂θ; without parameters, to ∂v/∂s."""
    system, cost, x, y = problem
    params, static = eqx.partition(system, eqx.is_inexact_array)

    def one(example):
        x, y, s, probes = example
        energy = energy_of(system)

        def along(theta):
            def both(params):
                model = eqx.combine(params, static)
                return model.velocity(x, s), _learning(model, x, s)

            return jax.jvp(both, (params,), (theta,))[1]

        def across(w):
            def both(u):
                force = state_gradient(lambda r: energy(x, r), u)
                return system.velocity(x, u), jax.tree.map(jnp.negative, force)

            return jax.jvp(both, (s,), (w,))[1]

        def ratio(a, b, c, d):
            known = jnp.sum(b * b, 0)
            other = jnp.sum(d * d, 0)
            used = known > 1e-20 * jnp.max(known, initial=0)
            by_state = jnp.sum(c * d, 0) / jnp.where(other == 0, 1, other)
            by_state = jnp.where(other == 0, 1, by_state)
            return jnp.where(
                used, jnp.sum(a * b, 0) / jnp.where(used, known, 1), by_state
            )

        by_parameter, by_state = jax.lax.map(along, thetas), jax.lax.map(across, probes)
        scale = jax.tree.map(ratio, *by_parameter, *by_state)
        return scale, error_signal(system, cost, x, y, s)

    return jax.lax.map(one, (x, y, state, probes))


@eqx.filter_jit
def ep_limit(problem: Problem, state: State, dt: float):
    """Compute EP's gradient in the limit β → 0 at a fixed point, for any system.

    q = ds^β/dβ solves (I − ∂F/∂s) q = ∂F^β/∂β.  The limit is ∂C/∂θ + ∂²potential/∂θ∂s
    q, or without a potential ∂C/∂θ − (∂μ/∂θ)ᵀ q (paper C, eq 18).  It equals the exact
    gradient if `exactness` holds; the difference is EP's bias.

    **Returns:** (system gradient, cost gradient), and the solve's worst residual.
    """
    system, cost, x, y = problem

    def response(x, y, s):
        def nudged(beta):
            return Euler(dt=dt).step(Dynamics(system, x, cost, y, beta), s, None)[0]

        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(s)))
        push = jax.jvp(nudged, (zero,), (jnp.ones_like(zero),))[1]
        step = step_map(system, x, dt)
        return solve_fixed_point(lambda q: jax.jvp(step, (s,), (q,))[1], push)

    moved, residual = jax.vmap(response)(x, y, state)

    @eqx.filter_grad
    def gradient(model):
        system, cost = model

        def one(x, y, s, q):
            value = cost_of(system, cost, x, y, s)
            if not has_potential(system):
                return value - inner(learning_field(system)(x, s), q)

            def potential(u):
                return system.potential(x, u)

            return value + jax.jvp(potential, (s,), (q,))[1]

        return weighted_mean(jax.vmap(one)(x, y, state, moved), None)

    return gradient((system, cost)), jnp.max(residual)
