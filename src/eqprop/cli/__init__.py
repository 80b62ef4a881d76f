"""The command line: one word for each job, options parsed by tyro from dataclasses.

Exit status: 0 done, 1 the run or the check failed, 2 the request was wrong, 130
interrupted.  Progress goes to standard error, results to standard output.
"""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from ._interrupt import Heard

COMMANDS = {
    "train": ("_train:main", "train a recipe, your data or your model"),
    "eval": ("_commands:evaluate", "measure a run's error on its test set or a file"),
    "predict": ("_commands:predict", "write a run's predictions for a file"),
    "verify": ("_verify:verify", "check EP's gradient on a recipe, run or model"),
    "tune": (
        "_verify:tune",
        "propose T, K, dt and β for a gradient near the exact one",
    ),
    "compare": ("_compare:main", "train one recipe by several learning rules"),
    "search": ("_search:main", "search the options of train for the lowest error"),
    "bench": ("_bench:main", "measure speed and memory on this machine"),
    "reproduce": ("_reproduce:main", "measure the papers' claims again, with figures"),
    "report": (
        "_report:report",
        "make a page or a table of runs, or keep their results",
    ),
    "export": ("_report:export", "write a run's network for programs without eqprop"),
    "recipes": ("_commands:recipes", "list the recipes with paper and expected error"),
    "info": ("_commands:info", "show versions, devices and data sets found"),
}
"""module:function of each command, and its description"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    _check_streams()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _quick_answer(argv)
        if status is None:
            rest = ["--help" if word == "--help-all" else word for word in argv[1:]]
            with Heard(arguments is None) as heard, warnings.catch_warnings():
                command = _loaded(argv[0])
                heard.loading = False
                _show_warnings()
                status = _guarded(command, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`): leave nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:  # while libraries were loading
        status = 130
        print("interrupted: stopped before anything was done", file=sys.stderr)
    if arguments is None and status:
        # Libraries that were stopped in the middle of their work may crash while
        # Python ends. All results are printed and saved, so end at once.
        sys.stderr.flush()
        os._exit(status)
    return status


def _quick_answer(argv: list[str]) -> int | None:
    """Answer help, version and unknown commands without JAX; else return `None`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"eqprop {__version__}")
        return 0
    from ._console import fail, parse, suggest

    command, *rest = argv
    if command not in COMMANDS:
        return fail(f"there is no command {command!r}; {suggest(command, COMMANDS)}", 2)
    from ._options import OPTIONS, SHORT

    asked = {"-h", "--help", "--help-all"} & set(rest)
    if command in OPTIONS and asked:
        parse(OPTIONS[command], command, ["--help"])
    if command in SHORT and asked and "--help-all" not in rest:
        print(SHORT[command])
        return 0
    return None


def _loaded(name: str) -> Callable[[list[str]], int]:
    """Return the function of a command; this loads JAX."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(f".{module}", __package__), function)


def _show_warnings() -> None:
    """Print warnings about a run as one plain line each, without file and line."""
    from ..runs import RunWarning

    others, shown = warnings.showwarning, set()

    def show(message, category, *place):
        if issubclass(category, RunWarning):
            if str(message) not in shown:  # seeds and trials repeat the same warning
                print(f"warning: {message}", file=sys.stderr)
            shown.add(str(message))
        else:
            others(message, category, *place)

    warnings.simplefilter("always", RunWarning)
    warnings.showwarning = show


def _guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run one command; turn its exception into a message and an exit status."""
    from ..estimators import UnsuitableRule
    from ..runs import TrainingInterrupted
    from ..training import TrainingDiverged, WorkerLost
    from ._console import fail

    try:
        status = command(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, TrainingInterrupted) as stop:
        return fail(str(stop) or "stopped at once", 130, "interrupted")
    except Exception as error:
        if os.environ.get("EQPROP_DEBUG"):
            raise
        if isinstance(error, TrainingDiverged | WorkerLost):
            return fail(str(error), 1)
        if isinstance(error, MemoryError) or "Out of memory" in str(error):
            return fail(f"out of memory: {_first_line(error)}; {_SMALLER}", 1)
        if isinstance(error, OSError) and error.errno in _IO_FAILED:
            return fail(f"{_reason(error)}; make room, or choose another folder", 1)
        if isinstance(error, OSError):
            return fail(_reason(error), 2)
        if isinstance(error, UnsuitableRule):
            words = " or ".join(f"--estimator {word}" for word in error.instead)
            return fail(f"{error} (on the command line: {words})", 2)
        if isinstance(error, ValueError):
            return fail(str(error), 2)
        where = "set EQPROP_DEBUG=1 to see the traceback"
        return fail(f"{type(error).__name__}: {_first_line(error)}; {where}", 1)


_SMALLER = "use smaller layers, a smaller --batch-size or fewer examples"
_IO_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def _check_streams() -> None:
    """Discard output to a closed stream; print ? for a letter it cannot show."""
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for library in ("absl", "matplotlib"):  # their errors reach us as exceptions
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _reason(error: OSError) -> str:
    """Return our own message, or the file and the system's message."""
    if error.strerror is None:
        return str(error)
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{error.strerror}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(".")


def _help() -> str:
    lines = [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: eqprop COMMAND [options]",
            "",
            "Learning in systems that settle to a fixed point.",
            "",
            *lines,
            "",
            "eqprop COMMAND --help shows the options of a command.",
            "Start with: eqprop train",
        ]
    )
