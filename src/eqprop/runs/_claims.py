"""Decide which process trains which trial, if several processes share a study.

The processes may run on machines that share only the study's storage, so that no file
lock can count the trials.  But Optuna numbers the trials for all of them: a trial may
run if fewer than the wanted number of trials before it have ended or are being trained.
A process holds a file lock for its trial; the operating system frees the lock when the
process ends, also when it is killed.
"""

import contextlib
import datetime
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

POLL = 0.5
"""seconds between two looks at the other processes' trials"""
STARTING = 60.0
"""seconds for which a new trial may lack the name of its lock"""
AGAIN = "again"
"""attribute of a trial that repeats an interrupted one: the parameters"""
ENDED = ("complete", "pruned", "diverged")


def state_of(trial: Any) -> str:
    """Return how a trial ended, or Optuna's state if it has not ended."""
    return "diverged" if "diverged" in trial.user_attrs else trial.state.name.lower()


def claim(made: Any, folder: Path, trials: int) -> AbstractContextManager[Any] | None:
    """Return a trial to train, locked within the context; None if all have ended.

    While other processes train the last trials, wait: one of them may fail and must
    then be replaced.

    **Arguments:**

    - `made`: the study.
    - `folder`: folder of the locks.
    - `trials`: number of trials wanted.
    """
    folder.mkdir(exist_ok=True)
    while True:
        found = [_standing(made, trial) for trial in made.get_trials(deepcopy=False)]
        if found.count("ended") >= trials:
            return None
        if len(found) - found.count("lost") - found.count("waiting") < trials:
            trial, held = _ask(made, folder)
            if _is_wanted(made, trial, trials):
                return _holding(held, trial)
            _give_back(made, trial)
            held.release()
        elif "alive" not in found:
            return None  # other machines train the rest, and their locks are not here
        time.sleep(POLL)


def _ask(made: Any, folder: Path) -> tuple[Any, Any]:
    from filelock import FileLock

    trial = made.ask()
    held = FileLock((folder / str(trial.number)).resolve())
    held.acquire()
    trial.set_user_attr("claim", str(held.lock_file))
    return trial, held


def _is_wanted(made: Any, trial: Any, trials: int) -> bool:
    others = made.get_trials(deepcopy=False)
    before = [_standing(made, other) for other in others if other.number < trial.number]
    return len(before) - before.count("lost") < trials


def _give_back(made: Any, trial: Any) -> None:
    """End a trial that was one too many; if it was a repetition, queue that again."""
    from optuna.trial import TrialState

    made.tell(trial, state=TrialState.FAIL)
    if AGAIN in trial.user_attrs:
        try_again(made, trial.user_attrs[AGAIN])


def try_again(made: Any, params: dict[str, Any]) -> None:
    """Give these parameters to the next trial of any process."""
    made.enqueue_trial(params, user_attrs={AGAIN: params})


@contextlib.contextmanager
def _holding(held: Any, trial: Any) -> Iterator[Any]:
    try:
        yield trial
    finally:
        held.release()


def _standing(made: Any, trial: Any) -> str:
    """Return ended, alive, elsewhere (its lock is not here), waiting, or lost."""
    from filelock import FileLock, Timeout

    state = state_of(trial)
    if state in ENDED:
        return "ended"
    if state == "waiting":
        return "waiting"
    if state != "running":
        return "lost"
    place = trial.user_attrs.get("claim")
    if place is None:
        age = datetime.datetime.now() - trial.datetime_start
        return "alive" if age.total_seconds() < STARTING else "lost"
    if not Path(place).exists():
        return "elsewhere"
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return "alive"
    lock.release()
    # It may have ended since `trial` was read: a process tells the study before it
    # releases the lock.

    now = {other.number: other for other in made.get_trials(deepcopy=False)}
    return "ended" if state_of(now[trial.number]) in ENDED else "lost"
