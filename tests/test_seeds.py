"""`--seeds`: each run equals the one of its seed alone, and the spread is theirs."""

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop import cli, runs
from messages import assert_holds, refused


@pytest.fixture
def command(x, y):
    np.savez("own.npz", x=x, y=y)
    small = ["--model.hidden", "6", "--model.output", "linear", "--epochs", "2"]
    return ["train", *small, "--data", "own.npz"]


def errors(folder):
    """The records of a run, without the times they took."""
    timed = ("seconds", "training_seconds", "examples_per_second")
    history = runs.RunDirectory(folder).history()
    return [{k: v for k, v in r.items() if k not in timed} for r in history]


def test_seeds_are_the_single_runs_and_their_spread(command, capsys, tmp_path):
    """Bit for bit; a lost seed is trained again, and only that one."""
    seeds = ["--seeds", "2", "--seed", "4", "--run", "many", "--json"]
    assert cli.main([*command, *seeds]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.main([*command, "--seed", "5", "--run", "one"]) == 0
    many = tmp_path / "many"
    assert errors(many / "seed5") == errors(tmp_path / "one")
    assert errors(many / "seed5") != errors(many / "seed4")
    each = [errors(many / f"seed{n}")[-1]["test_error"] for n in (4, 5)]
    spread = found["summary"]["test_error"]
    assert spread["mean"] == pytest.approx(statistics.mean(each))
    assert spread["std"] == pytest.approx(statistics.stdev(each))
    assert ep.load(many / "seed5").config.seed == 5

    kept = errors(many / "seed5")
    shutil.rmtree(many / "seed5" / "checkpoints")
    (many / "seed5" / "metrics.jsonl").unlink()
    before = (many / "seed4" / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert cli.main(["train", "--resume", "many"]) == 0
    assert "±" in capsys.readouterr().out
    assert errors(many / "seed5") == kept
    assert (many / "seed4" / "metrics.jsonl").stat().st_mtime_ns == before


def test_wrong_requests_are_refused_before_anything_is_made(command, capsys, tmp_path):
    """No seed at all, and a directory that holds something else."""
    assert cli.main([*command, "--seeds", "0", "--run", "many"]) == 2
    assert "whole number ≥ 1" in capsys.readouterr().err
    assert not (tmp_path / "many").exists()
    assert cli.main([*command, "--run", "one"]) == 0
    assert cli.main([*command, "--seeds", "2", "--run", "one"]) == 2
    assert "one seed" in capsys.readouterr().err


DAMAGE = {
    "text": "[" * 100_000,
    "no object": "null",
    "words": {"seeds": "x"},
    "none": {"seeds": -1},
    "fraction": {"seeds": 2.5},
    "no configuration": {"config": {"type": "Config"}},
}


@pytest.fixture
def seeds(small_run, tmp_path):
    """A directory of seeds whose only run is the small one."""
    (tmp_path / "many").mkdir()
    config = json.loads((small_run / "config.json").read_text())
    sound = {"seeds": 1, "config": config, "records": [], "summary": {}}
    (tmp_path / "many" / "seeds.json").write_text(json.dumps(sound))
    shutil.copytree(small_run, tmp_path / "many" / "seed0")
    return sound


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_plan(kind, seeds, capsys):
    """Fails if a damaged seeds.json ends in a traceback, or in other seeds."""
    wrong = DAMAGE[kind]
    text = wrong if isinstance(wrong, str) else json.dumps(seeds | wrong)
    Path("many", "seeds.json").write_text(text)
    message = refused(capsys, "train", "--resume", "many")
    assert_holds(message, "seeds.json is damaged", "restore")
    assert Path("many", "seeds.json").read_text() == text


def test_several_seeds_are_no_run(seeds, capsys):
    """Fails if the message does not say which directory to give."""
    for words in (("eval", "many"), ("export", "many"), ("report", "many")):
        assert_holds(refused(capsys, *words), "several seeds", "many/seed0")
    words = ("train", "--resume", "many", "--system", "a.py:f")
    assert_holds(refused(capsys, *words), "leave --system out")
