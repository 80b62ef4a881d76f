"""The data of a run: one scale, shape and kind of target at every entrance."""

import json
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from messages import assert_holds, command, refused

RANDOM = np.random.default_rng(5)
PIXELS = RANDOM.integers(0, 256, (40, 3, 4), np.uint8)
PIXELS[0, 0, :2] = 0, 255
LABELS = np.arange(40) % 2

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
import eqprop as ep

random = np.random.default_rng(0)


def floats():
    x = random.normal(size=(20, 3, 2)).astype(np.float32)
    system = ep.HopfieldEnergy((6, 2), key=jax.random.key(0))
    return Wrapped(system), ep.SquaredError(), x, np.eye(2, dtype=np.float32)[labels()]


def labels():
    return np.arange(20) % 2


def pixels():
    system, cost, x, y = floats()
    return system, cost, np.full(x.shape, 200, np.uint8), y


def classes():
    system, _, x, _ = floats()
    return system, Labelled(), x, labels()


class Labelled(ep.AbstractCost):
    def __call__(self, prediction, y):
        return -jax.nn.log_softmax(prediction)[y]


class Wrapped(ep.AbstractEnergy):
    inner: ep.HopfieldEnergy

    def init_state(self, x):
        return self.inner.init_state(x.reshape(-1))

    def energy(self, x, s):
        return self.inner.energy(x.reshape(-1), s)

    def project(self, s):
        return self.inner.project(s)

    def readout(self, s):
        return self.inner.readout(s)
"""


@pytest.fixture(autouse=True, scope="module")
def _no_figures():
    """Which take most of the time of a training of one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eqprop.runs._train.draw", lambda *_: None)
        yield


def train(folder, x, y):
    np.savez(folder / "own.npz", x=x, y=y)
    ep.train(
        ep.recipe("digits").config,
        run=folder / "run",
        data=folder / "own.npz",
        model=ep.Hopfield(hidden=(4,), output="linear"),
        epochs=1,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    """A run on uint8 pictures of 3×4."""
    return train(tmp_path_factory.mktemp("bytes"), PIXELS, LABELS)


@pytest.fixture(scope="module")
def of_floats(tmp_path_factory):
    """A run on the same pictures, divided by hand."""
    return train(tmp_path_factory.mktemp("floats"), PIXELS / 255, LABELS)


def predicted(capsys, run, x, **arrays):
    """The outputs that the command line writes for these inputs."""
    np.savez("given.npz", x=x, **arrays)
    status, out, err = command(capsys, "predict", run, "given.npz", "--json")
    assert status == 0, err
    with np.load(json.loads(out)["out"]) as found:
        return found["prediction"]


def test_one_picture_is_one_input_at_every_entrance(of_bytes, of_floats, capsys):
    """Fails if Python and the command line scale the same array otherwise."""
    run = ep.load(of_bytes)
    given = [PIXELS, PIXELS / 255, (PIXELS / 255).reshape(40, 12).astype(np.float32)]
    expected = ep.predict(run, given[0])
    for x in given:
        np.testing.assert_allclose(ep.predict(run, x), expected, atol=1e-6)
        np.testing.assert_allclose(predicted(capsys, of_bytes, x), expected, atol=1e-6)
    # The run on floats is the same training, as its numbers are the same.
    other = ep.predict(ep.load(of_floats), PIXELS / 255)
    np.testing.assert_allclose(other, expected, atol=1e-5)
    wrong = np.mean(expected.argmax(1) != LABELS)
    for x in given:
        assert ep.evaluate(run, x, LABELS)["error"] == pytest.approx(wrong, abs=1e-6)
        np.savez("given.npz", x=x, y=LABELS)
        status, out, _ = command(
            capsys, "eval", of_bytes, "--data", "given.npz", "--json"
        )
        assert status == 0
        assert json.loads(out)["error"] == pytest.approx(wrong, abs=1e-6)


BAD = {
    "floats": ("of_bytes", PIXELS.astype(np.float32), ("0 to 255", "floats from 0")),
    "centred": ("of_bytes", PIXELS / 127.5 - 1, ("-1 to 1", "uint8")),
    "integers": ("of_bytes", PIXELS.astype(int), ("int64", "uint8")),
    "shape": ("of_bytes", PIXELS.reshape(40, 2, 6), ("(2, 6)", "(3, 4)")),
    "channels": ("of_bytes", np.moveaxis(PIXELS, -1, 1), ("(4, 3)", "moveaxis")),
    "bytes": ("of_floats", PIXELS, ("uint8", "x / 255")),
    "undivided": ("of_floats", PIXELS * 1.0, ("0 to 255", "scale x")),
}


@pytest.mark.parametrize("kind", BAD)
def test_inputs_of_another_scale_or_shape(kind, request, capsys):
    """Fails if a network answers for pictures that it cannot have learned."""
    name, x, fragments = BAD[kind]
    path = request.getfixturevalue(name)
    run = ep.load(path)
    for ask in (lambda: ep.predict(run, x), lambda: ep.evaluate(run, x, LABELS)):
        with pytest.raises(ValueError, match=r"\S") as error:
            ask()
        assert_holds(str(error.value), *fragments)
    np.savez("given.npz", x=x, y=LABELS)
    assert_holds(refused(capsys, "predict", path, "given.npz"), *fragments)
    message = refused(capsys, "eval", path, "--data", "given.npz")
    assert_holds(message, *fragments)


def test_the_scale_is_kept_with_the_run(of_bytes, tmp_path):
    """Fails if a run whose data are gone forgets it, or one without a record fails."""
    expected = ep.predict(ep.load(of_bytes), PIXELS)
    kept = json.loads((of_bytes / "env.json").read_text("utf-8"))
    record = kept["data"]["inputs"]
    assert (record["dtype"], record["divisor"]) == ("uint8", 255)
    assert (record["shape"], record["range"]) == ([3, 4], [0, 255])
    data = of_bytes.parent / "own.npz"
    moved = data.rename(tmp_path / "moved.npz")
    try:
        np.testing.assert_array_equal(ep.predict(ep.load(of_bytes), PIXELS), expected)
        with pytest.raises(ValueError, match="uint8 from 0 to 255, divided by 255"):
            ep.predict(ep.load(of_bytes), PIXELS * 1.0)
        old = kept | {"data": {k: v for k, v in kept["data"].items() if k != "inputs"}}
        (of_bytes / "env.json").write_text(json.dumps(old), "utf-8")
        run = ep.load(of_bytes)
        np.testing.assert_array_equal(ep.predict(run, PIXELS), expected)
        with pytest.raises(ValueError, match=r"\(2, 6\)"):
            ep.predict(run, PIXELS.reshape(40, 2, 6))
    finally:
        moved.rename(data)
        (of_bytes / "env.json").write_text(json.dumps(kept), "utf-8")


def test_an_exported_network_says_its_scale(of_bytes, of_floats):
    """Fails if a program without eqprop cannot know what to do to its pixels."""
    from eqprop.runs import export

    found = export(of_bytes, "bytes")["input"]
    assert found["given"]["divisor"] == 255
    assert_holds(found["preparation"], "3×4 uint8", "divided by 255", "flattened")
    found = export(of_floats, "floats")["input"]
    assert_holds(found["preparation"], "float64 from 0 to 1", "not scaled")
    assert "255" not in found["preparation"]


# --- targets


def test_labels_in_every_form(of_bytes, capsys):
    """Fails if one form of the same labels has another error, or none."""
    run = ep.load(of_bytes)
    forms = [LABELS, LABELS[:, None], LABELS.astype(float), np.eye(2)[LABELS]]
    found = [ep.evaluate(run, PIXELS, y) for y in forms]
    assert all(one == found[0] for one in found)
    for y in forms:
        np.savez("given.npz", x=PIXELS, y=y)
        status, out, _ = command(capsys, "predict", of_bytes, "given.npz", "--json")
        assert status == 0
        error = json.loads(out)["error"]
        assert error == pytest.approx(found[0]["error"], abs=1e-6)


@pytest.mark.parametrize(
    ("y", "fragments"),
    [
        (LABELS + 1, ("1 to 2", "0 to 1")),
        (LABELS - 1, ("= -1", "from 0")),
        (LABELS + 0.5, ("labels",)),
        (np.eye(3)[LABELS], ("(3,)", "(2,)")),
    ],
)
def test_targets_that_the_run_does_not_know(y, fragments, of_bytes, capsys):
    """Fails if an error is measured against labels without an output."""
    np.savez("given.npz", x=PIXELS, y=y)
    for words in (("eval", of_bytes, "--data"), ("predict", of_bytes)):
        assert_holds(refused(capsys, *words, "given.npz"), *fragments)
    with pytest.raises(ValueError, match=r"\S") as error:
        ep.evaluate(ep.load(of_bytes), PIXELS, y)
    assert_holds(str(error.value), *fragments)


SMALL = ("--epochs", "1", "--model.hidden", "3", "--data", "own.npz")


def test_the_data_in_a_line(capsys):
    """Fails if classes, examples and absent classes are not told, or spoil the JSON."""
    np.savez("own.npz", x=PIXELS, y=3 + 4 * LABELS)
    status, out, err = command(capsys, "train", *SMALL, "--run", "a")
    assert status == 0, err
    assert "8 classes, 40 examples (32 train, 8 test)" in out.splitlines()[0]
    assert "3×4 uint8 from 0 to 255, divided by 255" in out.splitlines()[0]
    assert_holds(err, "warning: ", "class 0, 1, 2, 4, 5, 6", "np.unique", "--task")
    status, out, err = command(capsys, "train", *SMALL, "--run", "b", "--json")
    assert json.loads(out)["epoch"] == 1
    assert err.count("class 0, 1, 2") == 1


def test_a_regression_of_whole_numbers(capsys):
    """Fails if ages are classes although a regression was asked for."""
    ages = 18.0 + np.arange(40)
    np.savez("own.npz", x=PIXELS, y=ages)
    words = ("train", *SMALL, "--model.output", "linear", "--optimizer.lr", "1e-5")
    status, out, err = command(capsys, *words, "--run", "r", "--task", "regression")
    assert (status, err) == (0, "")
    assert "regression of 1 target value, 40 examples" in out
    run = ep.load("r")
    assert run.config.task == "regression"
    assert ep.predict(run, PIXELS).shape == (40, 1)
    for y in (ages, ages.astype(int), ages[:, None], -ages):
        np.savez("given.npz", x=PIXELS, y=y)
        status, out, err = command(capsys, "eval", "r", "--data", "given.npz", "--json")
        assert status == 0, err
        residual = ep.predict(run, PIXELS)[:, 0] - y.reshape(-1)
        loss = json.loads(out)["loss"]
        assert loss == pytest.approx(np.mean(residual**2) / 2, rel=1e-4)


def test_held_out_targets_that_are_no_probabilities():
    """Fails if a test loss of the cross-entropy is measured against other numbers."""
    x, y = PIXELS / 255, np.eye(2)[LABELS]
    np.savez("own.npz", x=x, y=y, x_test=x, y_test=-y)
    config = ep.recipe("digits").config
    model = ep.Hopfield(hidden=(3,), cost="cross-entropy", output="linear")
    with pytest.raises(ValueError, match=r"test y\[0\] is not a probability"):
        ep.train(config, run="r", data="own.npz", model=model, epochs=1)
    np.savez("own.npz", x=x, y=y)
    run = ep.train(config, run="r", data="own.npz", model=model, epochs=1)
    with pytest.raises(ValueError, match=r"y\[0\] is not a probability"):
        ep.evaluate(run, x, y * 2)


# --- arrays and programs


def test_fit_takes_no_bytes():
    """Fails if pixels that nobody has scaled drive a network 255 times too hard."""
    import jax

    x, y = PIXELS.reshape(40, 12), np.eye(2, dtype=np.float32)[LABELS]
    system = ep.HopfieldEnergy((12, 2), key=jax.random.key(0))
    rule = ep.EquilibriumPropagation(ep.Sweep(3), ep.Sweep(3), 0.5)
    given = {"estimator": rule, "epochs": 1}
    with pytest.raises(ValueError, match=r"x has dtype uint8 .*/ 255"):
        ep.fit(system, ep.SquaredError(), x, y, **given)
    unit = (x / 255).astype(np.float32)
    for name in ("validation", "test"):
        held_out = {name: (unit * 255, y)}
        with pytest.raises(ValueError, match=f"{name} x holds float32 from 0 to 255"):
            ep.fit(system, ep.SquaredError(), unit, y, **given, **held_out)


@pytest.fixture
def program():
    Path("program.py").write_text(PROGRAM)
    return Path("program.py")


def test_the_data_of_a_program(program, capsys):
    """Fails if a file is flattened or scaled for a program that did neither."""
    system = ("--system", f"{program}:floats")
    words = ("train", *system, "--epochs", "1", "--run", "r")
    assert command(capsys, *words)[0] == 0
    x = RANDOM.normal(size=(5, 3, 2))
    expected = ep.predict(ep.load("r", system=system[1]), x)
    np.savez("given.npz", x=x, y=np.eye(2)[[0, 1, 0, 1, 0]])
    for words in (("predict", "r", "given.npz"), ("eval", "r", "--data", "given.npz")):
        status, _, err = command(capsys, *words, *system, "--json")
        assert status == 0, err
    with np.load("given-predictions.npz") as found:
        np.testing.assert_allclose(found["prediction"], expected, atol=1e-6)
    for bad in (x.reshape(5, 6), x.reshape(5, 2, 3), (x * 40).astype(np.uint8)):
        np.savez("given.npz", x=bad)
        refused(capsys, "predict", "r", "given.npz", *system)
    message = refused(capsys, "train", *system, "--task", "regression", "--run", "t")
    assert_holds(message, "task is 'regression'", "program.py:floats")
    words = ("train", "--system", f"{program}:pixels", "--epochs", "1", "--run", "p")
    assert_holds(refused(capsys, *words), "pixels() in program.py", "uint8", "/ 255")


def test_labels_of_a_program(program):
    """Fails if a label beyond those of the training is counted without a word."""
    name = f"{program}:classes"
    config = ep.recipe("custom").config
    run = ep.train(
        config, run="r", model=ep.training.UserModel(name), data=None, epochs=1
    )
    x, y = RANDOM.normal(size=(4, 3, 2)), np.array([0, 1, 1, 0])
    same = [ep.evaluate(run, x, labels) for labels in (y, y.astype(float))]
    assert same[0] == same[1]
    with pytest.warns(
        ep.runs.RunWarning, match="0 to 2; this run was trained on 0 to 1"
    ):
        ep.evaluate(run, x, y + (y > 0))
    with pytest.raises(ValueError, match="float64; this run was trained on int64"):
        ep.evaluate(run, x, y + 0.5)
    with pytest.raises(ValueError, match=r"y has shape \(2,\)"):
        ep.evaluate(run, x, np.eye(2)[y])
