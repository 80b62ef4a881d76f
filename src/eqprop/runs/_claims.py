"""Who trains which trial of a search, where several processes share the study.

Optuna numbers trials one by one for all processes, so a trial may run if fewer than the
wanted number of trials before it count: those that have ended, and those that a living
process trains.  A process holds a lock for its trial, which the operating system frees
when the process ends, however it ends.
"""

import contextlib
import datetime
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

POLL = 0.5
"""seconds between two looks at the trials of others"""
STARTING = 60.0
"""seconds in which a new trial may be without the name of its lock"""
AGAIN = "again"
"""of a trial: the parameters of an interrupted one that it repeats"""
ENDED = ("complete", "pruned", "diverged")


def state_of(trial: Any) -> str:
    """The word for how a trial ended; that of Optuna where it has not."""
    return "diverged" if "diverged" in trial.user_attrs else trial.state.name.lower()


def claim(made: Any, folder: Path, trials: int) -> AbstractContextManager[Any] | None:
    """A trial to train, held while the context lasts; None once all have ended.

    Waits while others train the last trials, to take the place of one that fails.

    **Arguments:**

    - `made`: the study; `folder`: of the locks; `trials`: how many are wanted.
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
            return None  # the rest is trained where it cannot be watched
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
    """End a trial that was one too many; what was to be tried again still is."""
    from optuna.trial import TrialState

    made.tell(trial, state=TrialState.FAIL)
    if AGAIN in trial.user_attrs:
        try_again(made, trial.user_attrs[AGAIN])


def try_again(made: Any, params: dict[str, Any]) -> None:
    """The next trial of any process gets these parameters."""
    made.enqueue_trial(params, user_attrs={AGAIN: params})


@contextlib.contextmanager
def _holding(held: Any, trial: Any) -> Iterator[Any]:
    try:
        yield trial
    finally:
        held.release()


def _standing(made: Any, trial: Any) -> str:
    """ended, alive, elsewhere (no lock to be seen), waiting to be tried again, lost."""
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
    # It may have ended since `trial` was read: a process says so before it lets go.
    now = {other.number: other for other in made.get_trials(deepcopy=False)}
    return "ended" if state_of(now[trial.number]) in ENDED else "lost"
