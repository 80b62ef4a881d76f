"""Bad models: the mistake, where it is, and what to do; runs that fail.

The models are those of `mistakes.py`, one function each.
"""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import eqprop as ep
from messages import assert_holds, command, refused


HERE = Path(__file__).parent / "mistakes.py"

WRONG = {
    "raises": ("model.py, line", "RuntimeError: no luck today"),
    "leaves": ("model.py, line", "SystemExit: 3"),
    "stops": ("model.py, line", "Stop: enough"),
    "nothing": ("NoneType", "(system, cost, x, y)"),
    "three": ("tuple of 3", "(system, cost, x, y)"),
    "argument": ("'needed'",),
    "no_system": ("builtin_function", "ep.AbstractEnergy"),
    "a_class": ("the class Quadratic", "instance"),
    "no_cost": ("a str", "ep.SquaredError()"),
    "cost_class": ("the class SquaredError", "ep.SquaredError()"),
    "unbatched": ("x: 3", "y: 2", "equal"),
    "scalar": ("x is a scalar", "batch axis"),
    "not_a_number": ("x has 90 NaN", "(0, 0)", "remove"),
    "infinite": ("y has 60 NaN or infinite", "remove"),
    "empty": ("empty", "at least one"),
    "lengths": ("x: 30", "y: 10"),
    "text": ("<U32", "numbers"),
    "lists": ("Python float", "np.asarray(x)"),
    "no_x": ("x holds no arrays",),
    "other_x": ("(2,)", "(3,)", "model.py, line"),
    "other_y": ("(2,)", "(1,)"),
    "labels": ("(2,)", "()", "jax.nn.one_hot"),
    "velocity_shape": ("velocity", "(5,)", "(2,)"),
    "velocity_tree": ("velocity", "(*,)", "must be that of the state"),
    "energy_vector": ("energy", "(2,)", "scalar", "Sum"),
    "energy_none": ("energy", "NoneType", "scalar"),
    "energy_integer": ("energy", "int32", "floating-point"),
    "energy_attribute": ("energy", "'wieght'", "model.py, line"),
    "energy_branch": ("energy", "jnp.where", "model.py, line"),
    "integer_state": ("state", "int32", "floating point"),
    "no_state": ("init_state", "no arrays"),
    "readout_tuple": ("readout", "one array"),
    "projected": ("project", "(1,)", "(2,)"),
    "no_parameters": ("no parameters", "floating-point"),
    "bad_parameters": ("weight", "NaN"),
    "logarithm": ("logarithm()", "example 0", "division"),
    "cost_vector": ("cost", "(2,)", "scalar"),
    "cost_name": ("cost", "'undefined'", "model.py, line"),
    "goood": ("no function goood", "good"),
    "X": ("no function X", "it defines", "raises"),
}


@pytest.fixture
def model():
    """The file of models, in the folder of the test."""
    return Path(shutil.copy(HERE, "model.py"))


@pytest.mark.parametrize("name", WRONG)
def test_models_with_a_mistake(name, model, capsys):
    """Fails if a mistake of a model is found late, misnamed, or ends in a traceback."""
    message = refused(capsys, "train", "--system", f"{model}:{name}", "--run", "r")
    assert_holds(message, *WRONG[name])
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("option", "content", "fragments"),
    [
        ("none.py:f", None, ("no file none.py", "FILE.py:NAME")),
        ("file.py", "", ("'file.py'", "FILE.py:NAME")),
        ("file.py:", "", ("'file.py:'", "FILE.py:NAME")),
        ("file.txt:f", "", ("'file.txt:f'", "FILE.py:NAME")),
        ("file.py:f", "x = 1\ndef f(:\n", ("file.py, line 2", "SyntaxError")),
        ("file.py:f", "import not_there", ("file.py, line 1", "not_there")),
        ("file.py:f", "raise SystemExit", ("file.py, line 1", "SystemExit")),
    ],
)
def test_files_without_a_model(option, content, fragments, capsys):
    """Fails if a file that cannot be run is not named with its line."""
    if content is not None:
        Path("file.py").write_text(content, encoding="utf-8")
    assert_holds(refused(capsys, "train", "--system", option), *fragments)


def test_options_of_a_model(model, capsys):
    """Fails if an option without effect is taken, or a rule that does not fit."""
    options = ("--system", f"{model}:good")
    assert_holds(
        refused(capsys, "train", *options, "--model.hidden", "3"), "--model.hidden"
    )
    message = refused(capsys, "train", "digits", *options)
    assert_holds(message, "Sweep", "blocks", "ep.Euler")
    for validation, allowed in (("nan", "[0, 1)"), ("1.5", ">= 0"), ("99", "0 to 23")):
        message = refused(capsys, "train", *options, "--validation", validation)
        assert_holds(message, validation, allowed)


@pytest.mark.parametrize(
    ("name", "options", "fragments"),
    [
        (
            "stiff",
            ("--estimator.free.dt", "0.5", "--estimator.nudged.dt", "0.5"),
            (
                *("free phase diverged in epoch 1, step 1", "state of", "example"),
                *("oscillates", "estimator.free.dt"),
            ),
        ),
        (
            "good",
            ("--estimator.nudged.dt", "50"),
            ("epoch 1, step 1", "nudged phase", "example", "weight", "nudged.dt"),
        ),
        (
            "good",
            ("--optimizer.name", "sgd", "--optimizer.lr", "1e9", "--epochs", "40"),
            ("example", "epoch", "state", "optimizer.lr"),
        ),
        pytest.param(
            "cost_nan",
            (),
            ("the cost is nan for example", "epoch 1, step 1", "check the cost"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["dt", "nudge", "rate", "cost"],
)
def test_a_run_that_diverges(name, options, fragments, model, capsys):
    """Fails if a run goes on with NaN, or does not say when, where and what to do."""
    words = ("train", "--system", f"{model}:{name}", "--run", "run", *options)
    message = refused(capsys, *words, status=1)
    assert_holds(message, *fragments, "last good checkpoint is kept in run")
    system = f"{model}:{name}"
    for leaf in jax.tree.leaves(ep.load("run", system=system).system):
        assert np.isfinite(leaf).all()
    if name != "cost_nan":
        assert command(capsys, "eval", "run", "--system", system)[0] == 0


def test_a_run_that_diverges_does_so_again(model, capsys):
    """Fails if going on hides what happened, or spoils what was kept."""
    words = ("--estimator.free.dt", "0.5", "--estimator.nudged.dt", "0.5")
    system = ("--system", f"{model}:stiff")
    message = refused(capsys, "train", *system, "--run", "run", *words, status=1)
    again = ("train", "--resume", "run", *system)
    assert refused(capsys, *again, status=1) == message


def test_a_run_that_diverges_keeps_what_an_epoch_ended_with(x, y, capsys):
    """Fails if the parameters on their way out replace the last that were measured."""
    np.savez("own.npz", x=x, y=y)
    options = ["--optimizer.name", "sgd", "--optimizer.schedule", "constant"]
    options += ["--optimizer.lr", "3", "--batch-size", "8", "--epochs", "50"]
    words = ["train", "--data", "own.npz", "--run", "run", "--model.hidden", "6"]
    message = refused(capsys, *words, *options, status=1)
    assert int(re.search(r"epoch (\d+), step", message)[1]) > 1
    assert "state[1]" in message  # the layer of the linear outputs
    run = ep.load("run")
    assert int(run.state.step) == 0
    last = run.history[-1]
    assert last["epoch"] == int(run.state.epoch)
    # json has no infinity: a loss that left the range of floats is kept as null
    expected = np.inf if last["test_loss"] is None else last["test_loss"]
    assert ep.evaluate(run)["loss"] == pytest.approx(expected, rel=1e-5)


def test_memory_that_is_not_there(capsys):
    """Fails if a network beyond all addresses of a machine ends in a traceback."""
    words = ("train", "--run", "r", "--model.hidden", str(10**14))
    assert_holds(refused(capsys, *words, status=1), "out of memory", "smaller")
