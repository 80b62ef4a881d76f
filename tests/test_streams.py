"""Standard output holds results and nothing else, also where nobody reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from messages import command


def test_json_is_one_object_and_nothing_else(small_run, capsys, x, y):
    """Fails if a program that reads the output finds anything but the result."""
    np.savez("own.npz", x=x, y=y)
    model = Path(__file__).parent / "mistakes.py"
    words = ("train", "--system", f"{model}:good", "--epochs", "1", "--run", "r")
    for arguments in (
        words,
        ("train", "--resume", "r", *words[1:3]),
        ("eval", "r", *words[1:3]),
        ("eval", small_run, "--data", "own.npz"),
        ("predict", small_run, "own.npz"),
        ("report", small_run),
        ("recipes",),
        ("info",),
    ):
        status, out, err = command(capsys, *arguments, "--json")
        assert status == 0, err
        assert out.count("\n") == 1
        assert isinstance(json.loads(out), dict)
        # what the model prints is not lost
        assert err == ("a word of the model" if "r" in arguments else "")


def test_nothing_but_messages_on_standard_error(capsys, small_run):
    """Fails if a result is printed where errors are, or the reverse."""
    for arguments in (("recipes",), ("info",), ("eval", small_run), ("--help",)):
        status, out, err = command(capsys, *arguments)
        assert status == 0
        assert out
        assert err == ""


PROGRAM = "import sys; from eqprop.cli import main; sys.exit(main())"


def program(*words, before="", **settings):
    """Run the command line as a program, after a line of Python."""
    return subprocess.run(
        [sys.executable, "-c", before + PROGRAM, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        **settings,
    )


@pytest.mark.parametrize(
    ("words", "closed", "status"),
    [
        (("recipes",), "stdin", 0),
        (("train", "--help"), "stdout", 0),
        (("eval", "missing", "--json"), "stdout", 2),
    ],
)
def test_streams_that_are_closed(words, closed, status):
    """Fails if a program without a terminal gets a traceback for it."""
    done = program(*words, before=f"import sys; sys.{closed} = None; ")
    assert done.returncode == status
    assert done.stderr.count("\n") == (status > 0)


if os.name == "posix":  # elsewhere a pipe breaks in other ways

    @pytest.mark.parametrize("words", [("recipes",)])
    def test_a_reader_that_has_seen_enough(words):
        """Fails if `eqprop … | head` ends in a traceback, or fails a script."""
        reading, writing = os.pipe()
        os.close(reading)
        done = program(*words, stdout=writing)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, "")


def test_letters_that_cannot_be_shown():
    """Fails if a terminal without Greek letters gets an error in place of a table."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = program("recipes", env=environment, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mnist-1h" in done.stdout


def test_a_cache_that_cannot_be_written(small_run, tmp_path):
    """Fails if a computer without a place to write cannot run, or complains of it."""
    (tmp_path / "file").write_text("in the way")
    below = str(tmp_path / "file" / "cache")
    places = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), below)
    words = ["train", "--resume", str(small_run), "--json"]
    done = program(
        *words,
        cwd=tmp_path,
        env=os.environ | places | {"JAX_ENABLE_COMPILATION_CACHE": "true"},
        stdout=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["epoch"] == 2
