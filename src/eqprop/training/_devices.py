"""A batch split over a mesh of D devices: where arrays live, and how parts are joined.

Every device holds the parameters, the optimizer state and the data.  Each device keeps
the persistent states of its own examples, N/D rows.  A batch is cut into D equal parts
in the order of its places, and its states travel from and to the devices that keep
them.  A device settles its part inside `jax.shard_map`, so that no device waits for
another within a relaxation.  A weighted mean joins the gradients of the parts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..estimators import AbstractEstimator, Gradient, Stats
from ..relaxations import AbstractRelaxation, Equilibrium, relax
from ..relaxations._keys import DATA_AXIS
from ..systems import AbstractSystem
from ._settings import check_whole

EVERYWHERE, BY_EXAMPLE = PartitionSpec(), PartitionSpec(DATA_AXIS)


def make_mesh(devices: int | None = None) -> Mesh | None:
    """Make a mesh of the first `devices` of each process; `None` for a single device.

    By default a single process uses one device, and several processes use all of
    their devices.
    """
    found = jax.local_device_count()
    if devices is None:
        devices = 1 if jax.process_count() == 1 else found
    check_whole("devices", devices, 1)
    if devices > found:
        raise ValueError(
            f"devices is {devices}, but {jax.default_backend()} has {found} here; give "
            f"at most {found}.  To JAX the CPU is one device; to split it, use `eqprop "
            'train --devices N`, or call jax.config.update("jax_num_cpu_devices", N) '
            "before anything else"
        )
    chosen = []
    for process in range(jax.process_count()):
        chosen += jax.local_devices(process_index=process)[:devices]
    if len(chosen) == 1:
        return None
    auto = (AxisType.Auto,)
    return jax.make_mesh((len(chosen),), (DATA_AXIS,), auto, devices=chosen)


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Copy the arrays of a tree to every device."""
    return _placed(tree, mesh, EVERYWHERE)


def by_example(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Share rows `[examples, …]` out over the devices; repeat the last row to fill."""
    if mesh is None:
        return tree

    def fill(leaf):
        leaf = np.asarray(leaf)
        width = padded(len(leaf), mesh) - len(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], width, 0)])

    return _placed(jax.tree.map(fill, tree), mesh, BY_EXAMPLE)


def _placed(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, spec)

    def place(leaf):
        if not eqx.is_array_like(leaf) or not hasattr(leaf, "dtype"):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        # Copy, because a program may take over (donate) the arrays on a device.
        return jax.make_array_from_callback(
            host.shape, sharding, lambda index: np.array(host[index])
        )

    return jax.tree.map(place, tree)


def collected(tree: PyTree, mesh: Mesh | None, rows: int | None = None) -> PyTree:
    """Return the first `rows` rows of a tree as host arrays, in every process."""
    if mesh is None:
        return tree
    from jax.experimental import multihost_utils

    def fetch(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = fetch(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        host = np.asarray(leaf)
        return jnp.array(host if rows is None else host[:rows])

    return jax.tree.map(fetch, tree)


def padded(count: int, mesh: Mesh | None) -> int:
    """Return `count`, rounded up to a multiple of the number of devices."""
    devices = 1 if mesh is None else mesh.size
    return -(-count // devices) * devices


def evaluation_batch(examples: int, mesh: Mesh | None) -> int:
    """Return how many examples settle at once in an evaluation.

    A batch steps until its last example has settled, so small batches are faster on a
    CPU.  With 50 instead of 500, dense networks take a third less time and
    convolutional networks half as long.
    """
    size = 50 if jax.default_backend() == "cpu" else 500
    return padded(min(size, examples), mesh)


def held(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    """Keep the arrays of a tree on their devices, inside `jax.jit`."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, spec)
    arrays, static = eqx.partition(tree, eqx.is_array)
    arrays = jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), arrays
    )
    return eqx.combine(arrays, static)


def place_state(state: Any, mesh: Mesh | None) -> Any:
    """Copy a training state of host arrays to the devices."""
    return _treat(state, mesh, everywhere, by_example)


def collect_state(state: Any, mesh: Mesh | None, rows: dict[str, int]) -> Any:
    """Return a training state as host arrays; `rows` counts the rows of each split."""

    def cut(particles, mesh):
        return {n: collected(tree, mesh, rows[n]) for n, tree in particles.items()}

    return _treat(state, mesh, collected, cut)


def hold_state(state: Any, mesh: Mesh | None) -> Any:
    """Keep the arrays of a training state on their devices, inside `jax.jit`."""
    return _treat(
        state,
        mesh,
        lambda tree, mesh: held(tree, mesh, EVERYWHERE),
        lambda tree, mesh: held(tree, mesh, BY_EXAMPLE),
    )


def _treat(state: Any, mesh: Mesh | None, rest: Callable, rows: Callable) -> Any:
    """Apply `rows` to the persistent states and `rest` to everything else."""
    if mesh is None:
        return state
    others = rest(dataclasses.replace(state, particles={}), mesh)
    return dataclasses.replace(others, particles=rows(state.particles, mesh))


class Batch(eqx.Module):
    """Examples of one step, with initial states (or `None`), random key and weights."""

    x: PyTree[Array]
    y: PyTree[Array]
    state: PyTree[Array] | None
    key: PRNGKeyArray
    weight: Float[Array, " batch"] | None


def gradient(
    mesh: Mesh | None,
    estimator: AbstractEstimator,
    model: tuple[AbstractSystem, Any],
    batch: Batch,
) -> Gradient:
    """Return the gradient of a batch, whose length is a multiple of the devices.

    Loss and gradients are Σ W_d g_d / Σ W_d, with g_d the weighted mean of device d
    and W_d the sum of its weights.  A part without weight adds nothing.
    """

    def part_gradient(whole, split):
        estimator, (system, cost), key = whole
        x, y, state, weight = split
        return estimator(system, cost, x, y, state=state, key=key, weight=weight)

    whole = (estimator, model, batch.key)
    split = (batch.x, batch.y, batch.state, batch.weight)
    if mesh is None:
        return part_gradient(whole, split)

    def part(whole, split):
        found = part_gradient(whole, split)
        used = found.weight
        error = found.stats.values.get("rounding", jnp.zeros(()))
        if used is None:
            used = jnp.ones(len(found.equilibrium.status))
        own, total = jnp.sum(used), jax.lax.psum(jnp.sum(used), DATA_AXIS)
        share = own / jnp.where(total == 0, 1, total)
        means = jax.tree.map(
            lambda v: (share * v).astype(v.dtype),
            (found.loss, found.grads, found.cost_grads, error),
        )
        return jax.lax.psum(means, DATA_AXIS), (found.equilibrium, used)

    out = (EVERYWHERE, BY_EXAMPLE)
    means, (equilibrium, used) = _over_devices(part, mesh, whole, split, out)
    loss, grads, cost_grads, error = means
    stats = Stats(type(estimator).__name__, {"rounding": error})
    return Gradient(loss, grads, cost_grads, equilibrium, stats, used)


def settled(
    mesh: Mesh | None,
    system: AbstractSystem,
    x: PyTree[Array],
    relaxation: AbstractRelaxation,
    state: PyTree[Array] | None,
    key: PRNGKeyArray,
) -> Equilibrium:
    """Return the free equilibria of a batch, a multiple of the devices long."""

    def part(whole, split):
        system, relaxation, key = whole
        x, state = split
        return relax(system, x, relaxation, state=state, key=key)

    whole = (system, relaxation, key)
    if mesh is None:
        return part(whole, (x, state))
    return _over_devices(part, mesh, whole, (x, state), BY_EXAMPLE)


def _over_devices(
    function: Callable, mesh: Mesh, whole: PyTree, split: PyTree, out: Any
) -> Any:
    """Run `function(whole, part)` on every device; cut `split` along its first axis."""
    arrays, static = eqx.partition(whole, eqx.is_array)
    return jax.shard_map(
        lambda arrays, part: function(eqx.combine(arrays, static), part),
        mesh=mesh,
        in_specs=(EVERYWHERE, BY_EXAMPLE),
        out_specs=out,
        check_vma=False,
    )(arrays, split)
