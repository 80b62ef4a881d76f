"""The command line: one word a job, parsed by tyro from the dataclasses themselves.

Exit status: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
Progress goes to standard error, results to standard output.
"""

import os
import sys
from collections.abc import Callable, Sequence

from . import _commands, _train

COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_train.main, "train a recipe, your data or your model"),
    "eval": (_commands.evaluate, "measure a run's error on its test set or a file"),
    "predict": (_commands.predict, "write a run's predictions for a file"),
    "recipes": (_commands.recipes, "list the recipes with paper and expected result"),
    "info": (_commands.info, "show versions, devices and data found"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    from ..runs import TrainingInterrupted
    from ..training import TrainingDiverged
    from ._console import fail, suggest

    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"eqprop {__version__}")
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        return fail(f"there is no command {command!r}; {suggest(command, COMMANDS)}", 2)
    try:
        return COMMANDS[command][0](rest)
    except TrainingInterrupted as stop:
        return fail(str(stop), 130, "interrupted")
    except KeyboardInterrupt:
        return fail("stopped at once; the last checkpoint is kept", 130, "interrupted")
    except TrainingDiverged as error:
        return fail(str(error), 1)
    except BrokenPipeError:
        return 1
    except (ValueError, OSError) as error:
        if os.environ.get("EQPROP_DEBUG"):
            raise
        return fail(str(error), 2)


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
            "eqprop COMMAND --help shows every option with its default and unit.",
            "Start with: eqprop train",
        ]
    )
