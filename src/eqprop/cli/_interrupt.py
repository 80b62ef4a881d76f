"""Re-raise a Ctrl-C that a library swallowed: JAX loses exceptions of its callbacks.

SIGTERM counts as Ctrl-C: batch systems send it before they end a job.
"""

import _thread
import os
import signal
import sys
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.3  # seconds until a Ctrl-C that had no effect is raised again


class Heard:
    """Raise KeyboardInterrupt on Ctrl-C, again and again, until it ends the block.

    While `loading`, Ctrl-C ends the program at once: an exception in the middle of an
    import would print a traceback or be lost.
    """

    def __init__(self, loading: bool = False) -> None:
        self.loading = loading

    def __enter__(self) -> "Heard":
        self._timer: threading.Timer | None = None
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = [signal.signal(s, self._raise) for s in SIGNALS]
            self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def __exit__(self, *_) -> None:
        if self._main:
            for number, previous in zip(SIGNALS, self._previous, strict=True):
                signal.signal(number, previous)
            sys.unraisablehook = self._hook
        if self._timer is not None:
            self._timer.cancel()

    def _raise(self, *_) -> None:
        if self.loading:
            os.write(2, b"interrupted: stopped before anything was done\n")
            os._exit(130)
        self._timer = threading.Timer(AGAIN, _thread.interrupt_main)
        self._timer.daemon = True
        self._timer.start()
        raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        """Report an exception that Python ignored, unless `_raise` will repeat it."""
        if unraisable.exc_type is not KeyboardInterrupt:
            self._hook(unraisable)
