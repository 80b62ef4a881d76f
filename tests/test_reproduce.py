"""`eqprop reproduce`: the list, the choice, what is written, and the exit status."""

import contextlib
import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest

import eqprop as ep
from eqprop import recipes
from eqprop.cli import main
from eqprop.papers import (
    Claim,
    claim,
    Context,
    Finding,
    Findings,
    ITEMS,
    KEPT,
    Published,
    read_records,
    SeedRecord,
    to_json,
    Training,
    TrainingRecord,
    verdict,
    write_page,
)
from eqprop.papers._figure import Curve, Panel, draw
from eqprop.papers._train import settled_version
from eqprop.recipes import Recipe
from eqprop.runs import RunDirectory, train
from eqprop.training import config_from_json, config_to_json, Hopfield, Leaky
from eqprop.training._measures import alignment


def claimed(name, holds):
    """A claim that takes no time to measure."""

    @claim(name, shows="errors", source="A, eq 1", quick={"size": "small"})
    def measure(size="whole"):
        """Errors fall.

        Two numbers, {size}.

        Explanation: errors shrink.
        """
        found = Findings(size=size)
        found.near("slope in |x|", -1.0, -1 if holds else 1, 0.1)
        curve = Curve("found", (1, 2), (4, 2))
        found.panel("x", "error", curve, scale="xy")
        return found

    return measure


@contextlib.contextmanager
def replaced(*items):
    """Other items in the list, and the own ones again, in their order."""
    kept = dict(ITEMS)
    try:
        ITEMS.clear()
        ITEMS.update({item.name: item for item in items})
        yield
    finally:
        ITEMS.clear()
        ITEMS.update(kept)


@pytest.fixture
def claims():
    names = {"A.bad": False, "A.good": True, "B.good": True}
    with replaced(*(claimed(name, holds) for name, holds in names.items())):
        yield


@pytest.fixture
def training(monkeypatch):
    """An item that trains in a second: a tiny untied network on the digits."""
    config = dataclasses.replace(
        ep.RECIPES["digits-leaky-untied"].config,
        model=Leaky(hidden=(8,), output="linear", angle=None),
        epochs=2,
        batch_size=200,
    )
    made = Recipe("tiny", config, "tiny", "none", "nothing", group="digits")
    monkeypatch.setitem(recipes.RECIPES, "tiny", made)
    published = (Published("test_error", 0.5, 0.01, "S"),)
    item = Training("D.tiny", shows="tiny", recipe="tiny", published=published)
    with replaced(item):
        yield config


def test_every_item_says_what_it_is():
    """In whole sentences; a training's recipe and a claim's quick options exist."""
    assert len(ITEMS) == 68
    for name, item in ITEMS.items():
        assert item.name == name
        assert item.shows
        texts = [item.in_paper, item.settings, item.reason, item.settled_reason]
        if isinstance(item, Training):
            assert item.recipe in ep.RECIPES
            assert {p.source for p in item.published} <= set("PCLSF")
        else:
            assert isinstance(item, Claim)
            assert name.count(".") < 2
            assert item.source
            texts += [f"{item.claim}.", item.sentence]
            options = inspect.signature(item.function).parameters
            assert set(item.quick) <= set(options)
            assert all(p.default is not p.empty for p in options.values()), name
        assert all(text[0].isupper() or not text[0].isalpha() for text in texts if text)
        assert all(text[-1] in ".]" for text in texts if text), name


def test_a_docstring_is_a_claim():
    """Paragraphs: the claim, the sentence with its fields, and titled ones."""
    item = claimed("A.good", True)
    assert (item.claim, item.reason) == ("Errors fall", "errors shrink.")
    assert item.in_paper == ""
    record = item.measure(Context(figure=None, runs=None))
    assert record.sentence == "Two numbers, whole."
    assert (
        item.result(record)
        == "Two numbers, whole. Found: slope in |x| -1 (-1.1 to -0.9)."
    )


@pytest.mark.parametrize(
    ("value", "limits", "holds", "required"),
    [
        (2.0, {}, True, ""),
        (2.0, {"most": 2.0}, True, "at most 2"),
        (2.1, {"most": 2.0}, False, "at most 2"),
        (0.9, {"least": 1.0}, False, "at least 1"),
        (1.5, {"least": 1.0, "most": 2.0}, True, "1 to 2"),
        (float("nan"), {"most": 2.0}, False, "at most 2"),
    ],
)
def test_a_finding_holds_within_its_range(value, limits, holds, required):
    finding = Finding("n", value, **limits)
    assert (finding.holds, finding.required) == (holds, required)


def test_without_items_they_are_listed(capsys, claims):
    assert main(["reproduce"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ITEMS)
    assert shown.count("not run") == len(ITEMS)
    assert main(["reproduce", "A.good"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["items"]
    assert {name: row["verdict"] for name, row in listed.items()} == {
        "A.good": "holds",
        "A.bad": "not run",
        "B.good": "not run",
    }


def test_figure_numbers_and_page_are_written(claims, tmp_path, capsys):
    """The status is 0 only if all chosen claims hold; a page collects all so far."""
    out = tmp_path / "found"
    assert main(["reproduce", "A.good", "B", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("A.good") < shown.index("B.good")
    assert "holds: Two numbers, whole. Found: slope in |x| -1 (-1.1 to -0.9)." in shown
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "| A.bad | errors | – | – | – | ≈ 2 min | not run |" in page
    assert main(["reproduce", "all", "--out", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["items"]
    assert {n: r["holds"] for n, r in found.items()} == {
        "A.bad": False,
        "A.good": True,
        "B.good": True,
    }
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "| [A.bad](#abad) | errors |" in page
    assert "**does not hold** |" in page
    for name in found:
        assert (out / f"{name}.png").stat().st_size > 5000
        record = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        ends = [-1.1, -0.9] if record["holds"] else [0.9, 1.1]
        (finding,) = record["findings"]
        assert [*finding.values()] == ["slope in |x|", -1.0, *ends]
    assert r"| slope in \|x\| | -1 | -1.1 to -0.9 |" in page


def test_a_quick_version_never_takes_the_place_of_the_whole(claims, tmp_path):
    assert main(["reproduce", "A.good", "--out", str(tmp_path)]) == 0
    whole = (tmp_path / "A.good.json").read_bytes()
    assert main(["reproduce", "A.good", "--quick", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "A.good.json").read_bytes() == whole
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Two numbers, small." in page.partition("## Quick versions")[2]


def test_an_unknown_item_is_refused_with_the_nearest(capsys, tmp_path):
    near = next(iter(ITEMS))
    assert main(["reproduce", near[:-1], "--out", str(tmp_path / "none")]) == 2
    assert f"did you mean {near}" in capsys.readouterr().err
    assert main(["reproduce", near, "--seeds", "0"]) == 2
    told = capsys.readouterr().err
    assert "--seeds is 0" in told
    assert "≥ 1" in told
    assert not (tmp_path / "none").exists()


def test_a_training_uses_what_is_there(training, tmp_path, capsys):
    """A finished seed is read, a begun one goes on, and a third is trained."""
    options = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    place = tmp_path / "runs" / "D.tiny"
    train(training, run=place / "seed0")
    train(dataclasses.replace(training, seed=1, epochs=1), run=place / "seed1")
    begun = RunDirectory(place / "seed1")
    record = json.loads(begun.config_file.read_text(encoding="utf-8"))
    begun.write_json("config.json", record | {"epochs": 2})
    before = (place / "seed0" / "metrics.jsonl").read_bytes()
    first = begun.metrics_file.read_text(encoding="utf-8")
    assert main(["reproduce", "D.tiny", "--seeds", "3", *options, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["items"]["D.tiny"]
    assert (place / "seed0" / "metrics.jsonl").read_bytes() == before
    assert begun.metrics_file.read_text(encoding="utf-8").startswith(first)
    assert [seed["epochs"] for seed in found["seeds"]] == [2, 2, 2]
    errors = [100 * seed["last"]["test_error"] for seed in found["seeds"]]
    assert min(errors) > 5
    assert found["verdict"] == "differs"
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    ours = f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} %"
    assert f"| test 0.50 ± 0.01 % [S] | {ours} | 3 |" in page
    assert "`eqprop reproduce D.tiny --seeds 3`" in page
    settled = np.mean([100 * seed["last"]["settled"] for seed in found["seeds"]])
    assert f"; {settled:.1f} % settled in the free phases of the last epoch" in page
    assert str(tmp_path) not in page
    assert main(["reproduce", *options]) == 0
    assert ours in capsys.readouterr().out.replace("\n", " ")


def test_seeds_of_the_kept_record_are_not_trained_again(training, tmp_path, capsys):
    """Without their runs, as on another machine; none is lost by asking for fewer."""
    out = tmp_path / "out"
    options = ["reproduce", "D.tiny", "--out", str(out)]
    assert main([*options, "--seeds", "2", "--runs", str(tmp_path / "a")]) == 0
    file = out / "D.tiny.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    capsys.readouterr()
    assert main([*options, "--seeds", "3", "--runs", str(tmp_path / "b")]) == 1
    assert "D.tiny: seeds of" in capsys.readouterr().err
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after["seeds"][:2] == before["seeds"]
    assert [path.name for path in (tmp_path / "b" / "D.tiny").iterdir()] == ["seed2"]
    assert main([*options, "--runs", str(tmp_path / "c")]) == 1
    assert json.loads(file.read_text(encoding="utf-8")) == after
    # Seeds of another configuration are.
    for change in ({"config": after["config"] | {"epochs": 3}}, {"seeds": []}):
        file.write_text(json.dumps(after | change), encoding="utf-8")
        place = tmp_path / f"d{len(change.get('seeds', 'x'))}"
        assert main([*options, "--runs", str(place)]) == 0
        (seed,) = json.loads(file.read_text(encoding="utf-8"))["seeds"]
        assert seed["last"] == after["seeds"][0]["last"]
        assert (place / "D.tiny" / "seed0").exists()
    failed = [seed | {"failure": "it diverged"} for seed in after["seeds"]]
    file.write_text(json.dumps(after | {"seeds": failed}), encoding="utf-8")
    assert main([*options, "--runs", str(tmp_path / "e")]) == 1
    assert json.loads(file.read_text(encoding="utf-8"))["seeds"] == failed


def test_quick_seeds_are_kept_too(training, tmp_path):
    """Fails if fewer seeds of a quick version lose those that are there."""
    options = ["reproduce", "D.tiny", "--quick", "--out", str(tmp_path)]
    for count, runs in ((2, "a"), (1, "b")):
        main([*options, "--seeds", str(count), "--runs", str(tmp_path / runs)])
        text = (tmp_path / "D.tiny.quick.json").read_text(encoding="utf-8")
        assert [seed["seed"] for seed in json.loads(text)["seeds"]] == [0, 1]
    assert not (tmp_path / "b" / "D.tiny.quick").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": None}, "it has no config"),
        ({"seeds": 3}, "it has no list of seeds"),
        ({"seeds": [{"seed": 0}]}, "it has no failure of a seed, epochs of a seed"),
        ({"holds": True, "seeds": None}, "it has no claim, source, sentence"),
    ],
)
def test_a_record_that_is_none_is_named(change, words, training, tmp_path, capsys):
    """What another program or an edit left: never a traceback."""
    options = ["reproduce", "D.tiny", "--out", str(tmp_path), "--runs", str(tmp_path)]
    main(options)
    file = tmp_path / "D.tiny.json"
    record = json.loads(file.read_text(encoding="utf-8")) | change
    left = {key: value for key, value in record.items() if value is not None}
    file.write_text(json.dumps(left), encoding="utf-8")
    capsys.readouterr()
    assert main(options) == 2
    told = capsys.readouterr().err.replace("\n", " ")
    assert "D.tiny.json is not the record of an item" in told
    assert words in told
    assert "Traceback" not in told


def test_a_settled_version_stands_beside_the_whole(training, tmp_path, capsys):
    """With runs, a record and rows of its own, and a command that makes it again."""
    options = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert main(["reproduce", "D.tiny", *options]) == 0
    assert main(["reproduce", "D.tiny", "--settled", *options]) == 0
    assert main(["reproduce", "D.tiny", "--settled", "--quick", *options]) == 0
    whole, settled = (
        json.loads((tmp_path / "out" / f"D.tiny{end}.json").read_text(encoding="utf-8"))
        for end in ("", ".settled")
    )
    frees = [record["config"]["estimator"].pop("free") for record in (whole, settled)]
    assert [free["type"] for free in frees] == ["Euler", "Sweep"]
    assert frees[1]["tol"] == 1e-4
    assert frees[1]["steps"] == frees[0]["steps"]
    assert whole["config"] == settled["config"]
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| [D.tiny](#dtiny) |" in page
    assert "| [D.tiny.settled](#dtinysettled) |" in page
    assert "`eqprop reproduce D.tiny --settled`" in page
    assert "### D.tiny.settled.quick" in page.partition("## Quick versions")[2]
    capsys.readouterr()
    assert main(["reproduce", *options, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["items"]
    assert listed["D.tiny.settled"]["verdict"] == "one seed"


def test_fewer_epochs_are_a_version_that_is_not_compared(training, tmp_path, capsys):
    """Beside the whole; as many epochs as the recipe's, or more, are the whole."""
    options = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    tiny = ["reproduce", "D.tiny", *options]
    assert main([*tiny, "--epochs", "1", "--seeds", "3"]) == 0
    assert "1 of 2 epochs: train" in capsys.readouterr().out
    assert not (tmp_path / "out" / "D.tiny.json").exists()
    assert main([*tiny, "--epochs", "2"]) == 0
    assert main([*tiny, "--epochs", "1", "--settled"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 3
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    table = page[: page.index("### D.tiny")]
    starts = ("| [D.tiny](", "| [D.tiny.1epochs](", "| [D.tiny.settled.1epochs](")
    places = [table.index(start) for start in starts]
    assert places == sorted(places)
    assert table.count("| 1 of 2 epochs |") == 2
    assert "`eqprop reproduce D.tiny --seeds 3 --epochs 1`" in page
    assert "`eqprop reproduce D.tiny --settled --epochs 1`" in page
    capsys.readouterr()
    assert main(["reproduce", "D.tiny", "--epochs", "0"]) == 2
    told = capsys.readouterr().err
    assert "--epochs is 0" in told
    assert "≥ 1" in told


ONE_OF_A_FAMILY = ("mnist-1h", "vf-1h", "p-1h", "c-ep-1h")
SETTLING = [
    item.recipe
    for item in ITEMS.values()
    if isinstance(item, Training) and item.paper != "beyond"  # few sweeps by design
]


@pytest.mark.parametrize(
    "name",
    [
        name if name in ONE_OF_A_FAMILY else pytest.param(name, marks=pytest.mark.slow)
        for name in SETTLING
    ],
)
def test_settled_versions_end_at_a_fixed_point_of_the_recipes_dynamics(name):
    """All examples settle within T sweeps; nothing else of the recipe has changed."""
    config = recipes.recipe(name).config
    found = settled_version(config)
    rules = (config.estimator, found.estimator)
    assert dataclasses.replace(rules[1], free=rules[0].free) == rules[0]
    assert dataclasses.replace(found, estimator=rules[0]) == config
    assert rules[1].free.steps == rules[0].free.steps
    shape = (16, 16) if getattr(config.model, "convolutions", ()) else (64,)
    system, _ = config.model.build(shape, 10, jax.random.key(1))
    x = jax.random.uniform(jax.random.key(2), (4, *shape))
    ended = ep.relax(system, x, rules[1].free)
    assert (np.asarray(ended.status) == ep.Status.settled).all()
    theirs = ep.Euler(getattr(rules[0].free, "dt", 1.0), steps=0)
    assert ep.relax(system, x, theirs, state=ended.state).residual.max() < 1e-3


def test_runs_of_another_configuration_are_refused(training, tmp_path, capsys):
    options = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    other = dataclasses.replace(training, batch_size=300)
    train(other, run=tmp_path / "runs" / "D.tiny" / "seed0")
    assert main(["reproduce", "D.tiny", *options]) == 2
    assert "another configuration (batch_size)" in capsys.readouterr().err


def test_alignment_of_tied_turned_and_independent_weights():
    """0° and ‖W‖² for W itself, 180° for −W."""
    for angle, sign in ((0.0, 1), (180.0, -1)):
        system, _ = Leaky(hidden=(6, 5), angle=angle).build((4,), 3, jax.random.key(0))
        found = alignment(system)
        np.testing.assert_allclose(found["alignment_angle"], 90 - sign * 90, atol=0.1)
        norms = [sign * float((w**2).sum()) for w in system.weights[1:]]
        np.testing.assert_allclose(found["alignment_trace"], norms, rtol=1e-5)
    tied, _ = Hopfield(hidden=(6,)).build((4,), 3, jax.random.key(0))
    assert alignment(tied) == {}


def test_traces_of_untied_weights_are_kept_for_every_epoch(training, tmp_path):
    """The last ones are those of the network that the run ends with."""
    place = tmp_path / "runs"
    options = ["--out", str(tmp_path / "out"), "--runs", str(place)]
    assert main(["reproduce", "D.tiny", *options]) == 0
    file = tmp_path / "out" / "D.tiny.json"
    (seed,) = json.loads(file.read_text(encoding="utf-8"))["seeds"]
    assert np.shape(seed["traces"]) == (training.epochs, 1)
    assert seed["traces"][0] != seed["traces"][1]
    expected = alignment(ep.load(place / "D.tiny" / "seed0").system)
    np.testing.assert_allclose(seed["alignment"]["trace"], expected["alignment_trace"])
    np.testing.assert_allclose(
        seed["alignment"]["degrees"], expected["alignment_angle"]
    )


VALUE = Published("test_error", 2.0, None, "C")
SPREAD = Published("test_error", 2.0, 0.1, "S")
RANGE = Published("test_error", 2.5, None, "P", within=0.5)


@pytest.mark.parametrize(
    ("published", "ours", "mark"),
    [
        (VALUE, (), "not run"),
        (None, (2.0, 2.0, 2.0), "no reference"),
        (VALUE, (2.0,), "one seed"),
        (VALUE, (2.0, 2.0), "one seed"),
        (VALUE, (1.9, 2.0, 2.1), "agrees"),
        # A mean of 2.11 with a standard error of 0.1 / √3 = 0.0577, and of 2.12.
        (VALUE, (2.01, 2.11, 2.21), "agrees"),
        (VALUE, (2.02, 2.12, 2.22), "differs"),
        (VALUE, (1.78, 1.88, 1.98), "better"),
        # The published spread counts in full: 2 √(0.1² + 0²) = 0.2.
        (SPREAD, (2.2, 2.2, 2.2), "agrees"),
        (SPREAD, (2.21, 2.21, 2.21), "differs"),
        (SPREAD, (1.79, 1.79, 1.79), "better"),
        # A range stands for all numbers in it.
        (RANGE, (2.9, 2.9, 2.9), "agrees"),
        (RANGE, (3.1, 3.1, 3.1), "differs"),
        (RANGE, (1.9, 1.9, 1.9), "better"),
    ],
)
def test_verdicts(published, ours, mark):
    assert verdict(published, ours) == mark


def test_the_kept_page_is_that_of_its_records(tmp_path):
    """docs/papers/README.md is what its own records make."""
    for file in KEPT.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    made = write_page(tmp_path).read_text(encoding="utf-8")
    assert made == (KEPT / "README.md").read_text(encoding="utf-8")


def test_kept_trainings_are_of_the_recipes_as_they_stand(tmp_path):
    """The page reports what its command would train today."""
    found = read_records(KEPT)
    trained = {n: r for n, r in found.items() if isinstance(r, TrainingRecord)}
    assert {"A.fig3.1h", "C.fig3", "D.table1.P-3h.settled"} <= set(trained)
    for name, record in trained.items():
        item = ITEMS[name.removesuffix(str(record.version))]
        stands = config_to_json(item.config(record.version, tmp_path))
        kept = config_to_json(config_from_json(record.config))
        assert {**stands, "seed": None} == {**kept, "seed": None}, name
        expected = recipes.recipe(item.recipe).expected
        assert "not run yet" not in expected, f"{item.recipe} was: {name}"


def test_kept_records_are_read_and_written_without_loss():
    """Every number of a kept file is in the record and is written again."""
    for file in KEPT.glob("*.json"):
        kept = json.loads(file.read_text("utf-8"))
        again = to_json(read_records(KEPT)[file.stem])
        assert {key: again[key] for key in kept} == kept, file
        break_claims = "findings" in kept
        assert break_claims or len(again["seeds"]) == len(kept["seeds"])


def test_a_claim_of_an_earlier_version_is_read(tmp_path):
    """Its findings were a dictionary of numbers and its sentence was called words."""
    old = {
        "claim": "errors fall",
        "source": "A, eq 1",
        "panels": [],
        "findings": {"slope": -1.0, "lost": None},
        "holds": True,
        "words": "True with slope −1.",
        "rows": 1,
    }
    (tmp_path / "A.good.json").write_text(json.dumps(old), encoding="utf-8")
    record = read_records(tmp_path)["A.good"]
    assert record.sentence == "True with slope −1."
    assert record.findings[0] == Finding("slope", -1.0)
    assert np.isnan(record.findings[1].value)
    page = write_page(tmp_path).read_text("utf-8") if "A.good" in ITEMS else ""
    assert page == ""


def test_a_page_of_others_is_not_overwritten(claims, tmp_path, capsys):
    """Fails if a README or a JSON file that is there is lost, or taken for ours."""
    page = tmp_path / "README.md"
    page.write_text("# My project\n", encoding="utf-8")
    out = ["--out", str(tmp_path)]
    assert main(["reproduce", "A.good", *out]) == 2
    assert "was not made by eqprop reproduce" in capsys.readouterr().err
    (tmp_path / "package.json").write_text('{"name": "x"}', encoding="utf-8")
    assert main(["reproduce", *out]) == 0
    assert page.read_text("utf-8") == "# My project\n"
    page.unlink()
    assert main(["reproduce", "A.good", *out]) == 0
    assert main(["reproduce", *out]) == 0
    assert "A.good" in page.read_text("utf-8")


def test_any_error_that_differs_is_told(tmp_path):
    """Fails if only the first published number of an item decides."""
    item = ITEMS["D.table1.P-2h"]
    errors = [(0.0190, 0.0200), (0.0195, 0.0210), (0.0200, 0.0220)]
    seeds = tuple(
        SeedRecord(
            seed=n,
            failure=None,
            epochs=1,
            last={"test_error": test, "train_error": train},
            seconds=None,
            curves={},
            environment={},
        )
        for n, (test, train) in enumerate(errors)
    )
    record = TrainingRecord(config={}, seeds=seeds)
    assert [mark for *_, mark in item.marks(record)] == ["agrees", "differs"]
    assert item.verdict(record) == "differs"
    failed = tuple(dataclasses.replace(s, failure="it diverged") for s in seeds)
    assert item.verdict(dataclasses.replace(record, seeds=failed)) == "diverged"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("A.good --settled --seeds 5", "--settled, --seeds would do nothing"),
        ("A.good --epochs 2", "--epochs would do nothing"),
        ("--quick --seeds 5", "--seeds, --quick would do nothing"),
    ],
)
def test_options_without_effect_are_refused(options, words, claims, capsys, tmp_path):
    assert main(["reproduce", *options.split(), "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_training_that_ends_once_settled_has_no_settled_version(capsys, tmp_path):
    settled = {i.name for i in ITEMS.values() if isinstance(i, Training) and i.settles}
    assert settled == {"C.fig3"}
    assert main(["reproduce", "C.fig3", "--settled", "--out", str(tmp_path)]) == 2
    assert "--settled would do nothing: it changes none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_curves_need_as_many_x_as_y():
    with pytest.raises(ValueError, match="found: 2 x and 1 y"):
        Curve("found", (1, 2), (1,))
    with pytest.raises(ValueError, match="a: 2 x and 1 spread"):
        Curve("a", (0, 1), (1, 2), spread=(3,))


def test_bars_and_rows_are_drawn():
    """Bars have groups, spreads do not reach below zero, spare axes are off."""
    bar = Curve("a", (0, 1), (1, 2), spread=(3, 1))
    bars = Panel("layer", "RMSE", [bar], bars=("s0", "s1"))
    lines = Panel("t", "s", [Curve("", (0, 1), (1, 2), "dashed", 3)], title="net")
    axes = draw([bars, lines, lines], 2, "c\n(s)", None).axes
    assert len(axes) == 4
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["s0", "s1"]
    assert axes[0].get_ylim()[0] == 0
    assert axes[1].get_legend() is None
    assert not axes[3].axison


def test_numbers_of_any_library_are_written(tmp_path):
    """Findings keep NumPy's and JAX's numbers as floats, which JSON knows."""
    finding = Finding("n", np.int64(3), least=np.int64(1), most=jax.numpy.float32(4))
    assert json.dumps(dataclasses.asdict(finding)).count(".0") == 3
    assert np.isnan(Finding("n", None).value)
