"""What is compiled, and when: nothing new after the first epoch, no host in a chunk."""

import hashlib
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.data import digits
from eqprop.training import make_trainer, Settings
from eqprop.training._loop import _advance

FRESH = """
import resource, sys
try:
    {statement}
except SystemExit:
    pass
heavy = {{"jax", "equinox", "optax", "matplotlib", "rich.console"}} & set(sys.modules)
used = resource.getrusage(resource.RUSAGE_SELF)
print(*sorted(heavy), file=sys.stderr)
print(used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def fresh(statement):
    """The heavy packages that a statement loads, and the CPU seconds of the program."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy, seconds = done.stderr.splitlines()[-2:]
    return heavy.split(), float(seconds)


needs_getrusage = pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")


@needs_getrusage
def test_the_help_does_not_wait_for_jax():
    """`eqprop --help` within 0.5 CPU seconds, that of a command within 1."""
    main = "from eqprop.cli import main; main({!r})"
    heavy, seconds = fresh(main.format(["--help"]))
    assert heavy == []
    assert seconds < 0.5
    every = "; ".join(main.format([word, "--help"]) for word in ("train", "bench"))
    assert fresh(every)[0] == []
    for word in ("reproduce", "verify"):
        heavy, seconds = fresh(main.format([word, "--help"]))
        assert set(heavy) <= {"rich.console"}
        assert seconds < 1


@needs_getrusage
def test_importing_the_library_costs_little_more_than_jax():
    """`import eqprop` loads no JAX, a system takes 0.3 s more than JAX and equinox."""
    assert fresh("import eqprop")[0] == []
    own = min(fresh("import eqprop as ep; ep.HopfieldEnergy")[1] for _ in range(2))
    jax_alone = max(fresh("import jax, equinox")[1] for _ in range(2))
    assert own < jax_alone + 0.3


def test_the_public_names_can_be_imported_and_listed():
    """Fails if a name of the stub is missing, or a typing error finds something."""
    for name in ep.__all__:
        assert getattr(ep, name) is not None
        assert name in dir(ep)
    assert ep.runs.train is ep.train
    with pytest.raises(AttributeError, match="'eqprop' has no attribute 'Eular'"):
        _ = ep.Eular  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Eular"):
        exec("from eqprop import Eular")


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
        (system, ep.SquaredError()),
        {"train": (x, np.eye(3, dtype=np.float32)[y])},
        Settings(epochs=1, persistent=True, precision=precision),
        optimizer=ep.Optimizer("adam", (1e-3,)),
        estimator=ep.EquilibriumPropagation(ep.Euler(0.5, 4), ep.Euler(0.5, 2), 0.5),
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
