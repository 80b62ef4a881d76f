"""Search hyper-parameters: Optuna proposes options, and each trial is a run.

An Optuna study, which several processes may share, keeps the result of each trial.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._files import write_whole
from ..report import draw_search
from ..training import Config, Observer, TrainingDiverged
from ._claims import claim, ENDED, state_of, try_again
from ._recorder import Forwarding
from ._train import train, TrainingInterrupted

CLAIMS = ".claims"
"""folder of the locks of the trials that are being trained"""


@dataclasses.dataclass(frozen=True)
class Varied:
    """An option to vary: choices, or a range from `low` to `high`."""

    option: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> "Varied":
        """Parse `OPTION=LOW:HIGH`, `OPTION=LOW:HIGH:log` or `OPTION=A,B,C`."""
        option, equals, values = text.partition("=")
        option = option.strip().lstrip("-").replace("_", "-")
        words = values.split(":")
        try:
            if not option or not equals or not values:
                raise ValueError("it has no values")
            if len(words) == 1:
                return cls(option, choices=tuple(values.split(",")))
            low, high = float(words[0]), float(words[1])
            if not math.isfinite(high - low):
                raise ValueError("the ends must be finite")
            log = words[2:] == ["log"]
            if (words[2:] and not log) or not low < high or (log and low <= 0):
                raise ValueError("the range must rise, and be positive for log")
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"--vary {text!r}: {error}; write OPTION=LOW:HIGH, OPTION=LOW:HIGH:log "
                "or OPTION=A,B,C, e.g. estimator.beta=0.05:1:log"
            ) from None
        whole = all(word.strip().lstrip("-").isdigit() for word in words[:2])
        return cls(option, (), low, high, log, whole)

    def ends(self) -> tuple[str, str]:
        """Return the first and the last value, as written on the command line."""
        if self.choices:
            return self.choices[0], self.choices[-1]
        first, last = (int(v) if self.whole else v for v in (self.low, self.high))
        return repr(first), repr(last)

    def suggest(self, trial: Any) -> str:
        """Let the trial choose a value; return it as written on the command line."""
        if self.choices:
            return trial.suggest_categorical(self.option, self.choices)
        if self.whole:
            bounds = int(self.low), int(self.high)
            return str(trial.suggest_int(self.option, *bounds, log=self.log))
        found = trial.suggest_float(self.option, self.low, self.high, log=self.log)
        return repr(found)


@dataclasses.dataclass(frozen=True)
class Search:
    """The directory of the runs, and one record for each trial, the best first.

    A record holds `trial` (its number), `state` (complete, pruned, diverged), `value`
    (the last epoch's validation error, a fraction, or the loss if there are no
    classes), `epochs`, `options` and `run`.
    """

    path: Path
    records: list[dict[str, Any]]


def search(
    configure: Callable[[dict[str, str]], Config],
    space: list[Varied],
    *,
    path: Path,
    trials: int,
    storage: str | None = None,
    study: str = "eqprop",
    request: Any = None,
    prune: bool = True,
    seed: int = 0,
    observer: Observer | None = None,
    writers: Sequence[str] = (),
    devices: int | None = None,
) -> Search:
    """Train until the study holds that many trials; a trial is a run in `path`.

    Trials that the study already holds count, whichever machine trained them.
    Processes that share a study share its trials.  Each process returns when all
    trials have ended, except those that another machine trains in its own directory.

    **Arguments:**

    - `configure`: makes a configuration from options and their values.
    - `space`: the options to vary.
    - `storage`: any storage URL of Optuna (default: a SQLite file in `path`).
    - `study`: name of the study in the storage.
    - `request`: description of the search; a study with another one is refused.
    - `prune`: stop a trial after an epoch in which it is worse than the median.
    - `seed`: of the proposals.
    - `observer`, `writers`, `devices`: as for `train`, for every trial.

    **Raises:** `ValueError` for a request that cannot be met; `TrainingInterrupted`
    after a Ctrl-C, and the next search repeats the interrupted trial first.
    """
    optuna = _optuna()
    path.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner()
    made = _study(path, storage, study, pruner, json.loads(json.dumps(request)))
    while (claimed := claim(made, path / CLAIMS, trials)) is not None:
        with claimed as trial:
            # Seed by number, so that no other process or start repeats a proposal.
            made.sampler = optuna.samplers.TPESampler(seed=seed + trial.number)
            options = {varied.option: varied.suggest(trial) for varied in space}
            watch = _Watch(trial, observer or Observer())

            def run(folder, options=options, watch=watch):
                shared = {"writers": writers, "devices": devices}
                train(configure(options), run=folder, observer=watch, **shared)

            _try(made, trial, run, options, path, watch)
        _keep(path, made)
    return Search(path, _keep(path, made))


def _study(path: Path, storage: str | None, name: str, pruner: Any, request: Any):
    """Open or make the study; refuse one that searches something else."""
    # Two processes must not make the tables of a new file at the same time.
    with _locked(path):
        made = _optuna().create_study(
            study_name=name,
            storage=storage or f"sqlite:///{(path / 'study.db').resolve()}",
            load_if_exists=True,
            direction="minimize",
            pruner=pruner,
        )
        if made.user_attrs.setdefault("request", request) != request:
            raise ValueError(
                f"the study {name} searches {made.user_attrs['request']}, and you ask "
                f"for {request}; use the same options, or another --run or --study"
            )
        made.set_user_attr("request", request)
    return made


class _Watch(Forwarding):
    """Report every epoch to the trial; stop the training if Optuna prunes it."""

    def __init__(self, trial: Any, inner: Observer) -> None:
        super().__init__(inner)
        self.trial, self.value = trial, float("nan")

    def on_epoch(self, state, record):
        super().on_epoch(state, record)
        error = record["val_error"]
        self.value = record["val_loss"] if error is None else error
        self.trial.report(self.value, record["epoch"])
        if self.trial.should_prune():
            raise _optuna().TrialPruned


def _try(made, trial, run, options, path, watch) -> None:
    """Train one run; tell the study how it ended."""
    states = _optuna().trial.TrialState
    folder = path / f"trial-{trial.number}"
    trial.set_user_attr("run", str(folder))
    trial.set_user_attr("options", options)
    try:
        run(folder)
    except _optuna().TrialPruned:
        made.tell(trial, state=states.PRUNED)
    except TrainingDiverged as error:
        trial.set_user_attr("diverged", str(error))
        made.tell(trial, state=states.FAIL)
    except (KeyboardInterrupt, TrainingInterrupted):
        made.tell(trial, state=states.FAIL)
        try_again(made, trial.params)
        raise TrainingInterrupted(
            f"stopped in trial {trial.number}, which is tried again first; the other "
            f"trials are saved in {path}",
            f"the same command and --run {path}",
        ) from None
    except BaseException:
        made.tell(trial, state=states.FAIL)
        raise
    else:
        made.tell(trial, watch.value)


def _records(made: Any) -> list[dict[str, Any]]:
    """Return the trials that ended, the best first; a killed trial is left out."""
    records = []
    for trial in made.get_trials(deepcopy=False):
        state = state_of(trial)
        if state not in ENDED:
            continue
        values = list(trial.intermediate_values.values())
        value = trial.value if state == "complete" else (values or [None])[-1]
        records.append(
            {
                "trial": trial.number,
                "state": state,
                "value": value,
                "epochs": len(values),
                "options": trial.user_attrs["options"],
                "run": trial.user_attrs["run"],
            }
        )

    def rank(record):
        value = record["value"]
        return record["state"] != "complete", value is None, value or 0.0

    return sorted(records, key=rank)


def _keep(path: Path, made: Any) -> list[dict[str, Any]]:
    """Write `search.json`, draw `search.png`, return the records."""
    with _locked(path):
        records = _records(made)
        text = json.dumps({"study": made.study_name, "trials": records}, indent=1)
        write_whole(path / "search.json", text + "\n")
        draw_search(path / "search.png", records)
    return records


def _locked(path: Path) -> Any:
    """Return the lock of a search's directory, for one process at a time."""
    from filelock import FileLock

    return FileLock(path / ".lock")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError(
            "eqprop search needs Optuna. Install it with: pip install 'optuna>=4'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
