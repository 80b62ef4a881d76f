"""What every page of measurements begins with: title, date, machine, command."""

import datetime
import os
import platform
import sys
from pathlib import Path

import jax
import numpy as np


def heading(title: str, script: str, *versions: str) -> str:
    """Markdown; the machine in general words, `versions` after those of jax and NumPy.

    `script` is the file that was run; its options are those of this call.
    """
    command = " ".join(["python benchmarks/" + Path(script).name, *sys.argv[1:]])
    device = jax.devices()[0]
    machine = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    if device.platform != "cpu":
        machine = f"{device.device_kind}, {machine}"
    known = (f"jax {jax.__version__}", f"NumPy {np.__version__}", *versions)
    return (
        f"# {title}\n\n{datetime.date.today()}, {machine}; {', '.join(known)}.\n"
        f"Command: `{command}`.\n"
    )
