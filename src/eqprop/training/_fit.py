"""Epoch after epoch: train, evaluate, tell an observer.  One loop for every caller."""

import dataclasses
import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .._precision import check_precision, Precision
from ..data import InputFormat
from ..estimators import AbstractEstimator, settled_only
from ..estimators._rounding import warn_rounded
from ..relaxations import Euler, initial_state, relax
from ..systems import AbstractSystem, _check
from ..systems._total_energy import check_total_energy, has_total_energy
from . import _devices, _processes
from ._augmentation import Augment, check_augment
from ._diagnosis import advice, diagnose, diagnose_split, TrainingDiverged
from ._faults import check_faults, OnUnsettled, StepSize
from ._loop import evaluate, Examples, Trainer, TrainState
from ._measures import alignment, mean_rounding, metrics
from ._optimizer import check_counts, make_update, Optimizer, Update

COLD_EXAMPLES = 1000


class Observer:
    """What may watch a training run; every method may be overridden.

    An exception from `on_chunk` or `on_epoch` ends the run.
    """

    def on_data(self, description: str) -> None:
        """Before `on_start`: what a run is trained on, in a line."""

    def on_start(self, trainer: Trainer, state: TrainState, epochs: int) -> None:
        """Before the first step."""

    def on_chunk(self, state: TrainState, record: dict[str, Any]) -> None:
        """After a chunk of steps; `record` holds the epoch's means so far."""

    def on_epoch(self, state: TrainState, record: dict[str, Any]) -> None:
        """After an epoch; `record` is its line of `metrics.jsonl`."""

    def on_failure(self, state: TrainState) -> None:
        """A step failed; `state` is the one before it."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained system and cost, and one record for each epoch."""

    system: AbstractSystem
    cost: Any
    history: list[dict[str, Any]]


def fit(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation | Optimizer | None = None,
    epochs: int = 10,
    batch_size: int = 20,
    seed: int = 0,
    persistent: bool = False,
    shuffle: bool = True,
    precision: Precision = "float32",
    on_unsettled: OnUnsettled = "warn",
    dt: StepSize = "given",
    augment: Augment | None = None,
    validation: Examples | None = None,
    test: Examples | None = None,
    observer: Observer | None = None,
    devices: int | None = None,
) -> Fit:
    """Train any system on arrays in memory.

    **Arguments:**

    - `x`, `y`: training inputs and targets with a leading axis of examples, taken as
      they are; uint8 inputs are refused, as nobody has scaled them.
    - `optimizer`: an optax transformation or an `ep.Optimizer`; Adam at 1e-3 where
      `None`.
    - `persistent`: start each free phase from the example's last free equilibrium
      (paper A, persistent particles).
    - `precision`: of the operands of matrix products: float32, tf32 or bf16.
    - `on_unsettled`: `"error"` stops at the first example whose free phase does not
      settle, `"mask"` leaves such examples out of the gradient and counts them.
    - `dt`: `"auto"` sets the step size of all Euler phases to 1/λ of the largest
      eigenvalue of the network's Jacobian, anew at the start of each epoch.
    - `augment`: a function `(x, key) -> x` of one training example, applied anew
      whenever it is visited, e.g. `ep.ImageAugmentation((28, 28), shift=2)`.
    - `validation`, `test`: pairs `(x, y)` that are evaluated after each epoch.
    - `devices`: how many of this process's devices share each batch; one, or all
      where several processes train together (docs/cluster.md).

    **Returns:** a `Fit`: `system`, `cost`, and `history` with `epoch`, `loss`,
    `train_error`, `val_error`, `test_error`, `seconds`, `steps`, `settled`, ….
    `settled`, `oscillating` and `residual` are measured at the equilibria of one batch
    in 16; of all where the free phase has a tolerance or `on_unsettled` is not "warn".

    **Raises:** `TrainingDiverged` if a step is not finite, `ValueError` for bad input.
    """
    check_counts(epochs=epochs, batch_size=batch_size, seed=seed)
    check_precision(precision)
    trainer = make_trainer(
        system,
        cost,
        {"train": (x, y), "validation": validation, "test": test},
        estimator=estimator,
        optimizer=Optimizer("adam", (1e-3,)) if optimizer is None else optimizer,
        epochs=epochs,
        batch_size=batch_size,
        key=jax.random.key(seed),
        seed=seed,
        persistent=persistent,
        shuffle=shuffle,
        devices=devices,
        precision=precision,
        on_unsettled=on_unsettled,
        dt=dt,
        augment=augment,
    )
    _check.check_finite(x=x, y=y, validation=validation, test=test)
    held_out = {"validation": validation, "test": test}
    others = {f"{name} x": pair[0] for name, pair in held_out.items() if pair}
    check_program_inputs("x", x, others)
    history: list[dict[str, Any]] = []
    start = trainer.init(system, cost)
    with _processes.together():
        state = run_epochs(trainer, start, epochs, history, observer or Observer())
        state = trainer.collected(state)
    return Fit(state.system, state.cost, history)


def make_trainer(
    system: AbstractSystem,
    cost: Any,
    splits: dict[str, Examples | None],
    *,
    optimizer: optax.GradientTransformation | Optimizer,
    epochs: int,
    batch_size: int,
    devices: int | None = None,
    on_unsettled: OnUnsettled = "warn",
    dt: StepSize = "given",
    augment: Augment | None = None,
    **settings: Any,
) -> Trainer:
    """Put the data on the devices, build the optimizer and check the first batch."""
    mesh = _devices.make_mesh(devices)
    present = {name: split for name, split in splits.items() if split is not None}
    present = _checked_splits(present)
    params = eqx.filter({"system": system, "cost": cost}, eqx.is_inexact_array)
    _check.check_finite(**params)
    present = jax.tree.map(jnp.asarray, present)
    x, y = present["train"]
    examples = len(jax.tree.leaves(x)[0])
    batch_size = min(batch_size, examples)
    if not isinstance(settings["estimator"], AbstractEstimator):
        raise ValueError(
            f"estimator is {settings['estimator']!r}; give an instance of a learning "
            "rule, e.g. ep.EquilibriumPropagation(...)"
        )
    if isinstance(optimizer, Optimizer):
        steps = epochs * -(-examples // batch_size)
        optimizer = optimizer.build((system, cost), steps)
    _check_optimizer(optimizer, (system, cost))
    trained = eqx.filter((system, cost), eqx.is_inexact_array)
    settings["estimator"].check_optimizer(optimizer, trained)
    check_faults(on_unsettled, dt, settings["estimator"])
    settings["estimator"].check_devices(_devices.padded(1, mesh), batch_size)
    if on_unsettled == "mask":
        settings["estimator"] = settled_only(settings["estimator"])
    if augment is not None:
        check_augment(augment, x, settings["persistent"])
    trainer = Trainer(
        update=Update(optimizer, ()),
        splits=present,
        batch_size=batch_size,
        on_unsettled=on_unsettled,
        auto_dt=dt == "auto",
        augment=augment,
        **settings,
    )
    # A model that does not fit its data is an error before anything runs.
    first = jax.tree.map(lambda leaf: leaf[:batch_size], (x, y))
    trainer.trace(system, cost, *first)
    # Here, as training is compiled as a whole; away from the start, where much is 0.
    if has_total_energy(system):
        away = relax(system, first[0], Euler(dt=0.1, steps=5)).state
        check_total_energy(system, cost, first[0], first[1], away)
    state = eqx.filter_eval_shape(initial_state, system, first[0], None)
    shapes = _check.example((*first, state))
    update = make_update(optimizer, (system, cost), *shapes)
    trainer = _devices.everywhere(trainer, mesh)
    return dataclasses.replace(trainer, mesh=mesh, update=update)


def _checked_splits(splits: dict[str, Examples]) -> dict[str, Examples]:
    """Every split as a pair (x, y) of arrays, its examples like those of training."""
    checked: dict[str, Examples] = {}
    for name, split in splits.items():
        if not isinstance(split, tuple) or len(split) != 2:
            raise ValueError(f"{name} must be a pair (x, y) of batched arrays")
        place = "" if name == "train" else f"{name} "
        x, y = _check.batch(**{f"{place}x": split[0], f"{place}y": split[1]})
        checked[name] = (x, y)
        found, expected = (
            _check.shapes(_check.example(pair)) for pair in ((x, y), checked["train"])
        )
        if found != expected:
            raise ValueError(
                f"one example (x, y) of {name} has the shapes {found}; those of "
                f"training have {expected}"
            )
    return checked


def check_program_inputs(
    what: str, x: PyTree[Array], others: dict[str, PyTree[Array]] | None = None
) -> None:
    """Refuse uint8, which nobody has scaled, and others of another scale than x.

    Arrays given in Python reach the network as they are.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        place = what + jax.tree_util.keystr(path)
        format = InputFormat.of_program(leaf)
        if format is None:
            continue
        format.check_scaled(place)
        for name, other in (others or {}).items():
            given = dict(jax.tree_util.tree_leaves_with_path(other))[path]
            format.check_values(np.asarray(given), name)


def _check_optimizer(optimizer: optax.GradientTransformation, model: PyTree) -> None:
    """An optimizer that needs more than gradients is refused before anything runs."""
    params = eqx.filter(model, eqx.is_inexact_array)
    try:
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"the optimizer does not work with gradients alone ({error}); give an "
            "ep.Optimizer or a transformation of optax, e.g. optax.adam(1e-3)"
        ) from error


def run_epochs(
    trainer: Trainer,
    state: TrainState,
    epochs: int,
    history: list[dict[str, Any]],
    observer: Observer,
    seconds: float = 0.0,
) -> TrainState:
    """Train from `state` until `epochs` are done, adding a record each to `history`.

    `seconds` is what the epoch in progress has taken before this call (on resuming).
    """
    elapsed = sum(record["seconds"] for record in history)
    observer.on_start(trainer, state, epochs)
    while int(state.epoch) < epochs:
        began = time.perf_counter() - seconds
        for moved in trainer.epoch(state):
            state, seconds = moved, time.perf_counter() - began
            if state.failed:
                observer.on_failure(state)
                raise diagnose(trainer, state)
            if int(state.epoch) == 0:
                _warn_rounded(trainer, state)
            observer.on_chunk(state, _progress(trainer, state, seconds))
        elapsed += seconds
        try:
            state, record = _record(trainer, state, int(state.epoch) + 1 == epochs)
        except TrainingDiverged:
            observer.on_failure(state)
            raise
        record |= {
            "seconds": seconds,
            "training_seconds": elapsed,
            "examples_per_second": trainer.examples / seconds,
        }
        history.append(record)
        state, seconds = trainer.next_epoch(state), 0.0
        observer.on_epoch(state, record)
    return state


def _warn_rounded(trainer: Trainer, state: TrainState) -> None:
    """Warn once, in the first epoch, if most of the gradient is rounding.

    Later, where examples are learnt, there is little to contrast, and rounding in it
    does no harm.
    """
    system, x = state.system, jax.tree.map(lambda u: u[:1], trainer.splits["train"][0])
    start = jax.eval_shape(lambda x: jax.vmap(system.init_state)(x), x)
    dtype = jnp.result_type(*jax.tree.leaves(start))
    warn_rounded(trainer.estimator, mean_rounding(state.sums), dtype)


def _progress(trainer: Trainer, state: TrainState, seconds: float) -> dict[str, Any]:
    return {
        "epoch": int(state.epoch) + 1,
        "step": int(state.step),
        "steps_in_epoch": trainer.steps,
        "seconds": seconds,
        **metrics(state.sums),
    }


def _record(
    trainer: Trainer, state: TrainState, last: bool
) -> tuple[TrainState, dict[str, Any]]:
    """What is measured at the end of an epoch.

    Where states persist, `…_error` is that of the persistent states, as in paper A,
    and `…_error_cold` of the last epoch that of a network which starts anew.
    """
    record: dict[str, Any] = {"epoch": int(state.epoch) + 1, **metrics(state.sums)}
    if record["masked"] == trainer.examples:
        what, help = "no example settled", "Use a smaller estimator.beta."
        if trainer.on_unsettled == "mask":
            help = advice(trainer, state)
        else:
            what = "the nudged phases of no example settled"
        raise TrainingDiverged(
            f"{what} in epoch {record['epoch']}, so that all were left out of the "
            f"gradient and nothing was learnt. {help}"
        )
    if state.dt is not None:
        record["dt"] = float(state.dt)
    record |= alignment(state.system)
    for split, name in (("validation", "val"), ("test", "test")):
        error = loss = None
        if split in trainer.splits:
            before = state
            state, found = trainer.evaluate(state, split)
            error, loss = found["error"], found["loss"]
            if not math.isfinite(loss):
                raise diagnose_split(trainer, before, split)
            if trainer.persistent and last:
                cold = _cold(trainer, state, split, None)
                record[f"{name}_error_cold"] = cold["error"]
        record[f"{name}_error"], record[f"{name}_loss"] = error, loss
    if trainer.persistent:
        few = _cold(trainer, state, "train", COLD_EXAMPLES)
        record["residual_cold"] = few["residual"]
    return state, record


def _cold(
    trainer: Trainer, state: TrainState, split: str, count: int | None
) -> dict[str, Any]:
    x, y = jax.tree.map(lambda leaf: leaf[:count], trainer.splits[split])
    problem = (state.system, state.cost, trainer.rule(state).free, x, y)
    return evaluate(*problem, precision=trainer.precision, mesh=trainer.mesh)[0]
