"""What is compiled, and when: nothing new after the first epoch, no host in a chunk."""

import hashlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.data import digits
from eqprop.training import make_trainer
from eqprop.training._loop import _advance

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def compiled():
    """A list that grows by one with every program that XLA compiles or loads."""
    seen = []

    def listen(name, *_, **__):
        if name == COMPILED:
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


class Count(ep.Observer):
    """How many programs had been compiled at the end of each epoch."""

    def __init__(self, compiled):
        self.compiled, self.after = compiled, []

    def on_epoch(self, state, record):
        self.after.append(len(self.compiled))


@pytest.mark.parametrize("persistent", [False, True])
def test_nothing_is_compiled_after_the_first_epoch(x, y, compiled, persistent):
    """A smaller last batch, validation, test and persistent states included.

    The last epoch alone measures persistent networks from a cold start too.
    """
    one_hot = np.eye(3, dtype=np.float32)[y]
    system = ep.HopfieldEnergy((4, 6, 3), key=jax.random.key(0))
    rule = ep.EquilibriumPropagation(ep.Euler(0.5, 4), ep.Euler(0.5, 2), 0.5)
    count = Count(compiled)
    ep.fit(
        system,
        ep.SquaredError(),
        *(x[:32], one_hot[:32]),
        estimator=rule,
        epochs=5,
        batch_size=20,
        persistent=persistent,
        validation=(x[32:40], one_hot[32:40]),
        test=(x[40:], one_hot[40:]),
        observer=count,
    )
    assert count.after[0] > 0  # the count counts
    assert count.after[0] == count.after[3]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_chunk_of_steps_never_asks_the_host(x, y, precision):
    """One program without a callback, a loop of steps, and every leaf donated."""
    system = ep.HopfieldEnergy((4, 6, 3), key=jax.random.key(0))
    trainer = make_trainer(
        system,
        ep.SquaredError(),
        {"train": (x, np.eye(3, dtype=np.float32)[y])},
        optimizer=ep.Optimizer("adam", (1e-3,)),
        epochs=1,
        batch_size=20,
        estimator=ep.EquilibriumPropagation(ep.Euler(0.5, 4), ep.Euler(0.5, 2), 0.5),
        key=jax.random.key(0),
        seed=0,
        persistent=True,
        shuffle=True,
        precision=precision,
    )
    state = trainer.init(system, ep.SquaredError())
    fixed = (trainer, trainer.order(0), jnp.array(3))
    program = _advance.lower(fixed, state).as_text()
    assert "while" in program
    for word in ("callback", "infeed", "outfeed"):
        assert word not in program
    before = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    _advance(fixed, state)
    assert all(leaf.is_deleted() for leaf in before)


def test_the_digits_are_those_of_scikit_learn():
    """Fails if a pixel, a label or their order differs from load_digits (1.9.1)."""
    images, labels = digits()
    arrays = (16 * images).astype("<f8"), labels.astype("<i8")
    found = [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in arrays]
    assert found == ["20def7f70a702f0a", "a3c91c262eddcf7b"]
    assert (images.shape, images.dtype, images.max()) == ((1797, 8, 8), float, 1)
