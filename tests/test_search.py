"""`eqprop search`: a study that goes on, and requests that make no sense."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from eqprop import cli, runs
from eqprop.runs._claims import _standing, claim, try_again

SEARCH = [
    *("search", "digits", "--vary", "estimator.beta=0.1:1:log", "--epochs", "1"),
    *("--model.hidden", "4", "--run", "found", "--json"),
]


def test_a_search_goes_on_where_it_stopped(capsys, tmp_path):
    """Trials count in all; the best is first; another request is refused."""
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


# --- several processes, one study

SHARER = """
import importlib.util, sys, time
from pathlib import Path
import optuna

# Without the rest of eqprop, whose imports would take most of the test's time.
spec = importlib.util.spec_from_file_location("claims", sys.argv[3])
claims = importlib.util.module_from_spec(spec)
spec.loader.exec_module(claims)
optuna.logging.set_verbosity(optuna.logging.ERROR)
made = optuna.load_study(study_name="s", storage="sqlite:///study.db")
mine, other = Path(sys.argv[1]), Path(sys.argv[2])
mine.touch()
while not other.exists():
    time.sleep(0.001)
count = 0
while (claimed := claims.claim(made, Path("claims"), 5)) is not None:
    with claimed as trial:
        time.sleep(0.05)
        made.tell(trial, 0.0)
    count += 1
print(count)
"""


def test_two_processes_train_as_many_trials_as_one(study, tmp_path):
    """Fails if each takes what is the last trial of both: 5 were asked for."""
    file = Path(runs.__file__).with_name("_claims.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARER, *names, file],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    counts = [int(process.communicate(timeout=100)[0]) for process in processes]
    assert sum(counts) == 5
    states = [trial.state.name for trial in study().get_trials()]
    assert states.count("COMPLETE") == 5


def test_two_searches_in_one_folder(monkeypatch):
    """Both return the three trials that were asked for, and search.json holds them."""

    def train(config, run, observer, **_):
        observer.value = config
        time.sleep(0.02)

    monkeypatch.setattr("eqprop.runs._search.train", train)
    monkeypatch.setattr("eqprop.runs._search.draw_search", lambda *_: None)
    found = []

    def search():
        space = [runs.Varied.parse("x=0:1")]
        request = {"path": Path("found"), "trials": 3}
        found.append(runs.search(lambda o: float(o["x"]), space, **request))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    kept = json.loads(Path("found", "search.json").read_text("utf-8"))["trials"]
    assert [one.records for one in found] == [kept, kept]
    assert [record["state"] for record in kept] == ["complete"] * 3


@pytest.fixture
def study():
    """Makes handles of one study, as every process has its own."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def handle():
        storage = f"sqlite:///{Path('study.db').resolve()}"
        return optuna.create_study(study_name="s", storage=storage, load_if_exists=True)

    handle()
    return handle


def complete(made, trials):
    """Train until there is nothing left to train; how many were."""
    count = 0
    while (claimed := claim(made, Path("claims"), trials)) is not None:
        with claimed as trial:
            time.sleep(0.02)
            made.tell(trial, float(trial.number))
        count += 1
    return count


def test_a_last_trial_that_two_ask_for_at_once(study, monkeypatch):
    """Of two who have seen 2 of 3 trials, one runs, and the other takes nothing."""
    made = [study(), study()]
    assert complete(made[0], 2) == 2
    barrier = threading.Barrier(2)
    for handle in made:

        def late(handle=handle, ask=handle.ask):
            monkeypatch.setattr(handle, "ask", ask)
            barrier.wait(10)  # both have counted the trials before either asks
            return ask()

        monkeypatch.setattr(handle, "ask", late)
    counts = []
    threads = [
        threading.Thread(target=lambda h=handle: counts.append(complete(h, 3)))
        for handle in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(counts) == [0, 1]
    states = [trial.state.name for trial in made[0].get_trials()]
    assert states.count("COMPLETE") == 3


def test_trials_of_processes_that_ended(study):
    """A killed one counts no more; an interrupted one is tried again, and first."""
    optuna = pytest.importorskip("optuna")
    made = study()
    killed = claim(made, Path("claims"), 3)
    with killed:  # its lock is free afterwards, and nobody has told the study
        pass
    with claim(made, Path("claims"), 3) as trial:
        value = trial.suggest_float("x", 0, 1)
        made.tell(trial, state=optuna.trial.TrialState.FAIL)
        try_again(made, trial.params)
    with claim(made, Path("claims"), 3) as trial:
        assert trial.suggest_float("x", 0, 1) == value
        made.tell(trial, value)
    assert complete(made, 3) == 2
    assert claim(made, Path("claims"), 3) is None


def test_a_trial_that_ends_while_it_is_looked_at(study):
    """Fails if one that was read as running, and has ended since, counts as killed."""
    made = study()
    with claim(made, Path("claims"), 1) as trial:
        (seen,) = made.get_trials()
        assert _standing(made, seen) == "alive"
        made.tell(trial, 0.0)
    assert seen.state.name == "RUNNING"
    assert _standing(made, seen) == "ended"


def test_waiting_for_the_trial_of_another(study):
    """Who finds the last trial taken waits, and takes it over where it fails."""
    optuna = pytest.importorskip("optuna")
    first, second = study(), study()
    counts = []
    with claim(first, Path("claims"), 1) as trial:
        thread = threading.Thread(target=lambda: counts.append(complete(second, 1)))
        thread.start()
        time.sleep(0.2)
        assert len(first.get_trials()) == 1  # the other has asked for nothing
        first.tell(trial, state=optuna.trial.TrialState.FAIL)
    thread.join(20)
    assert counts == [1]


def test_a_trial_on_a_machine_out_of_sight_counts(study):
    """It is not waited for, as nobody can say whether it still runs."""
    made = study()
    made.ask().set_user_attr("claim", "/nowhere/3")
    assert complete(made, 2) == 1
    assert claim(made, Path("claims"), 2) is None
