"""The run directory: which file holds what, and how it is written and read.

==================  =========================================================
config.json         the resolved configuration
env.json            versions, machine, command
precision.json      what tf32 or bf16 does to the first gradient, where chosen
model.py            a copy of the user's file, for a model of their own
metrics.jsonl       one line an epoch
checkpoints/        the newest good states
curves.png          error, loss, residual and relative weight change
weights.png         the first layer's weights, for image inputs
==================  =========================================================
"""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..training import Config, config_to_json, load_config

KEEP = 2


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and its small files."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model_file(self) -> Path:
        return self.path / "model.py"

    def create(self, config: Config, environment: dict[str, Any]) -> None:
        """Make the directory; refuse one that already holds a run."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot make the run directory {self.path}: {error.strerror}; choose "
                "another with --run DIR"
            ) from error
        if not os.access(self.path, os.W_OK):
            raise PermissionError(
                f"the run directory {self.path} is not writable; choose another with "
                "--run DIR"
            )
        if self.config_file.exists():
            raise FileExistsError(
                f"{self.path} already holds a run; choose another directory with "
                f"--run DIR, or go on with it: eqprop train --resume {self.path}"
            )
        try:
            self.write_json("env.json", environment)
            self.write_json("config.json", config_to_json(config))
        except OSError as error:
            raise OSError(
                f"cannot write into the run directory {self.path}: {error.strerror}; "
                "choose another with --run DIR"
            ) from error

    def write_json(self, name: str, record: dict[str, Any]) -> None:
        """Write a file whole or not at all."""
        partial = self.path / f".{name}.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.path / name)

    def config(self) -> Config:
        """The configuration of the run."""
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"there is no run directory {self.path}; eqprop train prints the one "
                "it makes"
            )
        return load_config(self.config_file)

    def keep_model(self, source: Path) -> None:
        """Copy the user's model file into the run."""
        shutil.copyfile(source, self.model_file)

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(record)) + "\n")

    def history(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """The records of the first `epochs` epochs (all where `None`)."""
        if not self.metrics_file.exists():
            return []
        text = self.metrics_file.read_text(encoding="utf-8", errors="replace")
        records = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short by a crash
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                records.append(record)
        return [r for r in records if epochs is None or r["epoch"] <= epochs]

    def rewrite(self, history: list[dict[str, Any]]) -> None:
        """Replace the metrics by these records, whole or not at all."""
        partial = self.path / ".metrics.jsonl.partial"
        text = "".join(json.dumps(_plain(record)) + "\n" for record in history)
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.metrics_file)

    def save(self, number: int, arrays: dict[str, Any]) -> None:
        """Save a checkpoint of named arrays, whole or not at all."""
        try:
            with self._manager() as manager:
                if number not in manager.all_steps():
                    manager.save(number, args=_orbax().args.StandardSave(arrays))
        except Exception as error:  # orbax raises many kinds, with pages of details
            full = "No space left on device" in str(error)
            reason = "no space left" if full else str(error)[:200]
            raise OSError(
                errno.ENOSPC if full else errno.EIO,
                f"{self.path}: checkpoint {number} could not be saved ({reason}); what "
                "was saved before is kept",
            ) from error

    def restore(self, like: dict[str, Any]) -> dict[str, Any]:
        """The newest checkpoint, in the shapes of `like`."""
        if not self.checkpoints():
            raise FileNotFoundError(
                f"{self.path} holds no checkpoint: the run stopped before its first "
                f"epoch was saved. Go on with: eqprop train --resume {self.path}"
            )
        newest = self.checkpoints()[-1]
        try:
            with self._manager() as manager:
                found = manager.restore(
                    newest, args=_orbax().args.StandardRestore(like)
                )
        except Exception as error:  # orbax raises many kinds
            raise ValueError(self._unreadable(newest, str(error))) from error
        for name, array in like.items():
            if np.shape(found[name]) != np.shape(array):
                shapes = f"{name} has shape {np.shape(found[name])}, expected"
                raise ValueError(
                    self._unreadable(newest, f"{shapes} {np.shape(array)}")
                )
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """The newest checkpoint's arrays by name, whatever they are of."""
        if not self.checkpoints():
            raise FileNotFoundError(f"{self.path} holds no checkpoint")
        newest = self.checkpoints()[-1]
        try:
            with self._manager() as manager:
                found = manager.restore(newest, args=_orbax().args.StandardRestore())
        except Exception as error:  # orbax raises many kinds
            raise ValueError(self._unreadable(newest, str(error))) from error
        return {name: np.asarray(array) for name, array in found.items()}

    def _unreadable(self, number: int, reason: str) -> str:
        reason = next(iter(reason.splitlines()), "")
        older = self.checkpoints()[:-1]
        folder = self.path / "checkpoints" / str(number)
        hint = f"; delete {folder} to go back to checkpoint {older[-1]}" * bool(older)
        return (
            f"{folder} cannot be read ({reason}): it is damaged, or the run's data or "
            f"model have changed since{hint}"
        )

    def checkpoints(self) -> list[int]:
        """The numbers of the checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            return []
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())

    def _manager(self):
        ocp = _orbax()
        return ocp.CheckpointManager(
            (self.path / "checkpoints").resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEEP, enable_async_checkpointing=False
            ),
        )


def _orbax():
    import orbax.checkpoint

    return orbax.checkpoint


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
