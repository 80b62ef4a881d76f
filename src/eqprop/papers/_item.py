"""What an item of a paper is: one command, one record, one figure, one verdict."""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eqprop as ep

from ._record import Record, Version
from ._verdict import Published


@dataclasses.dataclass(frozen=True)
class Context:
    """How an item is to be measured.

    - `figure`: the file of its figure.
    - `runs`: the folder of the training runs, with one folder an item.
    - `seeds`: how many seeds to train: 0, 1, ….
    - `version`: the whole item, or a shorter version.
    - `observer`: makes the observer of the run in a directory.
    - `kept`: the record that the new one replaces; its seeds are not trained again if
      their configuration is the same.
    """

    figure: Path
    runs: Path
    seeds: int = 1
    version: Version = dataclasses.field(default_factory=Version)
    observer: Callable[[Path], ep.Observer] | None = None
    kept: Record | None = None


@dataclasses.dataclass(frozen=True)
class Item(abc.ABC):
    """One figure, table row or claim of a paper.

    - `name`: `PAPER.item`, e.g. `D.table1.P-1h`.
    - `shows`: what is measured, in a few words.
    - `in_paper`: what the paper's figure or table shows.
    - `published`: the paper's numbers; empty if they are not known.
    - `minutes`: expected time of one seed on two cores.
    - `settings`: which settings of a training differ from the paper's, and why.
    - `reason`, `settled_reason`: why our result differs, where we know it.
    """

    name: str
    _: dataclasses.KW_ONLY
    shows: str
    in_paper: str = ""
    published: tuple[Published, ...] = ()
    minutes: float = 2.0
    settings: str = ""
    reason: str = ""
    settled_reason: str = ""

    @property
    def paper(self) -> str:
        """The first word of the name, or `beyond` for a name without a dot."""
        return self.name.split(".")[0] if "." in self.name else "beyond"

    def command(self, record: Record) -> str:
        """The command that makes such a record."""
        words = ["eqprop", "reproduce", self.name]
        if len(record.environments) > 1:
            words += ["--seeds", str(len(record.environments))]
        return " ".join([*words, *record.version.options])

    @abc.abstractmethod
    def measure(self, context: Context) -> Record:
        """Measure the item, draw its figure and return its record."""

    @abc.abstractmethod
    def verdict(self, record: Any) -> str:
        """The verdict on the numbers of the record."""

    @abc.abstractmethod
    def result(self, record: Any) -> str:
        """What was found, in one line."""


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper and its items; `not_run`: published numbers that no item measures."""

    key: str
    title: str
    items: tuple[Item, ...]
    not_run: str = ""

    @property
    def heading(self) -> str:
        return self.title if self.key == "beyond" else f"{self.key}: {self.title}"


def machine(environment: dict[str, Any]) -> dict[str, Any]:
    """The part of an environment that is kept: no command lines, no paths."""
    names = "time system processor cores backend devices python packages source"
    return {name: environment.get(name) for name in names.split()}
