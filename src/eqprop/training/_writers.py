"""Writers, which send the records of a run to programs that plot them.

A run always writes `metrics.jsonl`; a writer receives the same records.  A writer that
fails is dropped with one warning and never stops the run.
"""

import abc
import hashlib
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ._diagnosis import RunWarning
from ._fit import Observer

PROJECT = "eqprop"


class AbstractWriter(abc.ABC):
    """A receiver of one record per epoch; any method may raise."""

    @abc.abstractmethod
    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Write the numbers of an epoch, by name."""

    @abc.abstractmethod
    def close(self) -> None:
        """Finish after the last record."""


class TensorBoard(AbstractWriter):
    """Event files in `RUN/tensorboard`, by tensorboardX or tensorboard.

    Their own writers use a thread.  If the thread ends (a full disk), the run would
    wait for it forever.  So this class writes the events itself, at each epoch.
    """

    def __init__(self, run: Path, config: dict[str, Any], first: int):
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        # A resumed run writes a new file; TensorBoard drops the epochs it repeats.
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}.{time.time_ns()}"
        self._events, self._event = _event_file(folder / name)
        self._put(0, file_version="brain.Event:2")
        self._put(first, session_log={"status": "START"})
        text = f"```\n{json.dumps(config, indent=1, ensure_ascii=False)}\n```"
        tensor = {
            "dtype": "DT_STRING",
            "string_val": [text.encode()],
            "tensor_shape": {"dim": [{"size": 1}]},
        }
        metadata = {"plugin_data": {"plugin_name": "text"}}
        self._summary(0, tag="config/text_summary", metadata=metadata, tensor=tensor)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._summary(epoch, tag=name, simple_value=value)
        self._events.flush()

    def close(self) -> None:
        self._events.flush()
        self._events.close()

    def _summary(self, step: int, **value: Any) -> None:
        self._put(step, summary={"value": [value]})

    def _put(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._events.write(event.SerializeToString())


def _event_file(path: Path) -> tuple[Any, Any]:
    """Return an event file and the class of its events, from the installed package."""
    if importlib.util.find_spec("tensorboardX"):
        from tensorboardX.proto.event_pb2 import (
            Event,  # type: ignore[attr-defined]
        )
        from tensorboardX.record_writer import RecordWriter

        return RecordWriter(str(path)), Event
    from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-not-found]
        Event,
    )
    from tensorboard.summary.writer.record_writer import (  # type: ignore[import-not-found]
        RecordWriter,
    )

    return RecordWriter(path.open("wb")), Event


class WeightsAndBiases(AbstractWriter):
    """A run of the wandb project eqprop; WANDB_MODE=offline keeps it in `RUN/wandb`."""

    def __init__(self, run: Path, config: dict[str, Any], first: int):
        import wandb  # type: ignore[import-not-found]

        del first
        self._run = wandb.init(
            project=PROJECT,
            name=run.name,
            id=_identity(run),
            resume="allow",
            dir=str(run),
            config=config,
        )
        self._run.define_metric("*", step_metric="epoch")

    def write(self, epoch: int, values: dict[str, float]) -> None:
        self._run.log({"epoch": epoch, **values})

    def close(self) -> None:
        self._run.finish()


class Trackio(AbstractWriter):
    """A run of the trackio project eqprop."""

    def __init__(self, run: Path, config: dict[str, Any], first: int):
        import trackio  # type: ignore[import-not-found]

        del first
        name = f"{run.name}-{_identity(run)}"
        self._run = trackio.init(
            project=PROJECT, name=name, config=config, resume="allow", embed=False
        )

    def write(self, epoch: int, values: dict[str, float]) -> None:
        self._run.log({"epoch": epoch, **values}, step=epoch)

    def close(self) -> None:
        self._run.finish()


Open = Callable[[Path, dict[str, Any], int], AbstractWriter]

WRITERS: dict[str, tuple[Open, tuple[str, ...]]] = {
    "tensorboard": (TensorBoard, ("tensorboardX", "tensorboard")),
    "wandb": (WeightsAndBiases, ("wandb",)),
    "trackio": (Trackio, ("trackio",)),
}
"""for each writer, its class and the packages; one of them must be installed"""


def check_writers(names: Iterable[str]) -> None:
    """Raise `ValueError` if a writer does not exist or its package is not installed."""
    for name in names:
        if name not in WRITERS:
            known = ", ".join(WRITERS)
            raise ValueError(f"writer is {name!r}; choose {known}")
        packages = WRITERS[name][1]
        if not any(map(importlib.util.find_spec, packages)):
            raise ValueError(
                f"the writer {name} needs the package {' or '.join(packages)}, which "
                f"is not installed. Install it with: pip install {packages[0]}"
            )


class Writers(Observer):
    """An observer that sends every epoch's record to writers, and all calls to `inner`.

    **Arguments:**

    - `run`: the run directory; the writers show its name.
    - `config`: the configuration of the run as a JSON object.
    - `names`: writers that `check_writers` has accepted.
    """

    def __init__(
        self,
        run: Path,
        config: dict[str, Any],
        names: Iterable[str],
        inner: Observer | None = None,
    ):
        self._run, self._config = run, config
        self._names = list(dict.fromkeys(names))
        self._inner = inner or Observer()
        self._open: dict[str, AbstractWriter] = {}

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_) -> None:
        for name, writer in list(self._open.items()):
            self._try(name, writer.close)
        self._open = {}

    def on_data(self, description):
        self._inner.on_data(description)

    def on_start(self, trainer, state, epochs):
        first = int(state.epoch) + 1
        for name in self._names:
            opened = self._try(name, WRITERS[name][0], self._run, self._config, first)
            if opened is not None:
                self._open[name] = opened
        self._inner.on_start(trainer, state, epochs)

    def on_chunk(self, state, record):
        self._inner.on_chunk(state, record)

    def on_epoch(self, state, record):
        values = _numbers(record)
        for name, writer in list(self._open.items()):
            self._try(name, writer.write, record["epoch"], values)
        self._inner.on_epoch(state, record)

    def on_failure(self, state):
        self._inner.on_failure(state)

    def _try(self, name: str, do: Callable, *arguments: Any) -> Any:
        """Call a method of a writer; if it fails, drop the writer and warn."""
        try:
            return do(*arguments)
        except Exception as error:
            self._open.pop(name, None)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            warnings.warn(
                f"the writer {name} failed ({reason[:200]}) and gets no more records; "
                f"{self._run}/metrics.jsonl holds all of them",
                RunWarning,
                stacklevel=2,
            )
            return None


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record by name; a number of a list as name/index."""
    found = {}
    for name, value in record.items():
        if isinstance(value, list):
            found |= {f"{name}/{k}": float(v) for k, v in enumerate(value)}
        elif value is not None and name != "epoch":
            found[name] = float(value)
    return found


def _identity(run: Path) -> str:
    """Return an id that is the same after a resume and differs between runs."""
    environment = json.loads((run / "env.json").read_text(encoding="utf-8"))
    text = f"{run.resolve().name} {environment['time']}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
