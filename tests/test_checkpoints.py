"""What is on disk: damage is found, differences are named, nothing is executed."""

import dataclasses
import errno
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.runs import _recorder, _saved, RunWarning
from eqprop.training import config_to_json, load_config
from eqprop.runs._checkpoints import best_epoch, Checkpoints, DamagedCheckpoint
from messages import assert_holds, command, refused

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(5, np.float16),
    "count": np.asarray(3),
    "flag": np.asarray(False),
    "nothing": np.zeros((0, 4), np.float32),
    "brain": np.asarray(jnp.asarray([[1.0, -2.5]], jnp.bfloat16)),
    "eight": np.asarray(jnp.asarray(0.5, jnp.float8_e4m3fn)),
    "complex": np.asarray(1 - 2j, np.complex64),
    "wide": np.asfortranarray([[1j, 2], [3, 4 - 1j]]),
    "unsigned": np.asarray([2**64 - 1, 1], np.uint64),
}


@pytest.fixture
def copied(small_run, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(small_run, tmp_path / "copied"))


def flip(file, place):
    """Turn one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1 << place % 8
    file.write_bytes(bytes(content))


def test_what_is_saved_comes_back(tmp_path):
    """Fails if a dtype, a scalar or an array without entries is lost."""
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(7, ARRAYS, {"best": None, "history": [{"loss": 0.1}]}, None)
    found = kept.newest()
    assert found.number == 7
    assert found.record["history"] == [{"loss": 0.1}]
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_random_keys_come_back():
    """Fails if a key in a system cannot be saved, or draws other numbers."""
    key = jax.random.key(3, impl="rbg")
    numbers = _saved._numbers(key)
    again = _saved._restored(numbers, jax.random.key(0, impl="rbg"))
    assert again.dtype == key.dtype
    np.testing.assert_array_equal(
        jax.random.normal(again, 4), jax.random.normal(key, 4)
    )


def test_every_flipped_bit_is_found_or_harmless(tmp_path):
    """Fails if a bit turned on the disk changes what is loaded, in silence."""
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(1, ARRAYS, {"best": None, "history": []}, None)
    sound = tmp_path / "sound"
    shutil.copytree(kept.folder, sound)
    draw = np.random.default_rng(0)
    found = 0
    for file in sorted(p for p in sound.rglob("*") if p.stat().st_size and p.is_file()):
        for place in draw.integers(0, 2**20, size=100):
            shutil.rmtree(kept.folder)
            shutil.copytree(sound, kept.folder)
            flip(kept.folder / file.relative_to(sound), int(place))
            try:
                arrays = kept.read(1).arrays
            except DamagedCheckpoint:
                found += 1
                continue
            for name, array in ARRAYS.items():
                assert arrays[name].dtype == array.dtype
                np.testing.assert_array_equal(arrays[name], array)
    assert found > 150


def test_what_is_no_checkpoint_is_left_alone(copied, small_run):
    """Fails if a user's folder is removed, or its name is taken for a number."""
    kept = copied / "checkpoints"
    names = ("mine", "\N{SUPERSCRIPT TWO}", "007", "1.5", "mine.tmp")
    for name in names:
        (kept / name).mkdir()
        (kept / name / "notes").write_text("kept")
    (kept / "9.tmp").mkdir()
    newest = max(Checkpoints(small_run / "checkpoints").numbers())
    assert max(Checkpoints(kept).numbers()) == newest
    ep.resume(copied)
    for name in names:
        assert (kept / name / "notes").read_text() == "kept"
    assert not (kept / "9.tmp").exists()


def test_a_checkpoint_under_another_number(copied, capsys):
    """Fails if an old state that was renamed passes for the newest one."""
    older = min((copied / "checkpoints").iterdir(), key=lambda p: int(p.name))
    older.rename(older.with_name("999"))
    status, _, message = command(capsys, "eval", copied)
    assert status == 0
    assert_holds(message, "999 is damaged", f"saved as {older.name}", "instead")


def test_checkpoints_that_are_no_folder(copied, capsys):
    """Fails if a run trains for nothing because it cannot be saved."""
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").write_text("in the way")
    for words in (("eval", copied), ("train", "--resume", copied)):
        assert_holds(refused(capsys, *words), "checkpoints is not a folder")


def test_checkpoints_of_other_data(copied, x, y, capsys):
    """Fails if a run takes over what was learnt from other examples."""
    np.savez("other.npz", x=x + 1, y=y)
    ep.train(ep.load(copied).config, run="other", data="other.npz")
    shutil.rmtree(copied / "checkpoints")
    shutil.copytree("other/checkpoints", copied / "checkpoints")
    for words in (("eval", copied), ("train", "--resume", copied)):
        assert_holds(refused(capsys, *words), "other data", "train.x", "train again")


def test_the_newest_and_the_best_are_kept(tmp_path):
    """Fails if the best is forgotten when newer ones come."""
    kept = Checkpoints(tmp_path / "checkpoints")
    for number in range(1, 6):
        kept.save(number, ARRAYS, {"best": 2}, 2 if number > 1 else None)
    assert kept.numbers() == [2, 4, 5]
    assert kept.best().number == 2


@pytest.mark.parametrize(
    ("records", "epoch"),
    [
        ([(0.3, 1, 0.1, 5), (0.2, 2, 0.2, 5), (0.2, 1, 0.3, 5)], 3),
        ([(None, 2, 0.1, 5), (None, 1, 0.2, 5)], 2),
        ([(None, None, 0.1, 5), (None, None, 0.1, 5)], 1),
    ],
    ids=["validation", "regression", "equal"],
)
def test_which_epoch_is_best(records, epoch):
    """Validation error, then its loss; the test set has no say."""
    names = ("val_error", "val_loss", "train_error", "loss")
    history = [
        {"epoch": k, "test_error": 1 / k} | dict(zip(names, record, strict=True))
        for k, record in enumerate(records, 1)
    ]
    assert best_epoch(history) == epoch


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(copied, small_run):
    """Fails if damage is passed over, or the end is not that of the sound run."""
    newest = max((copied / "checkpoints").iterdir(), key=lambda p: int(p.name))
    file = newest / "arrays.safetensors"
    flip(file, 8 * (file.stat().st_size // 2))
    with pytest.warns(RunWarning, match=f"{newest.name} is damaged"):
        run = ep.resume(copied)
    whole = ep.load(small_run)
    for own, its in zip(run.system.weights, whole.system.weights, strict=True):
        np.testing.assert_array_equal(own, its)
    assert (copied / "damaged" / newest.name).is_dir()
    assert [r["loss"] for r in run.history] == [r["loss"] for r in whole.history]
    ep.load(copied)  # without a warning: the checkpoint was saved anew


def test_a_checkpoint_of_the_format_before(copied, capsys):
    """Fails if orbax's folders pass for damage, or hide what can still be read."""
    for place in (copied / "checkpoints").iterdir():
        shutil.rmtree(place)
        (place / "state").mkdir(parents=True)
        (place / "_CHECKPOINT_METADATA").write_text("{}")
    for words in (("eval", copied), ("train", "--resume", copied)):
        assert_holds(refused(capsys, *words), "format 1 (orbax", "train the run again")
    page = copied / "report.html"
    assert command(capsys, "report", copied, "--out", page)[0] == 0
    assert "format 1 (orbax" in page.read_text(encoding="utf-8")
    assert command(capsys, "report", copied, "--format", "md")[0] == 0


def test_a_failed_write_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    """Fails if the errno is lost, half a checkpoint stays or an older one goes."""
    kept = Checkpoints(tmp_path / "checkpoints")
    for number in (1, 2):
        kept.save(number, ARRAYS, {"best": 1}, 1)

    def fails(descriptor):
        raise OSError(number_of[0], "as the system says it")

    monkeypatch.setattr("os.fsync", fails)
    for number_of in ((errno.EDQUOT, errno.ENOSPC), (errno.EIO, errno.EIO)):
        with pytest.raises(OSError, match="checkpoint 3 could not be saved") as stop:
            kept.save(3, ARRAYS, {"best": 1}, 1)
        assert stop.value.errno == number_of[1]
    monkeypatch.undo()
    assert kept.numbers() == [1, 2]
    assert sorted(p.name for p in kept.folder.iterdir()) == ["1", "2"]
    assert kept.newest().number == 2


def edit(path, change):
    file = path / "config.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    change(record)
    file.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda c: c["model"].update(hidden=[7]), ("model.hidden", "[6]", "[7]")),
        (lambda c: c["model"].update(activation="tanh"), ("activation", "'tanh'")),
        (lambda c: c["optimizer"].update(name="sgd"), ("optimizer.name", "'adam'")),
        (lambda c: c["estimator"].update(beta=0.5), ("estimator.beta", "0.25", "0.5")),
        (lambda c: c.update(batch_size=7), ("batch_size", "7")),
    ],
)
def test_a_checkpoint_of_another_configuration(change, fragments, copied, capsys):
    """Fails if a run goes on as another one without a word."""
    edit(copied, change)
    for words in (("eval", copied), ("train", "--resume", copied)):
        message = refused(capsys, *words)
        assert_holds(message, "belongs to another configuration", *fragments)


def test_a_checkpoint_from_before_an_option_was_there(tmp_path, monkeypatch):
    """It meant the option's default, and no other value."""
    own = _recorder.identity

    def older(config, state):
        found = own(config, state)
        del found["config"]["shift"], found["config"]["flip"]
        return found

    monkeypatch.setattr(_recorder, "identity", older)
    config = dataclasses.replace(ep.RECIPES["digits"].config, epochs=1)
    made = ep.train(config, run=tmp_path / "old")
    monkeypatch.undo()
    edit(tmp_path / "old", lambda c: [c.pop("shift"), c.pop("flip")])
    for a, b in zip(
        ep.load(made.path).system.weights, made.system.weights, strict=True
    ):
        np.testing.assert_array_equal(a, b)
    edit(tmp_path / "old", lambda c: c.update(shift=1))
    with pytest.raises(ValueError, match="shift was 0 and is 1"):
        ep.load(made.path)


JUNK = [None, "x", -1, 1.5, [], {}, {"type": "Config"}, [[1]], True, 10**30, ...]


def places(value, before=()):
    """The way to every entry of a JSON object."""
    yield before
    entries = value if isinstance(value, dict) else range(len(value))
    for key in entries:
        if isinstance(value[key], dict | list):
            yield from places(value[key], (*before, key))
        else:
            yield (*before, key)


def test_configurations_of_junk(tmp_path):
    """Fails if any entry, replaced or missing, ends in another error than ours."""
    sound = config_to_json(ep.recipe("mnist-1h").config)
    messages = []
    for way in places(sound):
        for junk in JUNK:
            record = {"": json.loads(json.dumps(sound))}
            place, key = record, ""
            for step in way:
                place, key = place[key], step
            if junk is ...:
                del place[key]
            else:
                place[key] = junk
            file = tmp_path / "config.json"
            file.write_text(json.dumps(record.get("")), encoding="utf-8")
            try:
                load_config(file)
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 200
    assert all("config.json is not an eqprop config" in message for message in messages)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"data": 3}',
        '{"data": {"train.x": 3}, "model": null}',
    ],
)
def test_fingerprints_of_junk(text, copied, capsys):
    """Fails if a damaged inputs.json ends in a traceback, or lets any data pass."""
    (copied / "inputs.json").write_text(text, encoding="utf-8")
    assert_holds(refused(capsys, "eval", copied), "inputs.json", "damaged")


def test_other_devices_are_told(copied):
    """Fails if a run that goes on elsewhere promises the same bits."""
    file = copied / "env.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["packages"]["jax"] = "0.9.9"
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.warns(RunWarning, match=r"jax was '0.9.9'.*last digits"):
        ep.resume(copied)


def test_a_checkpoint_of_another_version(copied, capsys, monkeypatch):
    """Fails if the format of another eqprop is trusted."""
    monkeypatch.setattr(ep, "__version__", "9.0")
    message = refused(capsys, "eval", copied)
    assert_holds(message, "eqprop 0.1.0", "eqprop 9.0", "install")


def test_best_can_be_evaluated(copied, capsys):
    """`--best`: the epoch of the lowest error, bit for bit."""
    history = ep.load(copied).history
    best = best_epoch(history)
    assert best is not None
    assert ep.load(copied, best=True).history == history[:best]
    status, out, _ = command(capsys, "eval", copied, "--best", "--json")
    assert status == 0
    expected = history[best - 1]["test_error"]
    assert json.loads(out)["error"] == pytest.approx(expected, abs=1e-7)


STRANGER = """
from pathlib import Path
Path("executed").touch()
from mistakes import good as model
"""


def test_a_strangers_model_is_not_executed(monkeypatch, tmp_path, capsys):
    """Fails if looking at a run runs its file, or another file passes for it."""
    here = Path(__file__).parent
    monkeypatch.syspath_prepend(str(here))
    Path("mine.py").write_text(STRANGER, encoding="utf-8")
    words = ("train", "--system", "mine.py:model", "--run", "r", "--epochs", "1")
    assert command(capsys, *words)[0] == 0
    Path("executed").unlink()
    np.savez("x.npz", x=np.zeros((2, 3)))
    for words in (
        *(("eval", "r"), ("predict", "r", "x.npz"), ("train", "--resume", "r")),
        *(("verify", "r"), ("tune", "r")),
    ):
        message = refused(capsys, *words)
        assert_holds(message, "only if you name it", "--system r/model.py:model")
        assert not Path("executed").exists()
    Path("other.py").write_text(STRANGER + "# more", encoding="utf-8")
    for system, fragment in (
        ("other.py:model", "not the file"),
        ("mine.py:good", "names good"),
        ("none.py:model", "no file none.py"),
    ):
        assert_holds(refused(capsys, "eval", "r", "--system", system), fragment)
        assert not Path("executed").exists()
    assert command(capsys, "eval", "r", "--system", "r/model.py:model")[0] == 0
    assert Path("executed").exists()


def test_a_network_of_ours_has_no_file(small_run, capsys):
    """Fails if an option without effect is taken."""
    assert_holds(refused(capsys, "eval", small_run, "--system", "a.py:f"), "leave")


class Starts(ep.Observer):
    """Starts a second run in the directory of the first one."""

    def __init__(self, second):
        self.second, self.message = second, ""

    def on_start(self, trainer, state, epochs):
        with pytest.raises(OSError, match="another process is training") as stop:
            self.second()
        self.message = str(stop.value)


def test_two_runs_in_one_directory(small_run, x, y):
    """Fails if two processes write into one directory at the same time."""
    np.savez("own.npz", x=x, y=y)
    config = ep.load(small_run).config

    def again():
        return ep.train(config, run="run", epochs=1, data="own.npz")

    for watch in (Starts(again), Starts(lambda: ep.resume("run"))):
        shutil.rmtree("run", ignore_errors=True)
        ep.train(config, run="run", epochs=1, data="own.npz", observer=watch)
        assert "--run DIR" in watch.message


class Fails(ep.Observer):
    """A callback with a mistake, in the third chunk it sees."""

    seen = 0

    def on_chunk(self, state, record):
        self.seen += 1
        if self.seen == 3:
            raise KeyError("mine")


def test_an_exception_in_a_callback(small_run):
    """Fails if it is swallowed, or the run cannot go on to the same end."""
    whole = ep.load(small_run)
    with pytest.raises(KeyError, match="mine"):
        ep.train(whole.config, run="run", observer=Fails())
    run = ep.resume("run")
    for own, its in zip(run.system.weights, whole.system.weights, strict=True):
        np.testing.assert_array_equal(own, its)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of file sizes")
def test_a_full_disk(small_run, capsys):
    """Fails if a disk that runs full ends in a traceback, or spoils what was there.

    The system refuses to let a file grow, as it does where the disk is full.
    """
    import resource

    whole = ep.load(small_run)

    class Fills(ep.Observer):
        def on_epoch(self, state, record):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="could not be saved") as stop:
            ep.train(whole.config, run="run", observer=Fills())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_holds(str(stop.value), "--resume run")
    run = ep.resume("run")
    for own, its in zip(run.system.weights, whole.system.weights, strict=True):
        np.testing.assert_array_equal(own, its)
