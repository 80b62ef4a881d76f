"""`eqprop search`: a study that goes on, and requests that make no sense."""

import json

import pytest

from eqprop import cli, runs

SEARCH = [
    *("search", "digits", "--vary", "estimator.beta=0.1:1:log", "--epochs", "1"),
    *("--model.hidden", "4", "--run", "found", "--json"),
]


def test_a_search_goes_on_where_it_stopped(capsys, tmp_path, monkeypatch):
    """Trials count in all; the best is first; another request is refused."""
    monkeypatch.setattr("eqprop.runs._train.draw", lambda *_: None)
    found = {}
    for trials in (1, 2, 2):
        assert cli.main([*SEARCH, "--trials", str(trials)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["trials"]) == trials
    values = [record["value"] for record in found["trials"]]
    assert values == sorted(values)
    for record in found["trials"]:
        folder = tmp_path / record["run"]
        last = json.loads(
            (folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1]
        )
        assert record["value"] == last["val_error"]
        config = json.loads((folder / "config.json").read_text("utf-8"))
        beta = config["estimator"]["beta"]
        assert beta == float(record["options"]["estimator.beta"])
        assert 0.1 <= beta <= 1
    assert (tmp_path / "found" / "search.png").exists()
    assert cli.main([*SEARCH, "--trials", "3", "--batch-size", "50"]) == 2
    assert "same options" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "beta",
        "beta=",
        "=1:2",
        "beta=2:1",
        "beta=0:1:log",
        "beta=1:2:3",
        "a=x:1",
        "beta=0:inf",
    ],
)
def test_a_range_that_is_none(text):
    """Each is refused with the three ways to write one."""
    with pytest.raises(ValueError, match="OPTION=A,B,C"):
        runs.Varied.parse(text)


@pytest.mark.parametrize("vary", ["seeds=1:3", "devices=1,2", "epochs-typo=1:3"])
def test_only_what_changes_a_training_is_varied(vary, capsys, tmp_path):
    """Fails if a study is made of trials that are all the same."""
    words = [*SEARCH[:3], vary, *SEARCH[4:], "--trials", "2"]
    try:
        status = cli.main(words)
    except SystemExit as stop:  # an option that is none
        status = stop.code
    assert status == 2
    assert vary.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_ranges():
    """Whole numbers stay whole; choices are words."""
    assert runs.Varied.parse("batch_size=10:50").whole
    assert not runs.Varied.parse("estimator.beta=0.1:1").whole
    assert runs.Varied.parse("--optimizer.name=sgd,adam").choices == ("sgd", "adam")
