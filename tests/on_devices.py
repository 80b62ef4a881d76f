"""One device against many, in a program of its own: `python on_devices.py`.

JAX counts its devices once, at the start, and the other tests want a single one.
"""

import os
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import batch, field, hopfield, SoftmaxReadout

import eqprop as ep
from eqprop._precision import rounded
from eqprop.estimators import settled_only
from eqprop.training import _devices, make_trainer, Settings

EXACT = 1e-12
TIGHT = ep.Euler(0.3, 60, tol=1e-3)
LOOSE = ep.Euler(0.5, 20, tol=1e-3)
NUDGED = ep.Euler(0.3, 5)
NOISE = ep.Langevin(dt=0.1, steps=4, temperature=1e-2)
EP = ep.EquilibriumPropagation
FIRST = "centered, of those that settle"
RULES = {
    FIRST: (hopfield, settled_only(EP(LOOSE, NUDGED, 0.1))),
    "one sign": (hopfield, EP(TIGHT, NUDGED, 0.1, "random-sign")),
    "noise of each example": (hopfield, EP(NOISE, NOISE, 0.1)),
    "chains": (
        hopfield,
        ep.StochasticEquilibriumPropagation(NOISE, NOISE, 0.1, chains=2, samples=3),
    ),
    "probes": (field, ep.JacobianHomeostasis(EP(TIGHT, NUDGED, 0.1), 0.1)),
    "clamped": (hopfield, ep.CoupledLearning(NOISE, NOISE, 0.1)),
    "a path": (hopfield, ep.SpikeTimingDependentPlasticity(TIGHT, NUDGED, 0.1)),
    "complex, of those that settle": (
        hopfield,
        ep.HolomorphicEquilibriumPropagation(TIGHT, ep.Euler(0.3, 20, tol=3e-3), 0.1),
    ),
    "exact": (hopfield, ep.ImplicitDifferentiation(TIGHT)),
}


def largest(tree, other):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return max(float(np.max(abs(np.asarray(a, float) - b))) for a, b in pairs)


def same_gradients(name):
    """On 1, 2 and 4 devices."""
    make, estimator = RULES[name]
    system, cost = make(), ep.SquaredError()
    x, y = batch(size=16)
    key = jax.random.key(3)
    whole = estimator(system, cost, x, y, key=key)
    left_out = 0 if whole.weight is None else int(np.sum(whole.weight == 0))
    assert (0 < left_out < 16) == ("that settle" in name)
    expected = (whole.loss, whole.grads, whole.cost_grads, whole.equilibrium)
    for devices in (2, 4) if name == FIRST else (2,):
        mesh = _devices.make_mesh(devices)

        @jax.jit
        def split(x, y, key, mesh=mesh):
            batch = _devices.Batch(x, y, None, key, None)
            found = _devices.gradient(mesh, estimator, (system, cost), batch)
            return found.loss, found.grads, found.cost_grads, found.equilibrium

        assert largest(split(x, y, key), expected) < EXACT, (name, devices)
        assert largest(whole.grads, jax.tree.map(jnp.zeros_like, whole.grads)) > 0.01


def same_training():
    """Batches of 5 of 22 examples on 1 and 3 devices, some of which get none.

    Some examples do not settle and are left out, and the step size is the network's.
    """
    system, cost = hopfield(), SoftmaxReadout(jnp.eye(2))
    x, _ = batch(size=22)
    y = jax.nn.one_hot(jnp.argmax(x[:, :2], axis=1), 2)
    settings = Settings(
        epochs=2, batch_size=5, persistent=True, on_unsettled="mask", dt="auto"
    )
    found = {}
    for devices in (1, 3):
        made = make_trainer(
            (system, cost),
            {"train": (x, y), "test": (x[:7], y[:7])},
            settings,
            estimator=EP(LOOSE, NUDGED, 0.1, "random-sign"),
            optimizer=ep.Optimizer("adam", (0.01,)),
            devices=devices,
        )
        state = made.init(system, cost)
        for _ in range(2):
            *_, state = made.epoch(state)
            assert 0 < float(state.sums["used"]) < 22
            state, measured = made.evaluate(state, "test")
            state = made.next_epoch(state)
        if devices > 1:
            lives_with_its_examples(state, devices)
        found[devices] = (made.collected(state), measured)
    assert largest(found[3], found[1]) < EXACT


def rounds_within_the_parts():
    """The parts' products are those of the whole, so both have them rounded."""
    (make, estimator), (x, y) = RULES[FIRST], batch(size=4)
    system, cost, key = make(), ep.SquaredError(), jax.random.key(3)

    def grads(mesh, precision):
        def found(x, y):
            batch = _devices.Batch(x, y, None, key, None)
            return _devices.gradient(mesh, estimator, (system, cost), batch).grads

        return str(jax.make_jaxpr(rounded(found, precision))(x, y))

    whole = grads(None, "tf32").count("reduce_precision")
    assert whole > 0
    assert grads(_devices.make_mesh(2), "tf32").count("reduce_precision") == whole


def lives_with_its_examples(state, devices):
    """Of the persistent states each device holds its rows, of all else a copy."""
    for leaf in jax.tree.leaves(state.particles["train"]):
        rows = {shard.device: shard.data.shape[0] for shard in leaf.addressable_shards}
        assert set(rows.values()) == {-(-22 // devices)}
        assert len(rows) == devices
    assert state.system.weights[0].sharding.is_fully_replicated


def refuses(text, estimator, devices=2, batch_size=5):
    system, (x, y) = hopfield(), batch(size=10)
    with pytest.raises(ValueError, match=text):
        ep.fit(
            *(system, ep.SquaredError(), x, y),
            estimator=estimator,
            optimizer=ep.Optimizer("sgd", (0.05,)),
            epochs=1,
            batch_size=batch_size,
            devices=devices,
        )


if __name__ == "__main__":
    rounds_within_the_parts()
    jax.config.update("jax_enable_x64", True)
    for name in RULES if "all" in sys.argv else (FIRST,):
        same_gradients(name)
    if "all" in sys.argv:
        same_training()
    refuses(
        "step of the whole batch", ep.ContinualEquilibriumPropagation(TIGHT, NUDGED)
    )
    refuses("choose 6", RULES["chains"][1])
    refuses("has 8 here", EP(TIGHT, NUDGED), devices=9)
    refuses("≥ 1", EP(TIGHT, NUDGED), devices=0)
    print("done")
