"""Measure the curves from which `tune` chooses dt, K and T, and EP's bias for every β.

Everything is computed in float64, on one batch.  Phases of any length and β share one
compiled program.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..estimators import ImplicitDifferentiation
from ..estimators._equilibrium_propagation import _contrast, Nudging
from ..relaxations import Dynamics, initial_state, relax
from ..relaxations._euler import Euler, largest
from ..relaxations._sweep import Sweep
from ._exactness import ep_limit
from ._fixed_point import find_fixed_point, FixedPoint, scaled_sizes
from ._metrics import agreement, both
from ._problem import gradient_at, Problem
from ._records import TuningCurve

SIZES = tuple(f * 2.0**-n for n in range(11) for f in ((1, 0.7) if n < 10 else (1,)))
BETAS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
SMALL = 1e-5
"""β at which EP's bias and float64 rounding are both negligible"""
SETTLED = 1e-3
"""residual, relative to the initial velocity, at which a dt counts as settled"""
LIMIT = 20_000
"""most steps for one dt, T or K"""
MANY = 1000
"""steps to settle above which dt is also taken from the spectral radius"""


class Search:
    """What is known so far; each method measures one more curve.

    - `curves`: by `"dt"`, `"K"`, `"T"`, `"beta"`.
    - `reason`: why there is no fixed point, or no exact gradient.
    - `bias`: the angle of EP's limit; `room`: the angle allowed on top of it.
    """

    def __init__(self, problem: Problem, target: float, nudging: Nudging, sweep: bool):
        self.problem, self.target, self.sweep = problem, target, sweep
        self.nudging: Nudging = nudging
        self.curves: dict[str, TuningCurve] = {}
        self.reason = ""
        self.bias = float("nan")

    def settle(self) -> bool:
        """Find dt, the fixed point and its gradients; `False` if there is none."""
        system, _, x, _ = self.problem
        self.start = initial_state(system, x, None)
        fast = jax.vmap(system.velocity)(x, self.start)
        self.scale = float(largest(fast)) or 1.0
        self.relaxation: Any = Sweep(steps=1)
        if self.sweep:  # its residual is in units of the state
            still = relax(system, x, Sweep(steps=0), state=self.start)
            self.scale = float(jnp.max(still.residual)) or 1.0
        if not self.sweep:
            self.curves["dt"] = self._race()
            dt = self.curves["dt"].chosen
            self.relaxation = Euler(dt=jnp.asarray(dt), steps=1)  # type: ignore[arg-type]
            if not np.isfinite(self.curves["dt"].measured["steps"]).any():
                self.reason = (
                    f"The dynamics settles at no dt from {SIZES[-1]:.2g} to 1, nor at "
                    "one near 1 / the spectral radius of ∂velocity/∂s: its residual "
                    f"does not fall to {SETTLED:g} of the first velocity. EP needs a "
                    "fixed point."
                )
                return False
        self.point = self._fixed_point(x)
        if not self.point.settled:
            self.reason = (
                f"The dynamics does not settle to rounding ({self.point.status.name}, "
                f"residual {self.point.residual:.2g} after {self.point.steps} steps), "
                "so there is no exact gradient to compare with."
            )
            return False
        self.exact = self._exact(self.point.state)
        if not np.isfinite(agreement(self.exact, self.exact).angle):
            self.reason = (
                "The exact gradient is zero or has no finite value (a flat direction "
                "of the energy), so no angle to it is defined."
            )
            return False
        limit, left = ep_limit(self.problem, self.point.state, self.point.dt)
        self.limit = limit if float(left) < 1e-8 else self.exact
        # A limit of zero points nowhere.
        self.bias = float(np.nan_to_num(self._angle(self.limit), nan=90.0))
        # The error allowed on top of EP's own bias.
        self.room = max(self.target - self.bias, self.target / 10)
        self.fine = min(0.01, self.room / 30)
        return True

    def _race(self) -> TuningCurve:
        """Count the steps to settle for each dt, until smaller dt only take longer."""
        found, best = [], np.inf
        sizes = list(SIZES)
        while sizes:
            dt = sizes.pop(0)
            cap = LIMIT if best == np.inf else 4 * int(best) + 20
            taken, residual = self._steps_to_settle(dt, cap)
            if taken == np.inf > best:
                sizes.clear()  # smaller ones take longer still
            else:
                residual = residual if np.isfinite(residual) else np.inf
                found.append((dt, float(taken), residual))
                best = min(best, taken)
            if not sizes and best > MANY and dt in SIZES:
                system, _, x, _ = self.problem
                sizes = scaled_sizes(system, x, [self.start])
        found.sort(reverse=True)
        values, steps, residuals = zip(*found, strict=True)
        by = steps if best < np.inf else residuals
        # Of equals take the smaller dt, further from instability.
        chosen = max(k for k, value in enumerate(by) if value == min(by))
        return TuningCurve(values, {"steps": steps}, values[chosen])

    def _steps_to_settle(self, dt: float, cap: int) -> tuple[float, float]:
        """Return steps (infinite if the residual stops falling), and the residual."""
        # An array is a dynamic argument, so one program serves every dt.
        self.relaxation = Euler(dt=jnp.asarray(dt), steps=1)  # type: ignore[arg-type]
        state, total, previous = phases_from(self.start, 1), 0, np.inf
        tol = SETTLED * self.scale
        chunk = max(1000, int(4 / dt))
        while total < cap:
            count = min(chunk, cap - total)
            state, residual, taken = self._free(state, count, tol)
            total += taken
            if residual <= tol:
                return total, residual
            if not np.isfinite(residual) or residual > 0.98 * previous:
                return np.inf, residual
            previous = residual
        return np.inf, previous

    def choose_nudged_steps(self) -> None:
        """Choose K from the angle of EP stopped after K steps."""
        betas = (SMALL, -SMALL)
        state = phases_from(self.point.state, 2)
        steps, angles, done = [], [], 0
        longest = np.log(1e-8) / np.log(min(max(self.point.radius, 0.5), 0.999))
        for count in ladder(min(longest + 30, LIMIT)):
            state, found = self._nudged(state, betas, count - done)
            done = count
            steps.append(count)
            angles.append(self._angle(found))
            if agreement(found, self.limit).angle <= self.fine:
                break
        chosen = self._first_within(steps, angles, self.bias + self.room / 3)
        self.curves["K"] = TuningCurve(tuple(steps), {"angle": tuple(angles)}, chosen)

    def choose_free_steps(self) -> None:
        """Choose T from the angle of the exact formula at s_T."""
        state, done = phases_from(self.start, 1), 0
        steps, states, residuals = [], [], []
        for count in ladder(max(self.point.steps, 1)):
            state, residual, _ = self._free(state, count - done)
            done = count
            steps.append(count)
            states.append(jax.tree.map(lambda s: s[0], state))
            residuals.append(residual)
            if residual <= SETTLED**2 * self.scale:
                break
        # Go backwards, and stop early: far from s⁰ the solves are long.
        angles, off = [float("nan")] * len(steps), 0
        for k in reversed(range(len(steps))):
            angles[k] = self._angle(self._exact(states[k]))
            off = 0 if angles[k] <= 2 * self.target else off + 1
            if off == 3:
                break
        chosen = self._first_within(steps, angles, self.room / 3)
        measured = {"residual": tuple(residuals), "angle": tuple(angles)}
        self.curves["T"] = TuningCurve(tuple(steps), measured, chosen)

    @staticmethod
    def _first_within(steps: list[int], angles: list[float], bound: float) -> int:
        """Return the fewest steps from which all angles are within; else the most."""
        outside = [k for k, angle in enumerate(angles) if not angle <= bound]
        return steps[min(outside[-1] + 1, len(steps) - 1) if outside else 0]

    def measure_bias(self) -> None:
        """Measure EP's angle at the settled state for each β, with the longest K."""
        start = phases_from(self.point.state, 2)
        count = int(self.curves["K"].values[-1])
        angles = []
        for beta in BETAS:
            worst = []
            for sign in (1, -1) if self.nudging == "random-sign" else (1,):
                other = -beta if self.nudging == "centered" else 0.0
                _, found = self._nudged(start, (sign * beta, other), count)
                worst.append(self._angle(found))
            angles.append(float(np.max(worst)))
        self.curves["beta"] = TuningCurve(BETAS, {"bias": tuple(angles)}, np.nan)

    def exact_of(self, batch) -> Any:
        """Return the exact gradient of another batch; `None` if it does not settle."""
        point = self._fixed_point(batch[0])
        if not point.settled:
            return None
        return self._exact(point.state, self.problem.on(*batch))

    def _fixed_point(self, x) -> FixedPoint:
        free = Sweep() if self.sweep else None
        dt = None if self.sweep else self.curves["dt"].chosen
        return find_fixed_point(self.problem[0], x, free, dt)

    def _free(self, state, count: int, tol: float = 0.0) -> tuple[Any, float, int]:
        """Take at most `count` free steps; return state, residual and steps."""
        system, _, x, _ = self.problem
        problem: Any = Problem(system, None, x, None)  # type: ignore[arg-type]
        found = advance(problem, state, self.relaxation, (0,), count, tol)
        state, residual, taken = found
        return state, float(residual), int(taken)

    def _nudged(self, state, betas: tuple[float, float], count: int) -> tuple[Any, Any]:
        """Take `count` steps of two nudged phases; return them and EP's gradient."""
        state, _, _ = advance(self.problem, state, self.relaxation, betas, count)
        start = self.point.state
        return state, contrast(self.problem, start, state, jnp.asarray(betas))

    def _exact(self, state, problem: Problem | None = None) -> tuple[Any, Any]:
        """Apply the exact gradient's formula at any state."""
        rule = ImplicitDifferentiation(Euler(dt=self.point.dt, steps=0))
        return both(gradient_at(rule, problem or self.problem, state))

    def _angle(self, gradient: Any) -> float:
        return agreement(gradient, self.exact).angle


def advance(problem: Problem, state, relaxation, betas, count: int, tol: float = 0.0):
    """Run phases nudged by `betas` until the residual is ≤ `tol`, or for `count` steps.

    Leaves of `state` are `[phases, batch, …]`.

    **Returns:** the state, the largest residual of the last step, and the steps taken.
    """
    # Arrays are dynamic arguments: one program serves every β, count and tolerance.
    numbers = jnp.asarray(betas, float), jnp.asarray(count), jnp.asarray(tol, float)
    return _jitted_advance(problem, state, relaxation, *numbers)


@eqx.filter_jit
def _jitted_advance(problem, state, relaxation, betas, count, tol):
    """Run `advance`, compiled once for all numbers."""
    system, cost, x, y = problem

    def one(beta, x, y, s):
        moved, residual = relaxation.step(Dynamics(system, x, cost, y, beta), s, None)
        return jax.tree.map(lambda m, u: m.astype(u.dtype), moved, s), residual

    over_batch = jax.vmap(one, in_axes=(None, 0, 0, 0))
    step = jax.vmap(over_batch, in_axes=(0, None, None, 0))

    def moving(carry):
        t, _, residual = carry
        return (t < count) & ((t == 0) | (jnp.isfinite(residual) & (residual > tol)))

    def body(carry):
        t, s, _ = carry
        s, residual = step(betas, x, y, s)
        return t + 1, s, jnp.max(residual)

    first = (jnp.zeros((), int), state, jnp.zeros(()))
    taken, state, residual = jax.lax.while_loop(moving, body, first)
    return state, residual, taken


@eqx.filter_jit
def contrast(problem: Problem, free, phases, betas):
    """Return EP's gradient from the states of a free and two nudged phases."""
    return _contrast(*problem, free, phases, betas, None)


def phases_from(state, count: int):
    """Start `count` phases at one batched state."""
    return jax.tree.map(lambda s: jnp.stack([s] * count), state)


def ladder(end: float) -> list[int]:
    """Return 1, 2, 3, …, then each a fifth more than the last, up to `end`."""
    values = [1]
    while values[-1] < end:
        values.append(max(values[-1] + 1, round(1.2 * values[-1])))
    return values
