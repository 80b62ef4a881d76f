"""From a run directory back to a `Run`: its network at a saved checkpoint."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

from ..training import Config, EpochRecord
from ._checkpoints import Checkpoint
from ._directory import RunDirectory
from ._environment import read_environment
from ._problem import Problem
from ._run import Run
from ._saved import restore
from ._train import _start


def load(run: str | Path, *, best: bool = False, system: str | None = None) -> Run:
    """Load a run directory with the parameters of its newest checkpoint.

    If the data of a built-in network are gone, the run is loaded without examples: it
    can predict, and `evaluate` then needs x and y.

    **Arguments:**

    - `best`: load the best epoch instead, the one of the lowest validation error, or
      of the lowest training error if the run has no validation set.
    - `system`: `FILE.py:NAME` of the run's own model.  The file is executed only if
      you name it here and it is the file that the run was trained with.

    **Raises:** `ValueError`, which names the difference, if the data, the model, the
    configuration or eqprop itself are not those of the run.  If a checkpoint is
    damaged, a warning says so and the one before it is used.
    """
    directory = RunDirectory(Path(run))
    config = directory.config()
    checkpoints = directory.checkpoints
    try:
        problem = directory.problem(config, system)
    except FileNotFoundError as gone:
        found = checkpoints.best() if best else checkpoints.newest()
        return _without_data(directory, config, gone, found)
    _, like = _start(config, problem)
    found = checkpoints.best() if best else checkpoints.newest()
    saved = restore(found, config, like, directory)
    return Run(
        path=directory.path,
        config=config,
        system=saved.state.system,
        cost=saved.state.cost,
        history=saved.history,
        problem=problem,
        state=saved.state,
    )


def _without_data(
    directory: RunDirectory,
    config: Config,
    gone: FileNotFoundError,
    checkpoint: Checkpoint,
) -> Run:
    """Return the run's network without examples; raise `gone` if that is impossible."""
    facts = read_environment(directory).get("data")
    known = facts if isinstance(facts, dict) else {}
    problem = Problem.without_data(config, known, gone)
    model = {"system": problem.system, "cost": problem.cost}

    def saved(path, leaf):
        # ['system'].weights[0] here is .system.weights[0] in the checkpoint.
        name = f".{path[0].key}{jax.tree_util.keystr(path[1:])}"
        found = checkpoint.arrays.get(name)
        if found is None or found.shape != leaf.shape:
            raise gone
        return jnp.asarray(found, leaf.dtype)

    held, static = eqx.partition(model, eqx.is_array)
    model = eqx.combine(jax.tree_util.tree_map_with_path(saved, held), static)
    return Run(
        path=directory.path,
        config=config,
        system=model["system"],
        cost=model["cost"],
        history=[EpochRecord.from_json(line) for line in directory.history()],
        problem=problem,
        state=None,
    )
