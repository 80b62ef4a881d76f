"""Write and read checkpoints: a folder `NUMBER` that is complete or does not exist.

`arrays.safetensors` holds the arrays.  `record.json` holds shape, dtype and SHA-256 of
every array, what they belong to (configuration, static parts of the system, version of
eqprop) and the metrics of all epochs so far.  Both are written into `NUMBER.tmp`, which
is then renamed.  Nothing in a checkpoint is ever executed.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors, SafetensorError

from ..training import RunWarning

KEEP = 2
"""number of newest checkpoints to keep, in addition to the best one"""
FORMAT = 2
ARRAYS, RECORD = "arrays.safetensors", "record.json"
PARTIAL = ".tmp"
"""suffix of a folder that is being written or removed"""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedCheckpoint(ValueError):
    """A checkpoint differs from what was saved."""


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
        """Return the numbers of the checkpoints, oldest first."""
        if not self.folder.is_dir():
            if os.path.lexists(self.folder):
                raise NotADirectoryError(
                    f"{self.folder} is not a folder; restore the run's checkpoints, or "
                    "remove it to train the run again from the beginning"
                )
            return []
        names = {path.name for path in self.folder.iterdir()}
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def save(
        self, number: int, arrays: dict[str, Any], record: dict[str, Any], best: Any
    ) -> None:
        """Save a checkpoint; remove old ones except the newest and `best`.

        **Raises:** `OSError` if it cannot be written; then no other is removed.
        """
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        record = record | {
            "format": FORMAT,
            "number": number,
            "arrays": {name: fingerprint(array) for name, array in arrays.items()},
        }
        record = record | {"sha256": _digest_of(record)}
        stored = {name: _storable(array) for name, array in arrays.items()}
        part = self._part(number)
        try:
            self.folder.mkdir(exist_ok=True)
            self._forget_partial()
            part.mkdir()
            _write(part / ARRAYS, safetensors.save(stored))
            _write(part / RECORD, json.dumps(record).encode())
            _sync(part)
            part.rename(self._path(number))
            _sync(self.folder)
        except OSError as error:
            self._forget_partial()
            raise _not_saved(self.folder, number, error) from error
        for old in self.numbers()[:-KEEP]:
            if old != best:
                with contextlib.suppress(OSError):
                    self._path(old).rename(self._part(old))
        self._forget_partial()

    def read(self, number: int) -> Checkpoint:
        """Read one checkpoint; compare it with the checksums of what was saved.

        **Raises:** `DamagedCheckpoint`; `ValueError` if an older eqprop saved it.
        """
        folder = self._path(number)
        if (folder / "_CHECKPOINT_METADATA").exists():
            raise ValueError(
                f"{folder} has checkpoint format 1 (orbax, eqprop 0.1.0 of 2026); this "
                f"eqprop reads format {FORMAT}. eqprop report still reads the "
                "configuration and metrics of the run. To use its weights, install "
                "the eqprop that saved them, or train the run again"
            )
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise DamagedCheckpoint(f"{RECORD} is not a JSON object")
            if record.pop("sha256", None) != _digest_of(record):
                raise DamagedCheckpoint(f"{RECORD} differs from what was saved")
            if record["number"] != number:
                raise DamagedCheckpoint(f"it was saved as {record['number']}")
            stored = safetensors.load((folder / ARRAYS).read_bytes())
            arrays = {
                name: stored[name]
                .reshape(-1)
                .view(known["dtype"])
                .reshape(known["shape"])
                for name, known in record["arrays"].items()
            }
        except DamagedCheckpoint:
            raise
        except (
            OSError,
            RecursionError,
            SafetensorError,
            KeyError,
            ValueError,
        ) as error:
            raise DamagedCheckpoint(f"it cannot be read: {error}") from error
        for name, known in record["arrays"].items():
            if fingerprint(arrays[name]) != known:
                raise DamagedCheckpoint(f"{name} differs from what was saved")
        return Checkpoint(number, arrays, record)

    def newest(self) -> Checkpoint:
        """Read the newest intact checkpoint; warn of damaged ones.

        **Raises:** `FileNotFoundError` if there is no checkpoint; `DamagedCheckpoint`
        if all are damaged.
        """
        numbers = self.numbers()
        if not numbers:
            raise FileNotFoundError(
                f"{self.folder.parent} holds no checkpoint: the run stopped before it "
                "saved one. Resume with: eqprop train --resume "
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
            f"again from the beginning, delete {self.folder} and run: eqprop train "
            f"--resume {self.folder.parent}"
        )

    def best(self) -> Checkpoint:
        """Read the checkpoint of the best epoch so far (see `best_epoch`)."""
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
        """Move damaged checkpoints to `damaged/`, so that they can be saved again."""
        self._forget_partial()
        for number in self.numbers():
            if number > newer_than:
                place = self.folder.parent / "damaged" / str(number)
                place.parent.mkdir(exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
                self._path(number).rename(place)

    def _path(self, number: int) -> Path:
        return self.folder / str(number)

    def _part(self, number: int) -> Path:
        return self.folder / f"{number}{PARTIAL}"

    def _forget_partial(self) -> None:
        """Remove what a program left that ended while it wrote or removed a folder."""
        for path in self.folder.glob(f"*{PARTIAL}"):
            if path.stem.isdecimal():
                shutil.rmtree(path, ignore_errors=True)


def fingerprint(array: np.ndarray) -> dict[str, Any]:
    """Return shape, dtype and SHA-256 of an array."""
    contiguous = np.ascontiguousarray(array).reshape(-1)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(contiguous.view(np.uint8).data).hexdigest(),
    }


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the first epoch of the lowest validation (else training) error.

    Equal errors are compared by the loss, and so are runs whose error is not defined.
    The test set is not used, so that its error remains a measurement.
    """

    def score(record: Mapping[str, Any]) -> tuple[float, float]:
        kind = ("val_error", "val_loss")
        if record["val_loss"] is None:
            kind = ("train_error", "loss")
        error, loss = (record[name] for name in kind)
        return (0.0 if error is None else error, np.inf if loss is None else loss)

    return min(history, key=score)["epoch"] if history else None


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Describe the entries in which two JSON objects differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(then.keys() | now.keys())
            for line in differences(
                then.get(key), now.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if then == now else [f"{name} was {then!r} and is {now!r}"]


def _digest_of(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _storable(array: np.ndarray) -> np.ndarray:
    """Return the array, or its bytes if safetensors has no name for its dtype."""
    array = np.ascontiguousarray(array)
    return array if array.dtype.kind in "biuf" else array.reshape(-1).view(np.uint8)


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(folder: Path) -> None:
    """Make the file names of a folder durable; Windows does this by itself."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _not_saved(folder: Path, number: int, error: OSError) -> OSError:
    full = error.errno in FULL
    reason = "no space left" if full else error.strerror
    return OSError(
        errno.ENOSPC if full else error.errno,
        f"{folder.parent}: checkpoint {number} could not be saved ({reason}); earlier "
        f"checkpoints are kept. Resume later with: eqprop train --resume "
        f"{folder.parent}",
    )
