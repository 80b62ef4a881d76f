"""Diagnosis of a failed step: which layer, which example, and what to do.

The loop finds that a step failed.  The functions here repeat it outside the compiled
loop, and return the `TrainingDiverged` that `run_epochs` raises.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..estimators import (
    AbstractEstimator,
    AdjointNotConverged,
    Gradient,
    JacobianHomeostasis,
)
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
    """A warning about a run whose result can still be used."""


class TrainingDiverged(RuntimeError):
    """A step produced numbers that must not be used; the state before it is kept."""


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Some examples of a split, with the network and the states before the step."""

    system: Any
    cost: Any
    x: Any
    y: Any
    state: Any
    numbers: np.ndarray
    where: str

    def one(self, k: int) -> "_Examples":
        """Return the k-th example alone."""
        x, y, state = jax.tree.map(
            lambda leaf: leaf[k][None], (self.x, self.y, self.state)
        )
        return dataclasses.replace(
            self, x=x, y=y, state=state, numbers=self.numbers[k : k + 1]
        )

    def name(self, k: int) -> str:
        """Return the name of the k-th example: its row in the arrays of the split."""
        return f"example {int(self.numbers[k])}"

    def start(self) -> Any:
        """Return the states from which the free phase starts."""
        return initial_state(self.system, self.x, self.state)


def diagnose(trainer: Trainer, state: TrainState) -> TrainingDiverged:
    """Repeat the step that follows `state`, which failed; return the error."""
    trainer, state = _on_one_device(trainer, state)
    where = f"epoch {int(state.epoch) + 1}, step {int(state.step) + 1}"
    params = eqx.filter(state.model, eqx.is_inexact_array)
    if names := _not_finite(params, parameter_name):
        return TrainingDiverged(
            f"{', '.join(names)} of the model held NaN or infinity before {where}; "
            "check the initial values, or use a smaller optimizer.lr."
        )
    examples = _next_examples(trainer, state, where)
    try:
        return _free_failed(trainer, state, examples) or _gradient_failed(
            trainer, state, examples
        )
    except (AdjointNotConverged, CurvatureNotPositive) as error:
        return TrainingDiverged(f"in {where}: {error}")


def _next_examples(trainer: Trainer, state: TrainState, where: str) -> _Examples:
    x, y, particles, numbers = trainer.batch(state)
    return _Examples(*state.model, x, y, particles, np.asarray(numbers), where)


def _free_failed(
    trainer: Trainer, state: TrainState, examples: _Examples
) -> TrainingDiverged | None:
    """Repeat the free phase of a batch; return the error if it failed there."""
    free, on_unsettled = trainer.rule(state).free, trainer.settings.on_unsettled
    found = _relaxed(examples, free, trainer.step_key(state))
    if on_unsettled != "mask" and (error := _not_usable(examples, free, found)):
        return error
    settled = np.asarray(found.status) == Status.settled
    if on_unsettled == "error" and not settled.all():
        return _unsettled(examples, free, found, int(settled.argmin()))
    return None


def _relaxed(examples: _Examples, free: AbstractRelaxation, key: Any) -> Equilibrium:
    """Return the free equilibria as a training step with this key finds them."""
    key = jax.random.split(key, 3)[0]
    return relax(examples.system, examples.x, free, state=examples.state, key=key)


def _gradient_failed(
    trainer: Trainer, state: TrainState, examples: _Examples
) -> TrainingDiverged:
    """Repeat the gradient of a batch; return the error of gradient or update."""
    found = _gradient(trainer, state, examples)
    if _not_finite((found.loss, found.grads, found.cost_grads)):
        return _gradient_not_finite(trainer, state, examples, found)
    return TrainingDiverged(
        f"the update in {examples.where} makes parameters infinite although the "
        f"gradient is finite (largest entry {_size(found.grads):.3g}); use a smaller "
        "optimizer.lr."
    )


def _gradient(trainer: Trainer, state: TrainState, examples: _Examples) -> Gradient:
    rule, key = trainer.rule(state), trainer.step_key(state)
    problem = (examples.system, examples.cost, examples.x, examples.y)
    return rule(*problem, state=examples.state, key=key)


def diagnose_split(trainer: Trainer, state: TrainState, split: str) -> TrainingDiverged:
    """Return the error for a held-out split whose loss is not finite."""
    trainer, state = _on_one_device(trainer, state)
    x, y = trainer.splits[split]
    numbers = np.arange(len(jax.tree.leaves(x)[0]))
    where = f"the {split} set after epoch {int(state.epoch) + 1}"
    particles = state.particles.get(split)
    examples = _Examples(*state.model, x, y, particles, numbers, where)
    free = trainer.rule(state).free
    try:
        found = relax(state.system, x, free, state=particles, key=jax.random.key(0))
    except CurvatureNotPositive as error:
        return TrainingDiverged(f"in {where}: {error}")
    return _not_usable(examples, free, found) or TrainingDiverged(
        f"the loss of {where} is not finite"
    )


def _on_one_device(trainer: Trainer, state: TrainState) -> tuple[Trainer, TrainState]:
    """Return both as host arrays, so that each process diagnoses by itself."""
    return _devices.collected(trainer, trainer.mesh), trainer.collected(state)


def _not_usable(
    examples: _Examples, free: AbstractRelaxation, found: Equilibrium
) -> TrainingDiverged | None:
    """Return the error if a free phase diverged or its cost is not finite."""
    return _free_diverged(examples, free, found) or _cost_not_finite(examples, found)


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
            "velocity of the model is not finite at the state that the device "
            "returned; on_unsettled 'mask' leaves such examples out."
        )
    t, layer, oscillates = _first_bad_step(examples.one(k), free)
    return TrainingDiverged(
        f"the free phase diverged in {where}: {layer} of {int(bad.sum())} of "
        f"{len(bad)} examples ({name} first) stopped being finite at relaxation step "
        f"{t}. " + _hint(examples.one(k), free, oscillates)
    )


def _cost_not_finite(
    examples: _Examples, found: Equilibrium
) -> TrainingDiverged | None:
    problem = (examples.system, examples.cost, examples.x, examples.y)
    costs = np.asarray(batch_costs(*problem, found.state))
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(costs.sum(dtype=costs.dtype)):
            return None
    # If every cost is finite and only the sum is not, name the largest.
    k = int(np.argmax(np.where(np.isfinite(costs), np.abs(costs), np.inf)))
    return TrainingDiverged(
        f"the cost is {costs[k]:.3g} for {examples.name(k)} in {examples.where} "
        f"although its free phase is finite ({_largest(found.state, k)}); check the "
        "cost and the targets, or use a smaller optimizer.lr."
    )


def _unsettled(
    examples: _Examples, free: AbstractRelaxation, found: Equilibrium, k: int
) -> TrainingDiverged:
    """Return the error of on_unsettled='error' for example k, which did not settle."""
    oscillates = bool(found.status[k] == Status.oscillating)
    count = int((np.asarray(found.status) != Status.settled).sum())
    return TrainingDiverged(
        f"{examples.name(k)} did not settle in {examples.where} ({count} of "
        f"{len(found.status)} did not): after {found.steps[k]} steps it "
        f"{'oscillates with period 2' if oscillates else 'still moves'}, with a "
        f"residual of {found.residual[k]:.2g}. "
        + _advice(examples.one(k), free, oscillates)
    )


def _gradient_not_finite(
    trainer: Trainer, state: TrainState, examples: _Examples, found: Gradient
) -> TrainingDiverged:
    """Name the second phase, and the first example that alone gives such a gradient."""
    names = _not_finite((found.grads, found.cost_grads), parameter_name)
    culprit = ""
    for k in range(len(examples.numbers)):
        alone = _gradient(trainer, state, examples.one(k))
        if _not_finite((alone.grads, alone.cost_grads)):
            culprit = f" for {examples.name(k)}"
            break
    rule: Any = trainer.estimator
    masked = trainer.settings.on_unsettled == "mask"
    what, options = _second_phase(rule.estimator if masked else rule)
    return TrainingDiverged(
        f"the gradient of {', '.join(names) or 'the parameters'} is not finite in "
        f"{examples.where}: {what} diverged{culprit}. Use a smaller "
        f"{' or '.join([*options, 'optimizer.lr'])}."
    )


def _second_phase(rule: AbstractEstimator) -> tuple[str, list[str]]:
    """Return the phase after the free phase, and the options that shorten its steps."""
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
    return "the computation after the free phase", options


def _hint(one: _Examples, free: AbstractRelaxation, oscillates: bool) -> str:
    """Return what to do about an example whose free phase diverged."""
    if _not_finite(jax.vmap(one.system.velocity)(one.x, one.start())):
        return (
            "Its velocity is not finite in the initial state: look for a logarithm, a "
            "root or a division there, or use a smaller optimizer.lr."
        )
    if oscillates:
        return "It oscillates with growing steps: " + _smaller_steps(one, free)
    dt = "" if free.dt is None else "estimator.free.dt or "
    return (
        "It grows steadily in one direction, as if nothing bounds the state: use a "
        f"smaller {dt}optimizer.lr, or bound the state by project() or the energy."
    )


def advice(trainer: Trainer, state: TrainState) -> str:
    """Return what helps the first batch of the epoch of `state` to settle."""
    trainer, state = _on_one_device(trainer, state)
    state = eqx.tree_at(lambda s: s.step, state, jnp.array(0))
    examples = _next_examples(trainer, state, "")
    free = trainer.rule(state).free
    try:
        found = _relaxed(examples, free, trainer.step_key(state))
    except CurvatureNotPositive as error:
        return f"{error}."
    oscillates = np.asarray(found.status) == Status.oscillating
    one = examples.one(int(oscillates.argmax()))
    return _advice(one, free, bool(oscillates.any()))


def _advice(one: _Examples, free: AbstractRelaxation, oscillates: bool) -> str:
    """Return what helps an example to settle."""
    if oscillates:
        return "Its steps are too large: " + _smaller_steps(one, free)
    steps = free.dt is not None and not free.draws_noise
    if steps and _stalls(one, free):
        dtype = jnp.result_type(*jax.tree.leaves(one.start()))
        return (
            f"Its steps dt·velocity are smaller than the rounding of its state in "
            f"{dtype}, so the state does not change: use a larger estimator.free.dt, "
            "or double precision (JAX_ENABLE_X64=1)."
        )
    return (
        "Give it more steps (estimator.free.steps), persistent states, or a larger "
        "tolerance (estimator.free.tol)."
    )


def _stalls(one: _Examples, free: AbstractRelaxation) -> bool:
    """Return whether one more step changes no number of the final state."""
    last = relax(one.system, one.x, free, state=one.state).state
    once = dataclasses.replace(free, steps=1, tol=None)
    moved = relax(one.system, one.x, once, state=last).state
    pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(last), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _smaller_steps(one: _Examples, free: AbstractRelaxation) -> str:
    """Return which step size is stable, measured in the example's initial state."""
    if free.dt is None:
        return (
            "declare a larger curvature in the system's blocks(), which damps the "
            "step, or use a smaller optimizer.lr."
        )
    rate = float(fastest_rate(one.system, one.x, one.start()))
    sweep = ""
    if one.system.blocks() is not None:
        sweep = ", or ep.Sweep, which needs no step size"
    return (
        f"the fastest rate of the network is {rate:.3g} in the initial state, so steps "
        f"are stable below {2 / rate:.2g}. Use estimator.free.dt {1 / rate:.2g} (a "
        f"smaller step damps it) or dt='auto'{sweep}, or a smaller optimizer.lr."
    )


def _largest(state: Any, k: int) -> str:
    """Name the leaf that holds the largest entry of example k."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    sizes = [(_size(leaf[k]), path) for path, leaf in leaves]
    size, path = max(sizes, key=lambda pair: pair[0])
    return f"largest is state{jax.tree_util.keystr(path)}, up to {size:.3g}"


def _size(tree: Any) -> float:
    leaves = jax.tree.leaves(tree)
    return max(float(jnp.max(jnp.abs(leaf), initial=0)) for leaf in leaves)


def _first_bad_step(one: _Examples, free: Any) -> tuple[int, str, bool]:
    """Return the first relaxation step and leaf not finite, and whether it oscillates.

    Steps that grow and reverse each time come from a large step size.  Steps that keep
    their direction come from dynamics without a fixed point.
    """
    once = dataclasses.replace(free, steps=1, tol=None)
    state, before, oscillates = one.start(), None, False
    for t in range(1, free.steps + 1):
        key = jax.random.fold_in(jax.random.key(0), t)
        moved = relax(one.system, one.x, once, state=state, key=key).state
        if names := _not_finite(moved, jax.tree_util.keystr):
            return t, f"state{names[0]}", oscillates
        step = jax.tree.map(
            lambda a, b: np.asarray(a, float) - np.asarray(b, float), moved, state
        )
        if before is not None:
            products = jax.tree.map(lambda a, b: np.vdot(a, b).real, step, before)
            oscillates = bool(sum(jax.tree.leaves(products)) < 0)
        state, before = moved, step
    return free.steps, "the residual", oscillates


def _not_finite(tree: Any, name: Callable[[Any], str] = str) -> list[str]:
    """Return the names of the leaves that hold NaN or infinity."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [name(path) for path, leaf in leaves if not np.isfinite(leaf).all()]
