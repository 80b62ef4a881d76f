"""`train`: a configuration in, a run directory that stands alone out."""

import contextlib
import dataclasses
import datetime
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


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
from ._checkpoints import best_epoch
from ._directory import plain, RunDirectory
from ._environment import environment, session
from ._precision import FILE as PRECISION_FILE, measure_precision
from ._problem import Problem, split_path
from ._run import Run
from ._saved import identity, restore, Saved, to_arrays

SAVE_SECONDS = 5.0


class TrainingInterrupted(Exception):
    """The user asked to stop; everything is saved and the message says how to go on."""


def train(
    config: Config | str,
    *,
    run: str | Path | None = None,
    name: str | None = None,
    observer: Observer | None = None,
    writers: Sequence[str] = (),
    **overrides: Any,
) -> Run:
    """Train a recipe (by name) or a configuration into a run directory.

    **Arguments:**

    - `run`: the directory; `runs/NAME-TIME` where `None`.
    - `name`: of that directory; the recipe's where `None`.
    - `observer`: watches chunks and epochs, e.g. to draw a progress bar.
    - `writers`: tensorboard, wandb, trackio: they get every epoch's record too.
    - `overrides`: fields of the configuration, e.g. `epochs=5, seed=3`.

    **Returns:** the trained `Run`.

    **Raises:** `TrainingDiverged`, `TrainingInterrupted` (both after saving),
    `ValueError` and `OSError` for a request that cannot be met.
    """
    check_writers(writers)
    name = name or (config if isinstance(config, str) else "run")
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
        if isinstance(config.model, UserModel):
            file, function = split_path(config.model.path)
            problem.check_start(f"{function}() in {file}")
    rounding = None
    if config.precision != "float32":
        rounding = measure_precision(config, problem)
    directory = RunDirectory(default_path(name) if run is None else Path(run))
    record = environment() | {"data": problem.facts()}
    with directory.locked(make=True):
        directory.create(_with_whole_paths(config), record, problem)
        if rounding is not None:
            directory.write_json(PRECISION_FILE, rounding)
        written = Writers(directory.path, config_to_json(config), writers, observer)
        with _naming(directory), session(directory), written:
            return _run(config, problem, trainer, state, directory, [], 0.0, written)


def resume(
    run: str | Path,
    *,
    observer: Observer | None = None,
    epochs: int | None = None,
    system: str | None = None,
    writers: Sequence[str] = (),
) -> Run:
    """Go on with a run from its newest checkpoint, as if it had never stopped.

    The end is that of the uninterrupted run, bit for bit, on the same devices.  A run
    without a checkpoint, stopped too early for one, starts at the beginning; a
    damaged checkpoint is set aside with a warning, and the one before it used.

    **Arguments:**

    - `epochs`: raises (or lowers) the number of epochs of the run.  With a cosine
      schedule it may not: the rates already used would have been others.
    - `system`: `FILE.py:NAME`, for a run of the user's own model: its file is executed
      only if it is named here and is the one that the run was trained with.
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
    with directory.locked(), _naming(directory):
        directory.warn_of_other_devices(environment())
        problem = directory.problem(config, system)
        with _Interrupt():
            trainer, state = _start(config, problem)
        saved = Saved(state, [], 0.0)
        if directory.checkpoints.numbers():
            newest = directory.checkpoints.newest()
            saved = restore(newest, config, state, directory.path)
            directory.checkpoints.set_aside(newest.number)
        if config.epochs < int(saved.state.epoch):
            raise ValueError(
                f"epochs={config.epochs}: this run has done {int(saved.state.epoch)} "
                "already; give at least as many"
            )
        directory.write_json("config.json", config_to_json(config))
        directory.rewrite(saved.history)
        written = Writers(directory.path, config_to_json(config), writers, observer)
        with session(directory, resumed=True), written:
            return _run(
                *(config, problem, trainer, saved.state, directory),
                *(saved.history, saved.seconds, written),
            )


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
        on_unsettled=config.on_unsettled,
        dt=config.dt,
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
        inner = observer or Observer()
        recorder = _Recorder(config, problem, directory, history, interrupt, inner)
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
    with directory.keeping(directory.path / "curves.png"):
        draw(directory.path, history, state.system, state.cost, problem.image_shape)
    return Run(
        directory.path, config, state.system, state.cost, history, problem, state
    )


@contextlib.contextmanager
def _naming(directory: RunDirectory) -> Iterator[None]:
    """A Ctrl-C that stops at once still says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped at once; what was saved is in {directory.path}. Go on with: "
            f"eqprop train --resume {directory.path}"
        ) from None


class _Interrupt:
    """Turns the first Ctrl-C, or SIGTERM, into a flag; a second one stops at once.

    A flag that nobody has answered stops the program at the end of the block.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> "_Interrupt":
        self.requested = self.answered = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = [signal.signal(s, self._note) for s in self.SIGNALS]
        return self

    def __exit__(self, kind, *_) -> None:
        if self._main:
            for number, previous in zip(self.SIGNALS, self._previous, strict=True):
                signal.signal(number, previous)
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
        config: Config,
        problem: Problem,
        directory: RunDirectory,
        history: list[dict[str, Any]],
        interrupt: _Interrupt,
        inner: Observer,
    ) -> None:
        self.config, self.problem, self.directory = config, problem, directory
        self.history, self.interrupt, self.inner = history, interrupt, inner
        self.saved = -SAVE_SECONDS
        self.unsaved_best: tuple[int, dict, dict] | None = None

    def on_start(self, trainer, state, epochs):
        self.trainer, self.steps, self.epochs = trainer, trainer.steps, epochs
        self.identity = identity(self.config, state)
        self.inner.on_start(trainer, state, epochs)

    def on_chunk(self, state, record):
        self.inner.on_chunk(state, record)
        if self.interrupt.requested and record["step"] < self.steps:
            self._save(state, record["seconds"])
            self._stop(f"epoch {record['epoch']}, step {record['step']}")

    def on_epoch(self, state, record):
        ended = record["epoch"] == self.epochs
        stopping = self.interrupt.requested and not ended
        if ended or stopping or time.monotonic() - self.saved > SAVE_SECONDS:
            self._save(state, 0.0)
        elif best_epoch(self.history) == record["epoch"]:
            # Saved only if it is still the best when the next checkpoint is due.
            self.unsaved_best = self._checkpoint(state, 0.0)
        # After the checkpoint: what stands in the metrics need not be done again.
        self.directory.append(record)
        self.inner.on_epoch(state, record)
        if stopping:
            self._stop(f"epoch {record['epoch']}")

    def on_failure(self, state):
        # The state before the failed step is finite, but on its way out: what an
        # epoch ended with is better, and before the first what training began with.
        if not self.directory.checkpoints.numbers():
            fresh = self.trainer.init(self.problem.system, self.problem.cost)
            self._save(fresh, 0.0)
        self.inner.on_failure(state)

    def _checkpoint(self, state: TrainState, seconds: float) -> tuple[int, dict, dict]:
        """The number, the arrays and the record of a checkpoint of this state."""
        best = best_epoch(self.history)
        record = {
            **self.identity,
            "history": plain(self.history),
            "seconds": seconds,
            "best": None if best is None else best * self.steps,
        }
        number = int(state.epoch) * self.steps + int(state.step)
        return number, to_arrays(state), record

    def _save(self, state: TrainState, seconds: float) -> None:
        checkpoint = self._checkpoint(state, seconds)
        best = checkpoint[-1]["best"]
        there = self.directory.checkpoints.numbers()
        for number, arrays, record in filter(None, (self.unsaved_best, checkpoint)):
            if number in (checkpoint[0], best) and number not in there:
                self.directory.checkpoints.save(number, arrays, record, best)
        self.unsaved_best = None
        self.saved = time.monotonic()

    def _stop(self, where: str) -> None:
        raise TrainingInterrupted(
            f"stopped after {where}; everything is saved in {self.directory.path}. "
            f"Go on with: eqprop train --resume {self.directory.path}"
        )


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


def default_path(name: str) -> Path:
    """Make a directory that no other run has: `runs/NAME-TIME`."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{name}-{stamp}", 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = Path("runs") / f"{name}-{stamp}-{number}"
        except OSError as error:
            raise type(error)(
                error.errno,
                f"cannot make the run directory {path}: {error.strerror}; choose "
                "another with --run DIR",
            ) from error
