"""Records of items: what was measured, kept as one small JSON file an item.

A record is a `ClaimRecord` or a `TrainingRecord`. An item may have several records,
one for each `Version` of it.
"""

import dataclasses
import json
import math
from dataclasses import MISSING
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .._files import write_whole

_HERE = Path(__file__).parents[3] / "docs" / "papers"
KEPT = _HERE if _HERE.is_dir() else Path("docs", "papers")
"""the records of this repository, or of the one in the working directory"""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Version:
    """How much of an item was measured; each version has its own record.

    - `quick`: a small version, which takes minutes and differs from the paper's.
    - `settled`: for a training: a free phase ends once it has settled.
    - `epochs`: for a training: its number of epochs; `None`: all of them.
    """

    quick: bool = False
    settled: bool = False
    epochs: int | None = None

    def __str__(self) -> str:
        """The suffix that is added to the item's name."""
        suffixes = {
            ".settled": self.settled,
            f".{self.epochs}epochs": self.epochs,
            ".quick": self.quick,
        }
        return "".join(suffix for suffix, used in suffixes.items() if used)

    @property
    def options(self) -> list[str]:
        """The options of `eqprop reproduce` that measure this version."""
        words = ["--settled"] if self.settled else []
        words += ["--epochs", str(self.epochs)] if self.epochs else []
        return [*words, "--quick"] if self.quick else words


@dataclasses.dataclass(frozen=True)
class Finding:
    """A measured number and the range in which the claim wants it.

    `least` and `most` are the ends of the range; a finding without either is reported
    and not judged.
    """

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    def __post_init__(self):
        given = {"value": self.value, "least": self.least, "most": self.most}
        for name, number in given.items():  # numbers of NumPy and JAX become floats
            if number is not None:
                object.__setattr__(self, name, float(number))
        if self.value is None:
            object.__setattr__(self, "value", math.nan)

    @property
    def holds(self) -> bool:
        """Whether the number lies in its range."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)

    @property
    def required(self) -> str:
        """The range in words, empty if there is none."""
        if self.least is None:
            return "" if self.most is None else f"at most {self.most:.3g}"
        if self.most is None:
            return f"at least {self.least:.3g}"
        return f"{self.least:.3g} to {self.most:.3g}"

    def __str__(self) -> str:
        required = f" ({self.required})" if self.required else ""
        return f"{self.name} {self.value:.3g}{required}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimRecord:
    """What was found for a claim: one sentence, the numbers, the curves of the figure.

    `sentence` says what was measured on which network and examples.
    """

    claim: str
    source: str
    sentence: str
    findings: tuple[Finding, ...]
    holds: bool
    panels: Any = ()
    quick: bool = False
    seconds: float | None = None
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: ClassVar[tuple["SeedRecord", ...]] = ()

    @property
    def version(self) -> Version:
        return Version(self.quick)

    @property
    def environments(self) -> list[dict[str, Any]]:
        return [self.environment]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """Forward against backward weights, for each pair of layers at the last epoch."""

    trace: list[float]
    degrees: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRecord:
    """One seed of a training: errors are fractions, `seconds` those of the updates.

    - `failure`: how the training diverged, or `None`.
    - `last`: the measurements of the last epoch; `curves`: errors of every epoch.
    - `traces`: tr(W Bᵀ) of untied weights after every epoch.
    """

    seed: int
    failure: str | None
    epochs: int
    last: dict[str, float | None]
    seconds: float | None
    curves: dict[str, list[float | None]]
    environment: dict[str, Any]
    alignment: Alignment | None = None
    traces: list[list[float]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """The seeds of a training and their common configuration, as JSON values."""

    config: dict[str, Any]
    seeds: tuple[SeedRecord, ...]
    recipe: str = ""
    quick: bool = False
    settled: bool = False
    epochs: int | None = None

    @property
    def version(self) -> Version:
        return Version(self.quick, self.settled, self.epochs)

    @property
    def seconds(self) -> float | None:
        """The mean training time of a seed."""
        found = [seed.seconds for seed in self.seeds if seed.seconds is not None]
        return sum(found) / len(found) if found else None

    @property
    def ended(self) -> list[SeedRecord]:
        """The seeds that did not diverge."""
        return [seed for seed in self.seeds if seed.failure is None]

    @property
    def environments(self) -> list[dict[str, Any]]:
        return [seed.environment for seed in self.seeds]


Record = ClaimRecord | TrainingRecord


def place(folder: Path, name: str, version: Version, end: str) -> Path:
    """The file of an item's record or figure."""
    return folder / f"{name}{version}{end}"


def versions(name: str, records: dict[str, Record], quick: bool) -> list[str]:
    """The names under which an item's quick, or other, versions are kept."""
    found = [n for n in records if n == name or n.startswith(f"{name}.")]
    return [n for n in sorted(found) if records[n].version.quick == quick]


def write_record(folder: Path, name: str, record: Record) -> Record:
    """Write the file of a record; return the record as it will be read."""
    file = place(folder, name, record.version, ".json")
    values = to_json(record)
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(file, text + "\n")
    return _from_json(json.loads(text))


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON values: NaN and infinity become null."""
    return _plain(dataclasses.asdict(record))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        optional = ("alignment", "traces")
        return {
            k: _plain(v) for k, v in value.items() if k not in optional or v is not None
        }
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_records(folder: Path) -> dict[str, Record]:
    """Every record of a folder by the name of its file; none if there is no folder.

    Other JSON files are skipped.

    **Raises:** `ValueError` with the name of a file that is incomplete.
    """
    found: dict[str, Record] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(values, dict) and ("seeds" in values or "holds" in values):
                found[file.stem] = _from_json(values)
        except ValueError as error:
            raise ValueError(
                f"{file} is not the record of an item: {error}. Remove it, or choose "
                "another folder with --out DIR"
            ) from error
    return found


def _from_json(values: dict[str, Any]) -> Record:
    if "seeds" in values:
        if not isinstance(values["seeds"], list):
            raise ValueError("it has no list of seeds")
        seeds = tuple(_made(SeedRecord, seed, " of a seed") for seed in values["seeds"])
        return _made(TrainingRecord, values | {"seeds": seeds})
    # Until version 0.1 findings were a dictionary, and the sentence was called words.
    values = {"sentence": values["words"]} | values if "words" in values else values
    findings = values.get("findings", ())
    if isinstance(findings, dict):
        findings = [{"name": name, "value": v} for name, v in findings.items()]
    findings = tuple(_made(Finding, each, " of a finding") for each in findings)
    return _made(ClaimRecord, values | {"findings": findings})


def _made(kind: type[T], values: Any, of: str = "") -> T:
    """An object of a dataclass from a JSON object, whose other keys are ignored."""
    values = values if isinstance(values, dict) else {}
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    needed = [f.name for f in fields if f.default is f.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"it has no {', '.join(f'{name}{of}' for name in missing)}")
    if "alignment" in values:
        values = values | {"alignment": _made(Alignment, values["alignment"])}
    return kind(**{name: values[name] for name in names if name in values})
