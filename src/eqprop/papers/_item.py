"""What an item of a paper is: one command, one record, one figure, one verdict."""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..training import Observer
from ._records import Version
from ._verdict import Published

MACHINE = (
    *("time", "system", "processor", "cores", "backend", "devices", "python"),
    *("packages", "source"),
)


@dataclasses.dataclass(frozen=True)
class Context:
    """How an item is to be measured.

    - `figure`: the file that its figure is drawn into.
    - `runs`: the folder that keeps training runs, one folder an item.
    - `seeds`: of a training: 0, 1, ….
    - `version`: the whole, or how it is to take less time.
    - `observer`: makes the observer of the run in a directory.
    - `kept`: the record that this one takes the place of, if any: seeds of the same
      configuration in it are not trained again, wherever they were trained.
    """

    figure: Path
    runs: Path
    seeds: int = 1
    version: Version = dataclasses.field(default_factory=Version)
    observer: Callable[[Path], Observer] | None = None
    kept: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item(abc.ABC):
    """One figure, table row or claim of a paper.

    - `name`: `PAPER.item`, e.g. `D.table1.P-1h`.
    - `shows`: what is measured, in a few words.
    - `theirs`: what the paper's figure or table shows, in words.
    - `published`: the paper's numbers; none where they are not known.
    - `minutes`: expected on two cores, of one seed.
    - `settings`: what of the training is not the paper's, and where it is from.
    - `reason`, `settled_reason`: why ours is as it is, where that was found out.
    """

    name: str
    shows: str
    theirs: str = ""
    published: tuple[Published, ...] = ()
    minutes: float = 2.0
    settings: str = ""
    reason: str = ""
    settled_reason: str = ""

    @property
    def paper(self) -> str:
        """The first word of the name; of one without a dot, `beyond`."""
        return self.name.split(".")[0] if "." in self.name else "beyond"

    def command(self, record: dict[str, Any]) -> str:
        """The command that makes such a record."""
        words = ["eqprop", "reproduce", self.name]
        if len(record.get("seeds", ())) > 1:
            words += ["--seeds", str(len(record["seeds"]))]
        return " ".join([*words, *Version.of(record).options])

    @abc.abstractmethod
    def measure(self, context: Context) -> dict[str, Any]:
        """Measure it, draw its figure, and return its record, as JSON values."""

    @abc.abstractmethod
    def verdict(self, record: dict[str, Any]) -> str:
        """The mark that the record's numbers deserve."""

    @abc.abstractmethod
    def result(self, record: dict[str, Any]) -> str:
        """What was found, in one line."""


def machine(environment: dict[str, Any]) -> dict[str, Any]:
    """What of an environment is kept: no command lines, which name folders."""
    return {name: environment.get(name) for name in MACHINE}
