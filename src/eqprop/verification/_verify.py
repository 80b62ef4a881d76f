"""`verify`: the papers' exact statements, measured on any system, in float64."""

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
    ImplicitDifferentiation,
    RecurrentBackpropagation,
    VectorFieldEquilibriumPropagation,
)
from ..estimators._step import error_signal
from ..relaxations import AbstractRelaxation, Equilibrium, relax, Status
from ..relaxations._euler import Euler, largest
from ..systems import _check
from ..systems._base import (
    AbstractEnergy,
    AbstractMap,
    AbstractPrimitive,
    AbstractSystem,
    has_potential,
)
from ..systems._total_energy import AbstractTotalEnergy, check_total_energy
from . import _judge, _judge_point, _promises
from ._comparison import (
    compare_layers,
    reference_processes,
    sweep_beta,
)
from ._derivatives import slopes as derivative_slopes
from ._exactness import ep_limit, exactness
from ._finite_differences import settled_slopes
from ._findings import Findings
from ._inputs import check_arguments, check_start
from ._fixed_point import (
    double,
    find_fixed_point,
    FixedPoint,
    other_fixed_points,
    HALVINGS,
    random_like,
    scaled_sizes,
    spectral_radius,
    STABLE,
)
from ._metrics import agreement, named_leaves
from ._verification import Row, Verification

EXAMPLES = 8
LIMIT_STEPS = 20_000
"""steps of RBP and BPTT at most"""
SMALL = 1e-4
SHORT = "RBP, as short as BPTT"
NUMBERS = 2e7
"""float64 numbers that a process or BPTT's states may take"""


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
    """Measure what the papers promise, on this system, and say in words what holds.

    Everything is computed in float64 at a fixed point settled to rounding, on the
    first `examples` examples:

    - implicit differentiation against finite differences of the settled cost; RBP and
      BPTT against it, and their processes against each other at every step (paper B,
      theorem 1; paper D, theorem 1);
    - the derivative of each function of the model against its own finite differences,
      which tells a detached readout or a straight-through weight;
    - EP's limit β → 0 against the exact gradient, which decides whether EP is exact for
      this system; if it is not, random probes of the conditions for it say why;
    - where EP is exact, its processes against RBP's at every step, whose error must
      fall as β (one-sided) and β² (centered) (paper B, theorem 3); where it declares a
      bias (an `AbstractMap`, a vector field), that the bias is the one that theory
      predicts (paper C, eq 18).

    **Arguments:**

    - `free`: the free phase to judge: that it does not settle is a failure.  `None`
      settles with Euler steps of a dt that does.
    - `estimators`: more rows of the table, by name, each with its own free phase.  A
      rule of your own must give the exact gradient, or EP's, with phases that settle
      and a small β; else the verdict fails, unless the rule declares `approximate`.
    - `beta`: the nudge of the table's EP rows and of the curves (dimensionless, not
      0); `None`: one small enough that no unit meets a bound, at most 1e-3.
    - `dt`, `steps`: step size (neuron time constants) and length of the processes;
      chosen by the system where `None`.

    **Returns:** a `Verification`; a failed promise is `holds=False`, no exception.

    **Raises:** `ValueError` for systems, costs and data that do not fit each other,
    that hold no parameter, or whose energy or velocity is not finite at the start.
    """
    check_arguments(free, estimators, beta, dt, steps, examples)
    x, y = _check.batch(x=x, y=y)
    _check.check_finite(x=x, y=y)
    with jax.enable_x64(True):
        system, cost, x, y, estimators = jax.tree.map(
            double, (system, cost, x, y, estimators or {})
        )
        count = min(examples, _check.batch_size(x=x))
        x, y = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:count], (x, y))
        check_start(system, cost, x, y)
        problem = _Problem(system, cost, x, y)
        found = Findings(type(system).__name__, kind(system))
        found.facts.update(examples=count)
        point = _fixed_point(problem, free, dt, found)
        if point is not None:
            _at_fixed_point(problem, point, estimators, beta, steps, found)
        return found.verification()


@dataclasses.dataclass(frozen=True)
class _Problem:
    system: AbstractSystem
    cost: Any
    x: PyTree[Array]
    y: PyTree[Array]

    def __iter__(self):
        return iter((self.system, self.cost, self.x, self.y))


def kind(system: AbstractSystem) -> str:
    """Which of the five descriptions a system is."""
    for cls, name in (
        (AbstractTotalEnergy, "total energy"),
        (AbstractEnergy, "energy"),
        (AbstractPrimitive, "primitive function"),
        (AbstractMap, "map, EP approximate by declaration"),
    ):
        if isinstance(system, cls):
            return name
    return "velocity and potential" if has_potential(system) else "vector field"


def _fixed_point(problem: _Problem, free, dt, found) -> FixedPoint | None:
    """s⁰ to rounding; `None`, with the reason found, where there is none."""
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
    outside = _largest_difference(projected, point.state)
    if not point.radius < STABLE:  # of the derivative, which may be a replaced one
        model = (system, problem.cost, x, problem.y)
        slopes = derivative_slopes(*model, point.state, point.dt)
        if any(slope.wrong for slope in slopes):
            _judge.derivatives(found, slopes)
    stable = _judge_point.settled(
        found, point, outside, _contracting_dt(system, x, point)
    )
    discrete = isinstance(system, AbstractMap | AbstractPrimitive)
    if free is None and dt is None and discrete and point.dt < 1:
        found.notes.append(
            f"s ← F(s) itself (dt = 1) does not settle: measured at dt={point.dt:g}."
        )
    return point if stable else None


def _contracting_dt(system, x, point: FixedPoint) -> float | None:
    """A dt at which the step contracts, where that of `point` does not."""
    if point.radius < STABLE:
        return point.dt
    if point.radius < 1 + 1e-6:
        return None  # a flat direction stays flat at any dt
    sizes = [2.0**-n for n in range(HALVINGS + 1)]
    for size in [*sizes, *scaled_sizes(system, x, [point.state])]:
        if size < point.dt and spectral_radius(system, x, point.state, size) < STABLE:
            return size
    return None


def _at_fixed_point(problem, point, estimators, beta, steps, found) -> None:
    """Everything that is measured at s⁰, and what it means."""
    system, cost, x, y = problem
    check_total_energy(system, cost, x, y, point.state)
    free, here = _equilibrium(point), Euler(dt=point.dt, steps=0)
    steps = steps or _process_length(problem, point)
    place = (point.state, point.dt, steps)
    _judge_point.several(found, other_fixed_points(system, x, point))
    exact = _at(ImplicitDifferentiation(here), problem, free)
    solved = float(jnp.max(exact.stats["adjoint_residual"]))
    if not _judge.adjoint(found, solved, bool(exact.stats["adjoint_converged"].all())):
        return
    reference = (exact.grads, exact.cost_grads)
    slopes = derivative_slopes(system, cost, x, y, point.state, point.dt)
    agree = _judge.derivatives(found, slopes)
    settled = settled_slopes(system, cost, x, y, point, reference)
    _judge.finite_differences(found, settled, not agree)
    if not agree:
        return  # whatever else differs follows from that
    rbp, bptt, apart = reference_processes(problem, place)
    signals, curvature = _cost_at(system, cost, x, y, point.state)
    signal = found.facts["signal"] = float(np.max(signals))
    if signal < 1e-9 * max(curvature, 1e-300):
        _judge.no_signal(found, signal, slopes)
        return
    _judge.zero_gradient(found, reference)
    found.check("BPTT's process against RBP's", apart, _judge.identity(found))
    # How far a nudge of 1 moves the state, and the factor by which its force changes.
    moved = point.dt * float(jnp.max(exact.stats["adjoint_size"]))
    response = max(moved, curvature * moved / signal) or max(curvature, signal)
    found.facts["moved"] = moved
    probe = exactness(system, cost, x, y, point.state, point.dt)
    limit = ep_limit(system, cost, x, y, point.state, point.dt)
    bounds = [s.argument for s in slopes if s.function == "bounds" and not s.unused]
    agrees = agreement(limit[0], reference)
    is_exact = _judge.exactness(found, system, probe, agrees, bounds)

    # Examples with an error to propagate; few of them for a large network.
    few = max(3, int(1e6 / _parameters(problem)))
    chosen = np.argsort(-signals)[:few]
    chosen = chosen[signals[chosen] >= 1e-3 * signal]
    some = jax.tree.map(lambda leaf: leaf[chosen], (x, y, point.state, probe.scale))
    places = (some[2], *place[1:])
    found.sweeps = sweep_beta(
        (system, cost, *some[:2]), places, response, some[3], moved
    )
    low, high = _judge.regime(found.sweeps)
    # The bias of EP is measured at a nudge that adds none.
    fitting = min(max(high / 2, low), 10 * SMALL / response)
    small = float(fitting if is_exact else SMALL / response)
    beta = small if beta is None else beta
    found.facts.update(steps=steps, dt=point.dt, beta=beta)

    drawn = compare_layers(problem, place, beta, rbp, bptt, probe.scale)
    found.curves, found.layers = drawn
    grads = {"implicit": reference}
    for name, rule in _rules(problem, point, beta, found).items():
        gradient = _at(rule, problem, free)
        grads[name] = (gradient.grads, gradient.cost_grads)
    for name, rule in estimators.items():
        gradient = rule(system, cost, x, y, key=jax.random.key(0))
        _promises.check_gradient(name, gradient, reference)
        grads[name] = (gradient.grads, gradient.cost_grads)
        kept = _keeps_promise(name, rule, problem, point, small, found, free, grads)
        agrees = agreement(grads[name], reference)
        _promises.as_configured(found, name, rule, gradient, agrees, kept)
    _judge.references(found, grads, point.radius, grads.pop(SHORT, None))
    for name, values in grads.items():
        found.rows += _rows(name, values, reference)
    _judge.single_parameters(found)
    if is_exact:
        # A slow system's nudged phase is cut short, and compared with RBP as short.
        short = point.radius ** found.facts["rbp_steps"] > 1e-10
        other = "RBP" if short else "implicit"
        _judge.exact_rule(found, probe, grads, other, beta)
        _estimator_orders(problem, point, found, free, grads[other], high)
    else:
        _judge.biased_rule(
            found,
            system,
            probe,
            beta * response,
            grads["EP centered"],
            limit,
            reference,
        )


def _keeps_promise(name, rule, problem, point, beta, found, free, grads) -> bool:
    """Whether the caller's rule, given phases that settle, keeps its promise."""
    if _promises.is_shown(rule) or _promises.declared(rule):
        return True
    steps = found.facts["rbp_steps"]
    if point.radius**steps > 1e-8:
        found.notes.append(
            f"{name} is not held to its promise: the system is so slow that no phase "
            f"of {steps} steps settles it."
        )
        return True
    promise = _promises.at_rest(rule, point.dt, steps, beta)
    if promise is None:
        return _judge_own(name, rule, problem, point, beta, found, grads)
    settled, row = promise
    field_rule = isinstance(rule, VectorFieldEquilibriumPropagation)
    if field_rule and isinstance(problem.system, AbstractMap):
        return True  # EP contrasts the primitive there, which has another limit
    gradient = _at(settled, problem, free)
    grads[name + ", settled"] = (gradient.grads, gradient.cost_grads)
    agrees = agreement(grads[name + ", settled"], grads[row])
    return _promises.judge(found, name, gradient.stats["rule"], row, agrees)


def _judge_own(name, rule, problem, point, beta, found, grads) -> bool:
    """A rule that is not the library's: at rest where it can be, else as it is."""
    copy = _promises.settled_copy(rule, point.dt, found.facts["rbp_steps"], beta)
    if copy is None:
        how = "as configured (it takes no other phases)"
        return _promises.judge_own(found, name, grads[name], grads, how, None)
    settled, nudged = copy
    gradient = settled(*problem, state=point.state, key=jax.random.key(0))
    own = grads[name + ", settled"] = (gradient.grads, gradient.cost_grads)
    small = beta if nudged else None
    return _promises.judge_own(found, name, own, grads, "settled", small)


def _estimator_orders(problem, point, found, free, reference, high) -> None:
    """EP itself, not only its process, at the largest β that fits and at a quarter."""
    here = Euler(dt=point.dt, steps=0)
    nudged = Euler(dt=point.dt, steps=found.facts["rbp_steps"])
    for name in ("one-sided", "centered"):
        errors = []
        for beta in (high / 4, high / 16):
            # An array, so that both β run one program.
            rule = EquilibriumPropagation(here, nudged, jnp.asarray(beta), name)  # type: ignore[arg-type]
            gradient = _at(rule, problem, free)
            both = (gradient.grads, gradient.cost_grads)
            errors.append(agreement(both, reference).error)
        _judge.order_of_estimator(found, name, (errors[0], errors[1]), 4.0)


def _cost_at(system, cost, x, y, state) -> tuple[np.ndarray, float]:
    """max |∂C/∂s| of each example, and how strongly ∂C/∂s changes with s."""
    signals, bends = _cost_derivatives(system, cost, x, y, state, random_like(state, 2))
    bend = float(np.max(np.asarray(bends)))
    return np.asarray(signals), bend if np.isfinite(bend) else 0.0


@eqx.filter_jit
def _cost_derivatives(system, cost, x, y, state, probe):
    def one(x, y, s, v):
        def error(u):
            return error_signal(system, cost, x, y, u)

        first, change = jax.jvp(error, (s,), (v,))
        return largest(first), largest(change) / largest(v)

    return jax.vmap(one)(x, y, state, probe)


def _equilibrium(point: FixedPoint) -> Equilibrium:
    batch = len(jax.tree.leaves(point.state)[0])
    return Equilibrium(
        point.state,
        jnp.full(batch, point.steps),
        jnp.full(batch, point.residual),
        jnp.full(batch, int(Status.settled)),
    )


def _rules(problem, point, beta, found) -> dict[str, AbstractEstimator]:
    """The table's estimators, each with steps enough to converge, or to fit."""
    length, through = _lengths(problem, point)
    found.facts.update(rbp_steps=length, bptt_steps=through)
    here, nudged = Euler(dt=point.dt, steps=0), Euler(dt=point.dt, steps=length)
    rules: dict[str, AbstractEstimator] = {
        "RBP": RecurrentBackpropagation(here, point.dt, length),
        "BPTT": BackpropagationThroughTime(here, point.dt, through),
        "EP one-sided": EquilibriumPropagation(here, nudged, beta, "one-sided"),
        "EP centered": EquilibriumPropagation(here, nudged, beta, "centered"),
    }
    if through < length:
        rules[SHORT] = RecurrentBackpropagation(here, point.dt, through)
    return rules


@eqx.filter_jit
def _jitted_at(estimator, system, cost, x, y, free):
    return estimator.at(system, cost, x, y, free, (None, None), None)


def _at(estimator: AbstractEstimator, problem: _Problem, free: Equilibrium):
    system, cost, x, y = problem
    return _jitted_at(estimator, system, cost, x, y, free)


def _rows(name: str, grads: tuple, exact: tuple) -> list[Row]:
    """One row per parameter array of system and cost, then one for all."""
    rows = []
    for part, prefix, found in zip(exact, ("", "cost."), grads, strict=True):
        pairs = zip(named_leaves(part, prefix), jax.tree.leaves(found), strict=True)
        rows += [Row(name, leaf, agreement(g, e)) for (leaf, e), g in pairs]
    return [*rows, Row(name, "all", agreement(grads, exact))]


def _lengths(problem: _Problem, point: FixedPoint) -> tuple[int, int]:
    """Steps after which RBP has decayed to rounding; fewer for BPTT's memory."""
    wanted = LIMIT_STEPS
    if point.radius < 1:
        wanted = int(np.log(1e-16) / np.log(max(point.radius, 1e-3))) + 30
    length = min(wanted, LIMIT_STEPS)
    size = sum(leaf.size for leaf in jax.tree.leaves(point.state))
    # BPTT keeps every state, and adds up the parameters' gradient at every step.
    most = min(NUMBERS / size, 10 * NUMBERS / _parameters(problem))
    return length, max(min(length, int(most)), 1)


def _parameters(problem: _Problem) -> int:
    params = eqx.filter((problem.system, problem.cost), eqx.is_inexact_array)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _process_length(problem: _Problem, point: FixedPoint) -> int:
    """Until the error has fallen to a hundredth, 10 to 60 steps, within memory."""
    wanted = np.log(1e-2) / np.log(min(max(point.radius, 1e-3), 0.99))
    return int(max(min(max(wanted, 10), 60, NUMBERS / _parameters(problem)), 4))


def _largest_difference(a: Any, b: Any) -> float:
    off = jax.tree.map(lambda u, v: jnp.max(jnp.abs(u - v), initial=0), a, b)
    return float(max(jax.tree.leaves(off)))
