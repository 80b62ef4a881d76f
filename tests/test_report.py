"""`eqprop report`: one page that loads nothing, and tables; broken runs too."""

import csv
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import html5lib
import numpy as np
import pytest
from matplotlib.image import imsave

import eqprop as ep
from eqprop import cli
from eqprop.report import _curves
from eqprop.report._table import duration
from eqprop.theory._metrics import Agreement
from eqprop.theory._records import Check, Row
from eqprop.theory._verification import Verification

HTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one configuration on images of 5 x 4 pixels, three classes."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    x = 0.7 * rng.random((90, 5, 4))
    x[np.arange(90), y] += 0.3
    np.savez(folder / "images.npz", x=x, y=y)
    for seed in range(2):
        ep.train(
            ep.recipe("digits").config,
            run=folder / f"s{seed}",
            data=folder / "images.npz",
            model=ep.Hopfield(hidden=(6,), output="linear"),
            epochs=2,
            seed=seed,
        )
    return folder


@pytest.fixture
def copies(runs, tmp_path):
    """The same runs, to be broken."""
    for name in ("s0", "s1"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def command(capsys, *words):
    """Status, standard output and standard error of `eqprop report …`."""
    status = cli.main(["report", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def read(file):
    """The page, by a parser that takes no mistake in the markup."""
    parser = html5lib.HTMLParser(strict=True)
    page = parser.parse(Path(file).read_text(encoding="utf-8"))
    assert_loads_nothing(page)
    return page


def assert_loads_nothing(page):
    """Fails if opening the page asks the network for anything, or runs a program."""
    for element in page.iter():
        name = str(element.tag).removeprefix(HTML)
        assert name not in {"script", "link", "iframe", "object", "embed", "base"}
        for attribute, value in element.attrib.items():
            assert not attribute.startswith("on"), attribute
            assert "//" not in value or value.startswith("data:"), (name, value)
            if attribute in ("src", "href"):
                assert value.startswith(("data:", "#")), value
    style = "".join(e.text or "" for e in page.iter(f"{HTML}style"))
    assert "url(" not in style
    assert "@import" not in style


def sections(page):
    """Heading → element."""
    found = {}
    for section in page.iter(f"{HTML}section"):
        (head,) = section.findall(f"{HTML}h2")
        found[head.text] = section
    return found


def words(element):
    return " ".join(" ".join(element.itertext()).split())


def table(section):
    """The cells of a section's first table, headings included."""
    rows = next(section.iter(f"{HTML}table")).iter(f"{HTML}tr")
    return [[words(cell) for cell in row] for row in rows]


def last(run):
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return json.loads(text.splitlines()[-1])


def test_the_page(runs, capsys):
    """All parts of two seeds, and numbers computed here from the runs' own files."""
    seeds = [runs / "s0", runs / "s1"]
    status, out, err = command(capsys, *seeds, "--out", "page.html")
    assert (status, err) == (0, "")
    assert "page.html" in out
    page = read("page.html")
    found = sections(page)
    assert set(found) == {
        *("Results", "Curves", "Settling", "First-layer weights", "Confusion matrix"),
        *("Misclassified examples", "Configuration", "How to reproduce"),
    }
    results = dict(zip(*table(found["Results"]), strict=True))
    assert results["seeds"] == "0 1"
    errors = [100 * last(run)["test_error"] for run in seeds]
    spread = f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f}"
    assert results["test error (%)"] == spread
    assert len(list(found["Curves"].iter(f"{HTML}img"))) == 5
    for picture in page.iter(f"{HTML}img"):
        assert len(picture.attrib["alt"]) > 10
    targets = {e.attrib["href"][1:] for e in page.iter(f"{HTML}a")}
    assert targets == {e.attrib["id"] for e in page.iter(f"{HTML}section")}
    settings = dict(table(found["Configuration"]))
    assert settings["estimator.beta"] == "0.25"
    assert settings["estimator.free.steps"] == "10"
    assert "seed" not in settings


def test_the_page_tells_what_the_network_does(runs, capsys):
    """Confusion, settling and mistakes are those that `predict` and `relax` find."""
    seeds = [runs / "s0", runs / "s1"]
    assert command(capsys, *seeds, "--out", "page.html")[0] == 0
    found = sections(read("page.html"))
    counts, settled, wrong = np.zeros((3, 3), int), 0, []
    for path in seeds:
        run = ep.load(path)
        assert run.problem.test is not None
        x, y = run.problem.test
        labels, taken = y.argmax(1), ep.predict(run, x).argmax(1)
        for pair in zip(labels, taken, strict=True):
            counts[pair] += 1
        equilibrium = ep.relax(run.system, x, run.config.estimator.free)
        settled += int(np.sum(np.asarray(equilibrium.status) == ep.Status.settled))
        wrong.append([(k, labels[k], taken[k]) for k in np.nonzero(labels != taken)[0]])
    shown = [row[1:] for row in table(found["Confusion matrix"])[1:]]
    assert [
        [0 if c == "·" else int(c) for c in row] for row in shown
    ] == counts.tolist()
    rows = {row[0]: row for row in table(found["Settling"])}
    assert int(rows["settled"][1]) == settled
    assert int(rows["all"][1]) == counts.sum()
    items = [words(e) for e in found["Misclassified examples"].iter(f"{HTML}li")]
    assert len(items) == min(24, len(wrong[0]))
    for number, true, guess in wrong[0][:24]:
        (item,) = [item for item in items if f"#{number} " in f"{item} "]
        assert item.startswith(f"{true} → {guess}")
        votes = sum(number in [k for k, *_ in each] for each in wrong)
        assert f"{votes} of 2 runs" in item


def test_the_same_page_twice(runs, capsys):
    """The same runs give the same page, but for the time it was made at."""
    pages = []
    for name in ("a.html", "b.html"):
        assert command(capsys, runs / "s0", "--out", name)[0] == 0
        text = Path(name).read_text(encoding="utf-8")
        pages.append(re.sub(r"Made by eqprop report on [^.]*\.", "", text))
    assert pages[0] == pages[1]


def test_tables(runs, capsys):
    """md, csv and latex hold mean and deviation; csv at full precision."""
    seeds = [runs / "s0", runs / "s1"]
    losses = [last(run)["loss"] for run in seeds]
    status, out, _ = command(capsys, *seeds, "--format", "csv")
    assert status == 0
    (row,) = csv.DictReader(out.splitlines())
    assert float(row["loss_mean"]) == pytest.approx(np.mean(losses), rel=1e-12)
    assert float(row["loss_std"]) == pytest.approx(np.std(losses, ddof=1), rel=1e-9)
    assert (row["runs"], row["seeds"]) == ("2", "0 1")
    status, out, _ = command(capsys, *seeds, "--format", "md")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1
    assert "±" in lines[2]
    status, out, _ = command(capsys, *seeds, "--out", "table.tex")
    assert status == 0
    text = Path("table.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({row.count("&") for row in rows}) == 1
    assert r"\$\pm$" not in text
    assert r"$\pm$" in text
    assert not re.search(r"(?<!\\)[%_#]", text.split("\n", 1)[1])


def test_one_run_has_no_deviation_and_no_run_counts_twice(runs, capsys):
    """Fails if a ± is made of one run, or of one directory named twice."""
    for paths in ([runs / "s0"], [runs / "s0", runs / "." / "s0"]):
        status, out, _ = command(capsys, *paths, "--format", "md")
        assert status == 0
        assert "±" not in out


def test_one_configuration_is_one_row(runs, capsys):
    """Fails if the table is turned on its side, or repeats the page's title."""
    assert command(capsys, runs / "s0", "--no-examples", "--out", "p.html")[0] == 0
    page = read("p.html")
    heads, row = table(sections(page)["Results"])
    assert heads[:2] == ["seeds", "epochs"]
    assert row[:2] == ["0", "2"]
    (seconds,) = [c for h, c in zip(heads, row, strict=True) if h == "training time"]
    assert seconds == f"{last(runs / 's0')['training_seconds']:.3g} s"


def test_one_is_not_many(runs, capsys):
    """Fails if one thing is counted as several."""
    for paths, text in (
        ([runs / "s0"], "1 run, 1 configuration\n"),
        ([runs / "s0", runs / "s1"], "2 runs, 1 configuration\n"),
    ):
        out = command(capsys, *paths, "--no-examples", "--out", "p.html")[1]
        assert text in out


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (3.84, 2.58, "3.8 ± 2.6 s"),
        (0.5, None, "0.5 s"),
        (119.0, None, "119 s"),
        (150.0, 30.0, "2.50 ± 0.50 min"),
        (9000.0, None, "2.5 h"),
    ],
)
def test_a_time_has_the_unit_that_fits(mean, spread, text):
    """Fails if seconds are shown as fractions of a minute."""
    assert duration(mean, spread) == text


@pytest.mark.parametrize("lowest", [0.9, 0.2, 0.05, 1e-6])
def test_labels_of_an_axis_do_not_collide(lowest, monkeypatch):
    """Fails if two tick labels of a loss cover each other."""
    drawn = []
    monkeypatch.setattr(_curves, "_svg", drawn.append)
    lines = [("train", "#000000", "-", [([1, 2, 3], [1.0, (1 + lowest) / 2, lowest])])]
    _curves._draw("loss", lines, log=True)
    (figure,) = drawn
    figure.draw_without_rendering()
    (axis,) = figure.axes
    ticks = [*axis.yaxis.get_major_ticks(), *axis.yaxis.get_minor_ticks()]
    low, high = axis.bbox.y0, axis.bbox.y1
    boxes = [t.label1.get_window_extent() for t in ticks if t.label1.get_text()]
    boxes = sorted((b.y0, b.y1) for b in boxes if low <= (b.y0 + b.y1) / 2 <= high)
    assert len(boxes) >= 2
    for (_, top), (bottom, _) in itertools.pairwise(boxes):
        assert top < bottom


def test_a_seed_twice_is_said(copies, runs, capsys):
    """Fails if two runs of one seed pass for independent ones."""
    paths = (copies / "s0", runs / "s0")
    assert command(capsys, *paths, "--no-examples", "--out", "p.html")[0] == 0
    results = words(sections(read("p.html"))["Results"])
    assert "a seed occurs more than once" in results


def test_two_configurations_are_told_apart(copies, runs, capsys):
    """Each has a row of its own, named by the settings that differ."""
    file = copies / "s1" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["estimator"]["beta"] = 0.5
    file.write_text(json.dumps(config), encoding="utf-8")
    paths = (runs / "s0", copies / "s1")
    status, out, _ = command(capsys, *paths, "--format", "md")
    assert status == 0
    rows = out.splitlines()[2:]
    assert "A: estimator.beta 0.25" in rows[0]
    assert "B: estimator.beta 0.5" in rows[1]
    assert command(capsys, *paths, "--no-examples", "--out", "two.html")[0] == 0
    found = sections(read("two.html"))
    marked = [e for e in found["Configuration"].iter() if e.get("class") == "differs"]
    assert [words(e) for e in marked] == ["estimator.beta 0.25 0.5"]


def test_the_gradient_check(copies, capsys):
    """What `eqprop verify` leaves in a run is on its page."""
    rows = (Row("EP", "weights[0]", Agreement(error=0.01, angle=1.5, signs=0.97)),)
    checks = (Check("order in β", 2.01, "2", "holds"),)
    found = Verification(
        *("Hopfield", "energy", True, "EP is exact.", ("β fits.",)), checks, rows
    )
    folder = copies / "s0" / "verify"
    folder.mkdir()
    record = json.dumps(found.to_dict())
    (folder / "verification.json").write_text(record, encoding="utf-8")
    imsave(folder / "processes.png", np.zeros((4, 4)))
    (folder / "beta.png").write_text("no picture")
    assert command(capsys, copies / "s0", "--no-examples")[0] == 0
    check = sections(read(copies / "s0" / "report.html"))["Gradient check"]
    text = words(check)
    for part in (
        "EP is exact.",
        "β fits.",
        "1.5°",
        "97.0 %",
        "1 check: 1 passed, 0 failed",
    ):
        assert part in text
    assert len(list(check.iter(f"{HTML}img"))) == 1


def test_everything_is_escaped(copies, capsys):
    """Fails if what stands in a run's files becomes part of the page's program."""
    run = copies / "<script>alert(1)<"
    (copies / "s0").rename(run)
    environment = json.loads((run / "env.json").read_text(encoding="utf-8"))
    attack = "</pre><script>alert('&\"')</script>\x07\udcff"
    environment |= {"command": ["eqprop", attack], "processor": attack, "git": attack}
    environment["packages"] = {attack: attack}
    (run / "env.json").write_text(json.dumps(environment), encoding="utf-8")
    assert command(capsys, run, "--no-examples", "--out", "page.html")[0] == 0
    text = words(read("page.html"))
    assert "</pre><script>alert(" in text


def test_data_that_are_gone(copies, runs, capsys):
    """The page is made without the examples, and says so; the network still loads."""
    before = ep.load(copies / "s0")
    x = before.problem.train[0][:5]
    expected = ep.predict(before, x)
    shutil.copytree(copies / "s0", copies / "moved")
    file = copies / "moved" / "config.json"
    text = file.read_text(encoding="utf-8").replace("images.npz", "elsewhere.npz")
    file.write_text(text, encoding="utf-8")
    status, out, _ = command(capsys, copies / "moved", "--out", "page.html")
    assert status == 0
    assert "elsewhere.npz" in out
    found = sections(read("page.html"))
    assert "First-layer weights" in found
    assert not {"Settling", "Confusion matrix", "Misclassified examples"} & set(found)
    assert "elsewhere.npz" in words(found["What this page does not hold"])
    after = ep.load(copies / "moved")
    np.testing.assert_array_equal(ep.predict(after, x), expected)
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.npz"):
        ep.evaluate(after)


def broken(run, name, change):
    """Rewrite one file of a run."""
    file = run / name
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


BROKEN = {
    "half a line": ("metrics.jsonl", lambda text: text + '{"epoch": 3, "lo'),
    "no JSON": ("metrics.jsonl", lambda text: "\x00garbage\n" + text),
    "NaN": (
        "metrics.jsonl",
        lambda text: re.sub(r'"loss": [^,]*', '"loss": NaN', text),
    ),
    "infinity": (
        "metrics.jsonl",
        lambda text: re.sub(r'"loss": [^,]*', '"loss": 1e999', text),
    ),
    "words": (
        "metrics.jsonl",
        lambda text: re.sub(r'_error": [^,]*', '_error": "low"', text),
    ),
    "no numbers": ("metrics.jsonl", lambda _: '{"epoch": 1}\n'),
    "a list less": (
        "metrics.jsonl",
        lambda text: re.sub(r"\[[^]]*\]", '[1, null, "x"]', text, count=1),
    ),
    "a number as list": (
        "metrics.jsonl",
        lambda text: re.sub(r"\[[^]]*\]", "3", text),
    ),
    "empty environment": ("env.json", lambda _: ""),
    "a list as environment": ("env.json", lambda _: "[]"),
    "strange environment": (
        "env.json",
        lambda _: '{"command": 3, "packages": [], "devices": {}, "data": 1, "git": []}',
    ),
    "strange sessions": ("env.json", lambda _: '{"resumed": 7, "outcome": {}}'),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_runs_that_are_damaged(kind, copies, capsys):
    """Fails if a broken file ends in a traceback, or makes the others useless."""
    broken(copies / "s0", *BROKEN[kind])
    paths = (copies / "s0", copies / "s1")
    status, _, err = command(capsys, *paths, "--no-examples", "--out", "p.html")
    assert (status, err) == (0, "")
    found = sections(read("p.html"))
    assert "Results" in found
    for form in ("md", "csv", "latex"):
        status, out, err = command(capsys, *paths, "--format", form)
        assert (status, err) == (0, "")
        assert "nan" not in out
        assert "inf" not in out
    if kind in ("half a line", "no JSON"):
        assert "1 of 3 lines" in words(found["What this page does not hold"])
    if "environment" in kind and kind != "strange environment":
        assert "env.json" in words(found["What this page does not hold"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"type": "Config", '),
        ("config.json", "[1, 2]"),
        ("config.json", '{"type": "Popen"}'),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", "7\n[]\n{}\n"),
    ],
)
def test_runs_that_cannot_be_reported(name, text, copies, capsys):
    """A clear error with the file's place, and no page."""
    broken(copies / "s0", name, lambda _: text)
    status, out, err = command(capsys, copies / "s0")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "s0" in err
    assert not (copies / "s0" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--out", "page.pdf"), ("page.pdf", ".html", ".tex")),
        (("--out", "page.md", "--format", "csv"), ("page.md", "csv", ".csv")),
        (("--out", "nowhere/page.html"), ("nowhere", "No such file")),
        (("--out", ".", "--format", "md"), ("folder", ".md")),
    ],
)
def test_places_that_cannot_be(options, fragments, runs, capsys):
    """Fails if a report lies where nobody looks, or ends in a traceback."""
    status, _, err = command(capsys, runs / "s0", "--no-examples", *options)
    assert status == 2
    for fragment in fragments:
        assert fragment in err


def test_json_is_pure(runs, capsys):
    """One object that says where the page is and what it is without."""
    status, out, _ = command(
        capsys, runs / "s0", "--no-examples", "--json", "--out", "p.html"
    )
    assert status == 0
    found = json.loads(out)
    assert found["out"] == "p.html"
    ((path, (reason,)),) = found["missing"].items()
    assert path == str(runs / "s0")
    assert "as asked" in reason


def test_a_strangers_program_is_not_executed(copies, capsys):
    """Fails if a report of a downloaded run executes what the run brings."""
    program = "import pathlib\npathlib.Path('executed').touch()\n"
    Path("mine.py").write_text(program)
    (copies / "s0" / "model.py").write_text(program)
    file = copies / "s0" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"model": {"type": "UserModel", "path": "mine.py:problem"}, "data": None}
    file.write_text(json.dumps(config), encoding="utf-8")
    status, out, _ = command(capsys, copies / "s0", "--out", "page.html")
    assert status == 0
    assert "--system" in out
    assert cli.main(["export", str(copies / "s0")]) == 2
    assert "--system" in capsys.readouterr().err
    assert not Path("executed").exists()
    inputs = copies / "s0" / "inputs.json"
    record = json.loads(inputs.read_text(encoding="utf-8"))
    record["model"] = hashlib.sha256(program.encode()).hexdigest()
    inputs.write_text(json.dumps(record), encoding="utf-8")
    system = ("--system", "mine.py:problem")
    assert command(capsys, copies / "s0", "--out", "page.html", *system)[0] == 0
    assert Path("executed").exists()
