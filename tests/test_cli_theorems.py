"""`eqprop verify`, `tune` and `train --estimator`, as a user types them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop.cli import _verify, main

MODEL = """
import jax.numpy as jnp, numpy as np, eqprop as ep
class Net(ep.AbstractEnergy):
    w: jnp.ndarray
    j: jnp.ndarray
    def init_state(self, x): return {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    def energy(self, x, s):
        a, b = s["a"], s["b"]
        three = jnp.einsum("ijk,i,j,k", self.j, jnp.tanh(a), jnp.tanh(a), b)
        return a @ a / 2 + b @ b / 2 - a @ (self.w @ x) - 0.2 * three
    def project(self, s): return {"a": jnp.clip(s["a"], -0.5, 0.5), "b": s["b"]}
    def readout(self, s): return s["b"]
class Wrong(Net):
    def velocity(self, x, s):
        v = super().velocity(x, s)
        return {"a": v["a"], "b": 0.5 * v["b"]}
def arrays():
    r = np.random.default_rng(0)
    w, j = r.normal(size=(3, 4)), r.normal(size=(3, 3, 2))
    x, y = r.normal(size=(20, 4)), r.normal(size=(20, 2))
    return jnp.asarray(w), jnp.asarray(j), x, y
def net():
    w, j, x, y = arrays()
    return Net(w, j), ep.SquaredError(), x, y
def wrong():
    w, j, x, y = arrays()
    return Wrong(w, j), ep.SquaredError(), x, y
def flat():
    w, j, x, y = arrays()
    return Net(w, j), ep.SquaredError(), x[0], y
def number(): return 3
print("hello")
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    return "model.py"


def test_verify_a_model_that_holds(model, capsys, tmp_path):
    """The table, the verdict, the figures, and exit status 0."""
    assert main(["verify", f"{model}:net", "--examples", "3"]) == 0
    out = capsys.readouterr().out
    assert "HOLDS: EP computes the exact gradient" in out
    assert "EP centered, gradients: order in β" in out
    folder = tmp_path / "runs" / "verify-model-net"
    assert {file.name for file in folder.iterdir()} == {
        *("processes.png", "layers.png", "beta.png", "verification.json")
    }


def test_verify_a_model_that_does_not(model, capsys):
    """Exit status 1, and one JSON object on standard output, which says why."""
    assert main(["verify", f"{model}:wrong", "--examples", "3", "--json"]) == 1
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert "hello" in captured.err
    assert record["holds"] is False
    assert "refused" in " ".join([record["verdict"], *record["findings"]])
    assert {"rows", "checks", "sweeps", "facts", "folder"} <= set(record)


def test_verify_takes_a_runs_weights_and_its_rule(small_run, monkeypatch):
    """What the theorems are held against; the slow test below measures them."""
    seen = {}

    def verify(system, cost, x, y, **options):
        seen.update(options, system=system)
        raise ValueError("enough")

    monkeypatch.setattr(_verify, "_verify", verify)
    assert main(["verify", str(small_run)]) == 2
    run = ep.load(small_run)
    assert seen["estimators"] == {"as configured": run.config.estimator}
    for mine, other in zip(seen["system"].weights, run.system.weights, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_verify_a_run_and_draw_the_flow(small_run, capsys, tmp_path):
    """A saved run's trained weights, its own estimator among the rows."""
    out = tmp_path / "out"
    assert main(["verify", str(small_run), "--out", str(out), "--flow"]) in (0, 1)
    text = capsys.readouterr().out
    assert "as configured" in text
    assert (out / "flow.png").stat().st_size > 20_000
    record = json.loads((out / "verification.json").read_text("utf-8"))
    rows = [row for row in record["rows"] if row["estimator"] == "as configured"]
    far = rows[-1]["agreement"]["angle"] > 5
    assert (f"next: eqprop tune {small_run}" in text) == (far and record["holds"])
    assert ("But as configured" in record["verdict"]) == (far and record["holds"])


def test_tune_proposes_what_train_takes(model, capsys, tmp_path):
    """The printed command trains; the record holds every curve."""
    assert main(["tune", f"{model}:net", "--angle", "5"]) == 0
    out = capsys.readouterr().out
    command = out.partition("use it: eqprop ")[2].split()
    assert command[:3] == ["train", "--system", f"{model}:net"]
    assert main([*command, "--epochs", "1", "--run", "tuned"]) == 0
    record = json.loads((tmp_path / "runs/tune-model-net/tune.json").read_text("utf-8"))
    assert record["reached"] is True
    assert record["angle"] <= 5
    assert set(record["curves"]) == {"dt", "T", "K", "beta"}
    config = json.loads((tmp_path / "tuned/config.json").read_text("utf-8"))
    assert config["estimator"]["beta"] == record["overrides"]["estimator.beta"]


def test_what_tune_says_of_a_run_and_of_other_rules():
    """A run is no recipe, and its name no model; another rule has other options."""
    rbp = ep.RECIPES["digits-rbp"].config.estimator
    target = _verify.Target("net", None, None, None, None, rbp, Path("there"))
    said = _verify._use("digits-rbp", target, "--estimator.beta 0.1")
    assert said == "use it: eqprop train digits-rbp --estimator ep --estimator.beta 0.1"
    run = Path("exp.pytest")
    run.mkdir()
    (run / "config.json").write_text("{}", encoding="utf-8")
    own = dataclasses.replace(target, estimator=None)
    said = _verify._use(str(run), own, "--estimator.beta 0.1")
    assert said == "use it: train the run's recipe with --estimator.beta 0.1"
    assert not _verify._is_model(str(run))
    assert _verify._is_model("model.py:net")


@pytest.mark.parametrize(
    "name",
    ["rbp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bptt", "implicit"))],
)
def test_train_with_any_estimator(name, capsys, tmp_path):
    """One word chooses the rule; the run is read again with it."""
    r = np.random.default_rng(0)
    x = r.normal(size=(80, 4)).astype(np.float32)
    np.savez("own.npz", x=x, y=x[:, :2].argmax(1))
    words = ["--data", "own.npz", "--model.hidden", "6", "--estimator.free.steps", "40"]
    command = ["train", "--estimator", name, *words, "--run", "r", "--epochs", "4"]
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    config = json.loads((tmp_path / "r/config.json").read_text("utf-8"))
    kinds = {
        "rbp": "RecurrentBackpropagation",
        "bptt": "BackpropagationThroughTime",
        "implicit": "ImplicitDifferentiation",
    }
    assert config["estimator"]["type"] == kinds[name]
    lines = (tmp_path / "r/metrics.jsonl").read_text("utf-8").splitlines()
    assert record["loss"] < json.loads(lines[0])["loss"]
    assert main(["eval", "r", "--json"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify"], "required"),
        (["verify", "no.py:net"], "there is no file no.py"),
        (["verify", "model.py:nett"], "did you mean net?"),
        (["verify", "model.py:number"], "number() in model.py returned int"),
        (["verify", "model.py:flat"], "leading batch axes differ"),
        (["verify", "digit"], "did you mean digits?"),
        (["verify", "custom"], "no model of its own"),
        (["verify", "runs-that-is-not"], "there is no recipe"),
        (["verify", "digits", "--beta", "0"], "beta is 0.0"),
        (["verify", "digits", "--dt", "-1"], "dt is -1.0"),
        (["verify", "digits", "--examples", "0"], "examples is 0"),
        (["tune", "digits", "--angle", "0"], "target is 0"),
        (["train", "--estimator", "rbpp"], "did you mean rbp?"),
    ],
)
def test_errors(words, message, model, capsys):
    """Exit status 2, one clear line."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    captured = capsys.readouterr()
    assert message.lower() in (captured.err + captured.out).lower()
    assert "Traceback" not in captured.err
