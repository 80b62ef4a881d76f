"""SIGKILL, which nothing can answer: what is on disk at that moment must be enough.

The end of a run that was killed, however often, is that of one that never was, bit
for bit: parameters, optimizer, persistent states, metrics.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eqprop as ep
from eqprop import cli
from identical import assert_identical

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL"),
]

EPOCHS = 20
OPTIONS = [
    *("--model.hidden", "8", "--batch-size", "4", "--epochs", str(EPOCHS)),
    *("--validation", "5", "--persistent", "--estimator.nudging", "random-sign"),
]

# Checkpoints after every epoch, and death as soon as a file with this name is there.
PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from eqprop.runs import _recorder
_recorder.SAVE_SECONDS = 0.0
from eqprop.cli import main

def kill(folder=Path("run"), pattern=sys.argv[1]):
    while not any(folder.glob(pattern)):
        pass
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1]:
    threading.Thread(target=kill, daemon=True).start()
sys.argv[1:] = sys.argv[2:]
sys.exit(main())
"""


@pytest.fixture(scope="module")
def words(small_file):
    return ["train", "--data", str(small_file), *OPTIONS, "--run", "run"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The run that nobody killed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main([*words[:-1], str(path)]) == 0
    return ep.load(path)


def start(words, pattern):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, pattern, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def again(words):
    """What a user would do next: begin where nothing was begun, else go on."""
    begun = Path("run", "config.json").exists()
    return ["train", "--resume", "run"] if begun else words


def epochs_written():
    """Whole lines of the metrics file, which need not be there yet."""
    path = Path("run", "metrics.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


MOMENTS = {
    "while it begins": "inputs.json",
    "while it writes its first checkpoint": "checkpoints/*tmp*",
    "while it trains": "metrics.jsonl",
    "while it writes another": "checkpoints/*tmp*",
}


def test_killed_at_the_worst_moments(words, whole):
    """Fails if half a file is trusted, a directory is stuck, or a bit is lost."""
    for pattern in MOMENTS.values():
        process = start(again(words), pattern)
        _, message = process.communicate(timeout=120)
        assert process.returncode == -9, message
        if pattern != "inputs.json":
            assert epochs_written() < EPOCHS
    assert cli.main(again(words)) == 0
    assert_identical(ep.load("run"), whole)
    assert_identical(ep.load("run", best=True), ep.load(whole.path, best=True))


@pytest.mark.slow
def test_killed_twenty_times_at_random(words, whole, tmp_path, monkeypatch):
    """The same at moments nobody has chosen, from the first import to the last line."""
    seed = int(time.time())
    print(f"seed {seed}")
    draw = random.Random(seed)
    kills, runs, longest = 0, 0, 8.0
    while kills < 20:
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        done = False
        while not done:
            process = start(again(words), "")
            try:
                wait = draw.uniform(0, longest) if kills < 20 else None
                _, message = process.communicate(timeout=wait)
                assert process.returncode == 0, message
                done = True
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        assert_identical(ep.load("run"), whole)
        runs += 1
    print(f"{kills} kills of {runs} runs")
