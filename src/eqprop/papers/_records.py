"""Records of items: one small JSON file and one figure each, in one folder."""

import json
import os
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parents[3] / "docs" / "papers"
KEPT = _HERE if _HERE.is_dir() else Path("docs", "papers")
"""the records of this repository, or of the one that a command is given in"""
QUICK, SETTLED = ".quick", ".settled"


def version(settled: bool, quick: bool) -> str:
    """What is added to an item's name: no version takes the place of another."""
    return (SETTLED if settled else "") + (QUICK if quick else "")


def place(folder: Path, name: str, record: dict[str, Any], end: str) -> Path:
    """The file of an item's record."""
    added = version(record.get("settled", False), record["quick"])
    return folder / f"{name}{added}{end}"


def kept_record(folder: Path, name: str, like: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the same item and version, if there is one."""
    return read_records(folder).get(place(folder, name, like, "").name)


def write_record(folder: Path, name: str, record: dict[str, Any]) -> Path:
    """Write it whole or not at all."""
    file = place(folder, name, record, ".json")
    part = file.with_name(f".{file.name}.{os.getpid()}")
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(file)
    return file


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record of a folder by its file's name; none where there is no folder."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no record of an item: {error}") from error
        if isinstance(record, dict):
            found[file.stem] = {"quick": False, "settled": False, **record}
    return found
