"""The error processes of RBP and EP in continuous time, by ODE solvers (paper B).

At a free fixed point s⁰ of ds/dt = velocity, recurrent backpropagation (RBP, theorem 1)
and the nudged phase of EP agree at every time t if ∂velocity/∂s is symmetric: S̄_t =
S̃_t and Θ̄_t = Θ̃_t (theorem 3).

Times are in neuron time constants; x, y and states have a leading batch axis.  `tol` is
relative and absolute; `None` means 1e-10 in float64.  All functions raise `ValueError`
if times are negative or do not increase, if shapes differ, or if the solver fails.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from ..estimators._equilibrium_propagation import _contrast
from ..estimators._step import error_signal, through_step
from ..relaxations import Dynamics, initial_state
from ..relaxations._relax import check_nudge
from ..relaxations._euler import largest
from ..systems import _check
from ..systems._base import AbstractSystem, State
from ..systems._total_energy import batch_costs, check_total_energy
from ._problem import Problem
from ._processes import Process


def flow(
    system: AbstractSystem,
    x: PyTree[Array],
    s: State,
    times: Any,
    *,
    cost: Any = None,
    y: PyTree[Array] | None = None,
    beta: float | Array = 0.0,
    tol: float | None = None,
) -> State:
    """Compute S^β_θ(s, t), the trajectory from `s`: `[times, batch, …]` (eqs 1, 14–15).

    The dynamics is ds/dt = velocity − β ∂C/∂s; a nudge β (dimensionless) needs `cost`
    and `y`.  The result is differentiable in all arrays but the times.

    **Raises:** `ValueError` also if `system.project` would move a state.
    """
    check_nudge(system, cost, y, beta)
    problem: Any = Problem(system, cost, x, y)  # type: ignore[arg-type]
    s, times, tol = _prepared(problem, s, times, tol)
    states, moved = _flow(problem, s, times, jnp.asarray(beta), tol)
    return _refuse(
        _finite(states, times),
        moved > jnp.finfo(moved.dtype).eps ** 0.5,
        f"{type(system).__name__}.project would move a state on this trajectory, and a "
        "smooth flow knows no projection; use ep.rbp_process and ep.ep_process",
    )


@eqx.filter_jit
def _flow(problem: Problem, s, times, beta, tol):
    """Return the states, and how far `project` would move them."""

    # Integrate a perturbation w, dw/dt = (∂velocity/∂s) w, with the state.  At a fixed
    # point only w moves; it keeps the steps short enough for exact derivatives.
    def field(carry, args):
        (system, cost, x, y), beta = args
        one = jax.vmap(lambda x, y, s: Dynamics(system, x, cost, y, beta).velocity(s))
        ds, dw = jax.jvp(lambda s: one(x, y, s), carry[:1], carry[1:])
        return ds, jax.lax.stop_gradient(dw)

    flat, unflatten = ravel_pytree(s)
    w = unflatten(jax.random.normal(jax.random.key(0), flat.shape, flat.dtype))
    states, _ = _solve(field, (s, w), times, tol, (problem, beta))
    fixed = jax.lax.stop_gradient(states)
    projected = jax.vmap(jax.vmap(problem.system.project))(fixed)
    return states, largest(jax.tree.map(jnp.subtract, projected, fixed))


def projected_cost(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    s: State,
    t: float,
    *,
    tol: float | None = None,
) -> Scalar:
    """Compute L_θ(s, t) = C(S⁰_θ(s, t)), the cost after free motion for t (eq 4).

    It is the mean over the batch, differentiable in `system`, `cost` and `s`.  At s⁰
    its gradients are Θ̄_t, and S̄_t divided by the batch size (eqs 6–7).  Errors are
    those of `flow`.
    """
    _prepared(Problem(system, cost, x, y), s, t, tol)
    # The states in between are only checked against `project`.
    states = flow(system, x, s, np.linspace(0, t, 9) if t > 0 else t, tol=tol)
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    return jnp.mean(batch_costs(system, cost, x, y, last))


def rbp_flow(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    state: State,
    times: Any,
    tol: float | None = None,
) -> Process:
    """Compute recurrent backpropagation in continuous time (theorem 1, eqs 8–11).

        S̄_0 = ∂C/∂s,   dS̄/dt = (∂velocity/∂s)ᵀ D S̄
        Θ̄_0 = ∂C/∂θ,   dΘ̄/dt = (∂velocity/∂θ)ᵀ D S̄

    at s⁰ = `state`, which must have settled.  D is the Jacobian of `project` at
    s⁰ + velocity: 0 for a unit held at a bound, the identity without bounds.
    """
    problem = Problem(system, cost, x, y)
    state, times, tol = _prepared(problem, state, times, tol)
    states, grads = _rbp(problem, state, times, tol)
    return Process(_finite(states, times), grads[0], grads[1], times)


@eqx.filter_jit
def _rbp(problem: Problem, s0, times, tol):
    """Solve for S̄ and its integral, which gives Θ̄."""
    system, cost, x, y = problem

    def adjoint(x, s, error):
        at, pull = jax.vjp(lambda u: system.velocity(x, u), s)
        at = jax.tree.map(jnp.add, s, at)
        return pull(jax.vjp(system.project, at)[1](error)[0])[0]

    def field(carry, _):
        return jax.vmap(adjoint)(x, s0, carry[0]), carry[0]

    start = jax.vmap(lambda x, y, s: error_signal(system, cost, x, y, s))(x, y, s0)
    zero = jax.tree.map(jnp.zeros_like, start)
    states, integrals = _solve(field, (start, zero), times, tol)
    # The derivative of a step of dt = 1 is D ∂velocity/∂θ.
    through = jax.vmap(lambda q: through_step(*problem, s0, q, 1.0, None))
    return states, through(integrals)[1]


def ep_flow(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    state: State,
    times: Any,
    beta: float = 1e-3,
    nudging: Literal["centered", "one-sided"] = "centered",
    tol: float | None = None,
) -> Process:
    """Compute the nudged phase of EP in continuous time as a process (eqs 18–19).

        S̃_t = −(1/β) ∂S^β(s⁰, t)/∂t
        Θ̃_t = (1/β) (∂F^β/∂θ(S^β) − ∂F⁰/∂θ(s⁰)),   F^β = potential + β C

    Without a potential, Θ̃_t = ∂C/∂θ − (∂μ/∂θ)ᵀ (S^β − s⁰)/β.  Units held at a bound
    stay there: the velocity is multiplied by D of `rbp_flow`.

    β ≠ 0 is dimensionless.  `"centered"` averages β and −β (bias O(β²), otherwise
    O(β)).  `tol` applies to (S^β − s⁰)/β; if one-sided, a residual velocity r of the
    settled `state` adds an error of r/β.
    """
    if not 0 < abs(beta) < float("inf"):
        raise ValueError(f"beta is {beta}; it must be finite and not 0, e.g. 1e-3")
    if nudging not in ("centered", "one-sided"):
        raise ValueError(f"nudging is {nudging!r}; choose 'centered' or 'one-sided'")
    problem, phases = Problem(system, cost, x, y), 2 if nudging == "centered" else 1
    state, times, tol = _prepared(problem, state, times, tol, beta)
    betas = jnp.array([beta, -beta if phases == 2 else 0.0], times.dtype)
    states, grads = _ep(problem, state, times, betas, phases, tol)
    return Process(_finite(states, times), grads[0], grads[1], times)


@eqx.filter_jit
def _ep(problem: Problem, s0, times, betas, phases: int, tol):
    """Solve for (S^β − s⁰)/β of one or two phases; contrast two."""
    system, cost, x, y = problem
    nudges = betas[:phases]

    def shifted(s, u, beta):
        return jax.tree.map(lambda s, u: s + beta * u, s, u)

    def rate(x, y, s, u, beta):
        # du/dt of u = (S^β − s⁰)/β, which is of order 1 whatever β.
        velocity = Dynamics(system, x, cost, y, beta).velocity(shifted(s, u, beta))
        velocity = jax.tree.map(lambda v: v / beta, velocity)
        at = jax.tree.map(jnp.add, s, system.velocity(x, s))
        return jax.jvp(system.project, (at,), (velocity,))[1]

    def field(u, _):
        over_batch = jax.vmap(rate, in_axes=(0, 0, 0, 0, None))
        return jax.vmap(over_batch, (None, None, None, 0, 0))(x, y, s0, u, nudges)

    def contrast(u):
        # If one-sided, the second of two equal u has no effect: its β is 0.
        u = jax.tree.map(lambda u: jnp.resize(u, (2, *u.shape[1:])), u)
        states = jax.vmap(lambda u, beta: shifted(s0, u, beta))(u, betas)
        return _contrast(*problem, s0, states, betas, None)

    start = jax.tree.map(lambda s: jnp.zeros((len(nudges), *s.shape), s.dtype), s0)
    paths = _solve(field, start, times, tol)
    rates = jax.vmap(lambda u: field(u, None))(paths)
    return jax.tree.map(lambda rate: -rate.mean(1), rates), jax.vmap(contrast)(paths)


def truncation(
    process: Process, grads: PyTree, cost_grads: PyTree = None
) -> Float[Array, " times"]:
    """Return the angle in degrees between Θ̄_t and the exact gradient, for every t.

    By theorem 3 this is also the angle of EP if the nudged phase stops at t.  `grads`
    and `cost_grads` are ∂J/∂θ of system and cost, as in a `Gradient`.  The angle is NaN
    if one of the two is zero except for rounding.
    """
    course = jax.tree.leaves((process.grads, process.cost_grads))
    exact = jax.tree.leaves((grads, cost_grads))
    found, own = [jnp.shape(g) for g in exact], [g.shape[1:] for g in course]
    if found != own:
        raise ValueError(
            f"grads have shapes {found}, not {own}; give the same system's and cost's"
        )
    a = jnp.concatenate([g.reshape(len(g), -1) for g in course], axis=1)
    b = jnp.concatenate([jnp.ravel(g) for g in exact])
    a, b = (v / jnp.max(jnp.abs(v), initial=0) for v in (a, b))  # no square underflows
    size = jnp.linalg.norm(a, axis=1, keepdims=True)
    size = jnp.where(size > jnp.finfo(size.dtype).eps ** 0.5 * size.max(), size, 0)
    a, b = a / size, b / jnp.linalg.norm(b)
    apart, along = (jnp.linalg.norm(v, axis=1) for v in (a - b, a + b))
    return jnp.degrees(2 * jnp.arctan2(apart, along))  # unlike arccos, exact near 0


def _solve(field, start, times, tol, args=None) -> Any:
    """Solve du/dt = field(u, args) for u at the times; infinite if the solver fails."""
    import diffrax

    # One vector compiles faster than many arrays.  The error is the largest of any unit
    # of any example.  Steps end at the times, since interpolation is less accurate.
    flat, unflatten = ravel_pytree(start)
    terms = diffrax.ODETerm(lambda t, u, a: ravel_pytree(field(unflatten(u), a))[0])
    steps = diffrax.PIDController(rtol=tol, atol=tol, norm=largest)
    steps = diffrax.ClipStepSizeController(steps, step_ts=times)
    options: Any = {"saveat": diffrax.SaveAt(ts=times), "stepsize_controller": steps}
    options |= {"args": args, "throw": False}
    end, solver = times[-1], diffrax.Dopri8()
    ys: Any = diffrax.diffeqsolve(terms, solver, 0 * end, end, None, flat, **options).ys
    return jax.vmap(unflatten)(ys)


def _finite(states: State, times: Array) -> State:
    """Refuse a trajectory that the solver did not complete."""
    return _refuse(
        states,
        ~jnp.isfinite(largest(jax.lax.stop_gradient(states))),
        f"the solver did not reach t = {times[-1]}: the dynamics diverges, is stiff or "
        "not smooth at a bound; give a smaller time or beta, or use ep.rbp_process",
    )


def _refuse(tree: Any, wrong: Array, message: str) -> Any:
    """Return `tree`, or raise `ValueError`; inside `jax.jit`, Equinox raises later."""
    if isinstance(wrong, Tracer):
        return eqx.error_if(tree, wrong, message)
    if wrong:
        raise ValueError(message)
    return tree


def _prepared(problem: Problem, state, times, tol, beta=1.0):
    """Return the batched state in the widest dtype, the times, and the tolerance."""
    system, cost, x, y = problem
    _check.batch_size(**({"x": x} if y is None else {"x": x, "y": y}))
    state = initial_state(system, x, state)
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(state)):
        raise ValueError("the state is complex; the flow is that of real states")
    if y is not None:
        _check.check_cost(system, cost, *_check.example((x, y, state)))
        check_total_energy(system, cost, x, y, state)
    dtype = jnp.result_type(*jax.tree.leaves(state))
    values = np.atleast_1d(np.asarray(times, float))
    increasing = values.ndim == 1 and values.size and (np.diff(values) > 0).all()
    if not (increasing and np.isfinite(values).all() and values[0] >= 0):
        raise ValueError(
            f"times are {times}; give increasing, finite times ≥ 0, e.g. [0, 1, 2]"
        )
    if tol is None:
        eps = float(jnp.finfo(dtype).eps)  # velocity/β has an error of eps/β
        tol = max(1e-10 if eps < 1e-12 else eps**0.5, 10 * eps / abs(beta))
    elif not 0 < tol < 1:
        raise ValueError(f"tol is {tol}; it must be between 0 and 1, e.g. 1e-10")
    return state, jnp.asarray(values, dtype), tol
