"""Several processes that train together: how they start, agree and notice a loss.

JAX does all transport.  Arrays go through its collectives, and the messages of this
module go through the coordination service of `jax.distributed`, whose barriers know
which process is missing.  With a single process every function here does nothing.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

T = TypeVar("T")
PATIENCE = 300.0
"""seconds to wait for the answer of a process"""
LEAVE_SECONDS = 5.0
HEARTBEAT_SECONDS = 60


class WorkerLost(RuntimeError):
    """Another process of the run died, hangs, or stopped with an error."""


class _Meetings:
    """How many messages this process has exchanged, and how long it waits for one."""

    number = 0
    patience = PATIENCE
    broken = False


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    cluster: str | None = None,
    patience: float = PATIENCE,
) -> None:
    """Join the processes of a run; JAX detects the arguments that are `None`.

    Call it before anything else uses JAX.
    """
    _Meetings.patience = patience
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method=cluster,
            initialization_timeout=max(int(patience), 1),
            heartbeat_timeout_seconds=max(int(min(patience, HEARTBEAT_SECONDS)), 1),
            shutdown_timeout_seconds=int(LEAVE_SECONDS),
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(_not_joined(coordinator, processes, error)) from error


def _not_joined(coordinator: str | None, processes: int | None, error: Any) -> str:
    reason = _first_line(error).rstrip(".")
    if coordinator is None:
        return (
            f"no cluster was found ({reason}); start the run with srun or mpirun, or "
            "give --coordinator HOST:PORT --processes N --process-id I"
        )
    return (
        f"the {processes or ''} processes did not meet at {coordinator} ({reason}); "
        "start all of them with the same --coordinator and --processes, process 0 on "
        "the coordinator's host, and choose a free port"
    )


def is_first() -> bool:
    """Return whether this process writes the files and prints."""
    return jax.process_index() == 0


def exchange(word: Any = None) -> list[Any]:
    """Return the words of all processes, in their order; every process must call it.

    **Raises:** `WorkerLost` that names the process that stopped or does not answer.
    """
    if jax.process_count() == 1:
        return [word]
    if _Meetings.broken:
        raise WorkerLost("this run has lost a process; restart it with --resume")
    words = _meet({"word": word})
    for process, said in enumerate(words):
        if "stopped" in said:
            _Meetings.broken = True
            raise WorkerLost(f"process {process} has stopped: {said['stopped']}")
    return [said["word"] for said in words]


def of_first(value: T) -> T:
    """Return the value of the first process, in all processes."""
    return exchange(value)[0]


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return any(exchange(bool(flag)))


def on_first(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in the first process only; return its result in all processes.

    If it fails, all processes stop.
    """
    with together():
        return of_first(function(*arguments) if is_first() else None)  # type: ignore


@contextlib.contextmanager
def entered_by_first(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """Enter a context in the first process only; the others wait for that."""
    with contextlib.ExitStack() as held:
        if is_first():
            held.enter_context(context)
        exchange()
        yield


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Run a block in all processes; if one leaves it with an error, all stop.

    If a collective breaks, every process gets an error; then `WorkerLost` names the
    process that does not answer.
    """
    try:
        yield
    except (WorkerLost, KeyboardInterrupt):
        raise
    except BaseException as error:
        if jax.process_count() == 1 or _Meetings.broken:
            raise
        _Meetings.broken = True
        try:
            _meet({"stopped": _first_line(error) or type(error).__name__})
        except WorkerLost as lost:
            if _is_of_collectives(error):
                raise lost from error
        raise


def _is_of_collectives(error: BaseException) -> bool:
    """Return whether a collective failed; JAX says so in the message only."""
    words = ("Gloo", "NCCL", "RCCL", "UNAVAILABLE", "collective", "peer")
    return any(word in str(error) for word in words)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def leave() -> None:
    """Wait for the others at the end, so that none reports this process as lost."""
    if not jax.distributed.is_initialized():
        return
    with contextlib.suppress(Exception):
        _client().wait_at_barrier("eqprop/end", int(1000 * LEAVE_SECONDS))
        if not _Meetings.broken:
            jax.distributed.shutdown()


def _client() -> Any:
    # JAX's public interface does not name missing processes; only this client does.
    from jax._src import distributed

    return distributed.global_state.client


def _meet(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Send a message to all processes; return the messages of all, in their order."""
    client, room = _client(), f"eqprop/{_Meetings.number}"
    _Meetings.number += 1
    client.key_value_set(f"{room}/{jax.process_index()}", json.dumps(said))
    try:
        client.wait_at_barrier(room, int(1000 * _Meetings.patience))
    except jax.errors.JaxRuntimeError as error:
        _Meetings.broken = True
        raise WorkerLost(_missing(error)) from error
    heard = dict(client.key_value_dir_get(room))
    if is_first() and _Meetings.number > 2:
        client.key_value_delete(f"eqprop/{_Meetings.number - 3}")
    return [json.loads(heard[f"{room}/{i}"]) for i in range(jax.process_count())]


def _missing(error: BaseException) -> str:
    """Return a message that names the processes missing at a barrier of JAX."""
    message = str(error)
    found = re.search(r"[Tt]ask (\d+) heartbeat timeout", message)
    names = found.groups() if found else ()
    if found := re.search(r"timed out task names:\s*((?:\d+[\s,]*)+)", message):
        names = re.findall(r"\d+", found.group(1))
    others = f"{jax.process_count()} processes of this run"
    if not names:
        return f"one of the {others} has died: {_first_line(error)}"
    which = f"process{'es' * (len(names) > 1)} {', '.join(names)}"
    return (
        f"{which} of the {others} did not answer: dead, hanging, or slower than the "
        f"others by {_Meetings.patience:g} s (--patience)"
    )
