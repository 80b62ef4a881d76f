"""A batch split over a mesh of devices: what lives where, and how parts are joined.

Parameters, optimizer and data are on every device.  Of the persistent states each
device keeps those of its own examples, N/D rows.  A batch is cut into D equal parts
in the order of its places; its states travel from and to the devices that keep them.
A device settles its part inside `jax.shard_map`, so that none waits for another
within a relaxation, and the parts' gradients are joined by one weighted mean.
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

EVERYWHERE, BY_EXAMPLE = PartitionSpec(), PartitionSpec(DATA_AXIS)


def make_mesh(devices: int | None = None) -> Mesh | None:
    """The first `devices` of each process, or None where that is a single one.

    `None` means one for a program that runs alone, and all devices of all processes
    where there are several.
    """
    if isinstance(devices, bool) or not (
        devices is None or (isinstance(devices, int) and devices >= 1)
    ):
        raise ValueError(f"devices is {devices!r}; it must be a whole number ≥ 1")
    found = jax.local_device_count()
    if devices is None:
        devices = 1 if jax.process_count() == 1 else found
    if devices > found:
        raise ValueError(
            f"devices is {devices}, and {jax.default_backend()} has {found} here; give "
            "at most as many (processors count as one: `eqprop train --devices` and "
            'jax.config.update("jax_num_cpu_devices", N), before anything else, split '
            "them)"
        )
    chosen = []
    for process in range(jax.process_count()):
        chosen += jax.local_devices(process_index=process)[:devices]
    if len(chosen) == 1:
        return None
    auto = (AxisType.Auto,)
    return jax.make_mesh((len(chosen),), (DATA_AXIS,), auto, devices=chosen)


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The arrays of a tree on every device."""
    return _placed(tree, mesh, EVERYWHERE)


def by_example(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Rows `[examples, …]` shared out over the devices, the last row repeated."""
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
        # Copies, as what is on a device may be donated to a program.
        return jax.make_array_from_callback(
            host.shape, sharding, lambda index: np.array(host[index])
        )

    return jax.tree.map(place, tree)


def collected(tree: PyTree, mesh: Mesh | None, rows: int | None = None) -> PyTree:
    """The tree as host arrays, of the first `rows` rows; every process gets them."""
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
    """The next multiple of the number of devices."""
    devices = 1 if mesh is None else mesh.size
    return -(-count // devices) * devices


def evaluation_batch(examples: int, mesh: Mesh | None) -> int:
    """How many examples settle at once where nothing is learned.

    A batch steps until its last example has settled, so on a CPU small ones are faster:
    50 instead of 500 by a third for dense networks, twice for convolutional ones.
    """
    size = 50 if jax.default_backend() == "cpu" else 500
    return padded(min(size, examples), mesh)


def held(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    """Inside `jax.jit`: keep a tree where it is, whatever the compiler would do."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, spec)
    arrays, static = eqx.partition(tree, eqx.is_array)
    arrays = jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), arrays
    )
    return eqx.combine(arrays, static)


def place_state(state: Any, mesh: Mesh | None) -> Any:
    """A training state of host arrays on the devices, each row where it lives."""
    return _treat(state, mesh, everywhere, by_example)


def collect_state(state: Any, mesh: Mesh | None, rows: dict[str, int]) -> Any:
    """The state as arrays that any program can use; `rows` counts each split's."""

    def cut(particles, mesh):
        return {n: collected(tree, mesh, rows[n]) for n, tree in particles.items()}

    return _treat(state, mesh, collected, cut)


def hold_state(state: Any, mesh: Mesh | None) -> Any:
    """`held` for a training state."""
    return _treat(
        state,
        mesh,
        lambda tree, mesh: held(tree, mesh, EVERYWHERE),
        lambda tree, mesh: held(tree, mesh, BY_EXAMPLE),
    )


def _treat(state: Any, mesh: Mesh | None, rest: Callable, rows: Callable) -> Any:
    """The examples' persistent states treated in one way, all else in another."""
    if mesh is None:
        return state
    others = rest(dataclasses.replace(state, particles={}), mesh)
    return dataclasses.replace(others, particles=rows(state.particles, mesh))


def gradient(
    mesh: Mesh | None,
    estimator: AbstractEstimator,
    system: AbstractSystem,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    state: PyTree[Array] | None,
    key: PRNGKeyArray,
    weight: Float[Array, " batch"] | None,
) -> Gradient:
    """The estimator's gradient of a batch, whose length the devices divide.

    Loss and gradients are Σ W_d g_d / Σ W_d over the devices' weighted means g_d, W_d
    the sums of their weights; a part without weight adds nothing.
    """
    if mesh is None:
        return estimator(system, cost, x, y, state=state, key=key, weight=weight)

    def part(whole, split):
        estimator, system, cost, key = whole
        x, y, state, weight = split
        found = estimator(system, cost, x, y, state=state, key=key, weight=weight)
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

    whole, split = (estimator, system, cost, key), (x, y, state, weight)
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
    """The free equilibria of a batch, whose length the devices divide."""
    if mesh is None:
        return relax(system, x, relaxation, state=state, key=key)

    def part(whole, split):
        system, relaxation, key = whole
        x, state = split
        return relax(system, x, relaxation, state=state, key=key)

    whole = (system, relaxation, key)
    return _over_devices(part, mesh, whole, (x, state), BY_EXAMPLE)


def _over_devices(
    function: Callable, mesh: Mesh, whole: PyTree, split: PyTree, out: Any
) -> Any:
    """`function(whole, part)` on every device, `split` cut along its first axis."""
    arrays, static = eqx.partition(whole, eqx.is_array)
    return jax.shard_map(
        lambda arrays, part: function(eqx.combine(arrays, static), part),
        mesh=mesh,
        in_specs=(EVERYWHERE, BY_EXAMPLE),
        out_specs=out,
        check_vma=False,
    )(arrays, split)
