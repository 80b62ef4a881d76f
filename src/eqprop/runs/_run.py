"""A finished (or saved) run: load it, evaluate it, predict with it."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..costs import outputs_of
from ..data import _checks
from ..relaxations import AbstractRelaxation, relax
from ..systems import _check, AbstractSystem
from .. import training
from ..training import Config, TrainState
from ..training._step_size import with_dt
from ._directory import RunDirectory
from ._problem import Problem
from ._saved import restore

PREDICT_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained system with its configuration, its records and its data."""

    path: Path
    config: Config
    system: AbstractSystem
    cost: Any
    history: list[dict[str, Any]]
    problem: Problem
    state: TrainState


def load(run: str | Path, *, best: bool = False, system: str | None = None) -> Run:
    """Load a run directory, with the parameters of its newest checkpoint.

    **Arguments:**

    - `best`: those of the best epoch instead: of the lowest validation error, or
      training error where nothing was held out for validation.
    - `system`: `FILE.py:NAME`, for a run of the user's own model: its file is executed
      only if it is named here and is the one that the run was trained with.

    **Raises:** `ValueError` where the data, the model, the configuration or eqprop
    itself are not those of the run, with the difference.  A damaged checkpoint brings
    a warning, and the one before it is used.
    """
    from ._train import _start

    directory = RunDirectory(Path(run))
    config = directory.config()
    problem = directory.problem(config, system)
    _, like = _start(config, problem)
    checkpoints = directory.checkpoints
    found = checkpoints.best() if best else checkpoints.newest()
    saved = restore(found, config, like, directory.path)
    state = saved.state
    return Run(
        *(directory.path, config, state.system, state.cost),
        *(saved.history, problem, state),
    )


def evaluate(run: Run, x: Any = None, y: Any = None) -> dict[str, Any]:
    """Error, loss, steps to settle and share of settled examples.

    Without `x` and `y` on the run's test set, or its training set where it has none.
    `y` are labels or targets, like those the run was trained on.

    **Returns:** `split`, `examples`, `error` (a fraction; `None` for targets that are
    no classes), `loss`, `steps`, `settled`, `residual`; for a run with persistent
    states, which its own examples start from, `error_cold` is that of a network that
    starts anew, as `predict` does.
    """
    if (x is None) != (y is None):
        raise ValueError("evaluate needs both x and y, or neither")
    split = "given"
    if x is None:
        split = "train" if run.problem.test is None else "test"
        x, y = run.problem.train if run.problem.test is None else run.problem.test
    else:
        y = _targets(run, y)
        _check.batch_size(x=x, y=y)
        _check.check_finite(x=x, y=y)
    _check_inputs(run, x)
    x, y = jax.tree.map(jnp.asarray, (x, y))
    particles = run.state.particles.get(split)
    free = _free(run)
    found, _ = training.evaluate(run.system, run.cost, free, x, y, particles)
    if particles is not None:
        cold, _ = training.evaluate(run.system, run.cost, free, x, y)
        found["error_cold"] = cold["error"]
    return {"split": split, "examples": len(jax.tree.leaves(x)[0]), **found}


def predict(run: Run, x: Any) -> np.ndarray:
    """The outputs ŷ of a batch of inputs, shape `[examples, outputs]`.

    The network's readouts, or what a cost's own layer makes of them.
    """
    _check.batch_size(x=x)
    _check.check_finite(x=x)
    _check_inputs(run, x)
    count = len(jax.tree.leaves(x)[0])
    size = min(PREDICT_BATCH, count)
    outputs = []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        batch = jax.tree.map(lambda leaf, index=index: np.asarray(leaf)[index], x)
        outputs.append(_outputs(run.system, run.cost, batch, _free(run)))
    return np.concatenate([np.asarray(output) for output in outputs])[:count]


def _free(run: Run) -> AbstractRelaxation:
    """The free phase, with the step size of the last epoch where that follows."""
    return with_dt(run.config.estimator, run.state.dt).free


@eqx.filter_jit
def _outputs(
    system: AbstractSystem, cost: Any, x: PyTree[Array], relaxation: AbstractRelaxation
) -> Array:
    # A key for relaxations that draw random numbers; the others leave it aside.
    settled = relax(system, x, relaxation, key=jax.random.key(0)).state
    return jax.vmap(lambda s: outputs_of(cost, system.readout(s)))(settled)


def _targets(run: Run, y: Any) -> Any:
    """Labels as the one-hot targets that the run's cost compares with."""
    dataset = run.problem.dataset
    if dataset is None or dataset.classes is None or np.ndim(y) != 1:
        return y
    return dataset.targets(_checks.as_labels_or_targets(y, "y", "labels"))


def _check_inputs(run: Run, x: Any) -> None:
    trained = jax.tree.map(lambda leaf: np.shape(leaf)[1:], run.problem.train[0])
    given = jax.tree.map(lambda leaf: np.shape(leaf)[1:], x)
    if trained != given:
        raise ValueError(
            f"one example of x has shape {given}; this run was trained on examples of "
            f"shape {trained}"
        )
