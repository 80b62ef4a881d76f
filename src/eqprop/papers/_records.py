"""Records of items: one small JSON file and one figure each, in one folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from .._files import write_whole

_HERE = Path(__file__).parents[3] / "docs" / "papers"
KEPT = _HERE if _HERE.is_dir() else Path("docs", "papers")
"""the records of this repository, or of the one that a command is given in"""
KEYS = {"seeds": ("config", "seeds"), "holds": ("holds", "claim", "source", "words")}
SEED_KEYS = ("seed", "failure", "epochs", "last", "seconds", "curves", "environment")
"""what a record holds, by what tells its kind, and what it holds of each seed"""


@dataclasses.dataclass(frozen=True)
class Version:
    """How an item was measured in less time: no version takes the place of another.

    - `quick`: a small version in minutes, which is not the paper's.
    - `settled`: of a training: free phases end once they have settled.
    - `epochs`: of a training: only so many; `None`: all of them.
    """

    quick: bool = False
    settled: bool = False
    epochs: int | None = None

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Version":
        """That of a record."""
        given = {f.name: record.get(f.name, f.default) for f in dataclasses.fields(cls)}
        return cls(**given)

    def __str__(self) -> str:
        """What is added to an item's name."""
        words = [
            "settled" if self.settled else "",
            f"{self.epochs}epochs" if self.epochs else "",
            "quick" if self.quick else "",
        ]
        return "".join(f".{word}" for word in words if word)

    @property
    def options(self) -> list[str]:
        """Of the command line."""
        words = ["--settled"] if self.settled else []
        words += ["--epochs", str(self.epochs)] if self.epochs else []
        return [*words, *(["--quick"] if self.quick else [])]


def place(folder: Path, name: str, version: Version, end: str) -> Path:
    """The file of an item's record or figure."""
    return folder / f"{name}{version}{end}"


def versions(name: str, records: dict[str, Any], quick: bool) -> list[str]:
    """The kept versions of an item, the whole one first; or the quick ones."""
    found = [n for n in records if n == name or n.startswith(f"{name}.")]
    return [n for n in sorted(found) if records[n]["quick"] == quick]


def write_record(folder: Path, name: str, record: dict[str, Any]) -> Path:
    """Write it whole or not at all."""
    file = place(folder, name, Version.of(record), ".json")
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return write_whole(file, text + "\n")


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record of a folder by its file's name; none where there is no folder.

    Other JSON files in it are left alone: a record says what was measured, and how.

    **Raises:** `ValueError` naming the file of a record that is cut short or in which
    something is missing.
    """
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no record of an item: {error}") from error
        if isinstance(record, dict) and ("seeds" in record or "holds" in record):
            if missing := _missing(record):
                raise ValueError(
                    f"{file} is no record of an item: it has no {', '.join(missing)}; "
                    "remove it, or choose another folder with --out DIR"
                )
            found[file.stem] = {"quick": False, "settled": False, **record}
    return found


def _missing(record: dict[str, Any]) -> list[str]:
    """What a record of its kind holds and this one does not."""
    kind = "seeds" if "seeds" in record else "holds"
    missing = [key for key in KEYS[kind] if key not in record]
    seeds = record.get("seeds", ())
    if not isinstance(seeds, list | tuple):
        return [*missing, "list of seeds"]
    found = [seed if isinstance(seed, dict) else {} for seed in seeds]
    return missing + [
        f"{k} of a seed" for k in SEED_KEYS if any(k not in s for s in found)
    ]
