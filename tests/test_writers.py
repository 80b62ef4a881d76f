"""Writers get every record, and none of their failures reaches the run."""

import importlib.util
import json
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop import cli
from eqprop.training import AbstractWriter, RunWarning, WRITERS, Writers


@pytest.fixture
def own(x, y):
    np.savez("own.npz", x=x, y=y)
    return {
        "data": "own.npz",
        "model": ep.Hopfield(hidden=(6,), output="linear"),
        "epochs": 3,
    }


def train(run, own, **options):
    config = ep.recipe("digits").config
    return ep.train(config, run=run, **{**own, **options})


def lines(run):
    text = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def events(folder):
    """The events of TensorBoard's files: length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(Path(folder).iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


@pytest.mark.parametrize("absent", [None, "tensorboardX"])
def test_either_package_writes_event_files(absent, monkeypatch):
    """Fails if TensorBoard's own package is refused, or writes something else."""
    if absent is not None:
        pytest.importorskip("tensorboard")
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n: None if n == absent else found(n)
        )
    drive(["tensorboard"])
    found = scalars("driven/tensorboard")
    assert found == {("loss", k): pytest.approx(1 / k) for k in (1, 2, 3)}
    (text,) = [
        value.tensor.string_val[0].decode()
        for event in events("driven/tensorboard")
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "text"
    ]
    assert '"epochs": 3' in text


def scalars(folder):
    """(name, epoch) → value; what comes before a restart at its step is forgotten."""
    found = {}
    for event in events(folder):
        if event.HasField("session_log"):
            found = {k: v for k, v in found.items() if k[1] < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_holds_the_metrics(own):
    """Every number of every epoch, once, also after a resumed run."""
    own["epochs"] = 2
    own["optimizer"] = ep.Optimizer("adam", (0.003,))
    train("run", own, writers=["tensorboard"])
    ep.resume("run", epochs=3, writers=["tensorboard"])
    found = scalars("run/tensorboard")
    for line in lines("run"):
        epoch = line.pop("epoch")
        for k, value in enumerate(line.pop("relative_change")):
            line[f"relative_change/{k}"] = value
        for name, value in line.items():
            kept = found.pop((name, epoch), None)
            if value is None:
                assert kept is None
            else:
                assert kept == pytest.approx(value, rel=1e-6)
    assert not found


class Failing(AbstractWriter):
    """Fails at the given moment: open, write or close."""

    moment = "write"

    def __init__(self, run, config, first):
        self.fail("open")

    def write(self, epoch, values):
        if epoch == 2:
            self.fail("write")

    def close(self):
        self.fail("close")

    def fail(self, moment):
        if moment == self.moment:
            raise OSError(28, "No space left on device")


class Kept(AbstractWriter):
    """Remembers what it was given."""

    def __init__(self, run, config, first):
        self.epochs, Kept.made = [], self
        assert config["type"] == "Config"

    def write(self, epoch, values):
        self.epochs.append(epoch)

    def close(self):
        self.closed = True


def drive(names, epochs=(1, 2, 3), run="driven"):
    """What training does with its observer, without the training."""
    Path(run).mkdir(exist_ok=True)
    record = {"type": "Config", "epochs": 3}
    (Path(run) / "env.json").write_text('{"time": "then"}')
    with Writers(Path(run), record, names) as writers:
        state = types.SimpleNamespace(epoch=epochs[0] - 1)
        writers.on_start(None, state, epochs[-1])
        for epoch in epochs:
            made = {"epoch": epoch, "loss": 1 / epoch, "val_error": None}
            writers.on_epoch(state, made)


def test_a_writer_that_fails(own, monkeypatch):
    """One warning, the others go on, and the run is bit for bit the same."""
    monkeypatch.setitem(WRITERS, "failing", (Failing, ("json",)))
    monkeypatch.setitem(WRITERS, "kept", (Kept, ("json",)))
    alone = train("alone", own)
    with pytest.warns(RunWarning, match="failing") as caught:
        run = train("run", own, writers=["failing", "kept"])
    (warning,) = caught
    assert "No space left" in str(warning.message)
    assert Kept.made.epochs == [1, 2, 3]
    assert Kept.made.closed
    for mine, other in zip(run.system.weights, alone.system.weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    losses = [[line["loss"] for line in lines(path)] for path in ("run", "alone")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("moment", ["open", "close"])
def test_a_writer_that_fails_at_either_end(moment, monkeypatch):
    """Fails if a service that is away, or a disk full at the end, stops a run."""
    monkeypatch.setitem(WRITERS, "failing", (Failing, ("json",)))
    monkeypatch.setitem(WRITERS, "kept", (Kept, ("json",)))
    monkeypatch.setattr(Failing, "moment", moment)
    with pytest.warns(RunWarning, match="failing") as caught:
        drive(["failing", "kept"])
    assert len(caught) == 1
    assert Kept.made.epochs == [1, 2, 3]
    assert Kept.made.closed


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named(name, monkeypatch, capsys):
    """Before anything is trained or written, with a command that works anywhere."""
    found = importlib.util.find_spec
    packages = WRITERS[name][1]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n in packages else found(n)
    )
    status = cli.main(["train", "--writers", name, "--run", "run"])
    assert status == 2
    assert f"pip install {packages[0]}\n" in capsys.readouterr().err
    assert not Path("run").exists()


def test_an_unknown_writer(capsys):
    """Fails if a word that means nothing is passed over."""
    assert cli.main(["train", "--writers", "tensorboard,wanb", "--run", "run"]) == 2
    assert "'wanb'; choose tensorboard, wandb, trackio" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_the_records(name, monkeypatch):
    """Name, configuration and epochs; a resumed run is the same run there."""
    calls = []

    class Service:
        def define_metric(self, name, step_metric):
            assert (name, step_metric) == ("*", "epoch")

        def log(self, values, step=None):
            calls.append(("log", values))

        def finish(self):
            calls.append(("finish", None))

    def init(**options):
        calls.append(("init", options))
        return Service()

    fake = types.ModuleType(name)
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, fake)
    drive([name], (1, 2))
    drive([name], (3,))
    kinds = [kind for kind, _ in calls]
    assert kinds == ["init", "log", "log", "finish", "init", "log", "finish"]
    first, second = (options for kind, options in calls if kind == "init")
    which = "id" if name == "wandb" else "name"
    assert first[which] == second[which]
    assert first["resume"] == "allow"
    assert first["config"]["epochs"] == 3
    logged = [values for kind, values in calls if kind == "log"]
    assert logged == [{"epoch": n, "loss": 1 / n} for n in (1, 2, 3)]
