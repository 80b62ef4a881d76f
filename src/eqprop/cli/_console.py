"""Shared by the commands: parse options, print messages, tables and JSON."""

import contextlib
import difflib
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import tyro

from ._numbers import NUMBERS

T = TypeVar("T")

Flag = tyro.conf.FlagCreatePairsOff[bool]
"""A switch that is off unless it is named."""


def parse(kind: type[T], command: str, argv: Sequence[str], default: Any = None) -> T:
    """Parse options into a dataclass.

    For `--help` and for mistakes, tyro prints the text and raises `SystemExit`.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    shown = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace")
    try:
        with contextlib.redirect_stdout(shown):
            return tyro.cli(
                kind,
                prog=f"eqprop {command}",
                args=list(argv),
                default=default,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
                registry=NUMBERS,
            )
    finally:
        shown.seek(0)
        print(_general_last(shown.read()), end="")


def _general_last(text: str) -> str:
    """Move the box of general options, which ends with clusters, below the others."""
    head, *boxes = re.split(r"(?m)^(?=╭)", text)
    if any(box.count("╭") > 1 for box in boxes):  # a wide screen: boxes side by side
        return text
    return head + "".join(sorted(boxes, key=lambda box: box.startswith("╭─ options")))


def fail(message: str, status: int, word: str = "error") -> int:
    """Print a message to standard error; return the exit status."""
    print(f"{word}: {message}", file=sys.stderr)
    return status


def split_words(text: str) -> list[str]:
    """Return the words of a list that is joined by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint: the nearest known word, or all of them if none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}"


def prints_aside() -> contextlib.AbstractContextManager:
    """Send what a user's model prints to standard error, away from the results."""
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner while a command works, if standard error is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(what) if console.is_terminal else contextlib.nullcontext():
        yield


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object to standard output; NaN becomes null."""
    text = json.dumps(record, default=str)
    print(json.dumps(json.loads(text, parse_constant=lambda _: None)))


def percent(fraction: float | None) -> str:
    """Return e.g. `2.31 %`, or a dash if nothing was measured."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to standard output; without a terminal it is 160 wide."""
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
    with console.capture() as text:  # rich would exit if nobody reads the pipe
        console.print(made, markup=False)
    print(text.get(), end="")
