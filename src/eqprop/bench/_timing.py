"""Time programs in rounds, each program once per round.

A disturbance of the machine then affects all programs alike, and the rate of a program
is compared with that of a matrix product in the same round.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..relaxations import AbstractRelaxation, Dynamics, initial_state, relax
from ..systems import AbstractSystem

REPEATS = 10_000
"""largest number of repetitions of a program in a round"""
SHORT, PROBE, MORE = 2, 12, (4, 2000)
"""steps of a short relaxation, of a trial, and the extra steps of a long one"""
DIFFERENCE = 0.02
"""seconds by which the long relaxation is longer, within the limits of MORE"""
ON_PROCESSOR = (512, 1024, 2048)
ON_ACCELERATOR = (1024, 2048, 4096, 8192)
"""sizes n of the square matrix products that measure a machine"""


Job = Callable[[int], Any]
"""a function that repeats its work the given number of times"""


class Program:
    """Compile function(varied, *fixed), to run it many times in a row.

    The repetitions are one compiled loop, as in training, without the time of Python
    and of the call.  XLA must compute every repetition, and cannot move what depends on
    `varied` out of the loop: before each repetition, 0 times a result of the previous
    one is added to `varied`.  XLA cannot drop that, since 0 times infinity is NaN.
    """

    def __init__(self, function: Callable, varied: Any, *fixed: Any):
        function, (self._varied, self._fixed) = _of_arrays(function, varied, *fixed)
        found = jax.eval_shape(function, self._varied, self._fixed)
        self._start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), found)

        def run(varied, fixed, start, repeats):
            def again(_, result):
                nothing = 0 * jax.tree.leaves(result)[0].ravel()[0]
                moved = jax.tree.map(lambda v: v + nothing.astype(v.dtype), varied)
                return function(moved, fixed)

            return jax.lax.fori_loop(0, repeats, again, start)

        arguments = (self._varied, self._fixed, self._start, 1)
        self._compiled = jax.jit(run).lower(*arguments).compile()

    def __call__(self, repeats: int = 1) -> Any:
        found = self._compiled(self._varied, self._fixed, self._start, repeats)
        return jax.block_until_ready(found)


def compiled(function: Callable, *arguments: Any) -> jax.stages.Compiled:
    """Compile the function, to read its memory and its number of operations."""
    function, arrays = _of_arrays(function, *arguments)
    return jax.jit(function).lower(*arrays).compile()


def _of_arrays(function: Callable, first: Any, *rest: Any) -> tuple[Callable, Any]:
    """Return the function of the arrays in its arguments, and the arrays on device."""
    arrays, static = eqx.partition((first, rest), _is_array)
    arrays = jax.tree.map(jnp.asarray, arrays)

    def of_arrays(first, rest):
        first, rest = eqx.combine((first, rest), static)
        return eqx.filter(function(first, *rest), eqx.is_array)

    return of_arrays, arrays


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range of what the rounds measured."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


def time_rounds(
    jobs: Mapping[str, Job], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return the seconds of one repetition of each job, in every round.

    In a round a job is repeated for about `seconds`, at least once.
    """
    repeats = {}
    for name, job in jobs.items():
        job(1)
        repeats[name] = int(np.clip(seconds / _seconds(job, 1), 1, REPEATS))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(_seconds(job, repeats[name]))
    return times


def _seconds(job: Job, repeats: int) -> float:
    began = time.perf_counter()
    job(repeats)
    return max(time.perf_counter() - began, 1e-9) / repeats


def matrix_products(
    dtype: Any, sizes: Sequence[int] | None = None
) -> tuple[dict[str, Job], dict[str, float]]:
    """Return jobs of square matrix products by NumPy and XLA, and the FLOPs of each.

    If XLA's device is an accelerator, NumPy is left out: it does not run there.
    """
    processor = jax.default_backend() == "cpu"
    jobs: dict[str, Job] = {}
    for n in sizes or (ON_PROCESSOR if processor else ON_ACCELERATOR):
        random = np.random.default_rng(0)
        a, b = random.standard_normal((2, n, n), np.float32).astype(dtype)
        jobs[f"XLA {n}"] = _xla_product(a / np.sqrt(n).astype(dtype), b)
        if processor and np.dtype(dtype).kind == "f":
            jobs[f"NumPy {n}"] = _numpy_product(a, b)
    return jobs, {name: 2.0 * int(name.split()[1]) ** 3 for name in jobs}


def _xla_product(a: np.ndarray, b: np.ndarray) -> Job:
    """Return the job b ← a b, scaled so that b neither grows nor shrinks."""
    run = jax.jit(lambda a, b, n: jax.lax.fori_loop(0, n, lambda _, b: a @ b, b))
    arrays = jnp.asarray(a), jnp.asarray(b)
    program = run.lower(*arrays, 1).compile()
    return lambda repeats: jax.block_until_ready(program(*arrays, repeats))


def _numpy_product(a: np.ndarray, b: np.ndarray) -> Job:
    out = np.empty_like(a)

    def run(repeats):
        for _ in range(repeats):
            np.matmul(a, b, out=out)

    return run


class Relaxing:
    """Short and long free relaxations, of a `batch` and of its first example (`one`).

    Their difference gives the time of a step, without the input's drive and the start.
    """

    def __init__(
        self,
        system: AbstractSystem,
        free: AbstractRelaxation,
        x: Any,
        sizes: Sequence[str] = ("batch", "one"),
    ):
        self.system, self.free = system, free
        state = initial_state(system, x, None)
        self.dtype = jnp.result_type(*jax.tree.leaves(state))
        first = jax.tree.map(lambda leaf: leaf[:1], (x, state))
        self._examples = {"batch": (x, state), "one": first}
        self._more = {size: self._difference(size) for size in sizes}
        self.jobs: dict[str, Job] = {}
        for size, more in self._more.items():
            self.jobs[f"{size}, short"] = self._program(size, SHORT)
            self.jobs[f"{size}, long"] = self._program(size, SHORT + more)
        self.flops = step_flops(system, free, x, state)

    def _program(self, size: str, steps: int) -> Program:
        fixed: dict[str, Any] = {"steps": steps, "tol": None}
        relaxation = dataclasses.replace(self.free, **fixed)

        def run(examples, system, key):
            x, state = examples
            return relax(system, x, relaxation, state=state, key=key).state

        return Program(run, self._examples[size], self.system, jax.random.key(0))

    def _difference(self, size: str) -> int:
        probe = {"probe": self._program(size, PROBE)}
        step = time_rounds(probe, 1, DIFFERENCE)["probe"][0] / PROBE
        return int(np.clip(DIFFERENCE / step, *MORE))

    def step(self, times: Mapping[str, list[float]], size: str) -> list[float]:
        """Return the seconds of a step in every round, of the `batch` or of `one`.

        If noise exceeds the difference, use the mean of the long relaxation, an upper
        bound.
        """
        more = self._more[size]
        pairs = zip(times[f"{size}, short"], times[f"{size}, long"], strict=True)
        return [(b - a) / more if b > a else b / (SHORT + more) for a, b in pairs]

    def call(self, times: Mapping[str, list[float]]) -> list[float]:
        """Return the seconds of a relaxation without its steps, in every round."""
        pairs = zip(times["batch, short"], self.step(times, "batch"), strict=True)
        return [whole - SHORT * step for whole, step in pairs]


def step_flops(
    system: AbstractSystem, relaxation: AbstractRelaxation, x: Any, state: Any
) -> float | None:
    """Return the floating-point operations of one step of a batch, counted by XLA.

    This is the cost that a second step adds to the first: XLA computes what both share,
    such as the input's drive, only once, as in a whole relaxation.  `None` if the
    relaxation is more than its steps (a chain, or one that keeps a history), and if XLA
    cannot see what a step does.
    """
    kind = type(relaxation)
    if (kind.settle, kind.settle_batch) != (
        AbstractRelaxation.settle,
        AbstractRelaxation.settle_batch,
    ):
        return None

    def steps(count):
        def run(examples, system):
            def one(x, s):
                free = Dynamics(system, x, None, None, 0.0)
                for t in range(count):
                    s, _ = relaxation.step_number(t, free, s, None)
                return s

            return jax.vmap(one)(*examples)

        found = compiled(run, (x, state), system).cost_analysis() or {}
        return float(found.get("flops", 0.0))

    return max(steps(2) - steps(1), 0.0) or None


def peak_memory() -> int | None:
    """Return the peak of memory in bytes: the accelerator's, else the process's."""

    held = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in held:
        return int(held["peak_bytes_in_use"])
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
