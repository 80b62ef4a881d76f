"""What makes EP exact, tested by random probes at s⁰.

EP's gradient is exact if and only if, where `project` leaves units free to move,

    ∂velocity/∂s is symmetric   and   ∂²potential/∂θ∂s = −(∂velocity/∂θ)ᵀ

and for a system without a potential, whose rule is −(∂μ/∂θ)ᵀ q, the same with its
`learning_field` μ in place of −∂potential/∂s.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..estimators._base import weighted_mean
from ..estimators._step import (
    inner,
    norm,
    solve_fixed_point,
    step_map,
)
from ..relaxations._base import Dynamics
from ..relaxations._euler import Euler
from ..systems._base import AbstractSystem, State, has_potential, learning_field
from ..systems._total_energy import cost_of
from ._fixed_point import random_like

PROBES = 3
TOLERANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class Exactness:
    """Relative violations of EP's two conditions, 0 where they hold.

    - `asymmetry`: ‖(J − Jᵀ)w‖ / (‖Jw‖ + ‖Jᵀw‖), the largest over probes w.
    - `mismatch`: the same for ∂²potential/∂θ∂s, or −∂learning_field/∂θ, against
      −(∂velocity/∂θ)ᵀ; None for a system that has neither.
    - `held`: share of the units that `project` holds at s⁰.
    """

    asymmetry: float
    mismatch: float | None
    held: float

    @property
    def symmetric(self) -> bool:
        return self.asymmetry <= TOLERANCE

    @property
    def generated(self) -> bool:
        """Whether what learns generates the velocity's learning rule."""
        return self.mismatch is None or self.mismatch <= TOLERANCE

    @property
    def exact(self) -> bool:
        return self.symmetric and self.generated


def exactness(
    system: AbstractSystem, x: PyTree[Array], state: State, dt: float
) -> Exactness:
    """Probe both conditions at every example's state."""
    probes = random_like(state, 1, PROBES)
    asymmetry, mismatch, held = _probe(system, x, state, probes, dt)
    return Exactness(
        float(jnp.max(asymmetry)),
        float(jnp.max(mismatch)) if _learns_apart(system) else None,
        float(jnp.mean(held)),
    )


@eqx.filter_jit
def _probe(system, x, state, probes, dt):
    def one(x, s, probes):
        free = projector(system, x, s, dt)
        probes = jax.vmap(free)(probes)
        ones = free(jax.tree.map(jnp.ones_like, s))
        moving = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(ones))
        held = 1 - moving / sum(leaf.size for leaf in jax.tree.leaves(s))
        asymmetry = jax.vmap(lambda w: _asymmetry(system, x, s, free, w))(probes)
        mismatch = jnp.zeros(PROBES)
        if _learns_apart(system):
            mismatch = jax.vmap(lambda w: _mismatch(system, x, s, w))(probes)
        return jnp.max(asymmetry), jnp.max(mismatch), held

    # One example after the other: a probe takes as much memory as the parameters.
    return jax.lax.map(lambda example: one(*example), (x, state, probes))


def _learns_apart(system: AbstractSystem) -> bool:
    """Whether something other than the velocity generates the rule."""
    return has_potential(system) or callable(getattr(system, "learning_field", None))


def projector(system: AbstractSystem, x: Any, s: State, dt: Any):
    """w ↦ ∂project/∂s · w at s + dt · velocity: zero on units held at a bound."""
    velocity = system.velocity(x, s)
    at = jax.tree.map(lambda u, v: u + dt * v, s, velocity)

    def apply(w):
        w = jax.tree.map(lambda a, u: a.astype(u.dtype), w, at)
        return jax.jvp(system.project, (at,), (w,))[1]

    return apply


def _asymmetry(system, x, s, free, w) -> Array:
    def velocity(u):
        return system.velocity(x, u)

    forward = free(jax.jvp(velocity, (s,), (w,))[1])
    backward = free(jax.vjp(velocity, s)[1](w)[0])
    return _relative(forward, backward)


def _mismatch(system, x, s, w) -> Array:
    """Of ∂/∂θ ⟨what learns, w⟩ against ∂/∂θ ⟨velocity, w⟩, the worst parameter."""
    params, static = eqx.partition(system, eqx.is_inexact_array)

    def of_rule(params):
        model = eqx.combine(params, static)
        if has_potential(model):
            return -inner(jax.grad(lambda u: model.potential(x, u))(s), w)
        return inner(learning_field(model)(x, s), w)

    def of_velocity(params):
        return inner(eqx.combine(params, static).velocity(x, s), w)

    pairs = zip(
        jax.tree.leaves(jax.grad(of_rule)(params)),
        jax.tree.leaves(jax.grad(of_velocity)(params)),
        strict=True,
    )
    # Relative to all parameters: one that acts on nothing here differs by rounding.
    pairs = list(pairs)
    off = jnp.stack([norm(a - b) for a, b in pairs])
    size = jnp.stack([norm(a) + norm(b) for a, b in pairs])
    floor = 1e-6 * jnp.max(size)
    return jnp.max(off / jnp.where(size > floor, size, jnp.where(floor > 0, floor, 1)))


def _relative(a: State, b: State) -> Array:
    size = norm(a) + norm(b)
    off = norm(jax.tree.map(jnp.subtract, a, b))
    return off / jnp.where(size == 0, 1, size)


@eqx.filter_jit
def ep_limit(system, cost, x, y, state, dt):
    """EP's gradient in the limit β → 0 at a fixed point, for any system.

    With q = ds^β/dβ, which solves (I − ∂F/∂s) q = ∂F^β/∂β, it is ∂C/∂θ +
    ∂²potential/∂θ∂s q, or ∂C/∂θ − (∂μ/∂θ)ᵀ q (paper C, eq 18).  It equals the
    exact gradient where `exactness` holds, and differs by EP's bias elsewhere.

    **Returns:** (system gradient, cost gradient), and the solve's worst residual.
    """

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
