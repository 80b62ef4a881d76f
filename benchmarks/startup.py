"""Start-up: seconds until `eqprop train` shows its first progress, cold and warm.

    python benchmarks/startup.py [RECIPE ...]

Each run is a program of its own on a pseudo-terminal, started as a user starts it and
stopped at the first line of its progress bar that shows a trained step.  *Cold* begins
with an empty compilation cache, *warm* with the one that the cold run has left.  Python
keeps the modules' bytecode, as in an installed package, whatever this shell has set.
"""

import argparse
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

from page import heading

RECIPES = (
    *("digits", "mnist-fast", "mnist-1h", "mnist-3h", "digits-bptt"),
    *("digits-convolutional", "digits-convolutional-prototypical"),
)
TARGET = {"warm": 5.0, "cold": 10.0, "cold, convolutional": 25.0}
IMPORT = 1.5
PATIENCE = 300.0
SHOWN = re.compile(rb"ex/s")
HERE = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def seconds_to_import(module: str = "eqprop") -> float:
    """Wall-clock of a program that imports a module, the best of five."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        command = [sys.executable, "-c", f"import {module}"]
        subprocess.run(command, check=True, env=HERE)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def seconds_to_progress(recipe: str, cache: str) -> float:
    """Wall-clock from the start of the program to its first trained step."""
    command = [sys.executable, "-m", "eqprop.cli", "train", recipe]
    environment = HERE | {"JAX_COMPILATION_CACHE_DIR": cache, "TERM": "xterm"}
    ours, theirs = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        running = subprocess.Popen(
            [*command, "--run", f"{folder}/run"],
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            env=environment,
        )
        os.close(theirs)
        try:
            return _until_shown(ours, began, recipe)
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
            os.close(ours)


def _until_shown(terminal: int, began: float, recipe: str) -> float:
    seen = b""
    while time.perf_counter() - began < PATIENCE:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            seen += os.read(terminal, 65536)
        except OSError:
            break  # the program has ended
        if SHOWN.search(seen):
            return time.perf_counter() - began
    end = seen[-400:].decode(errors="replace")
    raise SystemExit(f"{recipe} showed no progress:\n{end}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    arguments = parser.parse_args()
    print(heading("Start-up", __file__))
    jaxs, ours = (seconds_to_import(name) for name in ("jax", "eqprop"))
    print(
        f"import eqprop: {ours:.2f} s (at most {IMPORT} s), of which jax {jaxs:.2f} s\n"
    )
    print("| recipe | cold, s | warm, s | at most |\n|---|---|---|---|")
    for recipe in arguments.recipes:
        kind = "cold, convolutional" if "convolutional" in recipe else "cold"
        with tempfile.TemporaryDirectory() as cache:
            cold = seconds_to_progress(recipe, cache)
            warm = min(seconds_to_progress(recipe, cache) for _ in range(3))
        limits = f"{TARGET[kind]:g} / {TARGET['warm']:g}"
        print(f"| {recipe} | {cold:.1f} | {warm:.1f} | {limits} |", flush=True)


if __name__ == "__main__":
    main()
