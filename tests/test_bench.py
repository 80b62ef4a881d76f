"""`eqprop bench`: operations counted, programs repeated, numbers that agree."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
from zoo import quadratic

import eqprop as ep
from eqprop import data
from eqprop.cli import main
from eqprop.bench import _bench, _timing, bench, bench_problem
from eqprop.kernels import _correlation

NETS = {
    "dense": ((50, 400, 300, 10), 4 * (400 * 300 + 300 * 10)),
    # 10 x 10 places of 48 channels hear 3 x 3 x 32 numbers each.
    "convolutional": (
        ((14, 14, 1), ep.Convolution(32, 3), ep.Convolution(48, 3), 10),
        4 * (10 * 10 * 48 * 3 * 3 * 32 + 10 * 10 * 48 * 10),
    ),
}
"""sizes, and products of a step that remain once the input's drive is known: each link
is used upwards and downwards, a multiplication and an addition each"""


SMALL = ["--model.hidden", "6", "--batch-size", "5", "--rounds", "1"]


@pytest.fixture
def small(monkeypatch):
    """Small matrices, short rounds, and no data set at hand."""
    monkeypatch.setattr(_timing, "ON_PROCESSOR", (64,))
    monkeypatch.setattr(_bench, "TRAINING_STEPS", 4)
    monkeypatch.setattr(_timing, "DIFFERENCE", 1e-5)
    monkeypatch.setitem(bench.__kwdefaults__, "seconds", 1e-3)
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("data were loaded"))


def flops(system, relaxation, batch=8):
    x = jnp.ones((batch, *system.shapes[0]))
    state = jax.vmap(system.init_state)(x)
    return _timing.step_flops(system, relaxation, x, state)


@pytest.mark.parametrize("relaxation", [ep.Euler(0.5, 4), ep.Sweep(4)], ids=repr)
@pytest.mark.parametrize("net", NETS)
def test_operations_of_a_step_are_those_of_its_products(net, relaxation, monkeypatch):
    """XLA's count is the hand's, and a tenth more at most for what is no product.

    Of XLA's convolution: Winograd's tiles need fewer, patches a few sums more.
    """
    monkeypatch.setattr(_correlation, "_on_cpu", lambda: False)
    sizes, by_hand = NETS[net]
    system = ep.HopfieldEnergy(sizes, key=jax.random.key(0))
    assert 1 <= flops(system, relaxation) / (8 * by_hand) < 1.1


def test_the_inputs_drive_is_not_counted():
    """A wider input adds nothing to a step, and a deeper network does."""
    narrow, wide, deep = (
        flops(ep.HopfieldEnergy(sizes, key=jax.random.key(0)), ep.Euler(0.5, 4))
        for sizes in ((50, 100, 10), (3000, 100, 10), (50, 100, 100, 10))
    )
    assert wide == pytest.approx(narrow, rel=0.02)
    assert deep > 5 * narrow


def test_a_chain_is_not_counted_by_its_steps():
    """Langevin hands energies on from step to step: its count would be too high."""
    system = ep.HopfieldEnergy((4, 3), key=jax.random.key(0))
    assert flops(system, ep.Langevin(0.1, 4)) is None


def test_no_repetition_of_a_program_is_left_out():
    """30 times the work takes far more time, though each gives the same result."""
    a = jnp.ones((384, 384))
    program = _timing.Program(lambda x, w: x @ w, a, a)

    def seconds(repeats):
        began = time.perf_counter()
        program(repeats)
        return time.perf_counter() - began

    seconds(1)
    once, often = (min(seconds(n) for _ in range(3)) for n in (1, 30))
    assert often > 5 * once
    assert jnp.allclose(program(3), 384)


def test_numbers_fit_each_other(small, capsys):
    """Rates, times, fractions and shares of the JSON agree; no data are needed."""
    assert bench_problem(ep.recipe("mnist-1h").config)[2].shape == (20, 784)
    assert main(["bench", "digits", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["batch_size"]) == ("digits", 5)
    assert found["environment"]["backend"] == "cpu"
    relaxation, training = found["relaxation"], found["training"]
    step = relaxation["step_seconds"]["median"]
    assert relaxation["steps_per_second"]["median"] == pytest.approx(1 / step)
    rate = relaxation["flops_per_second"]["median"]
    assert rate == pytest.approx(relaxation["flops_per_step"] / step)
    best = found["matrix_product"]["flops_per_second"][found["matrix_product"]["best"]]
    low, high = rate / best["most"], rate / best["least"]
    assert low <= relaxation["fraction_of_peak"]["median"] * (1 + 1e-9)
    assert relaxation["fraction_of_peak"]["median"] <= high * (1 + 1e-9)
    speed = training["steps_per_second"]["median"]
    assert training["examples_per_second"]["median"] == pytest.approx(5 * speed)
    assert list(found["profile"]) == ["free", "nudged", "gradient", "update", "rest"]
    assert found["parameters"] == 64 * 6 + 6 * 10 + 6 + 10
    weights = 4 * found["parameters"]
    assert weights / 10 < found["memory"]["gradient_temporaries"] < 10 * weights
    assert found["memory"]["peak"] > weights


@pytest.mark.slow
def test_any_rule_on_any_system_is_measured(small, x):
    """A rule without a nudged phase, on a user's plain energy."""
    rule = ep.BackpropagationThroughTime(ep.Euler(0.2, 5, tol=1e-3), 0.2, 3)
    settings = {"estimator": rule, "optimizer": ep.Optimizer("sgd", (0.01,))}
    problem = (quadratic(inputs=4), ep.SquaredError(), x[:8], jnp.ones((8, 2)))
    found = bench(*problem, **settings, rounds=1)
    assert list(found["profile"]) == ["free", "rule", "update", "rest"]


@pytest.mark.slow
def test_a_users_model_by_another_rule(small, capsys, tmp_path):
    """Its few examples fill the batch; what cannot be counted is said."""
    (tmp_path / "own.py").write_text(
        "import jax, jax.numpy as jnp, eqprop as ep\n"
        "def make():\n"
        "    net = ep.HopfieldEnergy((3, 4, 2), key=jax.random.key(0))\n"
        "    return net, ep.SquaredError(), jnp.ones((7, 3)), jnp.ones((7, 2))\n"
    )
    model = ["--system", f"{tmp_path / 'own.py'}:make", "--estimator", "stochastic"]
    assert main(["bench", *model, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{3 * 4 + 4 * 2 + 4 + 2} parameters, batch of 32" in printed
    assert "gradient, all phases" in printed
    assert "XLA cannot count a step of Langevin" in printed


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["custom"], 2, "give --system FILE.py:NAME"),
        (["digits", "--batch-size", "0"], 2, "batch_size is 0"),
        (["digits", "--rounds", "0"], 2, "rounds is 0"),
        (["own.py:make"], 2, "write --system own.py:make"),
        (
            ["digits", *SMALL, "--optimizer.lr", "1e38"],
            *(1, "training steps are not finite"),
        ),
    ],
)
def test_wrong_requests(argv, status, message, small, capsys):
    """The message says what to do, and the status whose fault it was."""
    assert main(["bench", *argv]) == status
    assert message in capsys.readouterr().err


def test_interrupted(small, capsys, monkeypatch):
    """Ctrl-C leaves with 130 and no traceback."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("eqprop.cli._bench.bench", interrupted)
    assert main(["bench", "digits"]) == 130
    assert "stopped before all was measured" in capsys.readouterr().err
