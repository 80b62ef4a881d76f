"""`tune`: find dt, K, T and β that bring EP's gradient close to the exact one."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators import EquilibriumPropagation, Gradient, rounding_message
from ..estimators._equilibrium_propagation import Nudging
from ..relaxations._euler import Euler
from ..relaxations._sweep import Sweep
from ..systems import _check
from ..systems._base import AbstractSystem
from ._curves import BETAS, Search
from ._inputs import check_start, check_tune, checked_data
from ._metrics import agreement, both, length_of
from ._problem import double, kind, Problem, single, whole_gradient
from ._records import TuningCurve
from ._tuning import certificate, outcome, Tuning

EXAMPLES = 16
HELD_BACK = 8
"""most further batches on which a proposal is certified"""
ROUNDS = 6
"""most float32 measurements; T and K grow by half from one to the next"""


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

    Each is chosen from a curve measured on the first `examples` examples, in order:

    - dt: the step size that settles in the fewest steps, from `init_state`;
    - K: the angle of EP stopped after K steps, from the settled state at a vanishing β
      (paper B: truncation), in float64;
    - T: the angle of the exact gradient's formula at s_T, in float64.  (A long nudged
      phase would settle from any s_T and show nothing.)
    - β: the angle of the whole proposal in float32, as in training, beside EP's bias in
      float64.  The choice is the largest β about as good as the best.  If none is good
      enough, T and K grow by half and β is measured again.

    The proposal is then measured on up to 8 more batches of `examples` examples, drawn
    from the rest of the data.  A batch on which it misses the target joins the first,
    and β (then T and K) are chosen again.  The worst batch decides.  If rounding limits
    the gradient of the proposal, `reason` says so.

    **Arguments:**

    - `target`: degrees between 0 and 90, over all parameters of system and cost.
    - `examples`: examples in a batch.
    - `estimator`: keep its nudging and its kind of relaxation (`Euler`, or `Sweep`,
      which has no dt); `None`: `Euler` and `nudging`.

    **Returns:** a `Tuning`; a target out of reach is `reached=False`, not an exception.

    **Raises:** `ValueError` if an argument is out of range, if system, cost and data do
    not fit each other, or if a value is not finite at the initial state.
    """
    check_tune(target, estimator, examples, nudging)
    x, y = checked_data(x, y)
    count = min(examples, _check.batch_size(x=x))
    sweep = estimator is not None and isinstance(estimator.free, Sweep)
    nudging = nudging if estimator is None else estimator.nudging
    (x, y), *others = _batches((x, y), count)
    with jax.enable_x64(True):
        wide = jax.tree.map(double, Problem(system, cost, x, y))
        check_start(wide)
        search = Search(wide, float(target), nudging, sweep)
        if not search.settle():
            nan = float("nan")
            return Tuning(
                None, nan, nan, search.target, False, search.reason, search.curves
            )
        search.choose_nudged_steps()
        search.choose_free_steps()
        search.measure_bias()
        exact = [search.exact, *map(search.exact_of, jax.tree.map(double, others))]
    with jax.enable_x64(False):
        batches = [
            _Batch(jax.tree.map(single, Problem(system, cost, *batch)), gradient)
            for batch, gradient in zip([(x, y), *others], exact, strict=True)
        ]
        return _Choice(search, batches).tuning()


def _batches(data, count: int) -> list[tuple[Any, Any]]:
    """Return the first `count` examples, then random batches of the others.

    If there are fewer others than `count`, they make one smaller batch.
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
    """A problem in single precision, and its exact gradient, if there is one."""

    problem: Problem
    exact: Any

    def angle(self, gradient: Any) -> float:
        """Return the angle in degrees; NaN if the exact gradient has no direction."""
        if self.exact is None:
            return float("inf")
        if not length_of(self.exact):
            return float("nan")
        agrees = agreement(gradient, self.exact)
        if not np.isfinite(agrees.error):
            return float("inf")
        return 90.0 if np.isnan(agrees.angle) else agrees.angle


@dataclasses.dataclass(frozen=True)
class _Proposal:
    """A rule, its angle for every β on the worst batch used, and on every batch."""

    estimator: EquilibriumPropagation
    curve: tuple[float, ...]
    every: tuple[float, ...]
    used: int

    @property
    def angle(self) -> float:
        return _worst(self.every)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """Choose β in float32, from curves of float64, and certify the proposal."""

    search: Search
    batches: list[_Batch]

    def tuning(self) -> Tuning:
        """Measure the proposal in float32 for each β; certify it on all batches."""
        search, batches = self.search, self.batches
        free, nudged = (int(search.curves[name].chosen) for name in "TK")
        bound = search.bias + 0.8 * search.room
        used, best = [0], None
        rounds = ROUNDS if search.bias < search.target else 1
        while rounds:
            estimators = [self._estimator(free, nudged, beta) for beta in BETAS]
            curve = [
                _worst(self._float32(estimator, batches[k]) for k in used)
                for estimator in estimators
            ]
            chosen, least = self._chosen_beta(curve)
            every = [self._float32(estimators[chosen], batch) for batch in batches]
            new = _Proposal(estimators[chosen], tuple(curve), tuple(every), len(used))
            best = new if best is None or new.angle < best.angle else best
            if best.angle <= bound or (least <= bound and best.angle <= search.target):
                break
            worst = int(np.argmax(np.nan_to_num(every, nan=-1.0)))
            if least <= bound and worst not in used:
                used.append(worst)  # another β may do; if not, T and K grow
                continue
            rounds -= 1
            free, nudged = int(np.ceil(1.5 * free)), int(np.ceil(1.5 * nudged))
        assert best is not None
        return self._certified(best)

    def _chosen_beta(self, angles: list[float]) -> tuple[int, float]:
        """Choose the largest β about as good as the best; return the best angle too."""
        search = self.search
        if not np.isfinite(angles).any():
            return 0, np.inf
        least = float(np.min(angles))
        # Go up from the best β while the next one is about as good, and good enough.
        bound = min(least + search.room / 10, search.bias + 0.8 * search.room)
        chosen = int(np.argmin(angles))
        while chosen + 1 < len(BETAS) and angles[chosen + 1] <= bound:
            chosen += 1
        return chosen, least

    def _certified(self, best: _Proposal) -> Tuning:
        """Return the result; its angle is the worst of all batches."""
        search, rule = self.search, best.estimator
        curves, target = search.curves, search.target
        measured = {**curves["beta"].measured, "angle": best.curve}
        curves["beta"] = TuningCurve(BETAS, measured, float(rule.beta))
        for name, phase in (("T", rule.free), ("K", rule.nudged)):
            steps = phase.steps  # type: ignore[attr-defined]
            curves[name] = dataclasses.replace(curves[name], chosen=steps)
        what = kind(search.problem.system)
        reason = outcome(rule, best.angle, target, search.bias, what, measured["bias"])
        size = len(jax.tree.leaves(search.problem.x)[0])
        reason += certificate(best.every, best.used, size)
        rounded = max(
            float(gradient.stats["rounding"])
            for batch in self.batches
            for gradient in self._gradients(rule, batch)
        )
        # The estimate is too large for fast dynamics; the angle contains all rounding.
        if np.isfinite(best.angle):
            rounded = min(rounded, float(np.radians(best.angle)))
        limited = rounding_message(rounded, rule.beta, np.float32)
        if limited is not None:
            reason += f" Rounding limits it: {limited}."
        reached = bool(best.angle <= target)
        angles = (best.angle, search.bias, target)
        return Tuning(rule, *angles, reached, reason, curves, best.every)

    def _estimator(self, free: int, nudged: int, beta: float) -> EquilibriumPropagation:
        phase: Any = Sweep
        if not self.search.sweep:
            phase = functools.partial(Euler, dt=self.search.curves["dt"].chosen)
        phases = {"free": phase(steps=free), "nudged": phase(steps=nudged)}
        return EquilibriumPropagation(**phases, beta=beta, nudging=self.search.nudging)

    def _gradients(self, rule: EquilibriumPropagation, batch: _Batch) -> list[Gradient]:
        """Run a rule in float32; for random signs, once with each sign."""
        random = rule.nudging == "random-sign"
        signs = (1, -1) if random else (1,)
        nudging: Nudging = "one-sided" if random else rule.nudging
        # An array is a dynamic argument, so one program serves every β.
        beta: Any = jnp.asarray(rule.beta)
        rules = (
            dataclasses.replace(rule, beta=sign * beta, nudging=nudging)
            for sign in signs
        )
        return [whole_gradient(rule, batch.problem) for rule in rules]

    def _float32(self, rule: EquilibriumPropagation, batch: _Batch) -> float:
        """Measure the angle on a batch; for random signs that of the worse sign."""
        gradients = self._gradients(rule, batch)
        return float(np.max([batch.angle(both(gradient)) for gradient in gradients]))


def _worst(angles: Any) -> float:
    """Return the largest angle that is defined; infinite if none is."""
    defined = [angle for angle in angles if not np.isnan(angle)]
    return max(defined, default=float("inf"))
