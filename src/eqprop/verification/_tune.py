"""`tune`: find dt, K, T and β that bring EP's gradient near the exact one."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators import EquilibriumPropagation, ImplicitDifferentiation
from ..estimators._equilibrium_propagation import Nudging
from ..relaxations import Equilibrium, initial_state, relax
from ..relaxations._euler import Euler, largest
from ..relaxations._sweep import Sweep
from ..systems import _check
from ..systems._base import AbstractSystem
from ._exactness import ep_limit
from ._fixed_point import double, find_fixed_point, FixedPoint, scaled_sizes
from ._inputs import check_start, check_tune
from ._metrics import agreement, length_of
from ._phases import advance, gradient, ladder, one_phase
from ._tune_figure import certificate, outcome, Tuning, TuningCurve
from ._verify import _at, _Problem, kind

EXAMPLES = 16
HELD_BACK = 8
"""batches at most on which a proposal is certified"""
SIZES = tuple(f * 2.0**-n for n in range(11) for f in ((1, 0.7) if n < 10 else (1,)))
BETAS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
SMALL = 1e-5
"""β at which, in float64, EP's bias and rounding are both negligible"""
SETTLED = 1e-3
"""residual, relative to the velocity at the start, that ends the race of the dt"""
LIMIT = 20_000
"""steps spent on one dt, T or K at most"""
MANY = 1000
"""steps to settle beyond which dt is also taken from the spectral radius"""
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

    The proposal is then measured on up to 8 more batches of `examples` examples, drawn
    from the rest of the data.  A batch on which it misses the target joins the
    proposal's, and β (then T and K) are chosen again.  The worst batch decides.

    **Arguments:**

    - `target`: degrees between 0 and 90, over all parameters of system and cost.
    - `examples`: examples in a batch.
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
    sweep = estimator is not None and estimator.free.dt is None
    nudging = nudging if estimator is None else estimator.nudging
    (x, y), *others = _batches((x, y), count)
    with jax.enable_x64(True):
        check_start(*(wide := jax.tree.map(double, (system, cost, x, y))))
        search = _Search(wide, float(target), nudging, sweep)
        if not search.settle():
            return search.result(None, float("nan"), False)
        search.choose_nudged_steps()
        search.choose_free_steps()
        search.measure_bias()
        exact = [search.exact, *map(search.exact_of, jax.tree.map(double, others))]
    with jax.enable_x64(False):
        model = jax.tree.map(_single, (system, cost))
        batches = [
            _Batch(jax.tree.map(_single, x), jax.tree.map(_single, y), gradient)
            for (x, y), gradient in zip([(x, y), *others], exact, strict=True)
        ]
        return search.choose_beta(model, batches)


def _batches(data, count: int) -> list[tuple[Any, Any]]:
    """The first `count` examples, then batches of as many of the others, at random.

    Fewer others than `count` make one smaller batch.
    """
    total = len(jax.tree.leaves(data)[0])
    rest = np.random.default_rng(0).permutation(np.arange(count, total))
    whole = max(1, min(HELD_BACK, len(rest) // count))
    chosen = [rest[k * count : (k + 1) * count] for k in range(whole)]
    return [
        jax.tree.map(lambda leaf, rows=rows: leaf[rows], data)
        for rows in (np.arange(count), *chosen)
        if len(rows)
    ]


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Examples in single precision, and their exact gradient, if there is one."""

    x: PyTree[Array]
    y: PyTree[Array]
    exact: Any

    def angle(self, gradient: Any) -> float:
        """Degrees; NaN where the exact gradient has no direction."""
        if self.exact is None:
            return float("inf")
        if not length_of(self.exact):
            return float("nan")
        agrees = agreement(gradient, self.exact)
        if not np.isfinite(agrees.error):
            return float("inf")
        return 90.0 if np.isnan(agrees.angle) else agrees.angle


class _Search:
    """What is known so far; each method measures a curve and adds to it."""

    def __init__(self, problem: _Model, target: float, nudging: Nudging, sweep: bool):
        self.problem, self.target, self.nudging = problem, target, nudging
        self.sweep = sweep
        self.curves: dict[str, TuningCurve] = {}
        self.reason = ""
        self.bias = float("nan")

    def result(self, estimator, angle: float, reached: bool, batches=()) -> Tuning:
        numbers = (angle, self.bias, self.target)
        return Tuning(estimator, *numbers, reached, self.reason, self.curves, batches)

    def exact_of(self, batch) -> Any:
        """The exact gradient of another batch; `None` where it does not settle."""
        point = self._fixed_point(batch[0])
        if not point.settled:
            return None
        return self._exact(point.state, (*self.problem[:2], *batch))

    def _fixed_point(self, x) -> FixedPoint:
        free = Sweep() if self.sweep else None
        dt = None if self.sweep else self.curves["dt"].chosen
        return find_fixed_point(self.problem[0], x, free, dt)

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
        # Of equals the smaller dt, further from where the dynamics turns unstable.
        chosen = max(k for k, value in enumerate(by) if value == min(by))
        return TuningCurve(values, {"steps": steps}, values[chosen])

    def _steps_to_settle(self, dt: float, cap: int) -> tuple[float, float]:
        """Steps (infinite where the residual stops falling), and the last residual."""
        # An array is a dynamic argument, so one program serves every dt.
        self.relaxation = Euler(dt=jnp.asarray(dt), steps=1)  # type: ignore[arg-type]
        state, total, previous = one_phase(self.start), 0, np.inf
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
        state, done = one_phase(self.start), 0
        steps, states, residuals = [], [], []
        for count in ladder(max(self.point.steps, 1)):
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

    def choose_beta(self, model: tuple[Any, Any], batches: list[_Batch]) -> Tuning:
        """The whole proposal in float32 for each β; certified on all the batches."""
        free, nudged = (int(self.curves[name].chosen) for name in "TK")
        bound = self.bias + 0.8 * self.room
        used, best = [0], None
        rounds = ROUNDS if self.bias < self.target else 1
        while rounds:
            angles = [
                _worst(self._float32(model, batches[k], free, nudged, b) for k in used)
                for b in BETAS
            ]
            beta, least = self._chosen_beta(angles)
            every = tuple(
                self._float32(model, batch, free, nudged, beta) for batch in batches
            )
            proposal = (_worst(every), angles, free, nudged, beta, every, len(used))
            best = proposal if best is None else min(best, proposal, key=lambda p: p[0])
            if best[0] <= bound or (least <= bound and best[0] <= self.target):
                break
            worst = int(np.argmax(np.nan_to_num(every, nan=-1.0)))
            if least <= bound and worst not in used:
                used.append(worst)  # another β may do; if not, T and K grow
                continue
            rounds -= 1
            free, nudged = int(np.ceil(1.5 * free)), int(np.ceil(1.5 * nudged))
        assert best is not None
        return self._certified(*best)

    def _chosen_beta(self, angles: list[float]) -> tuple[float, float]:
        """The largest β that is about as good as the best; the best's angle."""
        if not np.isfinite(angles).any():
            return BETAS[0], np.inf
        least = float(np.min(angles))
        # From the best β up, as long as it is about as good and good enough.
        bound = min(least + self.room / 10, self.bias + 0.8 * self.room)
        chosen = int(np.argmin(angles))
        while chosen + 1 < len(BETAS) and angles[chosen + 1] <= bound:
            chosen += 1
        return BETAS[chosen], least

    def _certified(self, angle, angles, free, nudged, beta, every, used) -> Tuning:
        """The result, with the worst of all batches for its angle."""
        curves = self.curves
        measured = {**curves["beta"].measured, "angle": tuple(angles)}
        curves["beta"] = TuningCurve(BETAS, measured, beta)
        curves["T"] = dataclasses.replace(curves["T"], chosen=free)
        curves["K"] = dataclasses.replace(curves["K"], chosen=nudged)
        bias = (self.bias, kind(self.problem[0]), self.nudging, measured["bias"])
        found = f"T = {free}, K = {nudged} and β = {beta:g}"
        self.reason = outcome(found, angle, self.target, *bias)
        size = len(jax.tree.leaves(self.problem[2])[0])
        self.reason += certificate(every, used, size)
        estimator = self._estimator(free, nudged, beta, self.nudging)
        return self.result(estimator, angle, bool(angle <= self.target), every)

    def _estimator(self, free, nudged, beta, nudging) -> EquilibriumPropagation:
        phase: Any = Sweep
        if not self.sweep:
            phase = functools.partial(Euler, dt=self.curves["dt"].chosen)
        phases = {"free": phase(steps=free), "nudged": phase(steps=nudged)}
        return EquilibriumPropagation(**phases, beta=beta, nudging=nudging)

    def _float32(self, model, batch: _Batch, free, nudged, beta: float) -> float:
        """The proposal's angle on a batch; for random signs the worse of the two."""
        random = self.nudging == "random-sign"
        angles = []
        for sign in (1, -1) if random else (1,):
            value: Any = jnp.asarray(sign * beta)
            nudging = "one-sided" if random else self.nudging
            estimator = self._estimator(free, nudged, value, nudging)
            system, cost = model
            gradient = estimator(system, cost, batch.x, batch.y)
            angles.append(batch.angle((gradient.grads, gradient.cost_grads)))
        return float(np.max(angles))

    def _free(self, state, count: int, tol: float = 0.0) -> tuple[Any, float, int]:
        """At most `count` free steps: the state, its residual, and the steps taken."""
        system, _, x, _ = self.problem
        free = ((system, None, x, None), state, self.relaxation, (0,))
        state, residual, taken = advance(*free, count, tol)
        return state, float(residual), int(taken)

    def _nudged(self, state, betas: tuple[float, float], count: int) -> tuple[Any, Any]:
        """`count` steps of two nudged phases, and EP's gradient from their end."""
        state, _, _ = advance(self.problem, state, self.relaxation, betas, count)
        start = self.point.state
        return state, gradient(self.problem, start, state, jnp.asarray(betas))

    def _exact(self, state, problem: _Model | None = None) -> tuple[Any, Any]:
        """The exact gradient's formula at any state."""
        problem = problem or self.problem
        zero = jnp.zeros(len(jax.tree.leaves(state)[0]))
        free = Equilibrium(state, zero, zero, zero)
        rule = ImplicitDifferentiation(Euler(dt=self.point.dt, steps=0))
        found = _at(rule, _Problem(*problem), free)
        return found.grads, found.cost_grads

    def _angle(self, gradient: Any) -> float:
        return agreement(gradient, self.exact).angle


def _worst(angles: Any) -> float:
    """The largest angle, of those that are defined; infinite if none is."""
    defined = [angle for angle in angles if not np.isnan(angle)]
    return max(defined, default=float("inf"))


def _single(leaf: Any) -> Any:
    """Inexact arrays in single precision, integer ones in the default width."""
    if not jnp.issubdtype(getattr(leaf, "dtype", str), np.number):
        return leaf
    values = np.asarray(leaf)
    if jnp.issubdtype(values.dtype, np.inexact):
        values = values.astype(np.complex64 if np.iscomplexobj(leaf) else np.float32)
    return jnp.asarray(values)
