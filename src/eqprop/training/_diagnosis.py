"""What went wrong in a step that failed: which layer, which example, and what to do."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..estimators import AbstractEstimator, AdjointNotConverged, JacobianHomeostasis
from ..relaxations import (
    AbstractRelaxation,
    Equilibrium,
    initial_state,
    relax,
    Status,
)
from ..relaxations._blocks import CurvatureNotPositive
from ..systems import batch_costs
from ..systems._parameters import parameter_name
from . import _devices
from ._loop import Trainer, TrainState
from ._step_size import fastest_rate


class RunWarning(UserWarning):
    """What a user of a run is told, though it can be used."""


class TrainingDiverged(RuntimeError):
    """A step produced numbers that must not be used; the state before it is kept."""


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Some examples of a split, and the network as it stands before them."""

    system: Any
    cost: Any
    x: Any
    y: Any
    state: Any
    numbers: np.ndarray
    where: str

    def one(self, k: int) -> "_Examples":
        """The k-th of them alone."""
        x, y, state = jax.tree.map(
            lambda leaf: leaf[k][None], (self.x, self.y, self.state)
        )
        return dataclasses.replace(
            self, x=x, y=y, state=state, numbers=self.numbers[k : k + 1]
        )

    def name(self, k: int) -> str:
        return f"example {int(self.numbers[k])}"


def diagnose(trainer: Trainer, state: TrainState) -> TrainingDiverged:
    """The error for the step at which `state` stands, found by doing it again.

    Examples are named by their row of the training examples.
    """
    trainer, state = _on_one_device(trainer, state)
    x, y, particles, numbers = trainer.batch(state)
    where = f"epoch {int(state.epoch) + 1}, step {int(state.step) + 1}"
    system, cost = state.system, state.cost
    params = eqx.filter((system, cost), eqx.is_inexact_array)
    if names := _not_finite(params, parameter_name):
        return TrainingDiverged(
            f"{', '.join(names)} of the model held NaN or infinity before {where}; "
            "check the initial values, or use a smaller optimizer.lr."
        )
    examples = _Examples(system, cost, x, y, particles, np.asarray(numbers), where)
    rule, key = trainer.rule(state), trainer.step_key(state)
    free_key = jax.random.split(key, 3)[0]
    try:
        equilibrium = relax(system, x, rule.free, state=particles, key=free_key)
    except CurvatureNotPositive as error:
        return TrainingDiverged(f"in {where}: {error}")
    if trainer.on_unsettled != "mask":
        if error := _free_diverged(examples, rule.free, equilibrium):
            return error
        if error := _cost_not_finite(examples, equilibrium):
            return error
    if trainer.on_unsettled == "error":
        settled = np.asarray(equilibrium.status) == Status.settled
        if not settled.all():
            return _unsettled(examples, rule.free, equilibrium, int(settled.argmin()))
    try:
        gradient = rule(system, cost, x, y, state=particles, key=key)
    except AdjointNotConverged as error:
        return TrainingDiverged(f"in {where}: {error}")
    names = _not_finite((gradient.loss, gradient.grads, gradient.cost_grads), str)
    if names:
        return _gradient_not_finite(examples, trainer, rule, key, gradient)
    return TrainingDiverged(
        f"the update in {where} makes parameters infinite although the gradient is "
        f"finite (largest entry {_size(gradient.grads):.3g}); use a smaller "
        "optimizer.lr."
    )


def diagnose_split(trainer: Trainer, state: TrainState, split: str) -> TrainingDiverged:
    """The error for held-out examples whose loss is not finite after an epoch."""
    trainer, state = _on_one_device(trainer, state)
    x, y = trainer.splits[split]
    numbers = np.arange(len(jax.tree.leaves(x)[0]))
    where = f"the {split} set after epoch {int(state.epoch) + 1}"
    particles = state.particles.get(split)
    examples = _Examples(state.system, state.cost, x, y, particles, numbers, where)
    free = trainer.rule(state).free
    key = jax.random.key(0)
    try:
        found = relax(state.system, x, free, state=particles, key=key)
    except CurvatureNotPositive as error:
        return TrainingDiverged(f"in {where}: {error}")
    return (
        _free_diverged(examples, free, found)
        or _cost_not_finite(examples, found)
        or TrainingDiverged(f"the loss of {where} is not finite")
    )


def _on_one_device(trainer: Trainer, state: TrainState) -> tuple[Trainer, TrainState]:
    """Both as arrays of this process: each looks for the fault by itself."""
    return _devices.collected(trainer, trainer.mesh), trainer.collected(state)


def _free_diverged(
    examples: _Examples, free: AbstractRelaxation, found: Equilibrium
) -> TrainingDiverged | None:
    bad = np.asarray(found.status) == Status.diverged
    if not bad.any():
        return None
    k = int(np.argmax(bad))
    name, where = examples.name(k), examples.where
    if free.outside:
        return TrainingDiverged(
            f"in {where} the device failed for {name} (ep.Status.diverged), or the "
            "model's velocity is not finite at the state that it returned; "
            "on_unsettled 'mask' leaves such examples out."
        )
    t, layer, swings = _first_bad_step(examples.one(k), free)
    return TrainingDiverged(
        f"the free phase diverged in {where}: {layer} of {int(bad.sum())} of "
        f"{len(bad)} examples, {name} the first, stopped being finite at relaxation "
        f"step {t}. " + _hint(examples.one(k), free, swings)
    )


def _cost_not_finite(
    examples: _Examples, found: Equilibrium
) -> TrainingDiverged | None:
    costs = np.asarray(
        batch_costs(
            *(examples.system, examples.cost, examples.x, examples.y, found.state)
        )
    )
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(costs.sum(dtype=costs.dtype)):
            return None
    # Where every cost is finite and only their sum is not, the largest is at fault.
    k = int(np.argmax(np.where(np.isfinite(costs), np.abs(costs), np.inf)))
    return TrainingDiverged(
        f"the cost is {costs[k]:.3g} for {examples.name(k)} in {examples.where} "
        f"although its free phase is finite ({_largest(found.state, k)}); check the "
        "cost and the targets, or use a smaller optimizer.lr."
    )


def _unsettled(
    examples: _Examples, free: AbstractRelaxation, found: Equilibrium, k: int
) -> TrainingDiverged:
    """For on_unsettled='error'; the first example that did not settle."""
    status, residual, steps = (
        np.asarray(leaf)[k] for leaf in (found.status, found.residual, found.steps)
    )
    swings = status == Status.oscillating
    count = int((np.asarray(found.status) != Status.settled).sum())
    return TrainingDiverged(
        f"{examples.name(k)} did not settle in {examples.where} ({count} of "
        f"{len(found.status)} did not): after {steps} steps it "
        f"{'oscillates with period 2' if swings else 'still moves'}, with a residual "
        f"of {residual:.2g}. {_advice(examples.one(k), free, bool(swings))}"
    )


def _gradient_not_finite(examples, trainer, rule, key, gradient) -> TrainingDiverged:
    """The nudged phase, and the first example that alone gives such a gradient."""
    names = _not_finite((gradient.grads, gradient.cost_grads), parameter_name)
    inner = trainer.estimator
    inner = inner.estimator if trainer.on_unsettled == "mask" else inner
    culprit = ""
    for k in range(len(examples.numbers)):
        one = examples.one(k)
        alone = rule(one.system, one.cost, one.x, one.y, state=one.state, key=key)
        if _not_finite((alone.grads, alone.cost_grads), str):
            culprit = f" for {examples.name(k)}"
            break
    what, options = _second_phase(inner)
    return TrainingDiverged(
        f"the gradient of {', '.join(names) or 'the parameters'} is not finite in "
        f"{examples.where}: {what} diverged{culprit}. Use a smaller "
        f"{' or '.join([*options, 'optimizer.lr'])}."
    )


def _second_phase(rule: AbstractEstimator) -> tuple[str, list[str]]:
    """What follows a rule's free phase, and its options that make smaller steps."""
    place, inner = "estimator", rule
    while isinstance(inner, JacobianHomeostasis):
        place, inner = f"{place}.estimator", inner.estimator
    options = [f"{place}.beta"] if "beta" in vars(inner) else []
    for phase in ("nudged", "clamped"):
        if phase in vars(inner):
            steps = vars(inner)[phase].dt is not None
            options += [f"{place}.{phase}.dt"] if steps else []
            return f"the {phase} phase", options
    options += [f"{place}.dt"] if hasattr(inner, "dt") else []
    return "what follows the free phase", options


def _hint(one: _Examples, free: AbstractRelaxation, swings: bool) -> str:
    """What to do: the start itself may be at fault, and not all rules have a dt."""
    start = initial_state(one.system, one.x, one.state)
    if _not_finite(jax.vmap(one.system.velocity)(one.x, start), str):
        return (
            "Its velocity is not finite in the state it starts from: look for a "
            "logarithm, a root or a division there, or use a smaller optimizer.lr."
        )
    if swings:
        return (
            "It swings from one side to the other, further at every step: "
            + _smaller_steps(one, free)
        )
    dt = "" if free.dt is None else "estimator.free.dt or "
    return (
        "It grows steadily in one direction, as where nothing bounds the state: use a "
        f"smaller {dt}optimizer.lr, or a project() or an energy that holds it."
    )


def advice(trainer: Trainer, state: TrainState) -> str:
    """What helps the first batch of the epoch of `state` to settle."""
    trainer, state = _on_one_device(trainer, state)
    state = eqx.tree_at(lambda s: s.step, state, jnp.array(0))
    x, y, particles, numbers = trainer.batch(state)
    system, cost = state.system, state.cost
    examples = _Examples(system, cost, x, y, particles, np.asarray(numbers), "")
    free = trainer.rule(state).free
    key = jax.random.split(trainer.step_key(state), 3)[0]
    try:
        found = relax(system, x, free, state=particles, key=key)
    except CurvatureNotPositive as error:
        return f"{error}."
    swings = np.asarray(found.status) == Status.oscillating
    return _advice(examples.one(int(swings.argmax())), free, bool(swings.any()))


def _advice(one: _Examples, free: AbstractRelaxation, swings: bool) -> str:
    if swings:
        return "It takes steps that are too large: " + _smaller_steps(one, free)
    steps = free.dt is not None and not free.draws_noise
    if steps and _stalls(one, free):
        return (
            f"Its steps dt·velocity are smaller than the rounding of its state in "
            f"{_dtype(one)}, so it stands still: use a larger estimator.free.dt, or "
            "double precision (JAX_ENABLE_X64=1)."
        )
    return (
        "Give it more steps (estimator.free.steps), persistent states, or a larger "
        "tolerance (estimator.free.tol)."
    )


def _stalls(one: _Examples, free: AbstractRelaxation) -> bool:
    """Whether one more step leaves every number of the final state as it is."""
    last = relax(one.system, one.x, free, state=one.state).state
    once = dataclasses.replace(free, steps=1, tol=None)
    moved = relax(one.system, one.x, once, state=last).state
    pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(last), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _dtype(one: _Examples) -> str:
    state = initial_state(one.system, one.x, one.state)
    return str(jnp.result_type(*jax.tree.leaves(state)))


def _smaller_steps(one: _Examples, free: AbstractRelaxation) -> str:
    """Which step would be stable, measured where the example starts."""
    if free.dt is None:
        return (
            "declare a larger curvature in the system's blocks(), which damps the "
            "step, or use a smaller optimizer.lr."
        )
    start = initial_state(one.system, one.x, one.state)
    rate = float(fastest_rate(one.system, one.x, start))
    sweep = ""
    if one.system.blocks() is not None:
        sweep = ", or ep.Sweep, which needs none"
    return (
        f"the fastest rate of the network is {rate:.3g} where it starts, and steps "
        f"stay stable below {2 / rate:.2g}. Use estimator.free.dt {1 / rate:.2g} (a "
        f"smaller step damps it) or dt='auto'{sweep}, or a smaller optimizer.lr."
    )


def _largest(state: Any, k: int) -> str:
    """The leaf with the largest entry of one example: the layer on its way out."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    sizes = [(_size(leaf[k]), path) for path, leaf in leaves]
    size, path = max(sizes, key=lambda pair: pair[0])
    return f"largest is state{jax.tree_util.keystr(path)}, up to {size:.3g}"


def _size(tree: Any) -> float:
    leaves = jax.tree.leaves(tree)
    return max(float(jnp.max(jnp.abs(leaf), initial=0)) for leaf in leaves)


def _first_bad_step(one: _Examples, free: Any) -> tuple[int, str, bool]:
    """The relaxation step and the leaf that is not finite; whether it swings there.

    Steps that grow and turn back each time come from a step size; steps that go on in
    one direction from dynamics without a fixed point.
    """
    once = dataclasses.replace(free, steps=1, tol=None)
    state, before = initial_state(one.system, one.x, one.state), None
    swings = False
    for t in range(1, free.steps + 1):
        key = jax.random.fold_in(jax.random.key(0), t)
        moved = relax(one.system, one.x, once, state=state, key=key).state
        names = _not_finite(moved, lambda path: jax.tree_util.keystr(path))
        if names:
            return t, f"state{names[0]}", swings
        step = [
            np.asarray(a, float) - np.asarray(b, float)
            for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(state), strict=True)
        ]
        if before is not None:
            turns = sum(
                float(np.vdot(a, b).real) for a, b in zip(step, before, strict=True)
            )
            swings = turns < 0
        state, before = moved, step
    return free.steps, "the residual", swings


def _not_finite(tree: Any, name: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [name(path) for path, leaf in leaves if not np.isfinite(leaf).all()]
