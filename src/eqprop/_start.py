"""Ctrl-C while the command line loads its libraries, which takes a second or two.

Imported first of all: there is no main() yet that could answer.
"""

import os
import signal
import sys
import threading
from pathlib import Path


def _quiet() -> None:
    """Have the `eqprop` command, and no other program, stop without a traceback."""
    words = sys.orig_argv
    module = "-m" in words and words[words.index("-m") + 1 :][:1]
    command = Path(sys.argv[0]).stem == "eqprop" or module == ["eqprop.cli"]
    if command and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


def _stop(*_) -> None:
    os.write(2, b"interrupted: stopped before anything was done\n")
    os._exit(130)


_quiet()
