"""`tune`: dt, K, T and β that bring EP's gradient within an angle of the exact one
""`tune`: dt, K, T and β that bring EP's gradient within an angle of the exact one."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators import EquilibriumPropagation, ImplicitDifferentiation
from ..estimators._equilibrium_propagation import _contrast, Nudging
from ..relaxations._base import Dynamics, Equilibrium, initial_state, relax
from ..relaxations._euler import Euler, largest
from ..relaxations._sweep import Sweep
from ..systems import _check
from ..systems._base import AbstractSystem
from ._exactness import ep_limit
from ._fixed_point import double, find_fixed_point
from ._inputs import check_start, check_tune
from ._metrics import agreement
from ._tune_figure import outcome, Tuning, TuningCurve
from ._verify import _at, _Problem, kind

EXAMPLES = 16
SIZES = tuple(f * 2.0**-n for n in range(11) for f in ((1, 0.7) if n < 10 else (1,)))
BETAS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
SMALL = 1e-5
"""β at which, in float64, EP's bias and rounding are both negligible"""
SETTLED = 1e-3
"""residual, relative to the velocity at the start, that ends the race of the dt"""
LIMIT = 20_000
"""steps spent on one dt, T or K at most"""
ROUNDS = 6
"""float32 measurements at most, T and K × 1.5 from each to the next"""
_Model = tuple[AbstractSystem, Any, PyTree[Array], PyTree[Array]]
"""system, cost, x and y"""


def tune(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    target: float = 5.0,
    estimator: EquilibriumPropagation | None = None,
    examples: int = EXAMPLES,
    nudging: Nudging = "centered",
) -> Tuning:
    """Propose T, dt, K and β for a gradient within `target` degrees of the exact one.

    One after the other, each from a measured curve on the first `examples` examples:

    - dt: the step size that settles in the fewest steps, from `init_state`;
    - K: EP stopped after K steps, at the settled state and a vanishing β (paper B:
      truncation), in float64;
    - T: the exact gradient's formula at s_T as if it were settled, in float64.  (A
      long nudged phase would settle from any s_T and show nothing.)
    - β: bias in float64 against what training computes, all of it in float32.  The
      largest β is taken that is about as good as the best.  Where none is good
      enough, T and K grow by half and β is measured again.

    **Arguments:**

    - `target`: degrees between 0 and 90, over all parameters of system and cost.
    - `estimator`: whose relaxations' kind (`Euler`, or `Sweep`, which has no dt) and
      nudging to keep; `None`: `Euler` and `nudging`.

    **Returns:** a `Tuning`; a target out of reach is `reached=False`, no exception.

    **Raises:** `ValueError` for arguments out of range, systems, costs and data that
    do not fit each other, and values that are not finite at the start.
    """
    check_tune(target, estimator, examples, nudging)
    x, y = _check.batch(x=x, y=y)
    _check.check_finite(x=x, y=y)
    count = min(examples, _check.batch_size(x=x))
    sweep = estimator is not None and isinstance(estimator.free, Sweep)
    nudging = nudging if estimator is None else estimator.nudging
    x, y = jax.tree.map(lambda leaf: leaf[:count], (x, y))
    with jax.enable_x64(True):
        check_start(*(wide := jax.tree.map(double, (system, cost, x, y))))
        search = _Search(wide, float(target), nudging, sweep)
        if not search.settle():
            return search.result(None, float("nan"), False)
        search.choose_nudged_steps()
        search.choose_free_steps()
        search.measure_bias()
    with jax.enable_x64(False):
        return search.choose_beta(jax.tree.map(_single, (system, cost, x, y)))


class _Search:
    """What is known so far; each method measures a curve and adds to it."""

    def __init__(self, problem: _Model, target: float, nudging: Nudging, sweep: bool):
        self.problem, self.target, self.nudging = problem, target, nudging
        self.sweep = sweep
        self.curves: dict[str, TuningCurve] = {}
        self.reason = ""
        self.bias = float("nan")

    def result(self, estimator, angle: float, reached: bool) -> Tuning:
        numbers = (angle, self.bias, self.target)
        return Tuning(estimator, *numbers, reached, self.reason, self.curves)

    def settle(self) -> bool:
        """dt, the fixed point and its gradients; False, with a reason, if none."""
        system, cost, x, y = self.problem
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
                    f"The dynamics settles at no dt from {SIZES[-1]:.2g} to 1: its "
                    f"residual does not fall to {SETTLED:g} of the first velocity; "
                    "EP needs a fixed point."
                )
                return False
        free = Sweep() if self.sweep else None
        dt = None if self.sweep else self.curves["dt"].chosen
        self.point = find_fixed_point(system, x, free, dt)
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
        limit, left = ep_limit(system, cost, x, y, self.point.state, self.point.dt)
        self.limit = limit if float(left) < 1e-8 else self.exact
        # A limit of zero points nowhere.
        self.bias = float(np.nan_to_num(self._angle(self.limit), nan=90.0))
        # What errors may add to EP's own bias.
        self.room = max(self.target - self.bias, self.target / 10)
        self.fine = min(0.01, self.room / 30)
        return True

    def _race(self) -> TuningCurve:
        """Steps to settle for each dt; the end once smaller ones only take longer."""
        steps, best, residuals = [], np.inf, []
        for dt in SIZES:
            cap = LIMIT if best == np.inf else 4 * int(best) + 20
            taken, residual = self._steps_to_settle(dt, cap)
            if taken == np.inf > best:
                break
            steps.append(taken)
            residuals.append(residual if np.isfinite(residual) else np.inf)
            best = min(best, taken)
        by = steps if best < np.inf else residuals
        # Of equals the smaller dt, further from where the dynamics turns unstable.
        chosen = max(k for k, value in enumerate(by) if value == min(by))
        values = SIZES[: len(steps)]
        return TuningCurve(values, {"steps": tuple(map(float, steps))}, values[chosen])

    def _steps_to_settle(self, dt: float, cap: int) -> tuple[float, float]:
        """Steps (infinite where the residual stops falling), and the last residual."""
        # An array is a dynamic argument, so one program serves every dt.
        self.relaxation = Euler(dt=jnp.asarray(dt), steps=1)  # type: ignore[arg-type]
        state, total, previous = _one_phase(self.start), 0, np.inf
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
        betas = (SMALL, -SMALL)
        state = jax.tree.map(lambda s: jnp.stack([s, s]), self.point.state)
        steps, angles, done = [], [], 0
        longest = np.log(1e-8) / np.log(min(max(self.point.radius, 0.5), 0.999))
        for count in _ladder(min(longest + 30, LIMIT)):
            state, found = self._nudged(state, betas, count - done)
            done = count
            steps.append(count)
            angles.append(self._angle(found))
            if agreement(found, self.limit).angle <= self.fine:
                break
        chosen = self._first_within(steps, angles, self.bias + self.room / 3)
        self.curves["K"] = TuningCurve(tuple(steps), {"angle": tuple(angles)}, chosen)

    def choose_free_steps(self) -> None:
        state, done = _one_phase(self.start), 0
        steps, states, residuals = [], [], []
        for count in _ladder(max(self.point.steps, 1)):
            state, residual, _ = self._free(state, count - done)
            done = count
            steps.append(count)
            states.append(jax.tree.map(lambda s: s[0], state))
            residuals.append(residual)
            if residual <= SETTLED**2 * self.scale:
                break
        # Backwards, and no further than it takes: far from s⁰ the solves are long.
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
        """The fewest steps from which on every angle is within; the most if none is."""
        outside = [k for k, angle in enumerate(angles) if not angle <= bound]
        return steps[min(outside[-1] + 1, len(steps) - 1) if outside else 0]

    def measure_bias(self) -> None:
        """EP's angle at the settled state for each β, nudged as long as K's curve."""
        start = jax.tree.map(lambda s: jnp.stack([s, s]), self.point.state)
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

    def choose_beta(self, problem: _Model) -> Tuning:
        """The whole proposal in float32 for each β; longer phases if none will do."""
        free, nudged = (int(self.curves[name].chosen) for name in "TK")
        best = None
        for _ in range(ROUNDS if self.bias < self.target else 1):
            angles = [self._float32(problem, free, nudged, beta) for beta in BETAS]
            least = np.nanmin(angles) if np.isfinite(angles).any() else np.inf
            if best is None or least < best[0]:
                best = least, angles, free, nudged
            if least <= self.bias + 0.8 * self.room:
                break
            free, nudged = int(np.ceil(1.5 * free)), int(np.ceil(1.5 * nudged))
        assert best is not None
        least, angles, free, nudged = best
        # From the best β up, as long as it is about as good and good enough.
        bound = min(least + self.room / 10, self.bias + 0.8 * self.room)
        chosen = int(np.nanargmin(angles)) if np.isfinite(least) else 0
        while chosen + 1 < len(BETAS) and angles[chosen + 1] <= bound:
            chosen += 1
        beta, angle = BETAS[chosen], angles[chosen]
        curves = self.curves
        measured = {**curves["beta"].measured, "angle": tuple(angles)}
        curves["beta"] = TuningCurve(BETAS, measured, beta)
        curves["T"] = dataclasses.replace(curves["T"], chosen=free)
        curves["K"] = dataclasses.replace(curves["K"], chosen=nudged)
        bias = (self.bias, kind(self.problem[0]), self.nudging, measured["bias"])
        found = f"T = {free}, K = {nudged} and β = {beta:g}"
        self.reason = outcome(found, angle, self.target, *bias)
        estimator = self._estimator(free, nudged, beta, self.nudging)
        return self.result(estimator, angle, bool(angle <= self.target))

    def _estimator(self, free, nudged, beta, nudging) -> EquilibriumPropagation:
        phase: Any = Sweep
        if not self.sweep:
            phase = functools.partial(Euler, dt=self.curves["dt"].chosen)
        phases = {"free": phase(steps=free), "nudged": phase(steps=nudged)}
        return EquilibriumPropagation(**phases, beta=beta, nudging=nudging)

    def _float32(self, problem: _Model, free: int, nudged: int, beta: float) -> float:
        """The proposal's angle; for random signs the worse of the two."""
        random = self.nudging == "random-sign"
        system, cost, x, y = problem
        angles = []
        for sign in (1, -1) if random else (1,):
            value: Any = jnp.asarray(sign * beta)
            nudging = "one-sided" if random else self.nudging
            estimator = self._estimator(free, nudged, value, nudging)
            gradient = estimator(system, cost, x, y)
            angles.append(self._angle((gradient.grads, gradient.cost_grads)))
        return float(np.max(angles))

    def _free(self, state, count: int, tol: float = 0.0) -> tuple[Any, float, int]:
        """At most `count` free steps: the state, its residual, and the steps taken."""
        system, _, x, _ = self.problem
        free = ((system, None, x, None), state, self.relaxation, (0,))
        state, residual, taken = _advance(*free, count, tol)
        return state, float(residual), int(taken)

    def _nudged(self, state, betas: tuple[float, float], count: int) -> tuple[Any, Any]:
        """`count` steps of two nudged phases, and EP's gradient from their end."""
        state, _, _ = _advance(self.problem, state, self.relaxation, betas, count)
        start = self.point.state
        return state, _gradient(self.problem, start, state, jnp.asarray(betas))

    def _exact(self, state) -> tuple[Any, Any]:
        """The exact gradient's formula at any state."""
        zero = jnp.zeros(len(jax.tree.leaves(state)[0]))
        free = Equilibrium(state, zero, zero, zero)
        rule = ImplicitDifferentiation(Euler(dt=self.point.dt, steps=0))
        found = _at(rule, _Problem(*self.problem), free)
        return found.grads, found.cost_grads

    def _angle(self, gradient: Any) -> float:
        return agreement(gradient, self.exact).angle


def _advance(problem, state, relaxation, betas, count: int, tol: float = 0.0):
    """At most `count` steps of phases nudged by `betas`, until the residual is ≤ tol.

    Leaves of `state` are `[phases, batch, …]`.  Returns it, the largest residual of the
    last step, and the steps taken.
    """
    # Arrays are dynamic arguments: one program serves every β, count and tolerance.
    numbers = jnp.asarray(betas, float), jnp.asarray(count), jnp.asarray(tol, float)
    return _jitted_advance(problem, state, relaxation, *numbers)


@eqx.filter_jit
def _jitted_advance(problem, state, relaxation, betas, count, tol):
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
def _gradient(problem, free, phases, betas):
    system, cost, x, y = problem
    return _contrast(system, cost, x, y, free, phases, betas, None)


def _one_phase(state):
    return jax.tree.map(lambda s: s[None], state)


def _ladder(end: float) -> list[int]:
    """1, 2, 3, …, then steps of a fifth, as far as `end`."""
    values = [1]
    while values[-1] < end:
        values.append(max(values[-1] + 1, round(1.2 * values[-1])))
    return values


def _single(leaf: Any) -> Any:
    """Inexact arrays in single precision, integer ones in the default width."""
    if not jnp.issubdtype(getattr(leaf, "dtype", str), np.number):
        return leaf
    values = np.asarray(leaf)
    if jnp.issubdtype(values.dtype, np.inexact):
        values = values.astype(np.complex64 if np.iscomplexobj(leaf) else np.float32)
    return jnp.asarray(values)
