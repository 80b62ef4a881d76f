"""Checkpoints: orbax writes them whole or not at all; what they hold is checked here.

Orbax gives back a flipped bit, and the arrays of another system, without a word.  So a
record lies beside the arrays: the shape, dtype and SHA-256 of each, what they belong to
(configuration, static parts of the system, version of eqprop) and the metrics of all
epochs so far.  Nothing in a checkpoint is ever executed.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..training import RunWarning

KEEP = 2
"""the newest checkpoints that are kept, beside the best one"""
FORMAT = 1
PARTIAL = ".orbax-checkpoint-tmp"
"""in the names of folders that orbax has not yet finished"""


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not, bit for bit, what was saved."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and the record that was saved with them."""

    number: int
    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, numbered by the steps done."""

    folder: Path

    def numbers(self) -> list[int]:
        """The numbers of the checkpoints, oldest first."""
        if not self.folder.is_dir():
            if os.path.lexists(self.folder):
                raise NotADirectoryError(
                    f"{self.folder} is no folder; bring back the run's checkpoints, or "
                    "remove it to train the run again from its start"
                )
            return []
        names = {path.name for path in self.folder.iterdir()}
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def save(
        self, number: int, arrays: dict[str, Any], record: dict[str, Any], best: Any
    ) -> None:
        """Save a checkpoint whole or not at all; forget all but the newest and `best`.

        **Raises:** `OSError` where it could not be written; the others are kept.
        """
        ocp = _orbax()
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        record = record | {
            "format": FORMAT,
            "number": number,
            "arrays": {name: fingerprint(array) for name, array in arrays.items()},
        }
        record = record | {"sha256": _digest_of(record)}
        # Orbax refuses arrays without entries; their shape is all there is to know.
        stored = {name: array for name, array in arrays.items() if array.size}
        try:
            with self._manager(best) as manager:
                manager.save(
                    number,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(stored),
                        record=ocp.args.JsonSave(record),
                    ),
                )
        except Exception as error:  # orbax raises many kinds, with pages of details
            self._forget_partial()
            raise _not_saved(self.folder, number, error) from error

    def read(self, number: int) -> Checkpoint:
        """One checkpoint, every bit of it compared with what was saved.

        **Raises:** `DamagedCheckpoint`.
        """
        ocp = _orbax()
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=_by_itself())
        )
        wanted = ocp.args.Composite(
            state=ocp.args.StandardRestore(), record=ocp.args.JsonRestore()
        )
        try:
            reader = ocp.Checkpointer(handler, multiprocessing_options=_by_itself())
            with _quiet(), reader:
                found = reader.restore(self._path(number).resolve(), args=wanted)
            record, state = dict(found["record"]), dict(found["state"])
            if record.pop("sha256") != _digest_of(record):
                raise DamagedCheckpoint("its record is not the one that was saved")
            if record.get("number", number) != number:
                raise DamagedCheckpoint(f"it was saved as {record['number']}")
            arrays = {
                name: np.asarray(state[name]) if name in state else _empty(known)
                for name, known in record["arrays"].items()
            }
            for name, array in arrays.items():
                if fingerprint(array) != record["arrays"][name]:
                    raise DamagedCheckpoint(f"{name} is not what was saved")
        except DamagedCheckpoint:
            raise
        except Exception as error:  # orbax raises many kinds
            reason = next(iter(str(error).splitlines()), "")[:200]
            raise DamagedCheckpoint(reason or type(error).__name__) from error
        return Checkpoint(number, arrays, record)

    def newest(self) -> Checkpoint:
        """The newest checkpoint that is whole; a warning names those that are not.

        **Raises:** `FileNotFoundError` where there is none, `DamagedCheckpoint` where
        none is whole.
        """
        numbers = self.numbers()
        if not numbers:
            raise FileNotFoundError(
                f"{self.folder.parent} holds no checkpoint: the run stopped before its "
                "first one was saved. Go on with: eqprop train --resume "
                f"{self.folder.parent}"
            )
        damaged = []
        for number in reversed(numbers):
            try:
                found = self.read(number)
            except DamagedCheckpoint as error:
                damaged.append(f"{self._path(number)} is damaged ({error})")
                continue
            if damaged:
                warnings.warn(
                    f"{'; '.join(damaged)}: checkpoint {number} is used instead",
                    RunWarning,
                    stacklevel=2,
                )
            return found
        raise DamagedCheckpoint(
            f"{'; '.join(damaged)}: no checkpoint of this run can be used. To train it "
            f"again from its start, delete {self.folder} and go on with: eqprop train "
            f"--resume {self.folder.parent}"
        )

    def best(self) -> Checkpoint:
        """The checkpoint of the best epoch so far (see `best_epoch`)."""
        number = self.newest().record["best"]
        if number is None:
            raise FileNotFoundError(
                f"{self.folder.parent} holds no best checkpoint: no epoch has ended yet"
            )
        try:
            return self.read(number)
        except DamagedCheckpoint as error:
            raise DamagedCheckpoint(
                f"{self._path(number)}, the best checkpoint, is damaged ({error}); the "
                "newest one can still be used"
            ) from error

    def set_aside(self, newer_than: int) -> None:
        """Move damaged checkpoints out of the way, so that they are saved anew."""
        self._forget_partial()
        for number in self.numbers():
            if number > newer_than:
                place = self.folder.parent / "damaged" / str(number)
                place.parent.mkdir(exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
                self._path(number).rename(place)

    def _path(self, number: int) -> Path:
        return self.folder / str(number)

    def _forget_partial(self) -> None:
        """Remove what a program that was killed, or a full disk, left half written."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if PARTIAL in path.name:
                    shutil.rmtree(path, ignore_errors=True)

    def _manager(self, best: Any):
        from orbax.checkpoint import checkpoint_managers

        ocp = _orbax()
        self.folder.mkdir(exist_ok=True)
        kept = [
            checkpoint_managers.LatestN(KEEP),
            checkpoint_managers.CustomSteps([] if best is None else [best]),
        ]
        return ocp.CheckpointManager(
            self.folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
                enable_async_checkpointing=False,
                lightweight_initialize=True,
                save_root_metadata=False,
                create=False,
                multiprocessing_options=_by_itself(),
            ),
        )


def fingerprint(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of the bytes of an array."""
    contiguous = np.ascontiguousarray(array).reshape(-1)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(contiguous.view(np.uint8).data).hexdigest(),
    }


def best_epoch(history: list[dict[str, Any]]) -> int | None:
    """The first epoch of the lowest validation error, or training error without one.

    The loss stands in for an error that is not defined, and decides between equal
    ones.  The test set has no say: its error is to stay a measurement.
    """

    def score(record: dict[str, Any]) -> tuple[float, float]:
        kind = ("val_error", "val_loss")
        if record["val_loss"] is None:
            kind = ("train_error", "loss")
        error, loss = (record[name] for name in kind)
        return (0.0 if error is None else error, np.inf if loss is None else loss)

    return min(history, key=score)["epoch"] if history else None


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """The entries of two JSON objects that are not equal, in words."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(then.keys() | now.keys())
            for line in differences(
                then.get(key), now.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if then == now else [f"{name} was {then!r} and is {now!r}"]


def _digest_of(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _empty(known: dict[str, Any]) -> np.ndarray:
    if 0 not in known["shape"]:
        raise DamagedCheckpoint("an array is missing")
    return np.empty(known["shape"], np.dtype(known["dtype"]))


def _not_saved(folder: Path, number: int, error: Exception) -> OSError:
    text = str(error)
    full = any(word in text for word in ("No space left", "File too large", "Errno 28"))
    full = full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    said = getattr(error, "strerror", None) or text
    reason = "no space left" if full else said.split("\n")[0][:200]
    return OSError(
        errno.ENOSPC if full else errno.EIO,
        f"{folder.parent}: checkpoint {number} could not be saved ({reason}); what was "
        f"saved before is kept. Go on later with: eqprop train --resume "
        f"{folder.parent}",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A read that fails leaves others behind, whose answers find nobody listening."""
    hook = sys.unraisablehook

    def heard(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = heard
    try:
        yield
    except Exception:
        time.sleep(0.1)
        raise
    finally:
        sys.unraisablehook = hook


def _by_itself() -> Any:
    """A process saves and reads without waiting for the others of its run."""
    import jax

    options = _orbax().options.MultiprocessingOptions
    if jax.process_count() == 1:
        return options()
    process = jax.process_index()
    return options(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process{process}",
    )


def _orbax():
    import orbax.checkpoint

    return orbax.checkpoint
