"""Write metrics and checkpoints during a run; stop it on Ctrl-C.

If several processes train together, the first writes, and all stop at the same step.
"""

import signal
import threading
import time

from ..training import Config, EpochRecord, Observer, TrainState
from ..training._processes import any_of, of_first, on_first
from ._checkpoints import best_epoch
from ._directory import plain, RunDirectory
from ._problem import Problem
from ._saved import identity, to_arrays

SAVE_SECONDS = 5.0


class TrainingInterrupted(Exception):
    """The user asked to stop.

    `stopped` says where and what is saved, `resume` is the command that continues.
    """

    def __init__(self, stopped: str, resume: str) -> None:
        super().__init__(f"{stopped}. Resume with: {resume}")
        self.stopped, self.resume = stopped, resume


class Interrupt:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one stops at once.

    If the flag is still unanswered at the end of the block, raise KeyboardInterrupt.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> "Interrupt":
        self.requested = self.answered = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = [signal.signal(s, self._note) for s in self.SIGNALS]
        return self

    def __exit__(self, kind, *_) -> None:
        if self._main:
            for number, previous in zip(self.SIGNALS, self._previous, strict=True):
                signal.signal(number, previous)
        if kind is None and self.requested and not self.answered:
            raise KeyboardInterrupt

    def _note(self, *_) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Forwarding(Observer):
    """An observer that passes everything to an `inner` one."""

    def __init__(self, inner: Observer) -> None:
        self.inner = inner

    def on_data(self, description):
        self.inner.on_data(description)

    def on_start(self, trainer, state, epochs):
        self.inner.on_start(trainer, state, epochs)

    def on_chunk(self, state, record):
        self.inner.on_chunk(state, record)

    def on_epoch(self, state, record):
        self.inner.on_epoch(state, record)

    def on_failure(self, state):
        self.inner.on_failure(state)


class Recorder(Forwarding):
    """Write metrics and checkpoints; stop the run if the user asked to."""

    def __init__(
        self,
        config: Config,
        problem: Problem,
        directory: RunDirectory,
        history: list[EpochRecord],
        interrupt: Interrupt,
        inner: Observer,
    ) -> None:
        super().__init__(inner)
        self.config, self.problem, self.directory = config, problem, directory
        self.history, self.interrupt = history, interrupt
        self.saved = -SAVE_SECONDS
        self.unsaved_best: tuple[int, dict, dict] | None = None

    def on_start(self, trainer, state, epochs):
        self.trainer, self.steps, self.epochs = trainer, trainer.steps, epochs
        data = on_first(lambda: self.directory.inputs()["data"])
        self.identity = identity(self.config, state) | {"data": data}
        self.inner.on_start(trainer, state, epochs)

    def on_chunk(self, state, record):
        self.inner.on_chunk(state, record)
        if any_of(self.interrupt.requested) and record["step"] < self.steps:
            self._save(state, record["seconds"])
            self._stop(f"epoch {record['epoch']}, step {record['step']}")

    def on_epoch(self, state, record):
        ended = record["epoch"] == self.epochs
        stopping = any_of(self.interrupt.requested) and not ended
        late = time.monotonic() - self.saved > SAVE_SECONDS
        if of_first(ended or stopping or late):
            self._save(state, 0.0)
        elif of_first(best_epoch(self.history) == record["epoch"]):
            # Save it with the next checkpoint, if it is still the best epoch then.
            self.unsaved_best = self._checkpoint(state, 0.0)
        # Append after saving, so that no epoch in the metrics must be repeated.
        on_first(self.directory.append, record)
        self.inner.on_epoch(state, record)
        if stopping:
            self._stop(f"epoch {record['epoch']}")

    def on_failure(self, state):
        # The state before the failed step is finite but diverging.  Keep the state at
        # the end of an epoch, or the initial state if no epoch has ended.
        if of_first(not self.directory.checkpoints.numbers()):
            fresh = self.trainer.init(self.problem.system, self.problem.cost)
            self._save(fresh, 0.0)
        self.inner.on_failure(state)

    def _checkpoint(self, state: TrainState, seconds: float) -> tuple[int, dict, dict]:
        """Return number, arrays and record of a checkpoint of this state."""
        best = best_epoch(self.history)
        record = {
            **self.identity,
            "history": plain(self.history),
            "seconds": seconds,
            "best": None if best is None else best * self.steps,
        }
        number = int(state.epoch) * self.steps + int(state.step)
        return number, to_arrays(self.trainer.collected(state)), record

    def _save(self, state: TrainState, seconds: float) -> None:
        on_first(self._write, self._checkpoint(state, seconds))
        self.unsaved_best = None
        self.saved = time.monotonic()

    def _write(self, checkpoint: tuple[int, dict, dict]) -> None:
        best = checkpoint[-1]["best"]
        there = self.directory.checkpoints.numbers()
        for number, arrays, record in filter(None, (self.unsaved_best, checkpoint)):
            if number in (checkpoint[0], best) and number not in there:
                self.directory.checkpoints.save(number, arrays, record, best)

    def _stop(self, where: str) -> None:
        raise TrainingInterrupted(
            f"stopped after {where}; everything is saved in {self.directory.path}",
            f"eqprop train --resume {self.directory.path}",
        )
