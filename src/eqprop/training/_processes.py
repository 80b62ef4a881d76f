"""Several processes that train together: how they start, agree and notice a loss.

All transport is JAX's: arrays go through its collectives, and the few words below
through the coordination service of `jax.distributed`, whose barriers know who is
missing.  In a program that runs alone every function here is the identity.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

T = TypeVar("T")
PATIENCE = 300.0
"""seconds until a process that does not answer is given up"""
LEAVE_SECONDS = 5.0
HEARTBEAT_SECONDS = 60


class WorkerLost(RuntimeError):
    """Another process of the run has died, hangs or has stopped with an error."""


class _Meetings:
    """How often this process has met the others, and how long it waits."""

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
    """Join the processes of a run; what is `None` is detected as JAX does.

    To be called before anything else uses JAX.
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
    reason = next(iter(str(error).splitlines()), "").rstrip(".")
    if coordinator is None:
        return (
            f"no cluster was found ({reason}); start it by srun or mpirun, or give "
            "--coordinator HOST:PORT --processes N --process-id I"
        )
    return (
        f"the {processes or ''} processes did not meet at {coordinator} ({reason}); "
        "start all of them with the same --coordinator and --processes, and process 0 "
        "on that host, on a free port"
    )


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def exchange(word: Any = None) -> list[Any]:
    """What every process says here, in their order; all must call it.

    **Raises:** `WorkerLost`, naming the process that has stopped or does not answer.
    """
    if jax.process_count() == 1:
        return [word]
    if _Meetings.broken:
        raise WorkerLost("the processes of this run have parted already")
    words = _meet({"word": word})
    for process, said in enumerate(words):
        if "stopped" in said:
            _Meetings.broken = True
            raise WorkerLost(f"process {process} has stopped: {said['stopped']}")
    return [said["word"] for said in words]


def of_first(value: T) -> T:
    """The first process's value, which all others take over."""
    return exchange(value)[0]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return any(exchange(bool(flag)))


def on_first(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns in the first process, which alone runs it.

    Where it fails all processes stop.
    """
    with together():
        return of_first(function(*arguments) if is_first() else None)  # type: ignore


@contextlib.contextmanager
def entered_by_first(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """A context of the first process only; the others wait until it is entered."""
    with contextlib.ExitStack() as held:
        if is_first():
            held.enter_context(context)
        exchange()
        yield


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that all processes run: where one leaves it by an error, all do.

    An error that all others meet too (a collective that broke) is looked into: who
    does not answer is named.
    """
    try:
        yield
    except (WorkerLost, KeyboardInterrupt):
        raise
    except BaseException as error:
        if jax.process_count() == 1 or _Meetings.broken:
            raise
        _Meetings.broken = True
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        try:
            _meet({"stopped": reason})
        except WorkerLost as lost:
            if _is_of_collectives(error):
                raise lost from error
        raise


def _is_of_collectives(error: BaseException) -> bool:
    """Whether this is what the others' silence does to a program of JAX."""
    words = ("Gloo", "NCCL", "RCCL", "UNAVAILABLE", "collective", "peer")
    return any(word in str(error) for word in words)


def leave() -> None:
    """Wait for the others at the end, so that none takes this one for dead."""
    if not jax.distributed.is_initialized():
        return
    with contextlib.suppress(Exception):
        _client().wait_at_barrier("eqprop/end", int(1000 * LEAVE_SECONDS))
        if not _Meetings.broken:
            jax.distributed.shutdown()


def _client() -> Any:
    # The one place that needs JAX's own module: nothing public names who is missing.
    from jax._src import distributed

    return distributed.global_state.client


def _meet(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Say something to all and hear what they say."""
    client, room = _client(), f"eqprop/{_Meetings.number}"
    _Meetings.number += 1
    client.key_value_set(f"{room}/{jax.process_index()}", json.dumps(said))
    try:
        client.wait_at_barrier(room, int(1000 * _Meetings.patience))
    except jax.errors.JaxRuntimeError as error:
        _Meetings.broken = True
        raise WorkerLost(_missing(str(error))) from error
    heard = dict(client.key_value_dir_get(room))
    if is_first() and _Meetings.number > 2:
        client.key_value_delete(f"eqprop/{_Meetings.number - 3}")
    return [json.loads(heard[f"{room}/{i}"]) for i in range(jax.process_count())]


def _missing(message: str) -> str:
    """Who did not answer, from what JAX's coordination service says of a barrier."""
    import re

    found = re.search(r"[Tt]ask (\d+) heartbeat timeout", message)
    names = found.groups() if found else ()
    if found := re.search(r"timed out task names:\s*((?:\d+[\s,]*)+)", message):
        names = re.findall(r"\d+", found.group(1))
    others = f"{jax.process_count()} processes of this run"
    if not names:
        reason = next(iter(message.splitlines()), "")
        return f"one of the {others} has died: {reason}"
    which = f"process{'es' * (len(names) > 1)} {', '.join(names)}"
    return (
        f"{which} of the {others} did not answer: dead, hanging, or slower than the "
        f"others by {_Meetings.patience:g} s (--patience)"
    )
