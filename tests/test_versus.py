"""The comparisons of benchmarks/: what they train and time is what they say."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import contenders
import same_result
import versus_backprop as versus


def rows(page):
    """The cells of a page's tables, line by line, without their headings."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("net", "who")]


@pytest.mark.slow
def test_versus_backprop_learns_and_resumes(capsys, tmp_path):
    """Both learn digits; a finished part is read, not measured again."""
    file = tmp_path / "records.json"
    options = ["--quick", "--nets", "64-32-10", "--records", str(file)]
    versus.main(options)
    first = rows(capsys.readouterr().out)
    assert [row[2] for row in first] == ["backprop", "EP 4 / 2, centered"]
    assert first[0][4] == "1.00"
    assert all(float(row[6]) < 20 for row in first)
    kept = json.loads(file.read_text())
    file.write_text(json.dumps([row | {"error": 99.0} for row in kept]))
    versus.main(options)
    assert [row[6] for row in rows(capsys.readouterr().out)] == ["99.00", "99.00"]


def test_backprop_is_the_feedforward_net():
    """Its outputs are those of layers written out, its step Adam's on their cost."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.random((versus.BATCH, 5), np.float32))
    y = jnp.asarray(np.eye(3, dtype=np.float32)[random.integers(0, 3, versus.BATCH)])
    net = versus.Net((4, 3), (), 1, (0.5, 0.5), 0.25, 1e-3)
    learner = versus.Backprop(net, (x, y), 1, 0)
    (w1, w2), (b1, b2) = jax.tree.map(jnp.array, learner.params)

    def cost(w1):
        logits = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), -1))

    learner.epoch()
    moved = np.asarray(learner.params[0][0] - w1)
    # Adam's first step has the length of its rate, against the gradient's sign.
    np.testing.assert_allclose(
        moved, -versus.BACKPROP_RATE * np.sign(jax.grad(cost)(w1)), atol=1e-5
    )


@pytest.mark.parametrize("wrong", [["--nets", "none"], ["--seeds", "0"]])
def test_versus_backprop_refuses(wrong, capsys):
    """What it cannot do ends with a hint and status 2."""
    with pytest.raises(SystemExit) as caught:
        versus.main(wrong)
    assert caught.value.code == 2
    assert "give at least 1" in (said := capsys.readouterr().err) or "784" in said


@pytest.fixture(scope="module")
def problem():
    """A net of 6-5-3 units and eight examples."""
    net = ep.HopfieldEnergy(
        (6, 5, 3),
        key=jax.random.key(0),
        output=ep.identity,
        initializer=ep.fan_in_uniform,
    )
    random = np.random.default_rng(0)
    x = random.random((8, 6), np.float32)
    y = np.eye(3, dtype=np.float32)[random.integers(0, 3, 8)]
    return contenders.Problem(net, jnp.asarray(x), jnp.asarray(y))


def test_exact_gradient_is_that_of_the_settled_cost(problem):
    """Implicit differentiation agrees with finite differences of the settled cost."""

    def settled(weight):
        net = problem.net
        weights = (weight, problem.net.weights[1].astype(float))
        biases = tuple(b.astype(float) for b in problem.net.biases)
        net = jax.tree.unflatten(jax.tree.structure(net), [*weights, *biases])
        free = ep.relax(net, problem.x.astype(float), ep.Sweep(500, tol=1e-13))
        return 0.5 * jnp.mean(jnp.sum((free.state[-1] - problem.y) ** 2, -1))

    with jax.enable_x64(True):
        weight = problem.net.weights[0].astype(float)
        step = 1e-6 * jax.random.normal(jax.random.key(1), weight.shape, float)
        slope = (settled(weight + step) - settled(weight - step)) / 2
        assert float(slope) == pytest.approx(
            float(np.sum(problem.exact[0] * np.asarray(step))), rel=1e-4
        )


@pytest.mark.slow
def test_contenders_come_within_five_degrees(problem, monkeypatch):
    """The paper's setting is there; eqprop's sweeps end where they are good enough."""
    monkeypatch.setattr(contenders, "BETAS", (0.01,))
    monkeypatch.setattr(contenders, "TIMES", (2,))
    monkeypatch.setattr(contenders, "TOLERANCES", (0.01,))
    monkeypatch.setattr(contenders, "SWEEPS", ((1, 1), (24, 16)))
    paper = contenders.Paper("D", 30, 10, 0.1)
    found = contenders.contenders(problem, (paper,))
    assert found[0].setting == str(paper)
    assert found[-1].setting.startswith("1 / 1 sweeps")
    assert found[-1].within
    # Forward, one sweep has not yet carried the nudge to the first layer.
    assert not problem.ours(ep.Sweep(1), ep.Sweep(1), 0.01).within


@pytest.mark.slow
def test_same_result_counts_to_the_goal(capsys):
    """Both rows of the training table state where they reached the goal."""
    same_result.main(
        ["--quick", "--only", "training", "--rounds", "1", "--epochs", "2"]
    )
    found = rows(capsys.readouterr().out)
    assert [row[0].split(",")[0] for row in found[:2]] == ["eqprop", "paper D"]
    assert all(
        float(row[1].split(" %")[0].removeprefix("only ")) < 20 for row in found[:2]
    )
    assert found[0][-1] == "1.0"
