"""A trained run in memory: measure its error, predict with it.

`train`, `resume` and `load` make a `Run`; export and reports read it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._precision import rounded
from ..costs import outputs_of
from ..relaxations import AbstractRelaxation, relax
from ..systems import _check, AbstractSystem
from .. import training
from ..training import Config, EpochRecord, TrainState
from ..training._step_size import with_dt
from ._inputs import read_inputs, read_targets
from ._problem import Problem

PREDICT_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained system with its configuration, its metrics and its data."""

    path: Path
    config: Config
    system: AbstractSystem
    cost: Any
    history: list[EpochRecord]
    problem: Problem
    state: TrainState | None
    """`None` if the data are gone: a part of the state belongs to them"""


def evaluate(run: Run, x: Any = None, y: Any = None) -> dict[str, Any]:
    """Measure error, loss, steps to settle and the share of settled examples.

    Without `x` and `y`, measure on the run's test set, or on its training set if it
    has no test set.

    **Arguments:**

    - `x`: examples, scaled as in training (see `predict`).
    - `y`: labels or targets, like those the run was trained on.

    **Returns:** `split`, `examples`, `error` (a fraction; `None` if the targets are not
    classes), `loss`, `steps`, `settled`, `residual`.  A run with persistent states
    starts its own examples from those states; `error_cold` is then the error from the
    usual initial state, from which `predict` starts.
    """
    if (x is None) != (y is None):
        given = "x" if y is None else "y"
        raise ValueError(
            f"only {given} is given; evaluate needs both x and y, or neither"
        )
    split = "given"
    if x is None:
        if run.problem.gone is not None:
            raise run.problem.gone
        split = "train" if run.problem.test is None else "test"
        x, y = run.problem.train if run.problem.test is None else run.problem.test
    else:
        y = read_targets(run.config, run.problem, y)
        _check.batch_size(x=x, y=y)
        _check.check_finite(x=x, y=y)
        x = read_inputs(run.problem, x)
    x, y = jax.tree.map(jnp.asarray, (x, y))
    particles = None if run.state is None else run.state.particles.get(split)
    problem = ((run.system, run.cost), _free(run), (x, y))
    precision = run.config.precision
    found, _ = training.evaluate(*problem, particles, precision)
    if particles is not None:
        cold, _ = training.evaluate(*problem, None, precision)
        found["error_cold"] = cold["error"]
    return {"split": split, "examples": len(jax.tree.leaves(x)[0]), **found}


def predict(run: Run, x: Any) -> np.ndarray:
    """Return the outputs ŷ of a batch of inputs, shape `[examples, outputs]`.

    They are the network's readouts, or the outputs of the cost's own layer.

    **Arguments:**

    - `x`: examples in the shape and scale of the training.  As in training, uint8 is
      divided by 255 and images are flattened.

    **Raises:** `ValueError` if x has another shape or scale.
    """
    _check.batch_size(x=x)
    _check.check_finite(x=x)
    return settle_each(run, read_inputs(run.problem, x))["outputs"]


def settle_each(run: Run, x: Any) -> dict[str, np.ndarray]:
    """Settle every example; return its `outputs`, `steps`, `residual`, `status`."""
    count = len(jax.tree.leaves(x)[0])
    size = min(PREDICT_BATCH, count)
    found = []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        batch = jax.tree.map(lambda leaf, index=index: np.asarray(leaf)[index], x)
        settled = _settled(
            run.system, run.cost, batch, _free(run), run.config.precision
        )
        found.append(jax.tree.map(np.asarray, settled))
    return {
        name: np.concatenate([part[name] for part in found])[:count]
        for name in found[0]
    }


def _free(run: Run) -> AbstractRelaxation:
    """Return the free relaxation; with `dt="auto"`, its last measured step size."""
    dt = None if run.state is None else run.state.dt
    return with_dt(run.config.estimator, dt).free


@eqx.filter_jit
def _settled(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    relaxation: AbstractRelaxation,
    precision: str,
) -> dict[str, Array]:
    def settled(x):
        # Only relaxations that draw random numbers use the key.
        found = relax(system, x, relaxation, key=jax.random.key(0))
        outputs = jax.vmap(lambda s: outputs_of(cost, system.readout(s)))(found.state)
        return {
            "outputs": outputs,
            "steps": found.steps,
            "residual": found.residual,
            "status": found.status,
        }

    return rounded(settled, precision)(x)
