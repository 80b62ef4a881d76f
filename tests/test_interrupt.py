"""Ctrl-C: what is saved, what is said, and that going on changes no bit of the result.

An observer presses the key at an exact step; three tests press it in a program of its
own, where nobody knows what it is doing at that moment.
"""

import contextlib
import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

import eqprop as ep
from eqprop import cli
from eqprop.cli._interrupt import Heard
from identical import assert_identical, without_times

EPOCHS = 3

# A run of each kind: shuffled with a schedule, and paper A's, whose states persist.
RULES = {
    "cold": {
        "estimator": ep.EquilibriumPropagation(
            ep.Sweep(steps=6), ep.Sweep(steps=3), beta=0.25
        ),
        "optimizer": ep.Optimizer("adam", (2e-2,), "cosine"),
    },
    "persistent": {
        "estimator": ep.EquilibriumPropagation(
            ep.Euler(dt=0.5, steps=6),
            ep.Euler(dt=0.5, steps=3),
            beta=0.5,
            nudging="random-sign",
        ),
        "optimizer": ep.Optimizer("sgd", (0.1, 0.05), options={"momentum": 0.9}),
        "persistent": True,
        "shuffle": False,
    },
}


class Press(ep.Observer):
    """Presses Ctrl-C once an epoch has come to a step, `times` times at once."""

    def __init__(self, epoch, step, times=1, number=signal.SIGINT):
        self.moment, self.times, self.number = (epoch, step), times, number

    def on_chunk(self, state, record):
        if (record["epoch"], record["step"]) >= self.moment:
            while self.times > 0:
                self.times -= 1
                signal.raise_signal(self.number)


@pytest.fixture(scope="module")
def train(small_file):
    """Train one of the rules into a directory, for EPOCHS epochs."""

    def run(rule, path, observer=None):
        config = dataclasses.replace(
            ep.recipe("digits").config,
            data=str(small_file),
            model=ep.Hopfield(hidden=(8,), output="linear"),
            epochs=EPOCHS,
            batch_size=4,
            validation=5,
            **RULES[rule],
        )
        return ep.train(config, run=path, observer=observer)

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The runs nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return {rule: train(rule, folder / rule) for rule in RULES}


MOMENTS = {
    "first step": (1, 1),
    "end of an epoch": (1, 11),
    "within an epoch": (2, 5),
    "last epoch": (3, 1),
}


@pytest.mark.parametrize("rule", RULES)
def test_going_on_is_as_if_it_had_never_stopped(train, whole, rule, tmp_path):
    """Fails if a step, a state, a random sign or a rate is lost or done twice."""
    path = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    steps = [partial(train, rule)] + 3 * [ep.resume]
    for moment, go_on in zip(MOMENTS.values(), steps, strict=True):
        with pytest.raises(ep.TrainingInterrupted) as stop:
            go_on(path, observer=Press(*moment))
        assert f"after epoch {moment[0]}" in str(stop.value)
        assert f"eqprop train --resume {path}" in str(stop.value)
        assert signal.getsignal(signal.SIGINT) is before
    assert_identical(ep.resume(path), whole[rule])
    assert_identical(ep.load(path), whole[rule])


def test_the_end_that_a_batch_system_announces(train, whole, tmp_path):
    """Fails if SIGTERM ends a run without saving what it has done."""
    path = tmp_path / "run"
    with pytest.raises(ep.TrainingInterrupted, match="everything is saved"):
        train("cold", path, Press(*MOMENTS["last epoch"], number=signal.SIGTERM))
    assert_identical(ep.resume(path), whole["cold"])


def test_what_is_saved_at_a_stop_can_be_used(train, tmp_path):
    """Fails if an interrupted run cannot be evaluated before it goes on."""
    path = tmp_path / "run"
    with pytest.raises(ep.TrainingInterrupted):
        train("cold", path, Press(*MOMENTS["within an epoch"]))
    run = ep.load(path)
    assert [record["epoch"] for record in run.history] == [1]
    assert np.isfinite(ep.evaluate(run)["loss"])


def test_a_second_press_stops_at_once_and_loses_no_checkpoint(train, whole, tmp_path):
    """Fails if the way out is blocked, or a hasty exit spoils what was saved."""
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train("persistent", path, Press(*MOMENTS["last epoch"], times=2))
    assert_identical(ep.resume(path), whole["persistent"])


def test_a_second_press_before_the_first_checkpoint(train, whole, tmp_path):
    """Fails if a run stopped before anything was saved can never be started again."""
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train("cold", path, Press(*MOMENTS["first step"], times=2))
    assert_identical(ep.resume(path), whole["cold"])


def test_a_press_at_the_last_step_changes_nothing(train, whole, tmp_path):
    """Fails if a run that is done is reported as interrupted."""
    assert_identical(train("cold", tmp_path, Press(EPOCHS, 11)), whole["cold"])


def test_a_press_that_is_lost_comes_again():
    """Fails if Ctrl-C has no effect where a library drops what a callback raises."""

    def losing():
        with Heard():
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        losing()


PROGRAM = """
import signal, sys, threading, time
from pathlib import Path
from eqprop.cli import main

def press(file=Path(sys.argv[1]), wait=float(sys.argv[2])):
    while not file.exists():
        time.sleep(0.001)
    time.sleep(wait)
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=press, daemon=True).start()
sys.argv[1:] = sys.argv[3:]
sys.exit(main())
"""


@pytest.fixture(scope="module")
def command(small_file, tmp_path_factory):
    """A command for the program, and the run and result of it without Ctrl-C."""
    words = ["train", "--data", str(small_file), "--model.hidden", "8", "--json"]
    words += ["--batch-size", "4", "--epochs", "40"]
    path = tmp_path_factory.mktemp("command") / "whole"
    return words, path, result_of([*words, "--run", str(path)])


def result_of(words):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(words) == 0
    result = json.loads(printed.getvalue())
    del result["run"]
    return without_times(result)


@pytest.mark.parametrize(
    ("file", "wait"),
    [(".", 0.3), ("run/metrics.jsonl", 0.02)],
    ids=["while it starts", "while it trains"],
)
def test_the_program(file, wait, command, tmp_path):
    """Fails if Ctrl-C is lost, shows a traceback, or is told a false way to go on."""
    words, whole, result = command
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, file, str(wait), *words, "--run", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("interrupted: stopped")
    assert done.stderr.count("\n") == 1
    again = [*words, "--run", "run"]
    if "--resume" in done.stderr:
        again = ["train", "--resume", "run", "--json"]
    assert result_of(again) == result
    assert_identical(ep.load("run"), ep.load(whole))


@pytest.mark.skipif(sys.platform == "win32", reason="has other signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_press_while_libraries_are_loaded(number):
    """Fails if the first second of the program ends in a traceback."""
    words = [sys.executable, "-X", "importtime", "-m", "eqprop.cli", "info"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "jax" in line:
            break
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in message
    assert "interrupted: stopped before anything was done" in message
