"""Writers: the records of a run, sent to programs that draw them while it goes on.

`metrics.jsonl` of the run directory is always written and is what a run goes on from;
a writer takes the same records beside it.  One that fails is left out from there on,
with one warning: a run never stops for it.
"""

import abc
import hashlib
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ._diagnosis import RunWarning
from ._fit import Observer

PROJECT = "eqprop"


class AbstractWriter(abc.ABC):
    """Takes one record after the other; any method may raise."""

    @abc.abstractmethod
    def write(self, epoch: int, values: dict[str, float]) -> None:
        """The numbers of an epoch, by name."""

    @abc.abstractmethod
    def close(self) -> None:
        """After the last record."""


class TensorBoard(AbstractWriter):
    """Event files in `RUN/tensorboard`, by tensorboardX or tensorboard.

    Their own writers write from a thread.  If that ends (a full disk), the run would
    wait for it without end, so events are written here, one epoch at a time.
    """

    def __init__(self, run: Path, config: dict[str, Any], first: int):
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        # A resumed run has a file of its own, and what it repeats counts no more.
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
    """An event file, and the class of its events, of the package that is there."""
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
    """A run of the project eqprop; WANDB_MODE=offline keeps it in `RUN/wandb`."""

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
    """A run of the project eqprop in trackio's folder, or wherever it is set to."""

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
"""How each is opened, and the packages of which it needs one."""


def check_writers(names: Iterable[str]) -> None:
    """A ValueError for a writer that does not exist, or whose package is missing."""
    for name in names:
        if name not in WRITERS:
            known = ", ".join(WRITERS)
            raise ValueError(f"there is no writer {name!r}; choose of {known}")
        packages = WRITERS[name][1]
        if not any(map(importlib.util.find_spec, packages)):
            raise ValueError(
                f"the writer {name} needs the package {' or '.join(packages)}, which "
                f"is not installed. Install it with: pip install {packages[0]}"
            )


class Writers(Observer):
    """Sends every epoch's record to writers, and everything on to `inner`.

    **Arguments:**

    - `run`: the run directory, whose name the writers show.
    - `config`: its configuration as a JSON object.
    - `names`: of `WRITERS`; `check_writers` has passed them.
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
        """Do it; on a failure leave the writer out, and say so once."""
        try:
            return do(*arguments)
        except Exception as error:
            self._open.pop(name, None)
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            warnings.warn(
                f"the writer {name} failed ({reason[:200]}) and is left out from here "
                f"on; {self._run}/metrics.jsonl holds everything",
                RunWarning,
                stacklevel=2,
            )
            return None


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record; those of a list each under its place."""
    found = {}
    for name, value in record.items():
        if isinstance(value, list):
            found |= {f"{name}/{k}": float(v) for k, v in enumerate(value)}
        elif value is not None and name != "epoch":
            found[name] = float(value)
    return found


def _identity(run: Path) -> str:
    """The same for a run and what it is resumed as, another for any other run."""
    environment = json.loads((run / "env.json").read_text(encoding="utf-8"))
    text = f"{run.resolve().name} {environment['time']}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
