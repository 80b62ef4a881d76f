"""`eqprop reproduce`: the list, the choice, what is written, and the exit status."""

import json

import pytest

from eqprop import demonstrations
from eqprop.cli import _reproduce, main
from eqprop.demonstrations import Curve, DEMONSTRATIONS, Demonstration, Panel


def claimed(holds):
    """A claim that takes no time to measure."""

    def measure():
        """Errors fall."""
        curves = (
            Curve("found", (1, 2), (4, 2)),
            Curve("1/x", (1, 2), (4, 2), "expected"),
        )
        panel = Panel("x", "error", curves, "xy")
        words = f"{holds} with slope −1."
        return Demonstration(
            "errors fall", "Z, eq 1", (panel,), {"slope": -1.0}, holds, words
        )

    return measure


@pytest.fixture
def items(monkeypatch):
    found = {"Z.good": claimed(True), "Z.bad": claimed(False), "Y.good": claimed(True)}
    monkeypatch.setattr(_reproduce, "DEMONSTRATIONS", found)


def test_every_item_is_documented_and_named_after_a_source():
    for name, function in DEMONSTRATIONS.items():
        assert name.count(".") < 2
        assert not name.startswith(".")
        assert (function.__doc__ or "").strip()


def test_without_items_they_are_listed(capsys):
    assert main(["reproduce"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in DEMONSTRATIONS)
    assert main(["reproduce", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["items"]) == set(DEMONSTRATIONS)


def test_figure_numbers_and_page_are_written(items, tmp_path, capsys):
    """The status is 0 only if all chosen claims hold; a page collects all so far."""
    out = tmp_path / "found"
    assert main(["reproduce", "Z.good", "Y", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("Y.good") < shown.index("Z.good")
    assert "holds: True with slope −1." in shown
    assert main(["reproduce", "all", "--out", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["items"]
    assert [found[name]["holds"] for name in ("Y.good", "Z.bad", "Z.good")] == [1, 0, 1]
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "| [Z.bad](#zbad) | Z, eq 1 | **does not hold** |" in page
    for name in found:
        assert (out / f"{name}.png").stat().st_size > 5000
        record = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        assert record["findings"] == {"slope": -1.0}


def test_an_unknown_item_is_refused_with_the_nearest(capsys, tmp_path):
    near = next(iter(DEMONSTRATIONS))
    assert main(["reproduce", near[:-1], "--out", str(tmp_path / "none")]) == 2
    assert f"did you mean {near}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_curves_need_as_many_x_as_y():
    with pytest.raises(ValueError, match="found: 2 x and 1 y"):
        demonstrations.Curve("found", (1, 2), (1,))
