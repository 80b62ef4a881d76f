"""Measure steps, training steps and memory of a system, and the machine's limit.

The limit is the rate of matrix products, by NumPy or XLA, whichever is faster.  It is
measured in the same rounds.  The data are random arrays of the right shapes.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import data
from ..estimators import AbstractEstimator, EquilibriumPropagation
from ..estimators._base import Gradient
from ..relaxations import Equilibrium, relax
from ..relaxations._base import with_exact
from ..systems import AbstractSystem
from ..training import (
    Config,
    load_user_model,
    make_trainer,
    Optimizer,
    Settings,
    TrainingDiverged,
    UserModel,
)
from ._timing import (
    compiled,
    matrix_products,
    peak_memory,
    Program,
    Relaxing,
    Spread,
    time_rounds,
)

ROUNDS, SECONDS = 7, 0.1
"""number of rounds, and seconds for which each program runs in a round"""
TRAINING_STEPS = 64
"""largest number of training steps in a round"""
PLANNED = 10**6
"""number of training steps of the schedule, so large that the rate stays constant"""
PARTS = ("estimate", "free", "rule", "nudged", "update")


def bench_problem(config: Config) -> tuple[AbstractSystem, Any, Any, Any]:
    """Return system, cost, and a batch of examples x, y for a configuration.

    Examples of a named data set are random, so that nothing is downloaded.  A user's
    model has its own examples, which are repeated if they are fewer than a batch.
    """
    if isinstance(config.model, UserModel):
        system, cost, x, y = load_user_model(config.model.path)
        index = np.arange(config.batch_size) % len(jax.tree.leaves(x)[0])
        return system, cost, *jax.tree.map(lambda a: jnp.asarray(a)[index], (x, y))
    if config.data is None:
        raise ValueError(
            "the configuration has no model and no data; give --system FILE.py:NAME"
        )
    named = data.DATA_SETS.get(config.data)
    if named is not None:
        shape, outputs = named.shape, named.classes
    else:
        dataset = data.load(config.data, flatten=False, task=config.task)
        shape, outputs = dataset.input_shape, dataset.target_size
    if config.flatten:
        shape = (int(np.prod(shape)),)
    system, cost = config.model.build(shape, outputs, config.keys()[0])
    random = np.random.default_rng(0)
    x = random.random((config.batch_size, *shape), np.float32)
    y = np.eye(outputs, dtype=np.float32)[random.integers(0, outputs, len(x))]
    return system, cost, jnp.asarray(x), jnp.asarray(y)


def bench(
    system: AbstractSystem,
    cost: Any,
    x: Any,
    y: Any,
    *,
    estimator: AbstractEstimator,
    optimizer: Optimizer | optax.GradientTransformation,
    persistent: bool = False,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Measure relaxation and training steps on one batch of examples.

    **Arguments:**

    - `x`, `y`: the batch.
    - `rounds`: number of rounds.
    - `seconds`: time for which each program runs in a round.

    **Returns:** JSON values: `relaxation`, `matrix_product`, `training`, `profile` and
    `memory`, with times in seconds and memory in bytes.  A measured value has
    `median`, `least` and `most` over the rounds.

    **Raises:** `ValueError` for arguments that do not fit each other;
    `TrainingDiverged` if the training steps are not finite.
    """
    if rounds < 1 or not seconds > 0:
        raise ValueError(
            f"rounds is {rounds} and seconds {seconds}; give rounds ≥ 1 and seconds > 0"
        )
    relaxing = Relaxing(system, estimator.free, x)
    parts = _parts(system, cost, x, y, estimator, optimizer)
    once = sum(sum(times) for times in time_rounds(parts, 1, 1e-9).values())
    steps = int(np.clip(2 * seconds / once, 2, TRAINING_STEPS))
    training = _Training(
        (system, cost), (x, y), steps, estimator, optimizer, persistent
    )
    products, flops = matrix_products(relaxing.dtype)
    jobs = {**products, **relaxing.jobs, **parts, "training": training}
    times = time_rounds(jobs, rounds, seconds)
    rates = {name: [flops[name] / t for t in times[name]] for name in products}
    best = max(rates, key=lambda name: Spread.of(rates[name]).median)
    step = [t / steps for t in times["training"]]
    batch = len(jax.tree.leaves(x)[0])
    memory = _temporaries(system, cost, x, y, estimator)
    return {
        "batch_size": batch,
        "parameters": _count((system, cost)),
        "dtype": str(relaxing.dtype),
        "relaxation": _relaxation(relaxing, times, rates[best]),
        "matrix_product": {
            "best": best,
            "flops_per_second": {n: _spread(rates[n]) for n in rates},
        },
        "training": {
            "step_seconds": _spread(step),
            "steps_per_second": _spread([1 / t for t in step]),
            "examples_per_second": _spread([batch / t for t in step]),
        },
        "profile": _profile(times, step),
        "memory": {"gradient_temporaries": memory, "peak": peak_memory()},
        "rounds": rounds,
    }


def _relaxation(
    relaxing: Relaxing, times: dict[str, list[float]], peak: list[float]
) -> dict[str, Any]:
    """Return the time of a step, and its rate compared with matrix products."""
    step, flops = relaxing.step(times, "batch"), relaxing.flops
    record = {
        "relaxation": type(relaxing.free).__name__,
        "step_seconds": _spread(step),
        "steps_per_second": _spread([1 / t for t in step]),
        "call_seconds": _spread(relaxing.call(times)),
        "step_seconds_of_one": _spread(relaxing.step(times, "one")),
        "flops_per_step": flops,
        "flops_per_second": None,
        "fraction_of_peak": None,
        "arithmetic_seconds": None,
    }
    if flops is not None:
        rate = [flops / t for t in step]
        fraction = [r / p for r, p in zip(rate, peak, strict=True)]
        record["flops_per_second"] = _spread(rate)
        record["fraction_of_peak"] = _spread(fraction)
        record["arithmetic_seconds"] = _spread([flops / p for p in peak])
    return record


class _Training:
    """An epoch with a few steps, compiled as `eqprop train` compiles it."""

    def __init__(self, model, examples, steps: int, estimator, optimizer, persistent):
        batch = len(jax.tree.leaves(examples)[0])
        index = np.arange(steps * batch) % batch
        examples = jax.tree.map(lambda a: jnp.asarray(a)[index], examples)
        self.trainer = make_trainer(
            model,
            {"train": examples},
            Settings(epochs=PLANNED, batch_size=batch, persistent=persistent),
            estimator=estimator,
            optimizer=optimizer,
        )
        self.state = self.trainer.init(*model)

    def __call__(self, repeats: int) -> None:
        for _ in range(repeats):
            for state in self.trainer.epoch(self.state):
                self.state = state
            if self.state.failed:
                raise TrainingDiverged(
                    "the training steps are not finite, so that their time is useless; "
                    "use a smaller optimizer.lr or estimator.beta"
                )
            self.state = self.trainer.next_epoch(self.state)


def _parts(system, cost, x, y, estimator, optimizer) -> dict[str, Program]:
    """Return the parts of a training step, each as a separate program.

    `rule` is everything after the free phase; for EP, `nudged` measures its nudged
    phase separately.  A rule without a single free state (it samples) has one part,
    `estimate`.
    """
    key = jax.random.key(0)
    update = {"update": _update(system, cost, optimizer)}
    if type(estimator).estimate is not AbstractEstimator.estimate:
        whole = Program(_estimate, (x, y), system, cost, estimator, key)
        return {"estimate": whole} | update
    relaxation = with_exact(estimator.free, False)  # as most training steps do

    def settle(x, system, key) -> Equilibrium:
        return relax(system, x, relaxation, key=key)

    free = Program(settle, x, system, key)
    settled: Equilibrium = free()

    def rule(varied, system, cost, y, settled, key) -> Any:
        x, state = varied
        settled = dataclasses.replace(settled, state=state)
        found = estimator.at(system, cost, x, y, settled, (key, key), None)
        return _gradients(found)

    examples = (x, settled.state)
    parts = {
        "free": free,
        "rule": Program(rule, examples, system, cost, y, settled, key),
    }
    if type(estimator) is not EquilibriumPropagation:
        return parts | update
    betas = jnp.array([estimator.beta, -estimator.beta])
    if estimator.nudging != "centered":
        betas = betas[:1]

    def nudged(varied, system, cost, y, betas, key) -> Any:
        x, state = varied

        def phase(beta):
            nudge = {"state": state, "cost": cost, "y": y, "beta": beta}
            return relax(system, x, estimator.nudged, **nudge, key=key).state

        return jax.vmap(phase)(betas)

    phase = Program(nudged, examples, system, cost, y, betas, key)
    return parts | {"nudged": phase} | update


def _update(system, cost, optimizer) -> Program:
    if isinstance(optimizer, Optimizer):
        optimizer = optimizer.build((system, cost), PLANNED)
    model = eqx.filter((system, cost), eqx.is_inexact_array)

    def update(grads, state, model):
        updates, state = optimizer.update(grads, state, model)
        return eqx.apply_updates(model, updates), state

    grads = jax.tree.map(jnp.ones_like, model)
    return Program(update, grads, optimizer.init(model), model)


def _estimate(examples, system, cost, estimator, key) -> Any:
    return _gradients(estimator(system, cost, *examples, key=key))


def _temporaries(system, cost, x, y, estimator) -> int:
    """Return the bytes that a gradient needs in addition to parameters and result."""
    program = compiled(_estimate, (x, y), system, cost, estimator, jax.random.key(0))
    return program.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]


def _gradients(gradient: Gradient) -> Any:
    return gradient.loss, gradient.grads, gradient.cost_grads


def _profile(times: dict[str, list[float]], step: list[float]) -> dict[str, Any]:
    """Return the seconds of each part of a training step, and its share."""
    parts = {name: times[name] for name in PARTS if name in times}
    if "nudged" in parts:
        pairs = zip(parts.pop("rule"), parts["nudged"], strict=True)
        parts["gradient"] = [max(a - b, 0.0) for a, b in pairs]
    parts["update"] = parts.pop("update")
    known = [sum(values) for values in zip(*parts.values(), strict=True)]
    parts["rest"] = [whole - k for whole, k in zip(step, known, strict=True)]
    whole = Spread.of(step).median
    return {
        name: {**_spread(values), "share": Spread.of(values).median / whole}
        for name, values in parts.items()
    }


def _spread(values: list[float]) -> dict[str, float]:
    return dataclasses.asdict(Spread.of(values))


def _count(tree: Any) -> int:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves)
