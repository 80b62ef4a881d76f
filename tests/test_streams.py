"""Standard output holds results and nothing else, also where nobody reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from messages import command

pytestmark = pytest.mark.usefixtures("compiled")


def test_json_is_one_object_and_nothing_else(small_run, capsys, x, y):
    """Fails if a program that reads the output finds anything but the result."""
    np.savez("own.npz", x=x, y=y)
    model = Path(__file__).parent / "mistakes.py"
    words = ("train", "--system", f"{model}:good", "--epochs", "1", "--run", "r")
    for arguments in (
        words,
        ("train", "--resume", "r"),
        ("eval", "r"),
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


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("{eqprop} --help | head -n 0", 0),
        ("{eqprop} recipes | head -n 0", 0),
        ("{eqprop} train --help >&-", 0),
        ("{eqprop} eval missing --json 2>&-", 2),
        ("{eqprop} recipes <&-", 0),
        ("PYTHONIOENCODING=ascii {eqprop} recipes >/dev/null", 0),
    ],
)
def test_streams_that_are_closed(shell, status, tmp_path):
    """Fails if a reader that has seen enough, or nobody, gets a traceback."""
    program = f'"{sys.executable}" -c "{PROGRAM}"'
    done = subprocess.run(
        ["bash", "-c", "set -o pipefail; " + shell.format(eqprop=program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert done.stderr == ""
    assert status == 0 or done.stdout == ""


def test_a_cache_that_cannot_be_written(small_run, tmp_path):
    """Fails if a computer without a place to write cannot run, or complains of it."""
    (tmp_path / "file").write_text("in the way")
    below = str(tmp_path / "file" / "cache")
    places = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), below)
    words = ["train", "--resume", str(small_run), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=tmp_path,
        env=os.environ | places | {"JAX_ENABLE_COMPILATION_CACHE": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["epoch"] == 2
