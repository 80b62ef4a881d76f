"""`train`: a configuration in, a run directory that stands alone out."""

import dataclasses
import datetime
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import recipes
from ..report import draw
from ..training import (
    check_writers,
    Config,
    config_to_json,
    Observer,
    make_trainer,
    run_epochs,
    Trainer,
    TrainingDiverged,
    TrainState,
    UserModel,
    Writers,
)
from ._directory import RunDirectory
from ._environment import environment, session
from ._precision import FILE as PRECISION_FILE, measure_precision
from ._problem import Problem, split_path
from ._run import Run

SAVE_SECONDS = 5.0


class TrainingInterrupted(Exception):
    """The user asked to stop; everything is saved and the message says how to go on."""


def train(
    config: Config | str,
    *,
    run: str | Path | None = None,
    observer: Observer | None = None,
    writers: Sequence[str] = (),
    **overrides: Any,
) -> Run:
    """Train a recipe (by name) or a configuration into a run directory.

    **Arguments:**

    - `run`: the directory; `runs/RECIPE-TIME` where `None`.
    - `observer`: watches chunks and epochs, e.g. to draw a progress bar.
    - `writers`: tensorboard, wandb, trackio: they get every epoch's record too.
    - `overrides`: fields of the configuration, e.g. `epochs=5, seed=3`.

    **Returns:** the trained `Run`.

    **Raises:** `TrainingDiverged`, `TrainingInterrupted` (both after saving),
    `ValueError` and `OSError` for a request that cannot be met.
    """
    check_writers(writers)
    name = config if isinstance(config, str) else "run"
    if isinstance(config, str):
        config = recipes.recipe(config).config
    if not isinstance(config, Config):
        raise ValueError(f"config is {config!r}; give a recipe's name or an ep.Config")
    try:
        config = dataclasses.replace(config, **overrides)
    except TypeError:
        fields = {field.name for field in dataclasses.fields(Config)}
        unknown = ", ".join(sorted(set(overrides) - fields))
        raise ValueError(
            f"a configuration has no {unknown}; it has {', '.join(sorted(fields))}"
        ) from None
    problem = Problem.build(config)
    with _Interrupt():
        trainer, state = _start(config, problem)
    rounding = None
    if config.precision != "float32":
        rounding = measure_precision(config, problem)
    directory = RunDirectory(default_path(name) if run is None else Path(run))
    record = environment() | {"data": problem.facts()}
    directory.create(_with_whole_paths(config), record)
    if isinstance(config.model, UserModel):
        directory.keep_model(split_path(config.model.path)[0])
    if rounding is not None:
        directory.write_json(PRECISION_FILE, rounding)
    written = Writers(directory.path, config_to_json(config), writers, observer)
    with session(directory), written:
        return _run(config, problem, trainer, state, directory, [], 0.0, written)


def resume(
    run: str | Path,
    *,
    observer: Observer | None = None,
    epochs: int | None = None,
    writers: Sequence[str] = (),
) -> Run:
    """Go on with a run from its newest checkpoint, as if it had never stopped.

    A run without a checkpoint, stopped too early for one, starts at the beginning.
    `epochs` may raise (or lower) the number of epochs of the run.  With a cosine
    schedule it may not: the rates already used would have been others.
    """
    check_writers(writers)
    directory = RunDirectory(Path(run))
    config = directory.config()
    if epochs is not None and epochs != config.epochs:
        if config.optimizer.schedule != "constant":
            raise ValueError(
                f"epochs={epochs}: this run was planned for {config.epochs} epochs by "
                f"its {config.optimizer.schedule} schedule; train anew instead"
            )
        config = dataclasses.replace(config, epochs=epochs)
    problem = Problem.build(config, _model_copy(directory))
    with _Interrupt():
        trainer, state = _start(config, problem)
    seconds = 0.0
    if directory.checkpoints():
        state, seconds = restore(directory, state)
    if config.epochs < int(state.epoch):
        raise ValueError(
            f"epochs={config.epochs}: this run has done {int(state.epoch)} already; "
            "give at least as many"
        )
    directory.write_json("config.json", config_to_json(config))
    history = directory.history(int(state.epoch))
    directory.rewrite(history)
    written = Writers(directory.path, config_to_json(config), writers, observer)
    work = (config, problem, trainer, state, directory, history, seconds, written)
    with session(directory, resumed=True), written:
        return _run(*work)


def restore(directory: RunDirectory, like: TrainState) -> tuple[TrainState, float]:
    """The newest saved state, and the seconds its epoch had taken."""
    arrays = _to_arrays(like, 0.0)
    found = directory.restore(arrays)
    seconds = float(found.pop("seconds"))
    leaves, tree = jax.tree.flatten(like)
    paths = [name for name in arrays if name != "seconds"]
    restored = iter(found[name] for name in paths)
    leaves = [
        jnp.array(next(restored), copy=True) if eqx.is_array(leaf) else leaf
        for leaf in leaves
    ]
    return jax.tree.unflatten(tree, leaves), seconds


def _start(config: Config, problem: Problem) -> tuple[Trainer, TrainState]:
    trainer = make_trainer(
        problem.system,
        problem.cost,
        {
            "train": problem.train,
            "validation": problem.validation,
            "test": problem.test,
        },
        estimator=config.estimator,
        optimizer=config.optimizer,
        epochs=config.epochs,
        batch_size=config.batch_size,
        key=config.keys()[1],
        seed=config.seed,
        persistent=config.persistent,
        shuffle=config.shuffle,
        precision=config.precision,
    )
    return trainer, trainer.init(problem.system, problem.cost)


def _run(
    config: Config,
    problem: Problem,
    trainer: Trainer,
    state: TrainState,
    directory: RunDirectory,
    history: list[dict[str, Any]],
    seconds: float,
    observer: Observer | None,
) -> Run:
    with _Interrupt() as interrupt:
        recorder = _Recorder(directory, interrupt, observer or Observer(), problem)
        try:
            state = run_epochs(
                trainer, state, config.epochs, history, recorder, seconds
            )
            interrupt.answered = True  # it came too late: the run is done
        except (TrainingDiverged, TrainingInterrupted) as stop:
            # The newest parameters were donated to the loop: curves, but no weights.
            draw(directory.path, history, problem.system, problem.cost, None)
            if isinstance(stop, TrainingInterrupted):
                raise
            kept = f"The last good checkpoint is kept in {directory.path}."
            raise TrainingDiverged(f"{stop} {kept}") from None
    draw(directory.path, history, state.system, state.cost, problem.image_shape)
    return Run(
        directory.path, config, state.system, state.cost, history, problem, state
    )


class _Interrupt:
    """Turns the first Ctrl-C into a flag; a second one stops at once.

    A flag that nobody has answered stops the program at the end of the block.
    """

    def __enter__(self) -> "_Interrupt":
        self.requested = self.answered = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind, *_) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._previous)
        if kind is None and self.requested and not self.answered:
            raise KeyboardInterrupt

    def _note(self, *_) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class _Recorder(Observer):
    """Writes metrics and checkpoints, and stops where the user asked to."""

    def __init__(
        self,
        directory: RunDirectory,
        interrupt: _Interrupt,
        inner: Observer,
        problem: Problem,
    ) -> None:
        self.directory, self.interrupt, self.inner = directory, interrupt, inner
        self.problem = problem
        self.saved = -SAVE_SECONDS

    def on_start(self, trainer, state, epochs):
        self.trainer, self.steps, self.epochs = trainer, trainer.steps, epochs
        self.inner.on_start(trainer, state, epochs)

    def on_chunk(self, state, record):
        self.inner.on_chunk(state, record)
        if self.interrupt.requested and record["step"] < self.steps:
            self._save(state, record["seconds"])
            self._stop(f"epoch {record['epoch']}, step {record['step']}")

    def on_epoch(self, state, record):
        self.directory.append(record)
        ended = record["epoch"] == self.epochs
        stopping = self.interrupt.requested and not ended
        if ended or stopping or time.monotonic() - self.saved > SAVE_SECONDS:
            self._save(state, 0.0)
        self.inner.on_epoch(state, record)
        if stopping:
            self._stop(f"epoch {record['epoch']}")

    def on_failure(self, state):
        # The state before the failed step is finite, but on its way out: what an
        # epoch ended with is better, and before the first what training began with.
        if not self.directory.checkpoints():
            fresh = self.trainer.init(self.problem.system, self.problem.cost)
            self._save(fresh, 0.0)
        self.inner.on_failure(state)

    def _save(self, state: TrainState, seconds: float) -> None:
        number = int(state.epoch) * self.steps + int(state.step)
        self.directory.save(number, _to_arrays(state, seconds))
        self.saved = time.monotonic()

    def _stop(self, where: str) -> None:
        raise TrainingInterrupted(
            f"stopped after {where}; everything is saved in {self.directory.path}. "
            f"Go on with: eqprop train --resume {self.directory.path}"
        )


def _to_arrays(state: TrainState, seconds: float) -> dict[str, np.ndarray]:
    """The arrays of a state by the path that leads to them."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return arrays | {"seconds": np.asarray(seconds)}


def _with_whole_paths(config: Config) -> Config:
    """The same configuration, to be found again from any other folder."""
    if config.data is not None and config.data.endswith(".npz"):
        path = str(Path(config.data).expanduser().resolve())
        config = dataclasses.replace(config, data=path)
    if isinstance(config.model, UserModel):
        file, name = split_path(config.model.path)
        model = UserModel(f"{file.resolve()}:{name}")
        config = dataclasses.replace(config, model=model)
    return config


def _model_copy(directory: RunDirectory) -> Path | None:
    return directory.model_file if directory.model_file.exists() else None


def default_path(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{name}-{stamp}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{stamp}-{number}"
    return path
