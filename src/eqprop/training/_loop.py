"""The compiled training loop: it knows batches and devices, but no learning rule.

An epoch runs in chunks of steps.  A chunk is one compiled loop with a dynamic number
of iterations, so a shorter chunk, the last batch or the next epoch compile nothing
again.  The order of an epoch is a padded array of example numbers.  The number N (one
past the last example) marks an empty place of the last batch.
"""

import time
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._precision import rounded
from ..estimators import AbstractEstimator, Gradient
from ..relaxations import AbstractRelaxation, initial_state, Status
from ..relaxations._base import with_exact
from ..relaxations._outside import hear
from ..systems import AbstractSystem, batch_costs
from . import _devices, _processes
from ._augmentation import Augment, augmented
from ._devices import Batch
from ._measures import (
    all_finite,
    measure_change,
    measure_states,
    measure_step,
    no_change,
    STATE_SUMS,
    weight_names,
    zero_sums,
)
from ._optimizer import Update
from ._settings import Settings
from ._step_size import auto_dt, with_dt

CHUNK_SECONDS = 0.4
MEASURE_EVERY = 16
"""steps from one batch whose equilibria are measured to the next"""

Examples = tuple[PyTree[Array], PyTree[Array]]
Model = tuple[AbstractSystem, Any]
"""a system and its cost"""


class TrainState(eqx.Module):
    """Everything that changes during training, which a checkpoint saves.

    `particles` holds the last free equilibrium of every example, by split, if states
    persist (paper A, section 5; its authors' code keeps those of the validation and
    test examples too).  Otherwise it is empty.
    """

    system: AbstractSystem
    cost: Any
    optimizer_state: PyTree[Array]
    particles: dict[str, PyTree[Array]]
    epoch: Int[Array, ""]
    step: Int[Array, ""]
    failed: Bool[Array, ""]
    sums: dict[str, Array]
    dt: Float[Array, ""] | None = None
    """step size of this epoch's Euler phases, with `dt="auto"`"""

    @property
    def model(self) -> Model:
        """The pair (system, cost)."""
        return self.system, self.cost


class Trainer(eqx.Module):
    """Everything that is fixed during training: data, rule, optimizer, settings."""

    estimator: AbstractEstimator
    update: Update
    splits: dict[str, Examples]
    key: PRNGKeyArray
    settings: Settings = eqx.field(static=True)
    augment: Augment | None = eqx.field(static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @property
    def examples(self) -> int:
        """The number N of training examples."""
        return len(jax.tree.leaves(self.splits["train"])[0])

    @property
    def batch_size(self) -> int:
        """Training examples per update."""
        return self.settings.batch_size

    @property
    def steps(self) -> int:
        """Updates per epoch."""
        return -(-self.examples // self.batch_size)

    def init(self, system: AbstractSystem, cost: Any) -> TrainState:
        """Return the state before the first step."""
        params = eqx.filter((system, cost), eqx.is_inexact_array)
        if not jax.tree.leaves(params):
            raise ValueError(
                f"{type(system).__name__} has no parameters: none of its fields is a "
                "floating-point array, so there is nothing to train"
            )
        particles = {}
        if self.settings.persistent:
            for name, (x, _) in self.splits.items():
                particles[name] = initial_state(system, x, None)
        state = TrainState(
            system=system,
            cost=cost,
            optimizer_state=self.update.init(params),
            particles=particles,
            epoch=jnp.array(0),
            step=jnp.array(0),
            failed=jnp.array(False),
            sums=zero_sums(len(weight_names(system, cost))),
            dt=self._dt(system),
        )
        return _copy(state) if self.mesh is None else self.placed(state)

    def placed(self, state: TrainState) -> TrainState:
        """Return a state of host arrays on the devices."""
        return _devices.place_state(state, self.mesh)

    def collected(self, state: TrainState) -> TrainState:
        """Return the state as host arrays, the same for any number of devices."""
        leaves = {name: jax.tree.leaves(x) for name, (x, _) in self.splits.items()}
        rows = {name: len(xs[0]) for name, xs in leaves.items()}
        return _devices.collect_state(state, self.mesh, rows)

    def trace(self, system: AbstractSystem, cost: Any, x: Any, y: Any) -> None:
        """Trace the gradient of a batch, to find errors of the model early.

        It uses the arguments of a training step, so that JAX can reuse the trace.
        """
        given: dict[str, Any] = {"key": self.key}
        if self.settings.persistent:
            given["state"] = eqx.filter_eval_shape(initial_state, system, x, None)
        if self.examples % self.batch_size:
            given["weight"] = jnp.ones(self.batch_size)
        exact = True if self._always_exact else jnp.array(True)
        rule = with_exact(self.estimator, exact)
        eqx.filter_eval_shape(rule, system, cost, x, y, **given)

    @property
    def _always_exact(self) -> bool:
        """Whether every step evaluates the residuals, because a decision needs them.

        Otherwise few steps do, because it costs one more velocity for each phase.
        """
        return self.settings.on_unsettled != "warn" or (
            self.estimator.free.tol is not None
        )

    def rule(self, state: TrainState) -> AbstractEstimator:
        """Return the learning rule with the step size of the state."""
        return with_dt(self.estimator, state.dt)

    def _dt(self, system: AbstractSystem) -> Float[Array, ""] | None:
        if self.settings.dt == "given":
            return None
        system = _devices.everywhere(system, self.mesh)
        dt = auto_dt(system, self.splits["train"][0], self.estimator)
        return _devices.everywhere(dt, self.mesh)

    def order(self, epoch: int) -> Int[Array, " places"]:
        """Return the example numbers of an epoch, padded with N to whole batches."""
        order = np.arange(self.examples)
        if self.settings.shuffle:
            order = np.random.default_rng([self.settings.seed, epoch]).permutation(
                order
            )
        empty = self.steps * self.batch_size - self.examples
        return jnp.asarray(np.pad(order, (0, empty), constant_values=self.examples))

    def epoch(self, state: TrainState) -> Iterator[TrainState]:
        """Run the rest of the state's epoch; yield the state after each chunk.

        The first chunk is a single step; the others take about CHUNK_SECONDS.
        """
        order = _devices.everywhere(self.order(int(state.epoch)), self.mesh)
        stop, length = int(state.step), 1
        if self.settings.dt == "auto" and stop == 0:
            state = eqx.tree_at(lambda s: s.dt, state, self._dt(state.system))
        while stop < self.steps and not state.failed:
            start, stop = stop, min(stop + length, self.steps)
            began = time.perf_counter()
            until = _devices.everywhere(jnp.array(stop), self.mesh)
            state = hear(_advance, (self, order, until), state)
            jax.block_until_ready(state.step)
            seconds = max(time.perf_counter() - began, 1e-6)
            rate = (stop - start) / seconds
            best = int(np.clip(rate * CHUNK_SECONDS, 1, 8 * length))
            length = _processes.of_first(best)
            yield state

    def next_epoch(self, state: TrainState) -> TrainState:
        """Return the state at the start of the next epoch."""
        sums = jax.tree.map(jnp.zeros_like, state.sums)
        fresh = (state.epoch + 1, jnp.array(0), sums)
        return eqx.tree_at(
            lambda s: (s.epoch, s.step, s.sums),
            state,
            _devices.everywhere(fresh, self.mesh),
        )

    def batch(self, state: TrainState) -> tuple[PyTree, PyTree, PyTree, Array]:
        """Return inputs, targets, initial states and numbers of the next batch."""
        start = int(state.step) * self.batch_size
        index = self.order(int(state.epoch))[start : start + self.batch_size]
        index = index[index < self.examples]
        x, y = self._examples(index, self.step_key(state))
        return x, y, self._particles(state, index), index

    def _examples(self, index: Array, key: PRNGKeyArray) -> Examples:
        x, y = _take(self.splits["train"], index)
        if self.augment is not None:
            x = augmented(self.augment, x, key)
        return x, y

    def step_key(self, state: TrainState) -> PRNGKeyArray:
        """Return the random key of the next step."""
        return jax.random.fold_in(jax.random.fold_in(self.key, state.epoch), state.step)

    def evaluate(self, state: TrainState, split: str) -> tuple[TrainState, dict]:
        """Measure a held-out split, from its persistent states if there are any.

        **Returns:** the state with the new persistent states, and the measured means.
        """
        found, particles = evaluate(
            state.model,
            self.rule(state).free,
            self.splits[split],
            state.particles.get(split),
            self.settings.precision,
            self.mesh,
        )
        if split in state.particles:
            moved = state.particles | {split: particles}
            state = eqx.tree_at(lambda s: s.particles, state, moved)
        return state, found

    def _particles(self, state: TrainState, index: Array) -> PyTree[Array] | None:
        kept = state.particles.get("train")
        return None if kept is None else _take(kept, index)

    def _step(self, state: TrainState, order: Array) -> TrainState:
        index, batch = self._next_batch(state, order)
        exact = True if self._always_exact else state.step % MEASURE_EVERY == 0
        rule = with_exact(self.rule(state), exact)
        gradient = _devices.gradient(self.mesh, rule, state.model, batch)
        kept = index < self.examples
        used = kept if gradient.weight is None else kept & (gradient.weight > 0)
        grads = (gradient.grads, gradient.cost_grads)
        healthy = all_finite((gradient.loss, grads)) & ~self._wrong(gradient, kept)
        model, optimizer_state, change, healthy = self._move(state, grads, healthy)
        particles = state.particles
        if "train" in particles:
            keeps = healthy & kept & (gradient.equilibrium.status != Status.diverged)
            nowhere = _devices.padded(self.examples, self.mesh)
            place = jnp.where(keeps, index, nowhere)
            equilibria = gradient.equilibrium.state
            moved = _put(particles["train"], place, equilibria)
            particles = particles | {"train": moved}
        counted = (kept, used, kept & exact)
        batch_sums = measure_step(state.model, gradient, batch.y, *counted) | change
        sums = {
            name: state.sums[name] + jnp.where(healthy, value, 0)
            for name, value in batch_sums.items()
        }
        moved = TrainState(
            system=model[0],
            cost=model[1],
            optimizer_state=optimizer_state,
            particles=particles,
            epoch=state.epoch,
            step=state.step + healthy,
            failed=~healthy,
            sums=sums,
            dt=state.dt,
        )
        return _devices.hold_state(moved, self.mesh)

    def _next_batch(self, state: TrainState, order: Array) -> tuple[Array, Batch]:
        """Return the example numbers and the examples of the next batch."""
        index = jax.lax.dynamic_slice_in_dim(
            order, state.step * self.batch_size, self.batch_size
        )
        # If the devices do not divide a batch, its last places are empty.
        empty = _devices.padded(self.batch_size, self.mesh) - self.batch_size
        if empty:
            index = jnp.pad(index, (0, empty), constant_values=self.examples)
        weight = None
        if empty or self.examples % self.batch_size:
            weight = (index < self.examples).astype(float)
        key = self.step_key(state)
        x, y = self._examples(index, key)
        return index, Batch(x, y, self._particles(state, index), key, weight)

    def _wrong(self, gradient: Gradient, kept: Array) -> Bool[Array, ""]:
        """Return whether an example of the batch stops the training."""
        status = gradient.equilibrium.status
        wrong = kept & (status == Status.diverged)
        if self.settings.on_unsettled == "mask":
            wrong = jnp.zeros_like(kept)
        if self.settings.on_unsettled == "error":
            wrong |= kept & (status != Status.settled)
        return jnp.any(wrong)

    def _move(self, state: TrainState, grads: PyTree, healthy: Array) -> tuple:
        """Return model, optimizer state and change after a step, and its health.

        A failed step changes nothing, so that the saved state stays good.  An update
        can overflow although the gradient is finite, so the check follows the update.
        Update and check are inside the branch: to choose between the results outside
        of it would be another pass over memory.
        """
        params, rest = eqx.partition(state.model, eqx.is_inexact_array)
        before = state.optimizer_state

        def move():
            moved, after = self.update.step(grads, before, params, rest)
            fits = all_finite(moved)
            change = measure_change(state.step, params, moved)
            moved = jax.lax.cond(fits, lambda: moved, lambda: params)
            return moved, after, change, fits

        def stay():
            return params, before, no_change(params), jnp.array(False)

        moved, optimizer_state, change, healthy = jax.lax.cond(healthy, move, stay)
        return eqx.combine(moved, rest), optimizer_state, change, healthy


@eqx.filter_jit
def _copy(state: TrainState) -> TrainState:
    """Copy all arrays, because the first chunk donates every buffer once."""
    return jax.tree.map(
        lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, state
    )


@eqx.filter_jit(donate="all-except-first")
def _advance(fixed: tuple[Trainer, Array, Array], state: TrainState) -> TrainState:
    """Step until `state.step` is `stop` or a step fails."""
    trainer, order, stop = fixed
    arrays, static = eqx.partition(state, eqx.is_array)

    def running(arrays):
        return (arrays.step < stop) & ~arrays.failed

    def body(arrays):
        moved = trainer._step(eqx.combine(arrays, static), order)
        return eqx.filter(moved, eqx.is_array)

    step = rounded(body, trainer.settings.precision)
    return eqx.combine(jax.lax.while_loop(running, step, arrays), static)


def evaluate(
    model: Model,
    relaxation: AbstractRelaxation,
    examples: Examples,
    particles: PyTree[Array] | None = None,
    precision: str = "float32",
    mesh: Mesh | None = None,
) -> tuple[dict[str, Any], PyTree[Array] | None]:
    """Return means over the free equilibria of examples, and the new `particles`.

    The states start from `particles`, or from `init_state` if `None`.  The error is
    `None` if the targets are not classes.
    """
    sums, particles = hear(
        _evaluate, model, relaxation, examples, particles, precision, mesh
    )
    count = len(jax.tree.leaves(examples)[0])
    found = {name: float(value) / count for name, value in sums.items()}
    error = found.pop("errors")
    return {"error": None if np.isnan(error) else error, **found}, particles


@eqx.filter_jit
def _evaluate(model, relaxation, examples, particles, precision, mesh):
    system, cost = model
    x, y = examples
    count = len(jax.tree.leaves(x)[0])
    size = _devices.evaluation_batch(count, mesh)

    def add(k, carry):
        sums, particles = carry
        index = k * size + jnp.arange(size)
        kept = index < count
        inputs, targets = _take(x, index), _take(y, index)
        start = None if particles is None else _take(particles, index)
        key = jax.random.fold_in(jax.random.key(0), k)  # for relaxations with noise
        equilibrium = _devices.settled(mesh, system, inputs, relaxation, start, key)
        if particles is not None:
            place = jnp.where(kept, index, _devices.padded(count, mesh))
            particles = _put(particles, place, equilibrium.state)
            particles = _devices.held(particles, mesh, _devices.BY_EXAMPLE)
        loss = batch_costs(system, cost, inputs, targets, equilibrium.state)
        measured = measure_states(model, equilibrium, targets, kept)
        measured["loss"] = jnp.sum(jnp.where(kept, loss, 0))
        return {name: sums[name] + measured[name] for name in sums}, particles

    zero = {name: jnp.zeros(()) for name in STATE_SUMS}
    step = rounded(add, precision)
    return jax.lax.fori_loop(0, -(-count // size), step, (zero, particles))


def _take(tree: PyTree[Array], index: Array) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="clip"), tree)


def _put(tree: PyTree[Array], place: Array, new: PyTree[Array]) -> PyTree[Array]:
    """Replace rows of a tree; places past the end are ignored."""
    return jax.tree.map(
        lambda rows, own: rows.at[place].set(own, mode="drop"), tree, new
    )
