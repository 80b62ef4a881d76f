"""`verify`: measure the papers' exact statements on any system, in float64."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..estimators import (
    AbstractEstimator,
    BackpropagationThroughTime,
    EquilibriumPropagation,
    Gradient,
    ImplicitDifferentiation,
    RecurrentBackpropagation,
    VectorFieldEquilibriumPropagation,
)
from ..estimators._step import error_signal
from ..relaxations import AbstractRelaxation, relax
from ..relaxations._euler import Euler, largest
from ..systems import _check
from ..systems._base import AbstractMap, AbstractPrimitive, AbstractSystem
from ..systems._total_energy import check_total_energy
from . import _judge, _judge_point, _promises
from ._comparison import compare_layers, reference_processes, sweep_beta
from ._derivatives import Slope, slopes as derivative_slopes
from ._exactness import ep_limit, exactness
from ._findings import Findings
from ._finite_differences import settled_slopes
from ._fixed_point import (
    contracting_dt,
    find_fixed_point,
    FixedPoint,
    other_fixed_points,
    STABLE,
)
from ._inputs import check_arguments, check_start, checked_data
from ._metrics import agreement, both, by_parameter
from ._problem import double, gradient_at, kind, Place, Problem, random_like
from ._records import Row
from ._verification import Verification

EXAMPLES = 8
LIMIT_STEPS = 20_000
"""most steps of RBP and BPTT"""
SMALL = 1e-4
SHORT = "RBP, as short as BPTT"
NUMBERS = 2e7
"""most float64 numbers of a process, or of BPTT's states"""


def verify(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    free: AbstractRelaxation | None = None,
    estimators: dict[str, AbstractEstimator] | None = None,
    beta: float | None = None,
    dt: float | None = None,
    steps: int | None = None,
    examples: int = EXAMPLES,
) -> Verification:
    """Measure what the papers promise on this system, and give a verdict in words.

    Everything is computed in float64 at a fixed point settled to rounding, on the
    first `examples` examples:

    - implicit differentiation against finite differences of the settled cost; RBP and
      BPTT against it, and their processes against each other at every step (paper B,
      theorem 1; paper D, theorem 1);
    - the derivative of each function of the model against its own finite differences,
      which finds a detached readout or a straight-through weight;
    - EP's limit β → 0 against the exact gradient.  This decides whether EP is exact for
      the system; if it is not, random probes of the conditions for it give the cause;
    - if EP is exact, its processes against RBP's at every step: their error must fall
      as β (one-sided) and β² (centered) (paper B, theorem 3).  If the system declares a
      bias (an `AbstractMap`, a vector field), EP must have the bias that theory
      predicts (paper C, eq 18).

    **Arguments:**

    - `free`: the free phase to judge; the verdict fails if it does not settle.  `None`
      settles with Euler steps at a dt that works.
    - `estimators`: more rows of the table, by name, each with its own free phase.  Your
      own rule must give the exact gradient, or EP's, once its phases settle and its β
      is small; otherwise the verdict fails, unless the rule declares `approximate`.
    - `beta`: the nudge of the table's EP rows and of the curves (dimensionless, not 0).
      `None` takes one so small that no unit meets a bound, at most 1e-3.
    - `dt`, `steps`: step size (neuron time constants) and length of the processes;
      `None` derives them from the system.

    **Returns:** a `Verification`; a broken promise is `holds=False`, not an exception.

    **Raises:** `ValueError` if system, cost and data do not fit each other, if there is
    no parameter, or if energy or velocity is not finite at the initial state.
    """
    check_arguments(free, estimators, beta, dt, steps, examples)
    x, y = checked_data(x, y)
    with jax.enable_x64(True):
        system, cost, x, y, estimators = jax.tree.map(
            double, (system, cost, x, y, estimators or {})
        )
        count = min(examples, _check.batch_size(x=x))
        x, y = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:count], (x, y))
        problem = Problem(system, cost, x, y)
        check_start(problem)
        found = Findings(type(system).__name__, kind(system))
        found.facts.update(examples=count)
        point = _fixed_point(problem, free, dt, found)
        if point is not None:
            _Measurement(problem, point, found).run(estimators, beta, steps)
        return found.verification()


def _fixed_point(problem: Problem, free, dt, found: Findings) -> FixedPoint | None:
    """Settle to rounding; `None`, with the reason in `found`, if that fails."""
    system, _, x, _ = problem
    start = first = None
    if free is not None:
        first = relax(system, x, free)
        if np.isfinite(np.asarray(first.residual)).all():
            start = first.state
    point = find_fixed_point(system, x, free, dt, start)
    if free is not None and first is not None:
        more = None
        if point.settled and start is not None:
            longer = dataclasses.replace(free, steps=point.steps, tol=1e-8)  # type: ignore[call-arg]
            more = int(jnp.max(relax(system, x, longer, state=start).steps))
        _judge_point.free_phase(found, free, first, point, more)
    if not point.settled:
        _judge_point.unsettled(found, point, find_fixed_point(system, x, None, None))
        return None
    projected = jax.jit(jax.vmap(system.project))(point.state)
    apart = jax.tree.map(lambda u, v: u - v, projected, point.state)
    if not point.radius < STABLE:  # a replaced derivative may have this radius
        slopes = derivative_slopes(problem, point.state, point.dt)
        if any(slope.wrong for slope in slopes):
            _judge.derivatives(found, slopes)
    contracting: float | None = point.dt
    if not point.radius < STABLE:  # a flat direction stays flat at any dt
        flat = point.radius < 1 + 1e-6
        contracting = None if flat else contracting_dt(system, x, point, point.dt)
    stable = _judge_point.settled(found, point, float(largest(apart)), contracting)
    discrete = isinstance(system, AbstractMap | AbstractPrimitive)
    if free is None and dt is None and discrete and point.dt < 1:
        found.notes.append(
            f"s ← F(s) itself (dt = 1) does not settle; measured at dt={point.dt:g}."
        )
    return point if stable else None


@dataclasses.dataclass
class _Measurement:
    """Everything measured at the fixed point s⁰; each method adds to `found`.

    `grads` are (system gradient, cost gradient) of each estimator, by name; `small` is
    a β that adds no error of its own, `beta` the one of the table.
    """

    problem: Problem
    point: FixedPoint
    found: Findings
    grads: dict[str, Any] = dataclasses.field(default_factory=dict)
    small: float = 0.0
    beta: float = 0.0

    def run(self, estimators, beta: float | None, steps: int | None) -> None:
        """Measure in order; stop if everything else would follow from a failure."""
        problem, point, found = self.problem, self.point, self.found
        check_total_energy(*problem, point.state)
        several = other_fixed_points(problem.system, problem.x, point)
        _judge_point.several(found, several)
        here = Euler(dt=point.dt, steps=0)
        exact = gradient_at(ImplicitDifferentiation(here), problem, point.state)
        slopes = derivative_slopes(problem, point.state, point.dt)
        if not self._has_exact_gradient(exact, slopes):
            return
        reference = self.grads["implicit"]
        place = Place(point.state, point.dt, steps or _process_length(problem, point))
        rbp, bptt, apart = reference_processes(problem, place)
        signals, curvature = _cost_at(problem, point.state)
        signal = found.facts["signal"] = float(np.max(signals))
        if signal < 1e-9 * max(curvature, 1e-300):
            _judge.no_signal(found, signal, slopes)
            return
        _judge.zero_gradient(found, reference)
        found.check("BPTT's process against RBP's", apart, _judge.identity(found))
        # How far a nudge of 1 moves the state, and how much its force changes.
        moved = point.dt * float(jnp.max(exact.stats["adjoint_size"]))
        response = max(moved, curvature * moved / signal) or max(curvature, signal)
        found.facts["moved"] = moved
        probe = exactness(problem, point.state, point.dt)
        limit = ep_limit(problem, point.state, point.dt)
        bounds = [s.argument for s in slopes if s.function == "bounds" and not s.unused]
        agrees = agreement(limit[0], reference)
        is_exact = _judge.exactness(found, problem.system, probe, agrees, bounds)

        some, there, scale = self._chosen(place, signals, probe.scale)
        found.sweeps = sweep_beta(some, there, scale, response, moved)
        low, high = _judge.regime(found.sweeps)
        # The bias of EP is measured at a nudge that adds none.
        fitting = min(max(high / 2, low), 10 * SMALL / response)
        self.small = float(fitting if is_exact else SMALL / response)
        self.beta = self.small if beta is None else beta
        found.facts.update(steps=place.steps, dt=point.dt, beta=self.beta)
        found.curves, found.layers = compare_layers(
            problem, place, self.beta, (rbp, bptt), probe.scale
        )
        self._table(estimators)
        if is_exact:
            # A slow system's nudged phase is cut short; RBP cut as short is its match.
            short = point.radius ** found.facts["rbp_steps"] > 1e-10
            other = "RBP" if short else "implicit"
            _judge.exact_rule(found, probe, self.grads, other)
            self._estimator_orders(self.grads[other], high)
        else:
            moves = self.beta * response
            _judge.biased_rule(found, problem.system, probe, moves, self.grads, limit)

    def _has_exact_gradient(self, exact: Gradient, slopes: list[Slope]) -> bool:
        """Check implicit differentiation; it is the reference of everything else."""
        found, stats = self.found, exact.stats
        solved = float(jnp.max(stats["adjoint_residual"]))
        if not _judge.adjoint(found, solved, bool(stats["adjoint_converged"].all())):
            return False
        self.grads["implicit"] = both(exact)
        agree = _judge.derivatives(found, slopes)
        settled = settled_slopes(self.problem, self.point, both(exact))
        _judge.finite_differences(found, settled, not agree)
        return agree

    def _chosen(self, place: Place, signals, scale) -> tuple[Problem, Place, Any]:
        """Choose examples with an error to propagate; few for a large network."""
        few = max(3, int(1e6 / self.problem.size))
        chosen = np.argsort(-signals)[:few]
        chosen = chosen[signals[chosen] >= 1e-3 * np.max(signals)]
        x, y, state, scale = jax.tree.map(
            lambda leaf: leaf[chosen],
            (self.problem.x, self.problem.y, place.state, scale),
        )
        return self.problem.on(x, y), place._replace(state=state), scale

    def _table(self, estimators: dict[str, AbstractEstimator]) -> None:
        """Run every estimator; judge the references, and the rules of the caller."""
        problem, point, found, grads = self.problem, self.point, self.found, self.grads
        reference = grads["implicit"]
        for name, rule in self._rules().items():
            grads[name] = both(gradient_at(rule, problem, point.state))
        for name, rule in estimators.items():
            gradient = rule(*problem, key=jax.random.key(0))
            _promises.check_gradient(name, gradient, reference)
            grads[name] = both(gradient)
            kept = self._keeps_promise(name, rule)
            agrees = agreement(grads[name], reference)
            _promises.as_configured(found, name, rule, gradient, agrees, kept)
        _judge.references(found, grads, point.radius, grads.pop(SHORT, None))
        for name, values in grads.items():
            rows = by_parameter(values, reference)
            found.rows += [Row(name, leaf, agreement(g, e)) for leaf, g, e in rows]
            found.rows.append(Row(name, "all", agreement(values, reference)))
        _judge.single_parameters(found)

    def _rules(self) -> dict[str, AbstractEstimator]:
        """Build the table's estimators, with steps enough to converge, or to fit."""
        dt = self.point.dt
        length, through = _lengths(self.problem, self.point)
        self.found.facts.update(rbp_steps=length, bptt_steps=through)
        here, nudged = Euler(dt=dt, steps=0), Euler(dt=dt, steps=length)
        rules: dict[str, AbstractEstimator] = {
            "RBP": RecurrentBackpropagation(here, dt, length),
            "BPTT": BackpropagationThroughTime(here, dt, through),
            "EP one-sided": EquilibriumPropagation(
                here, nudged, self.beta, "one-sided"
            ),
            "EP centered": EquilibriumPropagation(here, nudged, self.beta, "centered"),
        }
        if through < length:
            rules[SHORT] = RecurrentBackpropagation(here, dt, through)
        return rules

    def _keeps_promise(self, name: str, rule: AbstractEstimator) -> bool:
        """Tell whether the caller's rule keeps its promise once its phases settle."""
        if _promises.is_shown(rule) or _promises.declared(rule):
            return True
        point, found, grads = self.point, self.found, self.grads
        phases = _promises.Phases(point.dt, found.facts["rbp_steps"], self.small)
        if point.radius**phases.steps > 1e-8:
            found.notes.append(
                f"{name} is not judged: the system is so slow that no phase of "
                f"{phases.steps} steps settles it."
            )
            return True
        promise = _promises.at_rest(rule, phases)
        if promise is not None:
            settled, row = promise
            field_rule = isinstance(rule, VectorFieldEquilibriumPropagation)
            if field_rule and isinstance(self.problem.system, AbstractMap):
                return True  # EP contrasts the primitive there, with another limit
            gradient = gradient_at(settled, self.problem, point.state)
            own = grads[name + ", settled"] = both(gradient)
            agrees = agreement(own, grads[row])
            return _promises.judge(found, name, gradient.stats["rule"], row, agrees)
        copy = _promises.settled_copy(rule, phases)
        if copy is None:
            how = "as configured (it takes no other phases)"
            return _promises.judge_own(found, f"{name}, {how}", grads[name], grads)
        settled, nudged = copy
        gradient = settled(*self.problem, state=point.state, key=jax.random.key(0))
        own = grads[name + ", settled"] = both(gradient)
        beta = self.small if nudged else None
        return _promises.judge_own(found, f"{name}, settled", own, grads, beta)

    def _estimator_orders(self, reference, high: float) -> None:
        """Measure EP itself, not its process, at two β, a quarter of each other."""
        here = Euler(dt=self.point.dt, steps=0)
        nudged = Euler(dt=self.point.dt, steps=self.found.facts["rbp_steps"])
        for name in ("one-sided", "centered"):
            errors = []
            for beta in (high / 4, high / 16):
                # An array, so that both β run one program.
                rule = EquilibriumPropagation(here, nudged, jnp.asarray(beta), name)  # type: ignore[arg-type]
                gradient = gradient_at(rule, self.problem, self.point.state)
                errors.append(agreement(both(gradient), reference).error)
            _judge.order_of_estimator(self.found, name, errors[0], errors[1])


def _cost_at(problem: Problem, state) -> tuple[np.ndarray, float]:
    """Return max |∂C/∂s| of each example, and how strongly ∂C/∂s changes with s."""
    signals, bends = _cost_derivatives(problem, state, random_like(state, 2))
    bend = float(np.max(np.asarray(bends)))
    return np.asarray(signals), bend if np.isfinite(bend) else 0.0


@eqx.filter_jit
def _cost_derivatives(problem: Problem, state, probe):
    """Return the size of ∂C/∂s, and of its change along a probe."""

    def one(x, y, s, v):
        def error(u):
            return error_signal(problem.system, problem.cost, x, y, u)

        first, change = jax.jvp(error, (s,), (v,))
        return largest(first), largest(change) / largest(v)

    return jax.vmap(one)(problem.x, problem.y, state, probe)


def _lengths(problem: Problem, point: FixedPoint) -> tuple[int, int]:
    """Return the steps after which RBP has decayed to rounding; fewer for BPTT."""
    wanted = LIMIT_STEPS
    if point.radius < 1:
        wanted = int(np.log(1e-16) / np.log(max(point.radius, 1e-3))) + 30
    length = min(wanted, LIMIT_STEPS)
    size = sum(leaf.size for leaf in jax.tree.leaves(point.state))
    # BPTT keeps every state, and adds up the parameters' gradient at every step.
    most = min(NUMBERS / size, 10 * NUMBERS / problem.size)
    return length, max(min(length, int(most)), 1)


def _process_length(problem: Problem, point: FixedPoint) -> int:
    """Return the steps until the error is a hundredth: 10 to 60, within memory."""
    wanted = np.log(1e-2) / np.log(min(max(point.radius, 1e-3), 0.99))
    return int(max(min(max(wanted, 10), 60, NUMBERS / problem.size), 4))
