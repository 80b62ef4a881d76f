"""The command line as a user runs it, in this process for speed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop import cli
from messages import assert_holds, command, refused

SMALL = ["--model.hidden", "24", "--epochs", "3", "--batch-size", "50"]


def run(capsys, *arguments):
    """Status, standard output and standard error of one command."""
    status = cli.main([*arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def run_json(capsys, *arguments):
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run on the digits, which no test changes."""
    path = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(["train", "--run", str(path), *SMALL]) == 0
    return path


@pytest.mark.slow
def test_the_main_job(capsys):
    """`eqprop train`: ≤ 3 % test error on the digits, mean of three seeds."""
    errors = []
    for seed in range(3):
        found = run_json(capsys, "train", "--seed", str(seed), "--run", f"run{seed}")
        errors.append(found["test_error"])
        assert found["train_error"] < 0.03
    assert np.mean(errors) <= 0.03


def test_a_run_directory_stands_alone(figures, capsys):
    """Configuration, environment, a line of metrics an epoch, figures, checkpoints.

    Off a terminal no progress bar; the final table names errors and the run.
    """
    status, out, err = run(capsys, "train", "--run", "here", *SMALL)
    assert status == 0
    assert err == ""
    for word in ("train", "validation", "test", "%", "run: here"):
        assert word in out
    trained = Path("here")
    names = {path.name for path in trained.iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "env.json",
        "inputs.json",
        "metrics.jsonl",
        "checkpoints",
        "curves.png",
        "weights.png",
    }
    text = (trained / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {
        "epoch",
        "loss",
        "train_error",
        "val_error",
        "test_error",
        "seconds",
        "steps",
        "settled",
    } <= set(lines[0])
    assert lines[0]["val_error"] is None
    environment = json.loads((trained / "env.json").read_text())
    assert {"jax", "eqprop"} <= set(environment["packages"])
    for name in ("curves.png", "weights.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


def test_overrides_reach_the_configuration(capsys):
    """The options of the issue's own example, all at once."""
    run_json(
        capsys,
        "train",
        "digits",
        "--run",
        "r",
        *("--estimator.beta", "0.2", "--estimator.free.steps", "30"),
        *("--optimizer.lr", "0.001", "0.0005", "--epochs", "2", "--seed", "3"),
        *("--model.hidden", "16", "--persistent", "--validation", "100"),
        *("--batch-size", "100"),
    )
    config = ep.load("r").config
    assert config.estimator.beta == 0.2
    assert config.estimator.free == ep.Sweep(30)
    assert config.optimizer.lr == (0.001, 0.0005)
    assert (config.epochs, config.seed, config.persistent) == (2, 3, True)
    assert len(ep.load("r").problem.validation[0]) == 100


def test_eval_agrees_with_the_last_epoch(trained, capsys):
    """A loaded run is the run that was saved."""
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    found = run_json(capsys, "eval", str(trained))
    assert found["error"] == pytest.approx(last["test_error"], abs=1e-7)
    assert found["loss"] == pytest.approx(last["test_loss"], rel=1e-5)
    assert found["split"] == "test"


def test_eval_and_predict_on_a_file(trained, capsys, tmp_path):
    """Labels of predict.npz have the error that eval reports."""
    run_ = ep.load(trained)
    x, y = run_.problem.test
    labels = y.argmax(1)
    np.savez(tmp_path / "data.npz", x=x, y=labels)
    data = str(tmp_path / "data.npz")
    measured = run_json(capsys, "eval", str(trained), "--data", data)
    found = run_json(capsys, "predict", str(trained), data)
    with np.load(found["out"]) as arrays:
        assert arrays["prediction"].shape == y.shape
        wrong = np.mean(arrays["label"] != labels)
    assert found["error"] == pytest.approx(wrong)
    assert measured["error"] == pytest.approx(wrong, abs=1e-6)


def test_persistent_runs_tell_both_errors(capsys):
    """What persists counts in training; a network that starts anew is measured too."""
    found = run_json(capsys, "train", "--run", "p", "--persistent", *SMALL)
    measured = run_json(capsys, "eval", "p")
    assert measured["error_cold"] == pytest.approx(found["test_error_cold"], abs=1e-7)
    assert "residual_cold" in found


def test_own_data(capsys, tmp_path):
    """`--data my.npz` with classes, and with targets."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 6))
    np.savez(tmp_path / "c.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(int))
    found = run_json(
        capsys, "train", "--data", "c.npz", "--run", "c", "--model.hidden", "32"
    )
    assert found["test_error"] < 0.15
    np.savez(tmp_path / "t.npz", x=x, y=x[:, :2] - x[:, 2:4])
    found = run_json(
        capsys, "train", "--data", "t.npz", "--run", "t", "--model.hidden", "32"
    )
    assert found["test_error"] is None
    # The mean target would cost ½ Σ var(y) = ½ · 2 · ⅙.
    assert found["test_loss"] < 0.5 / 6


MODEL = """
import jax, jax.numpy as jnp, numpy as np
import eqprop as ep
from neighbour import SIZE

class Attractor(ep.AbstractEnergy):
    W: jax.Array
    V: jax.Array

    def init_state(self, x):
        return {"hidden": jnp.zeros(self.W.shape[0]), "out": jnp.zeros(2)}

    def energy(self, x, s):
        h = jnp.tanh(s["hidden"])
        return (0.5 * jnp.sum(s["hidden"] ** 2) + 0.25 * jnp.sum(s["hidden"] ** 4)
                + 0.5 * jnp.sum(s["out"] ** 2) - h @ self.W @ x - s["out"] @ self.V @ h)

    def readout(self, s):
        return s["out"]

def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = np.eye(2, dtype=np.float32)[(x[:, 0] > x[:, 1]).astype(int)]
    W, V = rng.normal(size=(SIZE, 4)), rng.normal(size=(2, SIZE)) / 4
    system = Attractor(jnp.asarray(W, jnp.float32), jnp.asarray(V, jnp.float32))
    return system, ep.SquaredError(), x, y
"""


def test_own_model(capsys, tmp_path):
    """`--system FILE.py:NAME` trains; the file is executed only if named again."""
    (tmp_path / "neighbour.py").write_text("SIZE = 16\n")
    file = tmp_path / "mine.py"
    file.write_text(MODEL)
    found = run_json(
        capsys, "train", "--system", f"{file}:problem", "--run", "m", "--epochs", "15"
    )
    assert found["test_error"] < 0.35
    assert found["settled"] > 0.9
    status, _, err = run(capsys, "eval", "m")
    assert status == 2
    assert "--system m/model.py:problem" in err
    measured = run_json(capsys, "eval", "m", "--system", f"{file}:problem")
    assert measured["error"] == pytest.approx(found["test_error"], abs=1e-7)


def test_resuming_a_finished_run_for_more_epochs(capsys):
    """`--resume RUN --epochs N` goes on where it ended."""
    options = [*SMALL, "--optimizer.schedule", "constant"]
    whole = run_json(capsys, "train", "--run", "whole", *options)
    options[options.index("--epochs") + 1] = "2"
    run_json(capsys, "train", "--run", "long", *options)
    found = run_json(capsys, "train", "--resume", "long", "--epochs", "3")
    assert found["epoch"] == 3
    assert found["loss"] == whole["loss"]
    assert found["test_error"] == whole["test_error"]


def test_recipes_and_info(capsys):
    """Every recipe is listed with its paper; info tells versions and data."""
    listed = run_json(capsys, "recipes")["recipes"]
    assert {row["name"] for row in listed} == set(ep.RECIPES)
    assert all(row["paper"] and row["expected"] for row in listed)
    status, out, _ = run(capsys, "recipes")
    assert status == 0
    assert all(f" {name} " in out for name in ep.RECIPES)
    found = run_json(capsys, "info")
    assert found["packages"]["jax"]
    assert set(found["data"]) == {"digits", "mnist", "fashion-mnist"}
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "bundled" in out


def test_recipes_are_grouped_and_filtered(capsys):
    """Fails if a group is missing, or a filter shows what it should not."""
    rows = run_json(capsys, "recipes")["recipes"]
    assert len({row["group"] for row in rows}) == 4
    assert rows[0]["group"] == "start here"
    found = run_json(capsys, "recipes", "MNIST", "conv")["recipes"]
    expected = [
        r.name
        for r in ep.RECIPES.values()
        if "mnist" in f"{r.name} {r.summary} {r.paper}".lower()
        and "conv" in f"{r.name} {r.summary} {r.paper}".lower()
    ]
    assert [row["name"] for row in found] == expected
    assert "mnist-conv" in expected
    out = run(capsys, "recipes", "leaky")[1]
    assert "digits-leaky" in out
    assert "mnist" not in out.rpartition("filter the list")[0]
    assert "start here" not in out


@pytest.mark.parametrize("words", [("train", "digtis"), ("verify", "digtis")])
def test_a_misspelt_recipe_brings_the_nearest_alone(words, capsys):
    """Fails if the way to the right name is lost among 75."""
    message = refused(capsys, *words)
    assert_holds(message, "'digtis'", "did you mean digits?", "eqprop recipes")
    assert len(message) < 120


def test_a_filter_that_nothing_passes(capsys):
    """Fails if an empty list passes for an answer."""
    assert_holds(refused(capsys, "recipes", "mnits"), "'mnits'", "eqprop recipes")


def test_examples_that_do_not_settle_are_explained(capsys):
    """Fails if a share below 99 % comes without a meaning and a next step."""
    words = ("--model.hidden", "8", "--epochs", "1", "--run", "short")
    status, out, _ = command(capsys, "train", *words, "--estimator.free.steps", "1")
    assert status == 0
    assert_holds(out, "do not settle", "--estimator.free.steps", "eqprop tune short")


def test_results_are_kept_and_tabled(trained, capsys):
    """`eqprop report` groups seeds and computes mean ± standard deviation."""
    shutil.copytree(trained, "s0")
    found = [
        json.loads(Path("s0/metrics.jsonl").read_text("utf-8").splitlines()[-1]),
        run_json(capsys, "train", "--run", "s1", "--seed", "1", *SMALL),
    ]
    status, _, _ = run(capsys, "report", "s0", "s1", "--out", "kept")
    assert status == 0
    with open("kept/README.md", encoding="utf-8") as file:
        table = file.read()
    errors = [100 * f["test_error"] for f in found]
    spread = f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} %"
    (row,) = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert spread in row
    assert "| 2 | 3 |" in row
    with open("kept/s0.json", encoding="utf-8") as file:
        assert len(json.load(file)["history"]) == 3


def test_results_of_others_are_not_lost(trained, capsys):
    """Runs of several seeds are told apart; of another configuration, refused."""
    for name in ("five/seed0", "six/seed0", "s"):
        shutil.copytree(trained, name)
        assert run(capsys, "report", name, "--out", "kept")[0] == 0
    kept = sorted(path.name for path in Path("kept").glob("*.json"))
    assert kept == ["five-seed0.json", "s.json", "six-seed0.json"]
    assert run(capsys, "report", "s", "--out", "kept")[0] == 0  # the same again
    run_json(capsys, "train", "--run", "else/s", *SMALL, "--seed", "7", "--epochs", "1")
    before = Path("kept/s.json").read_bytes()
    status, _, err = run(capsys, "report", "else/s", "--out", "kept")
    assert status == 2
    assert "kept/s.json holds a run of another configuration" in err
    assert Path("kept/s.json").read_bytes() == before


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_help(word, capsys):
    """Fails if a command does not explain itself."""
    status, out, err = command(capsys, word, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: eqprop {word} [")
    assert "--json" in out


@pytest.mark.parametrize("word", ["train", "bench"])
def test_the_short_help_names_options_that_exist(word, capsys):
    """Fails if the short help promises what the parser does not know."""
    short, whole = (
        set(re.findall(r"--[a-z][a-z.-]*", command(capsys, word, "digits", asked)[1]))
        for asked in ("--help", "--help-all")
    )
    assert len(short) > 5
    assert short - {"--help-all"} <= whole
    assert {"--estimator.nudging", "--model.activation"} <= whole


def test_the_whole_help_shows_defaults_and_units(capsys):
    """Fails if the options of a recipe are shown with another's defaults."""
    status, out, _ = command(capsys, "train", "mnist-1h", "--help-all")
    assert status == 0
    assert "usage: eqprop train [RECIPE]" in out
    boxes = re.findall(r"^╭─ (\S+) options|^╭─ (options)", out, re.MULTILINE)
    assert [first or last for first, last in (boxes[0], boxes[-1])] == [
        "estimator",
        "options",
    ]
    assert out.rindex("--seed ") < out.index("--platform") < out.index("--cluster")
    text = " ".join(out.replace("│", " ").split())
    assert "strength of the nudge (dimensionless, not 0) (default: 1.0)" in text
    assert "units of the neurons' time constant (default: 0.5)" in text


def test_main_help_and_version(capsys):
    """`eqprop` alone lists the commands."""
    status, out, _ = run(capsys)
    assert status == 0
    assert all(command in out for command in cli.COMMANDS)
    status, out, _ = run(capsys, "--version")
    assert out == f"eqprop {ep.__version__}\n"
