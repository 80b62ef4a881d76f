"""The compiled training loop: it knows batches and devices, and no learning rule.

An epoch runs in chunks of steps, each one compiled loop with a dynamic number of
iterations, so nothing is compiled again for a shorter chunk, the last batch or the
next epoch.  The order of an epoch is a padded array of example numbers; the number
N (one past the last example) stands for an empty place of the last batch.
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
from ..estimators import AbstractEstimator
from ..relaxations import AbstractRelaxation, initial_state, Status
from ..relaxations._base import with_exact
from ..relaxations._outside import hear
from ..systems import AbstractSystem, batch_costs
from . import _devices, _processes
from ._augmentation import Augment, augmented
from ._measures import (
    all_finite,
    measure_change,
    no_change,
    measure_states,
    measure_step,
    STATE_SUMS,
    weight_names as weight_names,
    zero_sums,
)
from ._optimizer import Update
from ._step_size import auto_dt, with_dt

CHUNK_SECONDS = 0.4
MEASURE_EVERY = 16
"""steps from one batch whose equilibria are measured to the next"""

Examples = tuple[PyTree[Array], PyTree[Array]]


class TrainState(eqx.Module):
    """All that changes during training; saving it and loading it is the identity.

    `particles` holds the last free equilibrium of every example, by split, where
    states persist (paper A, section 5; its authors' code keeps those of the
    validation and test examples too), else nothing.
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
    """step size of this epoch's Euler phases where it follows the network"""


class Trainer(eqx.Module):
    """What stays the same during training: the data, the rule and the optimizer."""

    estimator: AbstractEstimator
    update: Update
    splits: dict[str, Examples]
    key: PRNGKeyArray
    seed: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    persistent: bool = eqx.field(static=True)
    shuffle: bool = eqx.field(static=True)
    precision: str = eqx.field(static=True, default="float32")
    on_unsettled: str = eqx.field(static=True, default="warn")
    auto_dt: bool = eqx.field(static=True, default=False)
    augment: Augment | None = eqx.field(static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @property
    def examples(self) -> int:
        """The number N of training examples."""
        return len(jax.tree.leaves(self.splits["train"])[0])

    @property
    def steps(self) -> int:
        """Updates per epoch."""
        return -(-self.examples // self.batch_size)

    def init(self, system: AbstractSystem, cost: Any) -> TrainState:
        """The state before the first step."""
        params = eqx.filter((system, cost), eqx.is_inexact_array)
        if not jax.tree.leaves(params):
            raise ValueError(
                f"{type(system).__name__} has no parameters: none of its fields is a "
                "floating-point array, so there is nothing to train"
            )
        particles = {}
        if self.persistent:
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
        """A state of this process's arrays on the devices, each row where it lives."""
        return _devices.place_state(state, self.mesh)

    def collected(self, state: TrainState) -> TrainState:
        """The state as arrays of this process, the same on any number of devices."""
        leaves = {name: jax.tree.leaves(x) for name, (x, _) in self.splits.items()}
        rows = {name: len(xs[0]) for name, xs in leaves.items()}
        return _devices.collect_state(state, self.mesh, rows)

    def trace(self, system: AbstractSystem, cost: Any, x: Any, y: Any) -> None:
        """Ask the rule for the shapes of its gradient, as a step does afterwards.

        With a step's own arguments, so that JAX keeps the trace.
        """
        given: dict[str, Any] = {"key": self.key}
        if self.persistent:
            given["state"] = eqx.filter_eval_shape(initial_state, system, x, None)
        if self.examples % self.batch_size:
            given["weight"] = jnp.ones(self.batch_size)
        exact = True if self._always_exact else jnp.array(True)
        rule = with_exact(self.estimator, exact)
        eqx.filter_eval_shape(rule, system, cost, x, y, **given)

    @property
    def _always_exact(self) -> bool:
        """Whether every batch's residuals are evaluated, since they decide something.

        One more velocity a phase is much to training with a few steps a phase; a
        tolerance needs it in any case.
        """
        return self.on_unsettled != "warn" or self.estimator.free.tol is not None

    def rule(self, state: TrainState) -> AbstractEstimator:
        """The learning rule with the step size of the state."""
        return with_dt(self.estimator, state.dt)

    def _dt(self, system: AbstractSystem) -> Float[Array, ""] | None:
        if not self.auto_dt:
            return None
        system = _devices.everywhere(system, self.mesh)
        dt = auto_dt(system, self.splits["train"][0], self.estimator)
        return _devices.everywhere(dt, self.mesh)

    def order(self, epoch: int) -> Int[Array, " places"]:
        """The example numbers of an epoch, padded with N to whole batches."""
        order = np.arange(self.examples)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        empty = self.steps * self.batch_size - self.examples
        return jnp.asarray(np.pad(order, (0, empty), constant_values=self.examples))

    def epoch(self, state: TrainState) -> Iterator[TrainState]:
        """Run the rest of the state's epoch; yields after every chunk of steps.

        The first chunk is a single step; the others last about CHUNK_SECONDS.
        """
        order = _devices.everywhere(self.order(int(state.epoch)), self.mesh)
        stop, length = int(state.step), 1
        if self.auto_dt and stop == 0:
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
        """The state at the start of the following epoch."""
        sums = jax.tree.map(jnp.zeros_like, state.sums)
        fresh = (state.epoch + 1, jnp.array(0), sums)
        return eqx.tree_at(
            lambda s: (s.epoch, s.step, s.sums),
            state,
            _devices.everywhere(fresh, self.mesh),
        )

    def batch(self, state: TrainState) -> tuple[PyTree, PyTree, PyTree, Array]:
        """The batch the state stands at: inputs, targets, initial states, numbers."""
        start = int(state.step) * self.batch_size
        index = self.order(int(state.epoch))[start : start + self.batch_size]
        index = index[index < self.examples]
        pair = self._examples(index, self.step_key(state))
        return *pair, self._particles(state, index), index

    def _examples(self, index: Array, key: PRNGKeyArray) -> Examples:
        x, y = _take(self.splits["train"], index)
        if self.augment is not None:
            x = augmented(self.augment, x, key)
        return x, y

    def step_key(self, state: TrainState) -> PRNGKeyArray:
        """The randomness of the step the state stands at."""
        return jax.random.fold_in(jax.random.fold_in(self.key, state.epoch), state.step)

    def evaluate(self, state: TrainState, split: str) -> tuple[TrainState, dict]:
        """Measure a held-out split, from its persistent states where they are kept."""
        x, y = self.splits[split]
        found, particles = evaluate(
            state.system,
            state.cost,
            self.rule(state).free,
            x,
            y,
            state.particles.get(split),
            self.precision,
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
        index = jax.lax.dynamic_slice_in_dim(
            order, state.step * self.batch_size, self.batch_size
        )
        # The devices may not divide a batch: its last places are empty then.
        empty = _devices.padded(self.batch_size, self.mesh) - self.batch_size
        if empty:
            index = jnp.pad(index, (0, empty), constant_values=self.examples)
        weight = None
        if empty or self.examples % self.batch_size:
            weight = (index < self.examples).astype(float)
        key = self.step_key(state)
        x, y = self._examples(index, key)
        particles = self._particles(state, index)
        exact = True if self._always_exact else state.step % MEASURE_EVERY == 0
        rule = with_exact(self.rule(state), exact)
        gradient = _devices.gradient(
            *(self.mesh, rule, state.system, state.cost),
            *(x, y, particles, key, weight),
        )
        grads = (gradient.grads, gradient.cost_grads)
        kept = index < self.examples
        status = gradient.equilibrium.status
        unsettled = kept & (status != Status.settled)
        used = kept if gradient.weight is None else kept & (gradient.weight > 0)
        wrong = kept & (status == Status.diverged)
        if self.on_unsettled == "mask":
            wrong = jnp.zeros_like(kept)
        if self.on_unsettled == "error":
            wrong |= unsettled

        healthy = all_finite((gradient.loss, grads)) & ~jnp.any(wrong)
        system, cost, optimizer_state, change, healthy = self._move(
            state, grads, healthy
        )
        kept_particles = state.particles
        if "train" in kept_particles:
            nowhere = _devices.padded(self.examples, self.mesh)
            keeps = healthy & kept & (status != Status.diverged)
            place = jnp.where(keeps, index, nowhere)
            settled = jax.tree.map(
                lambda all_, new: all_.at[place].set(new, mode="drop"),
                kept_particles["train"],
                gradient.equilibrium.state,
            )
            kept_particles = kept_particles | {"train": settled}
        problem = (state.system, state.cost, gradient, y)
        batch = measure_step(*problem, kept, used, kept & exact)
        batch |= change
        sums = {
            name: state.sums[name] + jnp.where(healthy, value, 0)
            for name, value in batch.items()
        }
        moved = TrainState(
            system=system,
            cost=cost,
            optimizer_state=optimizer_state,
            particles=kept_particles,
            epoch=state.epoch,
            step=state.step + healthy,
            failed=~healthy,
            sums=sums,
            dt=state.dt,
        )
        return _devices.hold_state(moved, self.mesh)

    def _move(self, state: TrainState, grads: PyTree, healthy: Array) -> tuple:
        """Model and optimizer after a healthy step, the change, and its health.

        A failed step changes nothing, so that what is saved is still good; of an
        update that overflows, of a finite gradient, only the optimizer knows.  (It
        stands within the branch, and so do the checks: choosing between its results
        and what was there before would be another pass over memory.)
        """
        params, rest = eqx.partition((state.system, state.cost), eqx.is_inexact_array)
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
        return *eqx.combine(moved, rest), optimizer_state, change, healthy


@eqx.filter_jit
def _copy(state: TrainState) -> TrainState:
    """Every buffer is donated to the first chunk: none may be shared."""
    return jax.tree.map(
        lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, state
    )


@eqx.filter_jit(donate="all-except-first")
def _advance(fixed: tuple[Trainer, Array, Array], state: TrainState) -> TrainState:
    """Step until `state.step` is `stop` or a step has failed."""
    trainer, order, stop = fixed
    arrays, static = eqx.partition(state, eqx.is_array)

    def running(arrays):
        return (arrays.step < stop) & ~arrays.failed

    def body(arrays):
        moved = trainer._step(eqx.combine(arrays, static), order)
        return eqx.filter(moved, eqx.is_array)

    step = rounded(body, trainer.precision)
    return eqx.combine(jax.lax.while_loop(running, step, arrays), static)


def evaluate(
    system: AbstractSystem,
    cost: Any,
    relaxation: AbstractRelaxation,
    x: PyTree[Array],
    y: PyTree[Array],
    particles: PyTree[Array] | None = None,
    precision: str = "float32",
    mesh: Mesh | None = None,
) -> tuple[dict[str, Any], PyTree[Array] | None]:
    """Means over examples that settle freely, and their equilibria if kept.

    The states start from `particles`, or from `init_state` where `None`.  The error
    is `None` where y holds no classes.
    """
    problem = (system, cost, relaxation, x, y, particles)
    sums, particles = hear(_evaluate, *problem, precision, mesh)
    examples = len(jax.tree.leaves(x)[0])
    found = {name: float(value) / examples for name, value in sums.items()}
    error = found.pop("errors")
    return {"error": None if np.isnan(error) else error, **found}, particles


@eqx.filter_jit
def _evaluate(system, cost, relaxation, x, y, particles, precision, mesh):
    examples = len(jax.tree.leaves(x)[0])
    size = _devices.evaluation_batch(examples, mesh)

    def add(k, carry):
        sums, particles = carry
        index = k * size + jnp.arange(size)
        kept = index < examples
        inputs, targets = _take(x, index), _take(y, index)
        start = None if particles is None else _take(particles, index)
        key = jax.random.fold_in(jax.random.key(0), k)  # for those that draw noise
        equilibrium = _devices.settled(mesh, system, inputs, relaxation, start, key)
        if particles is not None:
            place = jnp.where(kept, index, _devices.padded(examples, mesh))
            particles = jax.tree.map(
                lambda all_, new: all_.at[place].set(new, mode="drop"),
                particles,
                equilibrium.state,
            )
            particles = _devices.held(particles, mesh, _devices.BY_EXAMPLE)
        loss = batch_costs(system, cost, inputs, targets, equilibrium.state)
        measured = measure_states(system, cost, equilibrium, targets, kept)
        measured["loss"] = jnp.sum(jnp.where(kept, loss, 0))
        return {name: sums[name] + measured[name] for name in sums}, particles

    zero = {name: jnp.zeros(()) for name in STATE_SUMS}
    step = rounded(add, precision)
    return jax.lax.fori_loop(0, -(-examples // size), step, (zero, particles))


def _take(tree: PyTree[Array], index: Array) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="clip"), tree)
