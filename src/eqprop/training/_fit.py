"""Epoch after epoch: train, evaluate, tell an observer.  One loop for every caller."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..estimators import AbstractEstimator
from ..systems import AbstractSystem, _check
from ._diagnosis import diagnose
from ._loop import evaluate, metrics, Trainer, TrainState
from ._optimizer import Optimizer

COLD_EXAMPLES = 1000

Examples = tuple[PyTree[Array], PyTree[Array]]


class Observer:
    """What may watch a training run; every method may be overridden.

    An exception from `on_chunk` or `on_epoch` ends the run.
    """

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
    validation: Examples | None = None,
    test: Examples | None = None,
    observer: Observer | None = None,
) -> Fit:
    """Train any system on arrays in memory.

    **Arguments:**

    - `x`, `y`: training inputs and targets with a leading axis of examples.
    - `optimizer`: an optax transformation or an `ep.Optimizer`; Adam at 1e-3 where
      `None`.
    - `persistent`: start each free phase from the example's last free equilibrium
      (paper A, persistent particles).
    - `validation`, `test`: pairs `(x, y)` that are evaluated after each epoch.

    **Returns:** a `Fit`: `system`, `cost`, and `history` with `epoch`, `loss`,
    `train_error`, `val_error`, `test_error`, `seconds`, `steps`, `settled`, ….

    **Raises:** `TrainingDiverged` if a step is not finite, `ValueError` for bad input.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"epochs={epochs} and batch_size={batch_size}; both must be at least 1"
        )
    x, y, validation, test = jax.tree.map(jnp.asarray, (x, y, validation, test))
    examples = _check.batch_size(x=x, y=y)
    if optimizer is None:
        optimizer = Optimizer("adam", (1e-3,))
    if isinstance(optimizer, Optimizer):
        steps = epochs * -(-examples // batch_size)
        optimizer = optimizer.build((system, cost), steps)
    trainer = Trainer(
        estimator=estimator,
        optimizer=optimizer,
        x=x,
        y=y,
        key=jax.random.key(seed),
        seed=seed,
        batch_size=min(batch_size, examples),
        persistent=persistent,
        shuffle=shuffle,
    )
    history: list[dict[str, Any]] = []
    state = run_epochs(
        trainer,
        trainer.init(system, cost),
        epochs,
        history,
        validation=validation,
        test=test,
        observer=observer or Observer(),
    )
    return Fit(state.system, state.cost, history)


def run_epochs(
    trainer: Trainer,
    state: TrainState,
    epochs: int,
    history: list[dict[str, Any]],
    *,
    validation: Examples | None,
    test: Examples | None,
    observer: Observer,
    seconds: float = 0.0,
) -> TrainState:
    """Train from `state` until `epochs` are done, adding a record each to `history`.

    `seconds` is what the epoch in progress has taken before this call (on resuming).
    """
    elapsed = seconds + sum(record["seconds"] for record in history)
    observer.on_start(trainer, state, epochs)
    while int(state.epoch) < epochs:
        began = time.perf_counter() - seconds
        for state in trainer.epoch(state):
            seconds = time.perf_counter() - began
            if state.failed:
                observer.on_failure(state)
                raise diagnose(trainer, state)
            observer.on_chunk(state, _progress(trainer, state, seconds))
        elapsed += seconds
        record = _record(trainer, state, seconds, elapsed, validation, test)
        history.append(record)
        state, seconds = trainer.next_epoch(state), 0.0
        observer.on_epoch(state, record)
    return state


def _progress(trainer: Trainer, state: TrainState, seconds: float) -> dict[str, Any]:
    return {
        "epoch": int(state.epoch) + 1,
        "step": int(state.step),
        "steps_in_epoch": trainer.steps,
        "seconds": seconds,
        **metrics(state),
    }


def _record(
    trainer: Trainer,
    state: TrainState,
    seconds: float,
    elapsed: float,
    validation: Examples | None,
    test: Examples | None,
) -> dict[str, Any]:
    """The line of `metrics.jsonl` of the epoch that has just ended."""
    record = {"epoch": int(state.epoch) + 1, **metrics(state)}
    for name, split in (("val", validation), ("test", test)):
        found = None if split is None else _evaluate(trainer, state, *split)
        record[f"{name}_error"] = None if found is None else found["error"]
        record[f"{name}_loss"] = None if found is None else found["loss"]
    if trainer.persistent:
        few = jax.tree.map(lambda leaf: leaf[:COLD_EXAMPLES], (trainer.x, trainer.y))
        record["residual_cold"] = _evaluate(trainer, state, *few)["residual"]
    record["seconds"] = seconds
    record["training_seconds"] = elapsed
    record["examples_per_second"] = trainer.examples / seconds
    return record


def _evaluate(trainer: Trainer, state: TrainState, x: Any, y: Any) -> dict[str, Any]:
    return evaluation(state.system, state.cost, trainer.estimator.free, x, y)


def evaluation(system, cost, relaxation, x: Any, y: Any) -> dict[str, Any]:
    """`evaluate` as plain numbers; the error is None where y holds no classes."""
    found = {
        name: float(value)
        for name, value in evaluate(system, cost, relaxation, x, y).items()
    }
    error = found.pop("errors")
    return {"error": None if error != error else error, **found}
