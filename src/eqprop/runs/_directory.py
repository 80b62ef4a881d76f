"""Read and write the files of a run directory.

==================  =========================================================
config.json         the full configuration; written last: without it there is no run
env.json            versions, machine, command
inputs.json         SHA-256 of the data and of the user's model file
precision.json      effect of tf32 or bf16 on the first gradient, if chosen
model.py            a copy of the user's model file, if there is one
metrics.jsonl       one line per epoch
checkpoints/        the two newest states and the best one
damaged/            checkpoints that differ from what was saved
curves.png          error, loss, residual and relative weight change
weights.png         the first layer's weights, for image inputs
==================  =========================================================
"""

import contextlib
import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_whole
from ..training import (
    Config,
    config_to_json,
    EpochRecord,
    load_config,
    RunWarning,
    split_path,
    UserModel,
)
from ._checkpoints import Checkpoints, differences
from ._inputs import check_data, check_system, fingerprints, hash_file
from ._problem import Problem


SEEDS_FILE = "seeds.json"
"""in a directory that holds one run per seed"""
KNOWN = {"shape", "dtype", "sha256"}
OURS = (
    "env.json",
    "inputs.json",
    "precision.json",
    "model.py",
    "metrics.jsonl",
    "checkpoints",
    "damaged",
    "curves.png",
    "weights.png",
)
UNREADABLE = (ValueError, RecursionError)
"""errors of reading text that is not JSON, or is nested too deep"""
DEVICES = ("processor", "backend", "devices", "x64", "packages")
LIBRARIES = ("jax", "jaxlib", "optax", "equinox")


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths and the small files of one run."""

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

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    @contextlib.contextmanager
    def locked(self, *, make: bool = False) -> Iterator[None]:
        """Keep other processes from training here, until this process ends."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        with self._writing():
            if make:
                self.path.mkdir(parents=True, exist_ok=True)
                self._refuse_foreign(Path(lock.lock_file))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise OSError(
                    f"another process is training in {self.path}; wait until it ends, "
                    "or choose another directory with --run DIR"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def _refuse_foreign(self, lock: Path) -> None:
        """Refuse to overwrite the user's files in a directory without a run."""
        there = [name for name in OURS if os.path.lexists(self.path / name)]
        if there and not lock.exists() and not self.config_file.exists():
            raise FileExistsError(
                f"{self.path} holds {', '.join(there)}, which a run would overwrite; "
                "choose another directory with --run DIR"
            )

    def create(
        self, config: Config, environment: dict[str, Any], problem: Problem
    ) -> None:
        """Write the first files of a run; refuse a directory that holds a run."""
        if self.config_file.exists():
            raise FileExistsError(
                f"{self.path} already holds a run; choose another directory with "
                f"--run DIR, or resume that run: eqprop train --resume {self.path}"
            )
        inputs: dict[str, Any] = {"data": fingerprints(problem), "model": None}
        with self._writing():
            # Remove what a killed process left before there was a run.
            self.metrics_file.unlink(missing_ok=True)
            if isinstance(config.model, UserModel):
                shutil.copyfile(split_path(config.model.path)[0], self.model_file)
                inputs["model"] = hash_file(self.model_file)
            self.write_json("env.json", environment)
            self.write_json("inputs.json", inputs)
            self.write_json("config.json", config_to_json(config))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say which directory cannot be written, and what to do."""
        try:
            yield
        except OSError as error:
            if error.strerror is None:
                raise
            raise type(error)(
                error.errno,
                f"cannot write into the run directory {self.path}: {error.strerror}; "
                "choose another with --run DIR",
            ) from error

    def write_json(self, name: str, record: dict[str, Any]) -> None:
        """Write a JSON file completely or not at all."""
        write_whole(self.path / name, json.dumps(record, indent=2) + "\n")

    def config(self) -> Config:
        """Return the configuration of the run."""
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"there is no run directory {self.path}; eqprop train prints the "
                "directory of each run"
            )
        if (self.path / SEEDS_FILE).exists() and not self.config_file.exists():
            one = min(self.path.glob("seed[0-9]*"), default=self.path / "seed0")
            raise ValueError(
                f"{self.path} holds the runs of several seeds; give one of them, e.g. "
                f"{one}"
            )
        return load_config(self.config_file)

    def problem(self, config: Config, system: str | None) -> Problem:
        """Build model and data of the run; refuse them if they have changed.

        The file of a user's own model is executed only if `system` names it.
        """
        inputs = self.inputs()
        system = check_system(
            self.path, config, inputs["model"], self.model_file, system
        )
        try:
            problem = Problem.build(config, system)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the data of the run {self.path} are gone: {error}"
            ) from error
        check_data(self.path, inputs["data"], problem)
        return problem

    def inputs(self) -> dict[str, Any]:
        """Return the fingerprints of the data, and the hash of the model file."""
        file = self.path / "inputs.json"
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            for known in record["data"].values():
                if not isinstance(known["shape"], list) or known.keys() != KNOWN:
                    raise ValueError("an array has other entries than " + str(KNOWN))
            return {"model": record["model"], "data": record["data"]}
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{file} does not exist: it was removed, or an old eqprop made the run "
                "and kept no fingerprint of the data; train the run again"
            ) from None
        except (AttributeError, KeyError, TypeError, *UNREADABLE) as error:
            raise ValueError(f"{file} is damaged ({error}); restore it") from error

    def warn_of_other_devices(self, now: dict[str, Any]) -> None:
        """Warn if a run is resumed where its last digits may differ."""
        try:
            text = (self.path / "env.json").read_text(encoding="utf-8")
            then = {name: json.loads(text).get(name) for name in DEVICES}
            now = {name: now[name] for name in DEVICES}
            for record in (then, now):
                found = record.pop("packages")
                record |= {name: found.get(name) for name in LIBRARIES}
        except (OSError, AttributeError, *UNREADABLE):
            return  # without env.json there is nothing to compare
        wrong = differences(then, now)
        if wrong:
            warnings.warn(
                f"{self.path} was started elsewhere: {'; '.join(wrong)}. The result "
                "may differ in the last digits from that of an uninterrupted run",
                RunWarning,
                stacklevel=3,
            )

    def append(self, record: EpochRecord) -> None:
        """Add a line to the metrics."""
        with (
            self.keeping(self.metrics_file),
            self.metrics_file.open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(plain(record)) + "\n")

    @contextlib.contextmanager
    def keeping(self, file: Path) -> Iterator[None]:
        """Say which file cannot be written, and how to resume the run later."""
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {file}: {error.strerror or error}; what was saved "
                "before is kept. Resume later with: eqprop train --resume "
                f"{self.path}",
            ) from error

    def history(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """Return the records of the first `epochs` epochs, or of all."""
        if not self.metrics_file.exists():
            return []
        text = self.metrics_file.read_text(encoding="utf-8", errors="replace")
        records = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except UNREADABLE:
                continue  # a crash has cut this line
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                records.append(record)
        return [r for r in records if epochs is None or r["epoch"] <= epochs]

    def rewrite(self, history: Sequence[EpochRecord]) -> None:
        """Replace the metrics by these records, completely or not at all."""
        text = "".join(json.dumps(plain(record)) + "\n" for record in history)
        write_whole(self.metrics_file, text)


def plain(value: Any) -> Any:
    """Return a value that JSON can hold; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
