"""The live progress bar of a training run; silent without a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..training import ChunkRecord, Observer
from ._console import percent


def rounding_in_words(found: dict[str, Any]) -> str:
    """Return what `precision.json` says, in a sentence."""
    precision, angle = found["precision"], found["angle"]
    if angle is None:
        return f"{precision}: its angle is not measured, because this rule draws noise"
    return f"{precision}: the first gradient is {angle:.2g}° off its float64 value"


class Progress(Observer):
    """Show a bar over all epochs on standard error, if that is a terminal.

    The line that describes the data appears above the bar.  It is also added to
    `lines`, which the command prints with its result if there is no terminal.
    """

    def __init__(self, lines: list[str] | None = None) -> None:
        self._lines = [] if lines is None else lines

    def __enter__(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=None, text="")
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def on_data(self, description):
        if description not in self._lines:
            self._lines.append(description)
            if not self._bar.disable:
                self._bar.console.print(description, highlight=False)

    def on_start(self, trainer, state, epochs):
        self._trainer, self._epochs = trainer, epochs
        self._bar.update(self._task, total=epochs * trainer.steps)

    def on_chunk(self, state, record: ChunkRecord):
        done = (record["epoch"] - 1) * self._trainer.steps + record["step"]
        examples = min(
            record["step"] * self._trainer.batch_size, self._trainer.examples
        )
        rate = examples / record["seconds"]
        self._bar.update(
            self._task,
            completed=done,
            description=f"epoch {record['epoch']}/{self._epochs}",
            text=f"{rate:,.0f} ex/s  loss {record['loss']:.4f}  "
            f"train error {percent(record['train_error'])}  "
            f"{record['steps']:.1f} steps  "
            f"{100 * record['settled']:.0f} % settled",
        )

    def on_epoch(self, state, record):
        if self._bar.disable:
            return
        shown = {
            "train": record["train_error"],
            "val": record["val_error"],
            "test": record["test_error"],
        }
        errors = "  ".join(
            f"{name} {percent(e)}" for name, e in shown.items() if e is not None
        )
        self._bar.console.print(
            f"epoch {record['epoch']:>3}  loss {record['loss']:.4f}  {errors}  "
            f"{record['seconds']:.1f} s",
            highlight=False,
        )


def print_lines(lines: list[str]) -> None:
    """Print the lines that describe the data, unless a terminal has shown them."""
    if lines and not sys.stderr.isatty():
        print("\n".join(lines))


@contextlib.contextmanager
def each_run(
    lines: list[str] | None = None,
) -> Iterator[Callable[[Path], Progress]]:
    """Yield a function that opens the bar of the next run and closes the last one."""
    with contextlib.ExitStack() as shown:

        def watch(run: Path) -> Progress:
            del run
            shown.pop_all().close()
            return shown.enter_context(Progress(lines))

        yield watch
