"""What went wrong in a step that failed: which layer, and at which point."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..relaxations import (
    AbstractRelaxation,
    HardwareInTheLoop,
    initial_state,
    relax,
    Status,
)
from ..systems._parameters import parameter_name
from . import _devices
from ._loop import Trainer, TrainState


class TrainingDiverged(RuntimeError):
    """A step produced numbers that are not finite; the state before it is kept."""


def diagnose(trainer: Trainer, state: TrainState) -> TrainingDiverged:
    """The error for the step at which `state` stands, found by doing it again."""
    # Each process looks by itself, on one device.
    state, trainer = trainer.collected(state), _devices.collected(trainer, trainer.mesh)
    x, y, particles = trainer.batch(state)
    where = f"epoch {int(state.epoch) + 1}, step {int(state.step) + 1}"
    free: AbstractRelaxation = trainer.estimator.free
    system, cost = state.system, state.cost
    params = eqx.filter((system, cost), eqx.is_inexact_array)
    if names := _not_finite(params, parameter_name):
        return TrainingDiverged(
            f"{', '.join(names)} of the model held NaN or infinity before {where}; "
            "check the initial values, or use a smaller optimizer.lr."
        )
    equilibrium = relax(system, x, free, state=particles, key=trainer.key)
    bad = np.asarray(equilibrium.status) == Status.diverged
    if bad.any():
        example = int(np.argmax(bad))
        if isinstance(free, HardwareInTheLoop):
            return TrainingDiverged(
                f"in {where} the model's velocity is not finite at the state that the "
                f"device returned for example {example} of the batch."
            )
        one = jax.tree.map(lambda leaf: leaf[example][None], (x, particles))
        t, layer = _first_bad_step(system, free, *one)
        return TrainingDiverged(
            f"the free phase diverged in {where}: {layer} of {int(bad.sum())} of "
            f"{len(bad)} examples stopped being finite at relaxation step {t}. "
            + _hint(system, free, *one)
        )
    key = jax.random.fold_in(jax.random.fold_in(trainer.key, state.epoch), state.step)
    gradient = trainer.estimator(system, cost, x, y, state=particles, key=key)
    if not bool(jnp.isfinite(gradient.loss)):
        return TrainingDiverged(
            f"the cost is {float(gradient.loss)} in {where} although the free phase is "
            f"finite ({_largest(equilibrium.state)}); check the cost and the targets, "
            "or use a smaller optimizer.lr."
        )
    names = _not_finite((gradient.grads, gradient.cost_grads), parameter_name)
    phase = "clamped" if hasattr(trainer.estimator, "clamped") else "nudged"
    beta = "estimator.beta, " if "beta" in vars(trainer.estimator) else ""
    return TrainingDiverged(
        f"the gradient of {', '.join(names) or 'the parameters'} is not finite in "
        f"{where}: the {phase} phase diverged. Use a smaller {beta}"
        f"estimator.{phase}.dt or optimizer.lr."
    )


def _hint(system, free, x, state) -> str:
    """What to do: the start itself may be at fault, and not all rules have a dt."""
    start = initial_state(system, x, state)
    if _not_finite(jax.vmap(system.velocity)(x, start), str):
        return (
            "Its velocity is not finite in the state it starts from: look for a "
            "logarithm, a root or a division there, or use a smaller optimizer.lr."
        )
    dt = "estimator.free.dt or " if hasattr(free, "dt") else ""
    return f"Use a smaller {dt}optimizer.lr."


def _largest(state: Any) -> str:
    """The leaf with the largest entry: the layer on its way out."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    sizes = [(float(jnp.max(jnp.abs(leaf), initial=0)), path) for path, leaf in leaves]
    size, path = max(sizes, key=lambda pair: pair[0])
    return f"largest is state{jax.tree_util.keystr(path)}, up to {size:.3g}"


def _first_bad_step(system, free, x, state) -> tuple[int, str]:
    """The first relaxation step, and the state leaf, that is not finite."""
    once = dataclasses.replace(free, steps=1, tol=None)
    for t in range(1, free.steps + 1):
        key = jax.random.fold_in(jax.random.key(0), t)
        state = relax(system, x, once, state=state, key=key).state
        names = _not_finite(state, lambda path: jax.tree_util.keystr(path))
        if names:
            return t, f"state{names[0]}"
    return free.steps, "the residual"


def _not_finite(tree: Any, name: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [name(path) for path, leaf in leaves if not np.isfinite(leaf).all()]
