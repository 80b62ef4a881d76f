"""Ctrl-C that is heard: JAX runs Python in callbacks, and loses what they raise."""

import _thread
import signal
import sys
import threading
from typing import Any

AGAIN = 0.3  # seconds until a Ctrl-C that had no effect is repeated


class Heard:
    """Within this block Ctrl-C raises KeyboardInterrupt until that ends the block."""

    def __enter__(self) -> "Heard":
        self._timer: threading.Timer | None = None
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = signal.signal(signal.SIGINT, self._raise)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def __exit__(self, *_) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._previous)
            sys.unraisablehook = self._hook
        if self._timer is not None:
            self._timer.cancel()

    def _raise(self, *_) -> None:
        self._timer = threading.Timer(AGAIN, _thread.interrupt_main)
        self._timer.daemon = True
        self._timer.start()
        raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        """An exception in a callback; ours comes again, and needs no report."""
        if unraisable.exc_type is not KeyboardInterrupt:
            self._hook(unraisable)
