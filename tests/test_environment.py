"""`env.json`: what a run ran with, when it began, and how it ended."""

import json
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop.runs import _environment, environment, RunDirectory
from eqprop.runs._environment import session


def read(run):
    return json.loads((Path(run) / "env.json").read_text(encoding="utf-8"))


def test_a_finished_run_and_what_it_was_trained_on(small_run):
    """Begin, end, outcome, sizes of the data."""
    found = read(small_run)
    began, ended = (datetime.fromisoformat(found[k]) for k in ("time", "ended"))
    assert began <= ended
    assert found["outcome"] == "finished"
    assert sum(found["data"]["examples"].values()) == 60
    assert found["data"]["input_shape"] == [4]
    assert found["data"]["classes"] == 3
    assert found["packages"]["jax"]


def test_how_a_session_ended():
    """A kill leaves no outcome; an interruption, a failure and an end leave one."""
    Path("run").mkdir()
    directory = RunDirectory(Path("run"))
    directory.write_json("env.json", environment())
    with session(directory):
        assert read("run")["outcome"] is None
    assert read("run")["outcome"] == "finished"
    for error, outcome in (
        (KeyboardInterrupt(), "interrupted"),
        (ep.TrainingInterrupted("stop", "again"), "interrupted"),
        (ep.TrainingDiverged("NaN"), "diverged"),
        (OSError(28, "No space"), "failed: OSError"),
    ):
        with pytest.raises(type(error)), session(directory, resumed=True):
            raise error
        assert read("run")["resumed"][-1]["outcome"] == outcome
    assert read("run")["outcome"] == "finished"
    assert len(read("run")["resumed"]) == 4


def test_a_resumed_run_says_what_it_was_resumed_with(x, y):
    """Every session has its own versions, command and end."""
    np.savez("own.npz", x=x, y=y)
    config = ep.recipe("digits").config
    model = ep.Hopfield(hidden=(4,))
    optimizer = ep.Optimizer("adam", (0.003,))
    ep.train(
        *(config,),
        run="run",
        data="own.npz",
        model=model,
        optimizer=optimizer,
        epochs=1,
    )
    (Path("run") / "env.json").write_text("damaged")
    ep.resume("run", epochs=2)
    (again,) = read("run")["resumed"]
    assert again["outcome"] == "finished"
    assert again["packages"]["numpy"] == np.__version__


def git(*words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_the_working_directory():
    """The commit that git names, and whether files differ from it; none outside."""
    assert environment()["git"] is None
    git("init", "--quiet")
    Path("file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert environment()["git"] == {"commit": head, "dirty": False}
    Path("file").write_text("two")
    assert environment()["git"] == {"commit": head, "dirty": True}


def test_the_commit_of_eqprop_itself(monkeypatch):
    """Only where a repository tracks its files: one around an environment does not."""
    git("init", "--quiet")
    Path("module.py").write_text("")
    Path("installed.py").write_text("")
    git("add", "module.py")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.setattr(_environment, "__file__", str(Path("module.py").resolve()))
    head = {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert environment()["source"] == head
    monkeypatch.setattr(_environment, "__file__", str(Path("installed.py").resolve()))
    assert environment()["source"] is None
