"""Read run directories into the records from which a report is made."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..report import first_weights, Outcome, Record
from ..training import Config, UserModel, weight_names
from ._directory import RunDirectory, UNREADABLE
from ._environment import read_environment
from ._load import load
from ._run import Run, settle_each

FIGURES = ("processes", "layers", "beta", "flow")


def record_of(
    path: Path, *, examples: bool = True, system: str | None = None
) -> Record:
    """Read a run's files, and settle its test examples.

    Parts that are lost or damaged are left out and named in the record's `missing`.

    **Arguments:**

    - `examples`: settle the test examples (the training examples if there is no test
      set); `False` leaves these parts of the report out.
    - `system`: FILE.py:NAME of the run's own model.  It is executed only if named here.

    **Raises:** `FileNotFoundError` if there is no run; `ValueError` if its
    configuration is damaged or no epoch has ended.
    """
    directory = RunDirectory(path)
    config = directory.config()
    history = directory.history()
    if not history:
        raise ValueError(f"{path} holds no finished epoch to report")
    missing = _lost_lines(directory, len(history))
    environment = read_environment(directory)
    if not environment:
        missing.append("versions, machine and command: env.json is lost or damaged")
    verification, figures = _verification(path / "verify", missing)
    network: dict[str, Any] = {}
    if (reason := _unloadable(config, examples, system)) is None:
        network = _network(path, missing, system)
    else:
        missing.append(reason)
    return Record(
        path=str(path),
        config=json.loads(directory.config_file.read_text(encoding="utf-8")),
        environment=environment,
        history=history,
        verification=verification,
        figures=figures,
        missing=tuple(missing),
        **network,
    )


def _unloadable(config: Config, examples: bool, system: str | None) -> str | None:
    parts = "weights and single examples"
    if not examples:
        return f"{parts}: left out as asked (--no-examples)"
    if isinstance(config.model, UserModel) and system is None:
        return (
            f"{parts}: the network is a program, {Path(config.model.path).name}, "
            "which is executed only if you name it (--system FILE.py:NAME)"
        )
    return None


def _network(path: Path, missing: list[str], system: str | None) -> dict[str, Any]:
    """Return weights and outcome of the newest checkpoint, if they can be read."""
    try:
        run = load(path, system=system)
    except (OSError, ValueError) as error:
        missing.append(f"weights and single examples: {error}")
        return {}
    found: dict[str, Any] = {
        "weight_names": tuple(weight_names(run.system, run.cost)),
    }
    if run.problem.image_shape is not None:
        weights = first_weights(run.system, run.problem.image_shape)
        # Kernels are not images of the input; weights that diverged cannot be drawn.
        if weights is not None and np.isfinite(weights).all():
            found["weights"] = weights
    if run.problem.gone is not None:
        missing.append(f"single examples: {run.problem.gone}")
        return found
    found["outcome"] = _outcome(run)
    if found["outcome"].labels is None:
        missing.append("confusion matrix: the targets are not classes")
    elif found["outcome"].images is None:
        missing.append("pictures of misclassified examples: inputs are not images")
    return found


def _outcome(run: Run) -> Outcome:
    """Settle every example of the test set, or of the training set without one."""
    held_out = run.problem.test
    split = "train" if held_out is None else "test"
    x, y = run.problem.train if held_out is None else held_out
    found = settle_each(run, x)
    labels = _labels(found["outputs"], y)
    images = None
    if run.problem.image_shape is not None and hasattr(x, "shape"):
        images = np.asarray(x).reshape(-1, *run.problem.image_shape)
    return Outcome(split, labels=labels, images=images, **found)


def _labels(outputs: np.ndarray, y: Any) -> np.ndarray | None:
    """Return the classes in y, integers or one-hot rows; `None` if y holds others."""
    if outputs.ndim != 2 or not hasattr(y, "dtype"):
        return None
    y = np.asarray(y)
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        return y if 0 <= y.min() <= y.max() < outputs.shape[1] else None
    if y.shape != outputs.shape or y.shape[1] < 2:
        return None
    one_hot = ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()
    return y.argmax(1) if one_hot else None


def _verification(
    folder: Path, missing: list[str]
) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Read what `eqprop verify RUN` has written, if anything."""
    file = folder / "verification.json"
    if not file.exists():
        return None, {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        pictures = {name: folder / f"{name}.png" for name in FIGURES}
        figures = {n: f.read_bytes() for n, f in pictures.items() if f.exists()}
    except (OSError, *UNREADABLE) as error:
        missing.append(f"gradient check: {file.name} cannot be read ({error})")
        return None, {}
    return found, {n: d for n, d in figures.items() if d.startswith(b"\x89PNG")}


def _lost_lines(directory: RunDirectory, kept: int) -> list[str]:
    text = directory.metrics_file.read_text(encoding="utf-8", errors="replace")
    lost = sum(bool(line.strip()) for line in text.splitlines()) - kept
    if not lost:
        return []
    return [f"{lost} of {lost + kept} lines of metrics.jsonl, which cannot be read"]
