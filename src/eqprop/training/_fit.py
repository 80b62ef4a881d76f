"""Training epoch after epoch: `fit`, the trainer it makes, and the loop with observers.

`fit` and `eqprop.train` both call `make_trainer` and `run_epochs`.
"""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._precision import Precision
from ..data import InputFormat
from ..estimators import AbstractEstimator
from ..estimators._rounding import warn_rounded
from ..relaxations import Euler, initial_state, relax
from ..systems import AbstractSystem, _check
from ..systems._total_energy import check_total_energy, has_total_energy
from . import _devices, _processes
from ._augmentation import Augment, check_augment
from ._diagnosis import advice, diagnose, diagnose_split, TrainingDiverged
from ._epoch_record import ChunkRecord, EpochRecord
from ._loop import evaluate, Examples, Model, Trainer, TrainState
from ._measures import alignment, mean_rounding, metrics
from ._optimizer import make_update, Optimizer, Update
from ._settings import OnUnsettled, rule_for, Settings, StepSize

COLD_EXAMPLES = 1000
"""training examples from which `residual_cold` is measured"""


class Observer:
    """Watches a training run; override the methods you need.

    An exception from `on_chunk` or `on_epoch` ends the run.
    """

    def on_data(self, description: str) -> None:
        """Receive one line about the data, before `on_start`."""

    def on_start(self, trainer: Trainer, state: TrainState, epochs: int) -> None:
        """Receive the state before the first step."""

    def on_chunk(self, state: TrainState, record: ChunkRecord) -> None:
        """Receive the state after a chunk of steps, and the means so far."""

    def on_epoch(self, state: TrainState, record: EpochRecord) -> None:
        """Receive the state after an epoch, and its line of `metrics.jsonl`."""

    def on_failure(self, state: TrainState) -> None:
        """Receive the state before a step that failed."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained system and cost, and one record for each epoch."""

    system: AbstractSystem
    cost: Any
    history: list[EpochRecord]


def fit(
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    *,
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation | Optimizer | None = None,
    epochs: int = Settings.epochs,
    batch_size: int = Settings.batch_size,
    seed: int = Settings.seed,
    persistent: bool = Settings.persistent,
    shuffle: bool = Settings.shuffle,
    precision: Precision = Settings.precision,
    on_unsettled: OnUnsettled = Settings.on_unsettled,
    dt: StepSize = Settings.dt,
    augment: Augment | None = None,
    validation: Examples | None = None,
    test: Examples | None = None,
    observer: Observer | None = None,
    devices: int | None = None,
) -> Fit:
    """Train any system on arrays in memory.

    **Arguments:**

    - `x`, `y`: training inputs and targets with a leading axis of examples.  They reach
      the network unchanged; uint8 inputs are refused, because nothing scales them.
    - `estimator`: the learning rule.
    - `optimizer`: an optax transformation or an `ep.Optimizer`; Adam at 1e-3 if `None`.
    - `persistent`: start each free phase from the last free equilibrium of the same
      example (paper A, persistent particles).
    - `precision`: precision of the operands of matrix products: float32, tf32 or bf16.
    - `on_unsettled`: what to do if the free phase of an example does not settle:
      `"warn"` counts it, `"mask"` leaves it out of the gradient and counts it,
      `"error"` stops.
    - `dt`: `"auto"` sets the step size of all Euler phases to 1/λ at the start of each
      epoch, λ the largest eigenvalue of the network's Jacobian.
    - `augment`: a function `(x, key) -> x` of one training example, applied at every
      visit, e.g. `ep.ImageAugmentation((28, 28), shift=2)`.
    - `validation`, `test`: pairs `(x, y)` that are evaluated after each epoch.
    - `devices`: number of this process's devices that share each batch; by default one,
      or all if several processes train together (docs/cluster.md).

    **Returns:** a `Fit` with `system`, `cost` and `history`.  A record of the history
    has `epoch`, `loss`, `train_error`, `val_error`, `test_error`, `seconds`, `steps`,
    `settled`, ….  `settled`, `oscillating` and `residual` are measured in every 16th
    batch; in all batches if the free phase has a tolerance or `on_unsettled` is not
    `"warn"`.

    **Raises:** `TrainingDiverged` if a step is not finite, `ValueError` for bad input.
    """
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        persistent=persistent,
        shuffle=shuffle,
        precision=precision,
        on_unsettled=on_unsettled,
        dt=dt,
    )
    trainer = make_trainer(
        (system, cost),
        {"train": (x, y), "validation": validation, "test": test},
        settings,
        estimator=estimator,
        optimizer=Optimizer("adam", (1e-3,)) if optimizer is None else optimizer,
        augment=augment,
        devices=devices,
    )
    _check.check_finite(x=x, y=y, validation=validation, test=test)
    held_out = {"validation": validation, "test": test}
    others = {f"{name} x": pair[0] for name, pair in held_out.items() if pair}
    check_program_inputs("x", x, others)
    history: list[EpochRecord] = []
    start = trainer.init(system, cost)
    with _processes.together():
        state = run_epochs(trainer, start, history, observer or Observer())
        state = trainer.collected(state)
    return Fit(state.system, state.cost, history)


def make_trainer(
    model: Model,
    splits: dict[str, Examples | None],
    settings: Settings,
    *,
    estimator: AbstractEstimator,
    optimizer: optax.GradientTransformation | Optimizer,
    key: PRNGKeyArray | None = None,
    augment: Augment | None = None,
    devices: int | None = None,
) -> Trainer:
    """Put the data on the devices, build the optimizer and check the first batch.

    `key` is the random key of the steps; that of the seed if `None`.
    """
    mesh = _devices.make_mesh(devices)
    present = {name: split for name, split in splits.items() if split is not None}
    present = _checked_splits(present)
    system, cost = model
    params = eqx.filter({"system": system, "cost": cost}, eqx.is_inexact_array)
    _check.check_finite(**params)
    present = jax.tree.map(jnp.asarray, present)
    x, y = present["train"]
    examples = len(jax.tree.leaves(x)[0])
    batch_size = min(settings.batch_size, examples)
    settings = dataclasses.replace(settings, batch_size=batch_size)
    if not isinstance(estimator, AbstractEstimator):
        raise ValueError(
            f"estimator is {estimator!r}; give an instance of a learning rule, e.g. "
            "ep.EquilibriumPropagation(...)"
        )
    if isinstance(optimizer, Optimizer):
        steps = settings.epochs * -(-examples // batch_size)
        optimizer = optimizer.build(model, steps)
    _check_optimizer(optimizer, model)
    estimator.check_optimizer(optimizer, eqx.filter(model, eqx.is_inexact_array))
    rule = rule_for(settings, estimator)
    estimator.check_devices(_devices.padded(1, mesh), batch_size)
    if augment is not None:
        check_augment(augment, x, settings.persistent)
    trainer = Trainer(
        estimator=rule,
        update=Update(optimizer, ()),
        splits=present,
        key=jax.random.key(settings.seed) if key is None else key,
        settings=settings,
        augment=augment,
    )
    first = jax.tree.map(lambda leaf: leaf[:batch_size], (x, y))
    update = _checked_update(trainer, model, first)
    trainer = _devices.everywhere(trainer, mesh)
    return dataclasses.replace(trainer, mesh=mesh, update=update)


def _checked_update(trainer: Trainer, model: Model, first: Examples) -> Update:
    """Check that the model fits its first batch, before anything runs.

    **Returns:** the update of a step, with the frozen parameters of the model.
    """
    system, cost = model
    trainer.trace(system, cost, *first)
    if has_total_energy(system):
        # Check away from the initial state, where many terms are 0.
        away = relax(system, first[0], Euler(dt=0.1, steps=5)).state
        check_total_energy(system, cost, first[0], first[1], away)
    state = eqx.filter_eval_shape(initial_state, system, first[0], None)
    shapes = _check.example((*first, state))
    return make_update(trainer.update.optimizer, model, *shapes)


def _checked_splits(splits: dict[str, Examples]) -> dict[str, Examples]:
    """Return the splits as pairs (x, y) of arrays with the shapes of training.

    **Raises:** `ValueError` that names the split.
    """
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
                f"one example (x, y) of {name} has the shapes {found}; it must "
                f"have those of the training examples, {expected}"
            )
    return checked


def check_program_inputs(
    what: str, x: PyTree[Array], others: dict[str, PyTree[Array]] | None = None
) -> None:
    """Raise `ValueError` for uint8 inputs, and for `others` on another scale than x.

    Arrays given in Python reach the network unchanged.
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
    """Raise `ValueError` if the optimizer needs more than the gradients."""
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
    history: list[EpochRecord],
    observer: Observer,
    seconds: float = 0.0,
) -> TrainState:
    """Train from `state` to the last epoch; add a record of each epoch to `history`.

    `seconds` is the training time of the epoch in progress before a resume.
    """
    epochs = trainer.settings.epochs
    elapsed = sum(record.seconds for record in history)
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
            observer.on_chunk(state, _chunk_record(trainer, state, seconds))
        elapsed += seconds
        try:
            state, record = _epoch_record(trainer, state, seconds, elapsed)
        except TrainingDiverged:
            observer.on_failure(state)
            raise
        history.append(record)
        state, seconds = trainer.next_epoch(state), 0.0
        observer.on_epoch(state, record)
    return state


def _warn_rounded(trainer: Trainer, state: TrainState) -> None:
    """Warn once, in the first epoch, if most of the gradient is rounding error.

    Later the network knows most examples, their gradients are small, and rounding does
    no harm.
    """
    system, x = state.system, jax.tree.map(lambda u: u[:1], trainer.splits["train"][0])
    start = jax.eval_shape(lambda x: jax.vmap(system.init_state)(x), x)
    dtype = jnp.result_type(*jax.tree.leaves(start))
    warn_rounded(trainer.estimator, mean_rounding(state.sums), dtype)


def _chunk_record(trainer: Trainer, state: TrainState, seconds: float) -> ChunkRecord:
    return ChunkRecord(
        epoch=int(state.epoch) + 1,
        step=int(state.step),
        steps_in_epoch=trainer.steps,
        seconds=seconds,
        **metrics(state.sums),
    )


def _epoch_record(
    trainer: Trainer, state: TrainState, seconds: float, elapsed: float
) -> tuple[TrainState, EpochRecord]:
    """Evaluate the held-out sets; return the state after it and the epoch's record.

    `seconds` is the training time of the epoch, `elapsed` that of all epochs.
    """
    means = metrics(state.sums)
    if means["masked"] == trainer.examples:
        raise _all_masked(trainer, state)
    state, validation = _held_out(trainer, state, "validation")
    state, test = _held_out(trainer, state, "test")
    residual_cold = None
    if trainer.settings.persistent:
        few = jax.tree.map(lambda leaf: leaf[:COLD_EXAMPLES], trainer.splits["train"])
        residual_cold = _cold(trainer, state, few)["residual"]
    return state, EpochRecord(
        epoch=int(state.epoch) + 1,
        **means,
        dt=None if state.dt is None else float(state.dt),
        **alignment(state.system),
        val_error=validation.error,
        val_loss=validation.loss,
        val_error_cold=validation.error_cold,
        test_error=test.error,
        test_loss=test.loss,
        test_error_cold=test.error_cold,
        residual_cold=residual_cold,
        seconds=seconds,
        training_seconds=elapsed,
        examples_per_second=trainer.examples / seconds,
    )


def _all_masked(trainer: Trainer, state: TrainState) -> TrainingDiverged:
    """Return the error for an epoch in which no example was in the gradient."""
    what, help = "no example settled", "Use a smaller estimator.beta."
    if trainer.settings.on_unsettled == "mask":
        help = advice(trainer, state)
    else:
        what = "the nudged phases of no example settled"
    return TrainingDiverged(
        f"{what} in epoch {int(state.epoch) + 1}, so the gradient held no example and "
        f"nothing was learnt. {help}"
    )


class _HeldOut(NamedTuple):
    """Loss and errors of a held-out set; `None` if there is no such set."""

    loss: float | None = None
    error: float | None = None
    error_cold: float | None = None


def _held_out(
    trainer: Trainer, state: TrainState, split: str
) -> tuple[TrainState, _HeldOut]:
    """Evaluate a held-out set; return the state with its persistent states moved."""
    if split not in trainer.splits:
        return state, _HeldOut()
    before = state
    state, found = trainer.evaluate(state, split)
    if not math.isfinite(found["loss"]):
        raise diagnose_split(trainer, before, split)
    cold = None
    if trainer.settings.persistent and int(state.epoch) + 1 == trainer.settings.epochs:
        cold = _cold(trainer, state, trainer.splits[split])["error"]
    return state, _HeldOut(found["loss"], found["error"], cold)


def _cold(trainer: Trainer, state: TrainState, examples: Examples) -> dict[str, Any]:
    """Evaluate examples from fresh states."""
    free, precision = trainer.rule(state).free, trainer.settings.precision
    found, _ = evaluate(
        state.model, free, examples, precision=precision, mesh=trainer.mesh
    )
    return found
