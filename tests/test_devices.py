"""Many devices and many processes: the same recipe, the same result."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop import cli
from eqprop.runs import RunWarning

SMALL = [
    *("train", "--epochs", "2", "--persistent", "--model.hidden", "6"),
    *("--data", "small.npz", "--batch-size", "5", "--json"),
    *("--optimizer.schedule", "constant"),
]


@pytest.fixture
def folder(tmp_path):
    """62 examples in 3 classes, and room for runs."""
    random = np.random.default_rng(0)
    x = random.normal(size=(62, 5)).astype(np.float32)
    np.savez(tmp_path / "small.npz", x=x, y=x[:, :3].argmax(1))
    return tmp_path


@pytest.mark.parametrize("rules", ["", pytest.param("all", marks=pytest.mark.slow)])
def test_one_device_and_many(rules):
    """Gradients to 1e-12 on 1, 2 and 4 devices; slow: of all rules, and a training."""
    script = Path(__file__).with_name("on_devices.py")
    done = subprocess.run(
        [sys.executable, str(script), rules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def start(count, arguments, cwd):
    """The processes of one run, on the loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "eqprop.cli", *arguments),
                *("--coordinator", f"localhost:{port}", "--processes", str(count)),
                *("--process-id", str(number)),
            ],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(processes, seconds=300):
    """Status, standard output and standard error of each."""
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=seconds)
        ended.append((process.returncode, out, err))
    return ended


def losses(run):
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return np.array([json.loads(line)["loss"] for line in text.splitlines()])


def check_processes(count, folder):
    """N processes against one; each goes on with what the other has saved."""
    assert cli.main([*SMALL, "--run", "one"]) == 0
    shared = start(count, [*SMALL, "--run", "many"], folder)
    ended = finish(shared)
    assert [status for status, _, _ in ended] == [0] * count, ended
    assert json.loads(ended[0][1])["epoch"] == 2
    assert [out for _, out, _ in ended[1:]] == [""] * (count - 1)
    one, many = losses(folder / "one"), losses(folder / "many")
    np.testing.assert_allclose(many[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(many, one, rtol=1e-3)
    found = ep.load(folder / "many").state, ep.load(folder / "one").state
    for a, b in zip(*(s.particles["train"] for s in found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_two_processes_are_one(folder):
    """Losses, states and checkpoints; results alone on standard output."""
    check_processes(2, folder)


@pytest.mark.slow
def test_four_processes_are_one_and_go_on_in_turn(folder):
    """A run of four goes on alone, and that one with four again."""
    check_processes(4, folder)
    more = ["train", "--resume", "many", "--json", "--epochs"]
    with pytest.warns(RunWarning, match="elsewhere: devices"):
        ep.resume(folder / "many", epochs=3)
    ended = finish(start(4, [*more, "4"], folder))
    assert [status for status, _, _ in ended] == [0] * 4, ended
    ep.resume(folder / "one", epochs=4)
    np.testing.assert_allclose(
        losses(folder / "many"), losses(folder / "one"), rtol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=str)
@pytest.mark.parametrize("victim", [0, 2])
def test_a_lost_worker_ends_the_run_and_is_named(folder, how, victim):
    """Dead or hanging: the others end by themselves, and the run goes on."""
    long = [*SMALL[:2], "5000", *SMALL[3:], "--run", "run", "--patience", "20"]
    processes = start(4, long, folder)
    saved = folder / "run" / "checkpoints"
    for _ in range(600):
        if saved.exists() and any(p.name.isdigit() for p in saved.iterdir()):
            break
        time.sleep(0.5)
    os.kill(processes[victim].pid, how)
    others = [p for p in processes if p is not processes[victim]]
    ended = finish(others, seconds=120)
    processes[victim].kill()
    processes[victim].communicate()
    assert all(status for status, _, _ in ended), ended
    if victim:  # process 0 is the one that JAX's service lives in
        for _, _, err in ended:
            assert "process 2 of the 4" in err or "\n2\n" in err, err
    done = len(losses(folder / "run"))
    assert done > 0
    with pytest.warns(RunWarning, match="elsewhere: devices"):
        ep.resume(folder / "run", epochs=done + 1)
    assert len(losses(folder / "run")) == done + 1


def test_wrong_requests(capsys):
    """Half a cluster, a number out of range, more devices than there are."""
    for arguments, text in (
        (["--processes", "2"], "belong together"),
        (["--coordinator", "x", *PROCESS], "HOST:PORT"),
        (["--coordinator", "x:1", "--processes", "2", "--process-id", "2"], "from 0"),
        (["--devices", "0"], "≥ 1"),
        (["--devices", "1000"], "give at most"),
        (["--patience", "0"], "≥ 1 second"),
    ):
        assert cli.main(["train", *arguments]) == 2
        assert text in capsys.readouterr().err


PROCESS = ["--processes", "2", "--process-id", "0"]


def test_a_launcher_without_the_flag_is_noted(monkeypatch, capsys):
    """Four tasks of SLURM that train apart are seldom meant."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "1")
    cli.main(["train", "--devices", "1000"])
    assert "--cluster auto" in capsys.readouterr().err
