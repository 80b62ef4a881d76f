"""Record versions, devices, machine, command and sessions of a run in `env.json`."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, UTC
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ._directory import RunDirectory, UNREADABLE

FILE = "env.json"
PACKAGES = (
    "eqprop",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "safetensors",
    "diffrax",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Return versions, devices, processor, command and commits, as JSON values.

    `git` is the commit of the working directory.  `source` is that of eqprop itself,
    if it runs from a clone of its project.
    """
    return {
        "time": _now(),
        "command": _command(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(Path()),
        "source": _source(),
    }


def read_environment(directory: RunDirectory) -> dict[str, Any]:
    """Return the content of a run's `env.json`; empty if it is lost or damaged."""
    try:
        text = (directory.path / FILE).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, *UNREADABLE):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def session(directory: RunDirectory, *, resumed: bool = False) -> Iterator[None]:
    """Record in `env.json` when a session on a run began, and when and how it ended.

    A session without an `outcome` was killed.  The list `resumed` holds the
    environment of each resumed session.
    """
    record = read_environment(directory)
    if resumed:
        record["resumed"] = [*_sessions(record), environment()]
    last = record["resumed"][-1] if resumed else record
    last |= {"ended": None, "outcome": None}
    directory.write_json(FILE, record)
    outcome = "finished"
    try:
        yield
    except BaseException as error:
        kind = type(error).__name__
        outcome = _OUTCOMES.get(kind, f"failed: {kind}")
        raise
    finally:
        last |= {"ended": _now(), "outcome": outcome}
        with contextlib.suppress(OSError):  # the user has seen that the disk is full
            directory.write_json(FILE, record)


_OUTCOMES = {
    "TrainingInterrupted": "interrupted",
    "KeyboardInterrupt": "interrupted",
    "TrainingDiverged": "diverged",
}


def _sessions(record: dict[str, Any]) -> list[Any]:
    found = record.get("resumed")
    return found if isinstance(found, list) else []


def _command() -> list[str]:
    """Return the words of the command; `python -m eqprop.cli` counts as `eqprop`."""
    program = Path(sys.argv[0])
    name = "eqprop" if program.parts[-2:] == ("cli", "__main__.py") else program.name
    return [name, *sys.argv[1:]]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a folder's repository, and whether files differ from it."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _source() -> dict[str, Any] | None:
    """Return the commit of eqprop's files; `None` if no repository tracks them."""
    file = Path(__file__)
    tracked = _ask_git(file.parent, "ls-files", "--error-unmatch", file.name)
    return _git(file.parent) if tracked else None


def _ask_git(folder: Path, *words: str) -> str | None:
    """Return git's answer; `None` without git, repository or answer in 5 seconds."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
