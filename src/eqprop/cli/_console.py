"""What the commands share: parsing, messages, tables."""

import contextlib
import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import tyro

from ._numbers import NUMBERS

T = TypeVar("T")

Flag = tyro.conf.FlagCreatePairsOff[bool]
"""A switch that is off unless named."""


def parse(kind: type[T], command: str, argv: Sequence[str], default: Any = None) -> T:
    """Parse options into a dataclass; tyro prints help and errors itself."""
    return tyro.cli(
        kind,
        prog=f"eqprop {command}",
        args=list(argv),
        default=default,
        config=(tyro.conf.AvoidSubcommands,),
        registry=NUMBERS,
    )


def fail(message: str, status: int, word: str = "error") -> int:
    """Print a message to standard error and return the exit status."""
    print(f"{word}: {message}", file=sys.stderr)
    return status


def split_words(text: str) -> list[str]:
    """The words of a list that is joined by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def suggest(word: str, known: Iterable[str]) -> str:
    """The nearest known word, or all of them if none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}"


def prints_aside() -> contextlib.AbstractContextManager:
    """What a user's model prints goes to standard error: results stay alone."""
    return contextlib.redirect_stdout(sys.stderr)


def print_json(record: dict[str, Any]) -> None:
    """One JSON object on standard output, NaN as null."""
    text = json.dumps(record, default=str)
    print(json.dumps(json.loads(text, parse_constant=lambda _: None)))


def percent(fraction: float | None) -> str:
    """`2.31 %`, or a dash where nothing was measured."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to standard output, all of it also where that is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    with console.capture() as text:  # rich itself would exit where nobody reads
        console.print(made, markup=False)
    print(text.get(), end="")
