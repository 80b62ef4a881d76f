"""What went wrong in a step that failed: which layer, and at which point."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..relaxations import AbstractRelaxation, Status, relax
from ._loop import Trainer, TrainState
from ._optimizer import parameter_name


class TrainingDiverged(RuntimeError):
    """A step produced numbers that are not finite; the state before it is kept."""


def diagnose(trainer: Trainer, state: TrainState) -> TrainingDiverged:
    """The error for the step at which `state` stands, found by doing it again."""
    x, y, particles = trainer.batch(state)
    where = f"epoch {int(state.epoch) + 1}, step {int(state.step) + 1}"
    free: AbstractRelaxation = trainer.estimator.free
    system, cost = state.system, state.cost
    equilibrium = relax(system, x, free, state=particles)
    bad = np.asarray(equilibrium.status) == Status.diverged
    if bad.any():
        example = int(np.argmax(bad))
        one = jax.tree.map(lambda leaf: leaf[example][None], (x, particles))
        t, layer = _first_bad_step(system, free, *one)
        return TrainingDiverged(
            f"the free phase diverged in {where}: {layer} of {int(bad.sum())} of "
            f"{len(bad)} examples stopped being finite at relaxation step {t}. "
            "Use a smaller estimator.free.dt or optimizer.lr."
        )
    key = jax.random.fold_in(jax.random.fold_in(trainer.key, state.epoch), state.step)
    gradient = trainer.estimator(system, cost, x, y, state=particles, key=key)
    if not bool(jnp.isfinite(gradient.loss)):
        return TrainingDiverged(
            f"the cost is {float(gradient.loss)} in {where} although the free phase "
            "is finite; check the cost and the targets, or use a smaller optimizer.lr."
        )
    names = _not_finite((gradient.grads, gradient.cost_grads), parameter_name)
    return TrainingDiverged(
        f"the gradient of {', '.join(names) or 'the parameters'} is not finite in "
        f"{where}: the nudged phase diverged. Use a smaller estimator.beta, "
        "estimator.nudged.dt or optimizer.lr."
    )


def _first_bad_step(system, free, x, state) -> tuple[int, str]:
    """The first relaxation step, and the state leaf, that is not finite."""
    once = dataclasses.replace(free, steps=1, tol=None)
    for t in range(1, free.steps + 1):
        state = relax(system, x, once, state=state).state
        names = _not_finite(state, lambda path: jax.tree_util.keystr(path))
        if names:
            return t, f"state{names[0]}"
    return free.steps, "the residual"


def _not_finite(tree: Any, name: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [name(path) for path, leaf in leaves if not np.isfinite(leaf).all()]
