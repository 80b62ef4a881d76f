"""Find the fixed point s⁰ at which theorems are tested, or say why there is none."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators._step import norm, solve_fixed_point, step_map
from ..relaxations import AbstractRelaxation, initial_state, relax, Status
from ..relaxations._euler import Euler
from ..systems._base import AbstractMap, AbstractPrimitive, AbstractSystem, State
from ._problem import random_like

GOOD = 1e-10
"""largest residual (velocity, float64, times `unit`) at which theorems are tested"""
STABLE = 1 - 1e-7
"""spectral radius below which a step contracts"""
SLOW = 0.99
"""spectral radius above which a larger dt is tried"""
FINE = 1e-13
"""residual above which Newton's method is tried"""
NEWTON = 8
BEST = 2e-15
"""residual at which settling stops"""
CHUNK = 500
LIMIT = 60_000
"""most Euler steps for one fixed point"""
HALVINGS = 10
"""dt is tried down to 2⁻¹⁰, then at the scale of the spectral radius"""


def unit(dt: float) -> float:
    """Return the velocity that counts as 1: more for dynamics faster than dt = 2⁻¹⁰."""
    return max(1.0, 2.0**-HALVINGS / dt) if dt <= 1 else 1 / dt


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A state, how well it has settled, and with which relaxation and dt.

    - `steps`: counted from the initial state.
    - `radius`: the spectral radius of the step s ← project(s + dt velocity) at the
      state; RBP's error process contracts by it.
    """

    state: State
    residual: float
    status: Status
    relaxation: AbstractRelaxation
    dt: float
    steps: int
    radius: float

    @property
    def settled(self) -> bool:
        """Whether theorems can be tested here."""
        return self.residual <= self.limit

    @property
    def limit(self) -> float:
        """The largest residual at which theorems are tested."""
        return GOOD * unit(self.dt)


def find_fixed_point(
    system: AbstractSystem,
    x: PyTree[Array],
    relaxation: AbstractRelaxation | None,
    dt: float | None,
    start: State | None = None,
) -> FixedPoint:
    """Settle a batch as far as its arithmetic allows.

    Without a relaxation, take Euler steps of `dt`, or of the largest dt = 1, ½, ¼, …
    that settles (maps and primitives start at 1, flows at ½).  If none down to 2⁻¹⁰
    settles, or if the state is too slow even at 1, take dt from the spectral radius of
    ∂velocity/∂s.
    """
    if relaxation is not None:
        step = relaxation.dt if dt is None else dt
        point = _settle(system, x, relaxation, start, step or 1.0)
        size = None
        if step is None and point.settled:
            size = contracting_dt(system, x, point)
        if size is None:
            return point
        radius = spectral_radius(system, x, point.state, size)
        return dataclasses.replace(point, dt=size, radius=radius)
    points = []

    def found(sizes) -> FixedPoint | None:
        for size in sizes:
            points.append(_settle(system, x, Euler(dt=size, steps=CHUNK), start, size))
            if points[-1].settled and points[-1].radius < SLOW:
                return points[-1]
            if points[-1].settled and points[-1].radius < 1 + 1e-6:
                return None  # slow or flat at any smaller dt too
        return None

    if dt is not None:
        return found([dt]) or points[0]
    discrete = isinstance(system, AbstractMap | AbstractPrimitive)
    point = found(2.0**-n for n in range(not discrete, HALVINGS + 1))
    if point is None:
        begin = _start(system, x) if start is None else start
        reached = [p.state for p in points if np.isfinite(p.residual)]
        point = found(scaled_sizes(system, x, [begin, *reached]))
    # Steps lead nowhere: take a point that Newton's method found, or the best one.
    return point or min(points, key=_shortfall)


def _shortfall(point: FixedPoint) -> float:
    """Return the residual in units of the largest one allowed."""
    return point.residual / point.limit if point.residual >= 0 else np.inf


def scaled_sizes(system, x, states) -> list[float]:
    """Return dt near 1/ρ, ρ the largest spectral radius of ∂velocity/∂s at `states`.

    They are powers of two outside of 2⁻¹⁰…1.  For fast dynamics they go down to 1/64ρ,
    since ρ may grow on the way; for slow dynamics they start at 1/ρ.
    """
    radii = [float(np.max(_rate(system, x, s, random_like(s, 0)))) for s in states]
    radius = max((r for r in radii if np.isfinite(r)), default=0.0)
    if not radius:
        return []
    largest = 2.0 ** np.floor(-np.log2(radius))
    sizes = [float(largest * 2.0**-n) for n in range(7)]
    return [s for s in sizes if s < 2.0**-HALVINGS or (s > 1 and s >= largest / 2)]


def _settle(system, x, relaxation, start, dt) -> FixedPoint:
    """Return the point that a relaxation reaches, with the radius of a step of dt."""
    state, residual, status, steps = settle(system, x, relaxation, start)
    radius = spectral_radius(system, x, state, dt) if np.isfinite(residual) else np.nan
    return FixedPoint(state, residual, status, relaxation, dt, steps, radius)


def settle(
    system: AbstractSystem,
    x: PyTree[Array],
    relaxation: AbstractRelaxation,
    start: State | None,
) -> tuple[State, float, Status, int]:
    """Run chunks of steps until the residual reaches rounding, or stops falling.

    All calls with the same shapes share one program, whatever the parameters.

    **Returns:** the state, its residual and status in the worst example, the steps.
    """
    scale = unit(1.0 if relaxation.dt is None else float(relaxation.dt))
    best, good, fine = BEST * scale, GOOD * scale, FINE * scale
    chunk = dataclasses.replace(relaxation, steps=CHUNK, tol=best)  # type: ignore[call-arg]
    if start is None:
        start = _start(system, x)
    state, steps, residual = start, 0, np.inf
    status = Status.unsettled
    while steps < LIMIT:
        found = relax(system, x, chunk, state=state)
        steps += int(np.max(found.steps))
        worst = int(np.argmax(_nan_last(found.residual)))
        previous, residual = residual, float(found.residual[worst])
        state, status = found.state, Status(int(found.status[worst]))
        if not np.isfinite(residual) or residual <= best:
            break
        # At rounding the residual stops falling; far from it even a slow fall counts.
        if residual > previous * (0.5 if previous < good else 0.98):
            break
    if np.isfinite(residual) and residual > fine:
        state, residual = _newton(system, x, relaxation, state, residual)
    return state, residual, Status.settled if residual <= good else status, steps


def _newton(system, x, relaxation, state, residual) -> tuple[State, float]:
    """Continue by Newton's method, while the residual falls."""
    dt = 1.0 if relaxation.dt is None else relaxation.dt
    here = dataclasses.replace(relaxation, steps=0, tol=None)
    for _ in range(NEWTON):
        moved = _newton_step(system, x, state, dt)
        found = relax(system, x, here, state=moved)
        reached = float(np.max(_nan_last(found.residual)))
        if reached >= residual:
            break
        state, residual = moved, reached
    return state, residual


@eqx.filter_jit
def _newton_step(system, x, state, dt) -> State:
    """Return s + δ with (I − ∂F/∂s) δ = F(s) − s, for each example."""

    def one(x, s):
        step = step_map(system, x, dt)
        gap = jax.tree.map(jnp.subtract, step(s), s)
        delta, _ = solve_fixed_point(lambda v: jax.jvp(step, (s,), (v,))[1], gap)
        return system.project(jax.tree.map(jnp.add, s, delta))

    return jax.vmap(one)(x, state)


@eqx.filter_jit
def _start(system, x) -> State:
    return initial_state(system, x, None)


def contracting_dt(system, x, point: FixedPoint, below: float = np.inf) -> float | None:
    """Return the largest dt < `below` at which Euler steps contract at the point."""
    sizes = [2.0**-n for n in range(HALVINGS + 1)]
    for size in [*sizes, *scaled_sizes(system, x, [point.state])]:
        if size < below and spectral_radius(system, x, point.state, size) < STABLE:
            return size
    return None


def spectral_radius(system, x, state, dt) -> float:
    """Return the largest growth of a perturbation per step, over the batch."""
    growth = _growth(system, x, state, random_like(state, 0), dt)
    return float(np.max(growth))


@eqx.filter_jit
def _growth(system, x, state, probe, dt) -> Array:
    """Return the largest growth per step, by power iteration with ∂F/∂s."""

    def one(x, s, probe):
        step = step_map(system, x, dt)
        return _power(lambda v: jax.jvp(step, (s,), (v,))[1], probe, 100)

    return jax.vmap(one)(x, state, probe)


@eqx.filter_jit
def _rate(system, x, state, probe) -> Array:
    """Return the spectral radius of ∂velocity/∂s (1 / time constant)."""

    def one(x, s, probe):
        def velocity(u):
            return system.velocity(x, u)

        return _power(lambda v: jax.jvp(velocity, (s,), (v,))[1], probe, 50)

    return jax.vmap(one)(x, state, probe)


def _power(linear, probe, iterations: int) -> Array:
    """Return the mean growth in the last half of a power iteration."""

    def push(v, _):
        moved = linear(v)
        size = norm(moved)
        safe = jnp.where(size == 0, 1, size)
        return jax.tree.map(lambda u: u / safe, moved), size

    sizes = jax.lax.scan(push, probe, None, length=iterations)[1]
    last = sizes[iterations // 2 :]
    # A probe that a bound has set to 0 does not grow.
    return jnp.where(jnp.any(last == 0), 0.0, jnp.exp(jnp.mean(jnp.log(last))))


def _nan_last(residual: Any) -> np.ndarray:
    """Replace NaN by infinity."""
    return np.where(np.isfinite(residual), residual, np.inf)


def other_fixed_points(
    system: AbstractSystem, x: PyTree[Array], point: FixedPoint, seed: int = 0
) -> int:
    """Count the examples that settle elsewhere from a start displaced at random."""
    moved = jax.tree.map(jnp.add, point.state, random_like(point.state, seed))
    starts = jax.jit(jax.vmap(system.project))(moved)
    state, _, _, _ = settle(system, x, point.relaxation, starts)
    residual = np.asarray(_norms(system, x, state, point.dt))
    apart = np.zeros(len(residual), bool)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(point.state), strict=True):
        off = np.abs(np.asarray(a) - np.asarray(b)).reshape(len(apart), -1)
        apart |= np.max(off, axis=1, initial=0) > 1e-4
    return int(np.sum(apart & (residual < 1e-8)))


@eqx.filter_jit
def _norms(system, x, state, dt) -> Array:
    """Return ‖F(s) − s‖ of each example."""

    def one(x, s):
        moved = step_map(system, x, dt)(s)
        return norm(jax.tree.map(jnp.subtract, moved, s))

    return jax.vmap(one)(x, state)
