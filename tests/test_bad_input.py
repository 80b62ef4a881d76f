"""Bad options, files and run directories on the command line.

Every case is a mistake of a user.  The fragments after it are what the message must
hold for them to put it right: what they wrote, and what they may write.  The status
is 2, there is no traceback, and nothing is lost.
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from messages import assert_holds, command, refused, with_nan

SMALL = ("--model.hidden", "6", "--epochs", "2")


@pytest.fixture
def copied(small_run, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(small_run, tmp_path / "copied"))


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("trian", ("'trian'", "train")),
        ("zzz", ("'zzz'", "train", "eval", "predict", "recipes", "info")),
        ("train mnist-1hh", ("'mnist-1hh'", "mnist-1h")),
        ("train zzz", ("'zzz'", "to list them: eqprop recipes")),
        ("train my.npz", ("'my.npz'", "--data my.npz")),
        ("train my.py:f", ("'my.py:f'", "--system my.py:f")),
        ("train --data minst", ("'minst'", "'mnist'", "digits", ".npz")),
        ("train custom", ("custom", "--system FILE.py:NAME", "--data FILE.npz")),
        ("train --epoch 3", ("--epoch", "--epochs")),
        ("train --estimator.bta 0.2", ("--estimator.bta", "--estimator.beta")),
        ("train --beta 0.2", ("--beta", "--estimator.beta")),
        ("train digits --estimator.free.dt 0.5", ("free.dt", "free.steps")),
        ("train digits-leaky-untied --estimator chl", ("--estimator ep", "asym")),
        ("train --optimizer.name adamm", ("'adamm'", "'adam'")),
        ("train --optimizer.name foo", ("'foo'", "adam")),
        ("train --optimizer.options momentum 0.9", ("'momentum'", "b1, b2")),
        ("train --estimator.nudging center", ("'center'", "'centered'", "one-sided")),
        ("train --model.activation relu", ("'relu'", "hard-sigmoid", "tanh")),
        ("recipes --jsn", ("--jsn", "--json")),
        ("info extra", ("extra", "--help")),
        ("eval", ("run directory", "--help")),
        ("predict run", ("FILE.npz", "--help")),
        ("train --epochs", ("--epochs", "--help")),
    ],
)
def test_unknown_words_bring_the_nearest(arguments, fragments, capsys):
    """Fails if a typing error is taken for something else, or no way on is shown."""
    assert_holds(refused(capsys, *arguments.split()), *fragments)


NUMBERS = [
    ("--epochs two", "'two'", "whole number"),
    ("--epochs 1.5", "'1.5'", "whole number"),
    ("--epochs 0", "epochs is 0", "≥ 1"),
    ("--epochs -1", "epochs is -1", "≥ 1"),
    ("--epochs 99999999999999999999", "99999999999999999999", "below 2**31"),
    ("--seeds 0", "seeds is 0", "≥ 1"),
    ("--seeds 99999999999999999999", "99999999999999999999", "below 2**32"),
    ("--batch-size 0", "batch_size is 0", "≥ 1"),
    ("--seed -1", "seed is -1", "≥ 0"),
    ("--seed 99999999999999999999", "99999999999999999999", "below 2**32"),
    ("--model.hidden 0", "(0,)", "≥ 1"),
    ("--model.hidden 8 -5", "-5", "≥ 1"),
    ("--model.hidden 8 a", "'a'", "whole number"),
    ("--model.gain 0.5", "0.5", "initializer 'gain'"),
    ("--model.initializer gain", "None", "initializer 'gain'"),
    ("--model.initializer gain --model.gain -1", "-1", "positive"),
    ("--model.initializer gain --model.gain nan", "nan", "positive"),
    ("--model.initializer gain --model.gain inf", "inf", "finite"),
    ("--estimator.beta 0", "beta is 0", "not 0"),
    ("--estimator.beta nan", "beta is nan", "finite"),
    ("--estimator.beta inf", "beta is inf", "finite"),
    ("--estimator.beta x", "'x'", "number"),
    ("--estimator.free.steps -1", "-1", "≥ 0"),
    ("--estimator.free.steps 1.5", "'1.5'", "whole number"),
    ("--estimator.free.tol 0", "tol is 0", "positive"),
    ("--estimator.free.tol nan", "tol is nan", "positive"),
    ("--estimator.nudged.tol -1", "tol is -1", "positive"),
    ("--estimator.free.tol x", "'x'", "None"),
    ("--optimizer.lr nan", "nan", "≥ 0"),
    ("--optimizer.lr -0.1", "-0.1", "≥ 0"),
    ("--optimizer.lr inf", "inf", "≥ 0"),
    ("--optimizer.lr fast", "'fast'", "number"),
    ("--optimizer.lr", "()", "one or more"),
    ("--optimizer.lr 0.1 0.2 0.3", "3 values", "2 layers"),
    ("--optimizer.options b1 nan", "nan", "finite"),
    ("--optimizer.options b1", "'b1'", "NAME NUMBER"),
    ("--optimizer.options mu_dtype 0.9", "mu_dtype", "0.9"),
    ("--validation 5000", "5000", "0 to 1437"),
    ("--validation 1.0", "1.0", "[0, 1)"),
    ("--validation -1", "-1", ">= 0"),
    ("--validation many", "'many'", "number"),
    ("--test 1", "1.0", "[0, 1)"),
    ("--test 0.9999", "0.9999", "at least one example"),
    ("--test nan", "nan", "[0, 1)"),
    ("--no-flatten", "(8, 8)", "Flatten"),
]
EULER = [
    ("--estimator.free.dt 0", "dt is 0", "positive"),
    ("--estimator.free.dt -0.5", "dt is -0.5", "positive"),
    ("--estimator.nudged.dt nan", "dt is nan", "positive"),
    ("--estimator.free.dt inf", "dt is inf", "finite"),
]


@pytest.mark.parametrize(
    ("options", "value", "allowed"),
    [("digits " + options, *rest) for options, *rest in NUMBERS]
    + [("mnist-1h " + options, *rest) for options, *rest in EULER],
)
def test_options_out_of_range(options, value, allowed, capsys):
    """Fails if a senseless number trains, or the message hides it or its range."""
    assert_holds(
        refused(capsys, "train", *options.split(), "--run", "r"), value, allowed
    )
    assert not Path("r").exists()


FILES = {
    "no x": (lambda x, y: {"a": x, "y": y}, ("'x'", "a, y", "np.savez")),
    "no y": (lambda x, y: {"x": x}, ("'y'", "np.savez")),
    "NaN": (lambda x, y: {"x": with_nan(x), "y": y}, ("NaN", "(3, 1)", "remove")),
    "infinity": (lambda x, y: {"x": x, "y": x / 0}, ("infinite", "remove")),
    "empty": (lambda x, y: {"x": x[:0], "y": y[:0]}, ("(0, 4)", "at least one")),
    "lengths": (lambda x, y: {"x": x, "y": y[:50]}, ("60", "50")),
    "negative label": (lambda x, y: {"x": x, "y": y - 1}, ("= -1", "from 0")),
    "names": (lambda x, y: {"x": x, "y": y.astype(str)}, ("<U", "np.unique")),
    "text": (lambda x, y: {"x": x.astype(str), "y": y}, ("<U", "expected")),
    "objects": (lambda x, y: {"x": x.astype(object), "y": y}, ("'x'", "objects")),
    "scalar": (lambda x, y: {"x": x[0, 0], "y": y}, ("()", "[N, features]")),
    "one class": (lambda x, y: {"x": x, "y": y * 0}, ("0", "classes")),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("kind", FILES)
def test_files_that_cannot_be_learnt_from(kind, x, y, capsys):
    """Fails if bad data train a network, or the message does not say what is wrong."""
    make, fragments = FILES[kind]
    np.savez("bad.npz", **make(x, y))
    assert_holds(
        refused(capsys, "train", "--data", "bad.npz", "--run", "r"), *fragments
    )
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [
        ("missing.npz", None, ("missing.npz", "no such file", "np.savez")),
        ("text.npz", b"1,2,3", ("text.npz", "not an .npz file", "np.savez")),
        ("table.csv", b"1,2,3", ("table.csv", ".npz", "digits")),
    ],
)
def test_files_that_are_none(name, content, fragments, capsys):
    """Fails if a file of another kind is not called by its name."""
    if content is not None:
        Path(name).write_bytes(content)
    assert_holds(refused(capsys, "train", "--data", name, "--run", "r"), *fragments)


def test_an_array_with_a_header_of_nonsense(y, capsys):
    """Fails if what NumPy's parser raises reaches the user."""
    with zipfile.ZipFile("bad.npz", "w") as archive:
        header = b"(" * 117 + b"\n"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + b"\x76\x00" + header)
    assert_holds(refused(capsys, "train", "--data", "bad.npz"), "'x' is damaged")


def test_data_folder_that_is_none(monkeypatch, capsys):
    """Fails if a recipe that needs files does not say where it looked for them."""
    monkeypatch.setenv("EQPROP_DATA", "nowhere")
    assert_holds(
        refused(capsys, "train", "mnist-1h"), "EQPROP_DATA", "'nowhere'", "mnist"
    )
    status, out, _ = command(capsys, "info")
    assert status == 0
    assert "no such folder" in " ".join(out.split())


def test_targets_that_are_no_probabilities(x, capsys):
    """Fails if a cross-entropy is driven below zero by targets it is not made for."""
    np.savez("targets.npz", x=x, y=x[:, :3])
    options = ("--data", "targets.npz", "--model.cost", "cross-entropy")
    message = refused(capsys, "train", *options)
    assert_holds(message, "probability", "squared-error")


@pytest.mark.parametrize(
    "words",
    [("eval",), ("predict", "own.npz"), ("train", "--resume")],
    ids=lambda w: w[0],
)
@pytest.mark.parametrize(
    ("kind", "fragment"),
    [
        ("missing", "no run directory there"),
        ("file", "no run directory there"),
        ("empty", "config.json"),
        ("cut", "config.json is not an eqprop configuration"),
        ("other", "'Foo'"),
        ("range", "epochs is -3"),
    ],
)
def test_what_is_no_run(words, kind, fragment, small_run, x, capsys):
    """Fails if a wrong path, or a damaged configuration, is not told as such."""
    np.savez("own.npz", x=x)
    there = Path("there")
    if kind == "file":
        there.write_text("no run")
    elif kind != "missing":
        there.mkdir()
    text = (small_run / "config.json").read_text(encoding="utf-8")
    damage = {
        "cut": text[:100],
        "other": text.replace('"Sweep"', '"Foo"'),
        "range": text.replace('"epochs": 2', '"epochs": -3'),
    }
    if kind in damage:
        (there / "config.json").write_text(damage[kind], encoding="utf-8")
    first, *rest = words
    arguments = (*words, there) if first == "train" else (first, there, *rest)
    assert_holds(refused(capsys, *arguments), fragment)
    assert kind == "missing" or not (there / "checkpoints").exists()


def test_a_run_without_a_checkpoint(copied, capsys):
    """Fails if eval invents parameters, or cannot say how to get them."""
    shutil.rmtree(copied / "checkpoints")
    message = refused(capsys, "eval", copied)
    assert_holds(message, "no checkpoint", f"--resume {copied}")
    status, out, _ = command(capsys, "train", "--resume", copied, "--json")
    assert status == 0
    assert json.loads(out)["epoch"] == 2


def test_a_damaged_checkpoint(copied, capsys):
    """Fails if half a checkpoint is used, or the one before it is not, in silence."""
    older, newest = sorted(
        (copied / "checkpoints").iterdir(), key=lambda p: int(p.name)
    )
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    status, out, message = command(capsys, "eval", copied)
    assert status == 0
    assert out
    assert_holds(message, "warning", str(newest), "damaged", older.name, "instead")
    for file in older.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    message = refused(capsys, "eval", copied)
    assert_holds(message, str(newest), str(older), "damaged", "delete", "--resume")


def test_a_damaged_line_of_metrics(copied, small_run, capsys):
    """Fails if a line cut short by a crash makes a run useless or loses the others."""
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert command(capsys, "eval", copied)[0] == 0
    assert command(capsys, "train", "--resume", copied)[0] == 0
    for run in (copied, small_run):
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_data_that_have_changed_or_gone(x, y, capsys):
    """Fails if a run goes on with data it was not trained on."""
    np.savez("own.npz", x=x, y=y)
    options = ("--data", "own.npz", "--run", "run", *SMALL)
    assert command(capsys, "train", *options)[0] == 0
    np.savez("own.npz", x=x[:, :2], y=y)
    message = refused(capsys, "eval", "run")
    assert_holds(message, "have changed", "train.x", "×4", "×2", "train again")
    np.savez("own.npz", x=x + 1e-6, y=y)
    message = refused(capsys, "train", "--resume", "run")
    assert_holds(message, "have changed", "train.x", "other values")
    Path("own.npz").unlink()
    assert_holds(refused(capsys, "eval", "run"), "are gone", "own.npz")


def test_a_run_is_found_from_any_folder(x, capsys, tmp_path, monkeypatch):
    """Fails if a path that was relative to another folder makes a run useless."""
    np.savez("own.npz", x=x[:, :3], y=x[:, 2:])
    shutil.copy(Path(__file__).parent / "mistakes.py", "model.py")
    words = ("--system", "model.py:good", "--data", "own.npz", "--epochs", "1")
    assert command(capsys, "train", *words, "--run", "run")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ("--system", tmp_path / "model.py:good")
    assert command(capsys, "eval", tmp_path / "run", *words)[0] == 0


def test_directories_that_cannot_be_written(small_run, x, y, capsys):
    """Fails if the place of a run is found out to be wrong after the work."""
    np.savez("own.npz", x=x, y=y)
    Path("file").write_text("in the way")
    for place in ("file", Path("file", "below")):
        message = refused(capsys, "train", "--data", "own.npz", "--run", place)
        assert_holds(message, str(place), "--run DIR")
    message = refused(capsys, "train", "--data", "own.npz", "--run", small_run)
    assert_holds(message, "already holds a run", "--run DIR", f"--resume {small_run}")


@pytest.mark.parametrize("name", ["env.json", "model.py", "checkpoints"])
def test_a_folder_with_files_of_the_user(name, x, y, capsys):
    """Fails if a run overwrites what it has not written."""
    np.savez("own.npz", x=x, y=y)
    Path("project").mkdir()
    Path("project", name).write_text("mine")
    message = refused(capsys, "train", "--data", "own.npz", "--run", "project")
    assert_holds(message, name, "overwrite", "--run DIR")
    assert Path("project", name).read_text() == "mine"
    assert len(list(Path("project").iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--seed", "3"), ("--seed", "--epochs", "--json")),
        (("--epochs", "x"), ("'x'", "whole number")),
        (("--epochs", "9"), ("epochs=9", "cosine")),
    ],
)
def test_resuming_with_other_options(options, fragments, small_run, capsys):
    """Fails if a run goes on with options that it was not begun with."""
    assert_holds(refused(capsys, "train", "--resume", small_run, *options), *fragments)


def test_resuming_to_fewer_epochs_than_are_done(x, y, capsys):
    """Fails if epochs that were trained are passed over in silence."""
    np.savez("own.npz", x=x, y=y)
    options = ("--data", "own.npz", "--run", "run", "--optimizer.schedule", "constant")
    assert command(capsys, "train", *options, *SMALL)[0] == 0
    message = refused(capsys, "train", "--resume", "run", "--epochs", "1")
    assert_holds(message, "epochs=1", "2")
    assert command(capsys, "train", "--resume", "run", "--epochs", "3")[0] == 0
    # What was asked for last is what an interrupted run goes on to.
    status, out, _ = command(capsys, "train", "--resume", "run", "--json")
    assert status == 0
    assert json.loads(out)["epoch"] == 3


@pytest.mark.parametrize("name", ["eval", "predict"])
@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        (lambda x, y: {"x": x[:, :2], "y": y}, ("(2,)", "(4,)")),
        (lambda x, y: {"x": x, "y": y + 7}, ("7 to 9", "0 to 2")),
        (lambda x, y: {"x": with_nan(x), "y": y}, ("NaN", "(3, 1)")),
        (lambda x, y: {"x": x[:0], "y": y[:0]}, ("(0, 4)", "at least one")),
        (lambda x, y: {"y": y}, ("'x'", "np.savez")),
    ],
    ids=["shape", "labels", "NaN", "empty", "no x"],
)
def test_files_unlike_those_of_the_run(
    name, arrays, fragments, small_run, x, y, capsys
):
    """Fails if a network is applied to what it cannot know."""
    np.savez("other.npz", **arrays(x, y))
    option = ("--data",) if name == "eval" else ()
    assert_holds(refused(capsys, name, small_run, *option, "other.npz"), *fragments)


def test_eval_without_y(small_run, x, capsys):
    """Fails if an error is measured against nothing."""
    np.savez("only-x.npz", x=x)
    message = refused(capsys, "eval", small_run, "--data", "only-x.npz")
    assert_holds(message, "only-x.npz", "no array y", "predict")


@pytest.mark.parametrize(
    ("out", "fragments"),
    [
        ("own.npz", ("own.npz", "file to predict", "another")),
        ("labels.txt", ("labels.txt", ".npz")),
        ("nowhere/out.npz", ("nowhere", "--out")),
        ("file/out.npz", ("file", "--out")),
    ],
)
def test_where_predictions_cannot_go(out, fragments, small_run, x, capsys):
    """Fails if the user's data are overwritten, or a file lies where nobody looks."""
    np.savez("own.npz", x=x)
    Path("file").write_text("in the way")
    before = Path("own.npz").read_bytes()
    message = refused(capsys, "predict", small_run, "own.npz", "--out", out)
    assert_holds(message, *fragments)
    assert Path("own.npz").read_bytes() == before
    assert not Path("labels.txt.npz").exists()


# --- report


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("missing",), ("no run directory missing",)),
        (("loop", "--format", "md"), ("no run directory loop",)),
        ((), ("results", "no results", "give run directories")),
        (("--out", "file"), ("file", "choose a folder")),
        (("--out", "mine"), ("README.md", "--out")),
    ],
    ids=["missing", "loop", "nothing", "file", "foreign"],
)
def test_results_that_cannot_be_kept(arguments, fragments, small_run, capsys):
    """Fails if a table is made of nothing, or a README of somebody else is lost."""
    Path("file").write_text("in the way")
    Path("loop").symlink_to("loop")
    Path("mine").mkdir()
    Path("mine", "README.md").write_text("# My project")
    runs = (small_run,) if "mine" in arguments else ()
    assert_holds(refused(capsys, "report", *runs, *arguments), *fragments)
    assert Path("mine", "README.md").read_text() == "# My project"
