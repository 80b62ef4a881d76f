"""Kept results: one small JSON file a run, and the table made from all of them."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

from .._files import write_whole
from ._record import spread

TABLE = "README.md"
MARKS = (0.03, 0.02)
ERRORS = ("train_error", "test_error", "test_error_cold")
HEADER = (
    *("hardware", "command", "runs", "epochs", "minutes", "train", "test", "cold"),
    *(f"s to {100 * mark:g} %" for mark in MARKS),
)
LEGEND = """\
Minutes are of training, without evaluation. Errors are those of the last epoch, mean
± standard deviation over the runs, which differ by their seed. Where states persist
from epoch to epoch, *test* is the error of the persistent states and *cold* that of
a network that starts anew; elsewhere every test is cold. *s to 2 %*: training seconds,
compilation included, until the end of the first epoch whose test error is not above
it, mean over the runs; a dash where a run never got there.
"""


def keep(
    run: Path,
    folder: Path,
    config: dict[str, Any],
    environment: dict[str, Any],
    history: list[dict[str, Any]],
) -> Path:
    """Write a run's configuration, environment and records as one file of `folder`.

    It is called after the run; one of several, `seed0`, after its folder as well.

    **Raises:** `ValueError` where that file holds a run of another configuration.
    """
    whole = run.resolve()
    parent = f"{whole.parent.name}-" if re.fullmatch(r"seed\d+", whole.name) else ""
    name = f"{parent}{whole.name}"
    record = {
        "name": name,
        "config": config,
        "environment": environment,
        "history": history,
    }
    file = folder / f"{name}.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["config"] != record["config"]:
            raise ValueError(
                f"{file} holds a run of another configuration, which would be lost; "
                f"rename {run}, or choose another folder with --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(file, _compact(record))


def write_table(folder: Path) -> Path:
    """Make `README.md` of `folder` from its JSON files."""
    records = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.json"))
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        config = {k: v for k, v in record["config"].items() if k != "seed"}
        key = json.dumps([config, _hardware(record)], sort_keys=True)
        groups.setdefault(key, []).append(record)
    rows = [_row(group) for group in groups.values()]
    lines = [
        "# Results",
        "",
        LEGEND,
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *sorted("| " + " | ".join(row) + " |" for row in rows),
        "",
        "Made by `eqprop report RUN… --out results` from the files beside this one,",
        "each of which holds a run's configuration, seed, machine and records.",
    ]
    return write_whole(folder / TABLE, "\n".join(lines) + "\n")


def _row(group: list[dict[str, Any]]) -> tuple[str, ...]:
    last = [record["history"][-1] for record in group]
    planned = group[0]["config"]["epochs"]
    epochs = {entry["epoch"] for entry in last}
    minutes = statistics.mean(entry["training_seconds"] for entry in last) / 60
    return (
        _hardware(group[0]),
        f"`{_command(group[0])}`",
        str(len(group)),
        "/".join(str(n) for n in sorted(epochs))
        + ("" if epochs == {planned} else f" of {planned}"),
        f"{minutes:.2g}",
        *(_percent(last, key) for key in ERRORS),
        *(_reached([record["history"] for record in group], mark) for mark in MARKS),
    )


def _reached(histories: list[list[dict[str, Any]]], mark: float) -> str:
    """Mean training seconds until the test error was first at or below `mark`."""
    seconds = []
    for history in histories:
        below = (
            entry["training_seconds"]
            for entry in history
            if entry["test_error"] is not None and entry["test_error"] <= mark
        )
        seconds.append(next(below, None))
    found = [s for s in seconds if s is not None]
    return f"{statistics.mean(found):.0f}" if len(found) == len(seconds) else "–"


def _command(record: dict[str, Any]) -> str:
    """The command without what differs between runs of the same thing."""
    words = list(record["environment"]["command"])
    for option in ("--run", "--seed"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    return " ".join(word for word in words if word != "--json")


def _hardware(record: dict[str, Any]) -> str:
    environment = record["environment"]
    if environment["backend"] == "cpu":
        return f"{environment['cores']}-core {environment['processor']} CPU"
    return ", ".join(environment["devices"])


def _percent(last: list[dict[str, Any]], key: str) -> str:
    errors = [entry.get(key) for entry in last]
    return spread([error and 100 * error for error in errors])


def _compact(record: dict[str, Any]) -> str:
    """Indented JSON with one line an epoch, so that a diff stays readable."""
    history = ",\n".join("    " + json.dumps(entry) for entry in record["history"])
    head = json.dumps({k: v for k, v in record.items() if k != "history"}, indent=2)
    return f'{head[:-2]},\n  "history": [\n{history}\n  ]\n}}\n'
