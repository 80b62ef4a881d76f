"""Options of `train` and `search`: platform, devices, processes that train together."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import Literal

import jax

from ..training import _processes
from ..training import Observer
from ._platform import Computing
from ._progress import Progress

LAUNCHERS = (("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE",) * 2)
FORCED = "xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Machines(Computing):
    """Devices and processes that share each batch; the result stays the same."""

    devices: int | None = None
    """devices that share each batch (default: 1; with several processes, all devices
    of each)"""
    coordinator: str | None = None
    """address of process 0, HOST:PORT, the same for all processes; to train on several
    machines without a launcher"""
    processes: int | None = None
    """number of processes; start each yourself with the same options"""
    process_id: int | None = None
    """number of this process, 0 to processes − 1; process 0 writes and prints"""
    cluster: Literal["auto", "slurm", "ompi", "mpi4py"] | None = None
    """launcher that started the processes; auto: SLURM, Open MPI or Kubernetes"""
    patience: float = _processes.PATIENCE
    """seconds to wait for a process that does not answer"""

    def __post_init__(self):
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"--devices is {self.devices}; it must be ≥ 1")
        if not 1 <= self.patience < float("inf"):
            raise ValueError(f"--patience is {self.patience}; it must be ≥ 1 second")
        named = (self.coordinator, self.processes, self.process_id)
        if self.cluster is None and None in named and set(named) != {None}:
            raise ValueError(
                "--coordinator HOST:PORT, --processes N and --process-id I belong "
                "together; give all three, or --cluster auto under a launcher"
            )
        if self.coordinator is not None and not self.coordinator.rpartition(":")[0]:
            raise ValueError(
                f"--coordinator is {self.coordinator!r}; it must be HOST:PORT, e.g. "
                "localhost:1234"
            )
        if None not in (self.processes, self.process_id) and not (
            0 <= self.process_id < self.processes  # type: ignore[operator]
        ):
            raise ValueError(
                f"--process-id is {self.process_id}; with --processes "
                f"{self.processes} it must be from 0 to {self.processes - 1}"  # type: ignore[operator]
            )

    @contextlib.contextmanager
    def joined(self) -> Iterator[bool]:
        """Start the devices and processes; yield whether this process shows results."""
        if self.devices is not None and FORCED not in os.environ.get("XLA_FLAGS", ""):
            with contextlib.suppress(RuntimeError):  # too late: JAX has started
                jax.config.update("jax_num_cpu_devices", self.devices)
        if self.cluster is None and self.coordinator is None:
            _note_launcher()
            yield True
            return
        _keep_results_alone()
        cluster = None if self.cluster == "auto" else self.cluster
        _processes.start(
            self.coordinator, self.processes, self.process_id, cluster, self.patience
        )
        try:
            yield _processes.is_first()
        finally:
            _processes.leave()


def watcher(
    first: bool, lines: list[str] | None = None
) -> contextlib.AbstractContextManager[Observer]:
    """Return a progress bar for the first process, an idle observer for the others."""
    return Progress(lines) if first else contextlib.nullcontext(Observer())


def _keep_results_alone() -> None:
    """Reserve standard output for Python; libraries print to standard error instead."""
    sys.stdout.flush()
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(results, "w", encoding="utf-8", errors="replace")


def _note_launcher() -> None:
    """Tell users of a launcher that their processes do not train together."""
    for count, number in LAUNCHERS:
        if os.environ.get(count, "1") not in ("", "1") and number in os.environ:
            print(
                f"note: {os.environ[count]} tasks were started, and each trains a run "
                "of its own; with --cluster auto they train one run together",
                file=sys.stderr,
            )
