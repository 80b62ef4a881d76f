"""Compare learning rules: train each with the same network, weights and optimizer."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._files import write_whole
from ..estimators import (
    AbstractEstimator,
    AdjointNotConverged,
    ImplicitDifferentiation,
    named_estimator,
)
from ..relaxations import AbstractRelaxation, Euler, relax, Status, Sweep
from ..report import draw_comparison
from ..training import (
    Config,
    config_to_json,
    Observer,
    Optimizer,
)
from ..theory._metrics import agreement
from ._directory import RunDirectory
from ._problem import Problem
from ._recorder import Forwarding
from ._seeds import complete
from ._train import _configured, _start, _with_whole_paths, default_path

EXAMPLES = 100
"""training examples on which the angle to the exact gradient is measured"""
RESIDUAL = 1e-4
"""velocity below which the free phase of the exact gradient counts as settled"""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The directory of the runs, and one record for each rule in the order asked for.

    A record holds `estimator` (the word), `rule` (its full name), `optimizer`,
    `history` (the run's metrics), `angles` (`epoch`, `angle` in degrees to the exact
    gradient of the settled cost, `settled` share of the examples), `seconds` of
    training, `memory` (bytes of temporaries of one compiled gradient of a batch) and
    `failure` (how the rule diverged, else `None`).
    """

    path: Path
    records: list[dict[str, Any]]


def compare(
    config: Config | str,
    estimators: Sequence[str],
    *,
    run: str | Path | None = None,
    learning_rate: float = 0.003,
    observer: Observer | None = None,
    **overrides: Any,
) -> Comparison:
    """Train one recipe by several learning rules from the same weights.

    Everything else is the recipe's: network, initial weights, order of the examples,
    optimizer, epochs, and the phases if the rule has phases.

    **Arguments:**

    - `estimators`: words as in `eqprop train --estimator`.
    - `run`: the directory, with one run for each rule.  Finished runs are not trained
      again; interrupted runs are resumed.
    - `learning_rate`: for rules that move the parameters themselves: they use SGD.
    - `observer`: watches the trainings.
    - `overrides`: fields of the configuration, e.g. `epochs=5`.

    **Raises:** `ValueError`, before anything is trained, with the name of a rule that
    is unknown or not defined for the network.
    """
    name = config if isinstance(config, str) else "run"
    config = _with_whole_paths(_configured(config, overrides))
    if not estimators or len(set(estimators)) < len(estimators):
        raise ValueError(
            f"estimators are {', '.join(estimators) or 'none'}; give at least one "
            "learning rule, each of them once"
        )
    if not 0 < learning_rate < math.inf:
        raise ValueError(
            f"learning_rate is {learning_rate}; it must be positive and finite, "
            "e.g. 0.003"
        )
    configs = {word: _config(config, word, learning_rate) for word in estimators}
    for word, planned in configs.items():
        with _named(word):
            _start(planned, Problem.build(planned))
    path = default_path(f"compare-{name}") if run is None else Path(run)
    records = []
    for word, planned in configs.items():
        records.append(_record(word, planned, path / word, observer or Observer()))
        text = json.dumps({"recipe": name, "records": records}, indent=1)
        write_whole(path / "comparison.json", text + "\n")
        draw_comparison(path / "comparison.png", records)
    return Comparison(path, records)


def _config(config: Config, word: str, learning_rate: float) -> Config:
    """Return the configuration with another rule, and with SGD if the rule needs it."""
    estimator = named_estimator(word, config.estimator)
    if not hasattr(estimator, "learning_rate"):
        return dataclasses.replace(config, estimator=estimator)
    with _named(word):
        estimator = dataclasses.replace(estimator, learning_rate=learning_rate)  # type: ignore[call-arg]
    optimizer = Optimizer("sgd", (learning_rate,))
    return dataclasses.replace(config, estimator=estimator, optimizer=optimizer)


@contextlib.contextmanager
def _named(word: str):
    """Put the name of the rule before the message of a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{word}: {error}") from error


def _record(word: str, config: Config, path: Path, observer: Observer) -> dict:
    """Train, resume, or read the run of one rule."""
    directory = RunDirectory(path)
    angles = _Angles(config, path / "angles.json", observer)
    there = directory.config() if directory.config_file.exists() else config
    if config_to_json(there) != config_to_json(config):
        raise ValueError(
            f"{path} holds a run of another configuration; choose another directory"
        )
    system = getattr(config.model, "path", None)
    failure = complete(config, path, observer=angles, system=system)
    history = directory.history()
    gradient, memory = _one_gradient(config, Problem.build(config))
    return {
        "estimator": word,
        "rule": gradient,
        "optimizer": f"{config.optimizer.name} {config.optimizer.lr[0]:g}",
        "seconds": history[-1]["training_seconds"] if history else None,
        "memory": memory,
        "angles": angles.known(),
        "history": history,
        "failure": failure,
    }


def _one_gradient(config: Config, problem: Problem) -> tuple[str, int]:
    """Return the rule's full name, and the bytes of temporaries of its gradient."""
    x, y = jax.tree.map(lambda leaf: leaf[: config.batch_size], problem.train)
    key = jax.random.key(0)

    def gradient(system, cost, x, y, key):
        return config.estimator(system, cost, x, y, key=key)

    arguments = (problem.system, problem.cost, x, y, key)
    lowered = eqx.filter_jit(gradient).lower(*arguments)  # type: ignore[attr-defined]
    found = eqx.filter_eval_shape(gradient, *arguments)
    analysis = lowered.compile().compiled.memory_analysis()
    return found.stats["rule"], analysis.temp_size_in_bytes


class _Angles(Forwarding):
    """Measures a rule's angle to the exact gradient at epochs 0, 1, 2, 4, 8, …"""

    def __init__(self, config: Config, file: Path, inner: Observer):
        super().__init__(inner)
        self.config, self.file = config, file

    def known(self) -> list[dict[str, Any]]:
        """Return all angles so far, those before an interruption too."""
        if not self.file.exists():
            return []
        return json.loads(self.file.read_text(encoding="utf-8"))

    def on_start(self, trainer, state, epochs):
        x, y = trainer.splits["train"]
        self.examples = jax.tree.map(lambda leaf: leaf[:EXAMPLES], (x, y))
        self.epochs = epochs
        if int(state.epoch) == 0 and int(state.step) == 0:
            self._measure(state, 0)
        super().on_start(trainer, state, epochs)

    def on_epoch(self, state, record):
        epoch = record["epoch"]
        if math.log2(epoch).is_integer() or epoch == self.epochs:
            self._measure(state, epoch)
        super().on_epoch(state, record)

    def _measure(self, state, epoch: int) -> None:
        angle, settled = exact_angle(
            self.config.estimator, state.system, state.cost, *self.examples
        )
        kept = [row for row in self.known() if row["epoch"] < epoch]
        kept.append({"epoch": epoch, "angle": angle, "settled": settled})
        write_whole(self.file, json.dumps(kept) + "\n")


def exact_angle(
    estimator: AbstractEstimator, system: Any, cost: Any, x: Any, y: Any
) -> tuple[float | None, float]:
    """Return the angle, in degrees, between a rule's gradient and the exact one.

    The rule starts from the initial state.  The exact gradient is that of implicit
    differentiation at the settled free state.  Examples that do not settle are left
    out of both.

    **Returns:** the angle, `None` if no example settles or the adjoint has no solution;
    and the share of examples used.
    """
    settling = _settling(estimator.free, system)
    free = relax(system, x, settling)
    weight = (free.status == Status.settled).astype(float)
    settled = float(jnp.mean(weight))
    try:
        exact = ImplicitDifferentiation(settling)(
            system, cost, x, y, state=free.state, weight=weight
        )
    except AdjointNotConverged:
        return None, settled
    key = jax.random.key(0)
    found = estimator(system, cost, x, y, key=key, weight=weight)
    angle = agreement(
        (found.grads, found.cost_grads), (exact.grads, exact.cost_grads)
    ).angle
    return (angle if settled and np.isfinite(angle) else None), settled


def _settling(free: AbstractRelaxation, system: Any) -> AbstractRelaxation:
    """Return the rule's own free relaxation with enough steps to settle."""
    if not (free.draws_noise or free.outside):
        longer: dict[str, Any] = {"steps": max(1000, free.steps), "tol": RESIDUAL}
        return dataclasses.replace(free, **longer)
    if system.blocks() is not None:
        return Sweep(1000, RESIDUAL)
    return Euler(dt=0.1, steps=5000, tol=RESIDUAL)
