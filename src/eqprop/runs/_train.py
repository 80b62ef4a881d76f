"""Train a configuration into a run directory, and resume a run from its checkpoint."""

import contextlib
import dataclasses
import datetime
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import recipes
from ..report import draw
from ..training import (
    augmentation,
    check_writers,
    Config,
    config_to_json,
    make_trainer,
    Observer,
    run_epochs,
    RunWarning,
    split_path,
    Trainer,
    TrainingDiverged,
    TrainState,
    UserModel,
    Writers,
)
from ..training._processes import (
    entered_by_first,
    exchange,
    is_first,
    on_first,
    together,
)
from ._directory import RunDirectory
from ._environment import environment, session
from ._precision import FILE as PRECISION_FILE, measure_precision
from ._problem import Problem
from ._recorder import (
    Interrupt,
    Recorder,
    TrainingInterrupted as TrainingInterrupted,
)
from ._run import Run
from ._saved import restore, Saved


def train(
    config: Config | str,
    *,
    run: str | Path | None = None,
    name: str | None = None,
    observer: Observer | None = None,
    writers: Sequence[str] = (),
    devices: int | None = None,
    **overrides: Any,
) -> Run:
    """Train a recipe (by name) or a configuration into a run directory.

    **Arguments:**

    - `run`: the run directory (default: `runs/NAME-TIME`).
    - `name`: NAME in that default (default: the recipe's name).
    - `observer`: watches chunks and epochs, e.g. to draw a progress bar.
    - `writers`: tensorboard, wandb, trackio; each gets every epoch's record.
    - `devices`: number of this process's devices that share each batch (default: 1, or
      all if several processes train together, see docs/cluster.md).
    - `overrides`: fields of the configuration, e.g. `epochs=5, seed=3`.

    **Returns:** the trained `Run`.

    **Raises:** `TrainingDiverged` and `TrainingInterrupted`, both after saving;
    `ValueError` and `OSError` for a request that cannot be met.
    """
    check_writers(writers)
    name = name or (config if isinstance(config, str) else "run")
    config = _configured(config, overrides)
    with together():
        problem = Problem.build(config)
        if problem.dataset is not None and is_first():
            for doubt in problem.dataset.doubts:
                warnings.warn(doubt, RunWarning, stacklevel=2)
        with Interrupt():
            trainer, state = _start(config, problem, devices)
            if isinstance(config.model, UserModel):
                file, function = split_path(config.model.path)
                problem.check_start(f"{function}() in {file}")
        rounding = None
        if config.precision != "float32" and is_first():
            rounding = measure_precision(config, problem)
        place = on_first(lambda: str(default_path(name) if run is None else run))
        directory = RunDirectory(Path(place))
        record = environment() | {"data": problem.facts()}
        with entered_by_first(directory.locked(make=True)):
            on_first(directory.create, _with_whole_paths(config), record, problem)
            if rounding is not None:
                directory.write_json(PRECISION_FILE, rounding)
            written = _writers(directory, config, writers, observer)
            noted = entered_by_first(session(directory))
            with _naming(directory), noted, written:
                begun = Saved(state, [], 0.0)
                return _run(config, problem, trainer, begun, directory, written)


def resume(
    run: str | Path,
    *,
    observer: Observer | None = None,
    epochs: int | None = None,
    system: str | None = None,
    writers: Sequence[str] = (),
    devices: int | None = None,
) -> Run:
    """Resume a run from its newest checkpoint, as if it had never stopped.

    On the same devices, the result equals that of the uninterrupted run bit for bit.
    A run without a checkpoint starts from the beginning.  A damaged checkpoint is moved
    away with a warning, and the one before it is used.

    **Arguments:**

    - `epochs`: a new number of epochs.  A run with a cosine schedule cannot change
      it, since the learning rates used so far depend on it.
    - `system`: `FILE.py:NAME` of the run's own model.  The file is executed only if
      you name it here and it is the file that the run was trained with.
    - `observer`, `writers`: as for `train`.
    - `devices`: as for `train`; another number changes only the last digits.
    """
    check_writers(writers)
    directory = RunDirectory(Path(run))
    with together():
        config = _config_of(directory, epochs)
        with entered_by_first(directory.locked()), _naming(directory):
            if is_first():
                directory.warn_of_other_devices(environment())
            problem = directory.problem(config, system)
            with Interrupt():
                trainer, state = _start(config, problem, devices)
            saved = _newest(directory, config, trainer, state)
            on_first(directory.write_json, "config.json", config_to_json(config))
            on_first(directory.rewrite, saved.history)
            written = _writers(directory, config, writers, observer)
            with entered_by_first(session(directory, resumed=True)), written:
                return _run(config, problem, trainer, saved, directory, written)


def _configured(config: Config | str, overrides: dict[str, Any]) -> Config:
    """Return the recipe of this name, or the configuration, with other values."""
    if isinstance(config, str):
        config = recipes.recipe(config).config
    if not isinstance(config, Config):
        raise ValueError(f"config is {config!r}; give a recipe's name or an ep.Config")
    try:
        return dataclasses.replace(config, **overrides)
    except TypeError:
        fields = {field.name for field in dataclasses.fields(Config)}
        unknown = ", ".join(sorted(set(overrides) - fields))
        raise ValueError(
            f"a configuration has no {unknown}; it has {', '.join(sorted(fields))}"
        ) from None


def _config_of(directory: RunDirectory, epochs: int | None) -> Config:
    """Return the run's configuration with the number of epochs asked for."""
    config = directory.config()
    if epochs is not None and epochs != config.epochs:
        if config.optimizer.schedule != "constant":
            raise ValueError(
                f"epochs={epochs}: this run was planned for {config.epochs} epochs by "
                f"its {config.optimizer.schedule} schedule; train anew instead"
            )
        config = dataclasses.replace(config, epochs=epochs)
    return config


def _newest(
    directory: RunDirectory, config: Config, trainer: Trainer, state: TrainState
) -> Saved:
    """What the newest whole checkpoint holds, or the start where there is none."""
    if not directory.checkpoints.numbers():
        return Saved(state, [], 0.0)
    newest = directory.checkpoints.newest()
    if len(set(exchange(newest.number))) > 1:
        raise ValueError(
            f"the processes read different checkpoints in {directory.path}; the run "
            "directory must be on a disk that all of them share"
        )
    saved = restore(newest, config, trainer.collected(state), directory)
    on_first(directory.checkpoints.set_aside, newest.number)
    if config.epochs < int(saved.state.epoch):
        raise ValueError(
            f"epochs={config.epochs}: this run has done {int(saved.state.epoch)} "
            "already; give at least as many"
        )
    return dataclasses.replace(saved, state=trainer.placed(saved.state))


def _writers(
    directory: RunDirectory,
    config: Config,
    names: Sequence[str],
    observer: Observer | None,
) -> Writers:
    names = names if is_first() else ()
    return Writers(directory.path, config_to_json(config), names, observer)


def _start(
    config: Config, problem: Problem, devices: int | None = None
) -> tuple[Trainer, TrainState]:
    _check_same({**config_to_json(config), "devices": devices})
    trainer = make_trainer(
        (problem.system, problem.cost),
        {
            "train": problem.train,
            "validation": problem.validation,
            "test": problem.test,
        },
        config.settings,
        estimator=config.estimator,
        optimizer=config.optimizer,
        key=config.keys()[1],
        augment=augmentation(config.shift, config.flip, problem.image_shape),
        devices=devices,
    )
    return trainer, trainer.init(problem.system, problem.cost)


def _check_same(request: dict[str, Any]) -> None:
    """Refuse processes that train together but were started with other options."""
    first, *others = exchange(request)
    for number, other in enumerate(others, 1):
        if other != first:
            differing = ", ".join(name for name in first if first[name] != other[name])
            raise ValueError(
                f"process {number} was started with another {differing} than process "
                "0; give all processes of a run the same options"
            )


def _run(
    config: Config,
    problem: Problem,
    trainer: Trainer,
    begun: Saved,
    directory: RunDirectory,
    inner: Observer,
) -> Run:
    """Train from the state `begun` to the last epoch; draw the curves."""
    history = begun.history
    with Interrupt() as interrupt:
        if problem.dataset is not None:
            inner.on_data(str(problem.dataset))
        recorder = Recorder(config, problem, directory, history, interrupt, inner)
        try:
            state = run_epochs(trainer, begun.state, history, recorder, begun.seconds)
            interrupt.answered = True  # it came too late: the run is done
        except (TrainingDiverged, TrainingInterrupted) as stop:
            # The loop holds the newest parameters, so draw curves but no weights.
            curves = (directory.path, history, problem.system, problem.cost, None)
            on_first(draw, *curves)
            if isinstance(stop, TrainingInterrupted):
                raise
            kept = f"The last good checkpoint is kept in {directory.path}."
            raise TrainingDiverged(f"{stop} {kept}") from None
    state = trainer.collected(state)
    shown = (directory.path, history, state.system, state.cost, problem.image_shape)
    with directory.keeping(directory.path / "curves.png"):
        on_first(draw, *shown)
    return Run(
        path=directory.path,
        config=config,
        system=state.system,
        cost=state.cost,
        history=history,
        problem=problem,
        state=state,
    )


@contextlib.contextmanager
def _naming(directory: RunDirectory) -> Iterator[None]:
    """Say of a Ctrl-C that stops at once what is saved and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped at once; the last checkpoint is in {directory.path}. Resume "
            f"with: eqprop train --resume {directory.path}"
        ) from None


def _with_whole_paths(config: Config) -> Config:
    """Make the paths of a configuration absolute, so that it works in any folder."""
    if config.data is not None and config.data.endswith(".npz"):
        path = str(Path(config.data).expanduser().resolve())
        config = dataclasses.replace(config, data=path)
    if isinstance(config.model, UserModel):
        file, name = split_path(config.model.path)
        model = UserModel(f"{file.resolve()}:{name}")
        config = dataclasses.replace(config, model=model)
    return config


def default_path(name: str) -> Path:
    """Make a new directory `runs/NAME-TIME`; return its path."""
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
