"""`ep.compare` and `eqprop compare`: rules from the same weights, one table."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from zoo import batch, quadratic

import eqprop as ep
from eqprop.cli import main
from eqprop.runs._compare import exact_angle

SMALL = {"model": ep.Hopfield(hidden=(6,), output="linear"), "epochs": 2}


@pytest.fixture(scope="module")
def data(x, y, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(file, x=x, y=y)
    return file


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "runs"
    return ep.compare("digits", ("ep", "rbp"), run=folder, data=data, **SMALL)


def test_all_rules_start_from_the_same_weights(compared, data, tmp_path):
    """EP's run is the recipe's own, and the others differ from it by the rule alone."""
    records = {record["estimator"]: record for record in compared.records}
    assert list(records) == ["ep", "rbp"]
    alone = ep.train("digits", run=tmp_path / "alone", data=data, **SMALL)
    for mine, other in zip(alone.history, records["ep"]["history"], strict=True):
        assert mine["loss"] == other["loss"]
    configs = [ep.load(compared.path / name).config for name in records]
    assert len({c.seed for c in configs}) == len({c.optimizer.lr for c in configs}) == 1
    assert "recurrent" in records["rbp"]["rule"]
    assert all(record["memory"] > 0 for record in compared.records)
    assert [row["epoch"] for row in records["ep"]["angles"]] == [0, 1, 2]
    assert (compared.path / "comparison.png").stat().st_size > 10_000


def test_what_is_finished_is_not_trained_again(compared, data):
    """The same call loads it; another configuration is refused."""
    before = (compared.path / "ep" / "metrics.jsonl").stat().st_mtime_ns
    again = ep.compare("digits", ("ep",), run=compared.path, data=data, **SMALL)
    assert again.records[0]["history"] == compared.records[0]["history"]
    assert again.records[0]["angles"] == compared.records[0]["angles"]
    assert (compared.path / "ep" / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="a run of another configuration"):
        ep.compare("digits", ("ep",), run=compared.path, data=data)
    near = Path(os.path.relpath(data))  # the same file, called otherwise
    same = ep.compare("digits", ("ep",), run=compared.path, data=near, **SMALL)
    assert same.records[0]["history"] == compared.records[0]["history"]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_that_is_none_is_refused(rate, tmp_path):
    """For every rule, also for those that have rates of their own."""
    with pytest.raises(ValueError, match="learning_rate is"):
        ep.compare("digits", ("ep",), run=tmp_path / "none", learning_rate=rate)


def test_the_command_line(compared, data, capsys):
    """One JSON object, or a table with a row for each rule."""
    options = ["digits", "--estimators", "ep", "--epochs", "1", "--run", "one"]
    assert main(["compare", *options]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("digits: 10 classes, 1 797 examples")
    assert "angle to exact" in shown
    assert "comparison.png" in shown
    assert main(["compare", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [record["estimator"] for record in found["records"]] == ["ep"]


def test_an_unknown_field_is_named(tmp_path):
    """For several seeds and several rules as for one training."""
    for start in (ep.runs.train_seeds, ep.compare):
        with pytest.raises(ValueError, match=r"no epocs; it has .*epochs"):
            start("digits", (), run=tmp_path / "none", epocs=3)


@pytest.mark.parametrize(
    ("estimators", "message"),
    [
        ("ep,ep", "each of them once"),
        ("", "give at least one"),
        ("ep,bppt", "there is no estimator 'bppt'; did you mean bptt"),
        ("ep,holomorphic", "holomorphic: .*project cannot take a complex state"),
    ],
)
def test_nothing_is_trained_where_a_rule_is_refused(
    estimators, message, tmp_path, capfd
):
    """The rule and the reason are named, and no run is made."""
    run = tmp_path / "none"
    assert main(["compare", "--estimators", estimators, "--run", str(run)]) == 2
    with pytest.raises(ValueError, match=message):
        ep.compare("digits", [w for w in estimators.split(",") if w], run=run)
    assert not run.exists()


@pytest.mark.slow
def test_a_rule_that_diverges_does_not_end_the_comparison(data, tmp_path, capsys):
    """Its row says so, the others are there, and the exit status is 1."""
    folder = str(tmp_path / "wild")
    options = ["--estimators", "cep,ep", "--epochs", "1", "--learning-rate", "1e6"]
    assert main(["compare", "digits", *options, "--run", folder]) == 1
    shown = capsys.readouterr()
    assert "diverged" in shown.out
    assert "cep diverged: " in shown.err
    assert main(["compare", "digits", *options, "--run", folder, "--json"]) == 1
    wild, tame = json.loads(capsys.readouterr().out)["records"]
    assert "makes parameters infinite" in wild["failure"]
    assert tame["failure"] is None
    assert len(tame["history"]) == 1


def test_the_angle_is_to_the_settled_gradient():
    """0 for an exact rule; one that stops too early has one; nothing settled, none."""
    x, y = batch()
    cost, euler = ep.SquaredError(), ep.Euler(0.2, 400)
    with jax.enable_x64(True):
        angle, settled = exact_angle(
            ep.EquilibriumPropagation(euler, euler, 1e-3), quadratic(), cost, x, y
        )
        assert settled == 1
        assert angle < 0.01
        short = ep.EquilibriumPropagation(euler, ep.Euler(0.2, 2), 1e-3)
        assert exact_angle(short, quadratic(), cost, x, y)[0] > 10
    wild = ep.EquilibriumPropagation(ep.Euler(5.0, 10), ep.Euler(5.0, 10), 0.1)
    assert exact_angle(wild, quadratic(), cost, x, y) == (None, 0.0)
