"""`eqprop bench`: measure what a recipe or a user's model costs on this machine."""

import dataclasses
from typing import Annotated, Any

import tyro

from ..bench import bench, bench_problem, ROUNDS
from ..estimators import AbstractEstimator
from ..runs import environment
from ..training import Config, Model, Optimizer
from ._console import (
    Flag,
    parse,
    print_json,
    prints_aside,
    table,
    working,
)
from ._platform import Computing, start
from ._train import planned, Rule

PARTS = {
    "estimate": "gradient, all phases",
    "free": "free phase",
    "nudged": "nudged phase",
    "gradient": "gradient from the phases",
    "rule": "gradient (everything after the free phase)",
    "update": "update of the parameters",
    "rest": "rest: examples, monitoring, the loop",
}


@dataclasses.dataclass(frozen=True)
class BenchOptions(Computing):
    """Measure what a recipe or your model (--system) costs on this machine.

    The examples of named data sets are random: nothing is downloaded.
    """

    model: Model
    """the network"""
    estimator: AbstractEstimator
    """the learning rule"""
    optimizer: Optimizer
    """the optax optimizer that follows its gradients"""
    batch_size: int
    """examples per update"""
    persistent: bool
    """start each free phase from the example's last free equilibrium"""
    system: str | None = None
    """your model: FILE.py:NAME, a function that returns (system, cost, x, y)"""
    rule: Annotated[Rule | None, tyro.conf.arg(name="estimator")] = None  # type: ignore[valid-type]
    """learning rule (default: the recipe's); keeps the recipe's phases if it has any"""
    rounds: int = ROUNDS
    """measurements of each number; more of them narrow the range"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


def main(argv: list[str]) -> int:
    """`eqprop bench RECIPE`."""
    name, config, model, rest = planned(argv)
    shared = {field: getattr(config, field) for field in _SHARED}
    default = BenchOptions(**shared, system=model)
    options = parse(BenchOptions, "bench [RECIPE]", rest, default)
    start(options)
    shared = {field: getattr(options, field) for field in _SHARED}
    config = dataclasses.replace(config, **shared)
    name = name if options.system is None else options.system
    try:
        with prints_aside(), working(f"measuring {name}"):
            found = _measured(config, options.rounds)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped before all was measured") from None
    if options.json:
        print_json({"target": name, **found, "environment": environment()})
    else:
        _print(name, found)
    return 0


_SHARED = ("model", "estimator", "optimizer", "batch_size", "persistent")


def _measured(config: Config, rounds: int) -> dict[str, Any]:
    return bench(
        *bench_problem(config),
        estimator=config.estimator,
        optimizer=config.optimizer,
        persistent=config.persistent,
        rounds=rounds,
    )


def _print(name: str, found: dict[str, Any]) -> None:
    relaxation, training = found["relaxation"], found["training"]
    here = environment()
    print(
        f"{name}: {found['parameters']:,} parameters, batch of {found['batch_size']}, "
        f"{found['dtype']}, {here['backend']} ({here['processor']}, "
        f"{here['cores']} cores), jax {here['packages']['jax']}"
    )
    rows = [
        ("relaxation steps/s", *_numbers(relaxation["steps_per_second"])),
        ("training steps/s", *_numbers(training["steps_per_second"])),
        ("training examples/s", *_numbers(training["examples_per_second"])),
        ("a relaxation step, µs", *_numbers(relaxation["step_seconds"], 1e6)),
        ("  of one example, µs", *_numbers(relaxation["step_seconds_of_one"], 1e6)),
        ("  beside the steps, µs", *_numbers(relaxation["call_seconds"], 1e6)),
    ]
    rates = found["matrix_product"]
    best = rates["flops_per_second"][rates["best"]]
    rows.append((f"matrix product ({rates['best']}), GFLOP/s", *_numbers(best, 1e-9)))
    if relaxation["flops_per_step"] is not None:
        arithmetic = ("arithmetic_seconds", "flops_per_second", "fraction_of_peak")
        time, rate, fraction = (relaxation[key] for key in arithmetic)
        rows.insert(4, ("  its arithmetic at that rate, µs", *_numbers(time, 1e6)))
        rows.append(("a relaxation step, GFLOP/s", *_numbers(rate, 1e-9)))
        rows.append(("  of the matrix product's, %", *_numbers(fraction, 100)))
    table("", ("measured", "median", "range"), rows)
    rows = [
        (PARTS[part], *_numbers(value, 1e3), f"{100 * value['share']:.0f} %")
        for part, value in found["profile"].items()
    ]
    rows.append(("training step", *_numbers(training["step_seconds"], 1e3), "100 %"))
    table("", ("part of a training step", "ms", "range", "share"), rows)
    memory, peak = found["memory"], found["memory"]["peak"]
    print(
        f"memory: {memory['gradient_temporaries'] / 2**20:.1f} MiB of temporaries in a "
        f"gradient; at most {'–' if peak is None else f'{peak / 2**20:.0f}'} MiB held "
        f"by the {'process' if here['backend'] == 'cpu' else 'device'}"
    )
    print(_note(relaxation))


def _note(relaxation: dict[str, Any]) -> str:
    lines = [
        "a relaxation step: a long relaxation minus a short one, divided by the steps",
        "of one example: the same for a batch of one, the least that a step costs",
        "beside the steps: the rest of a relaxation: input drive, start, residual",
    ]
    if relaxation["flops_per_step"] is None:
        lines.append(
            "no arithmetic: XLA cannot count the operations of "
            f"{relaxation['relaxation']}"
        )
    return "\n".join(lines)


def _numbers(spread: dict[str, float], scale: float = 1.0) -> tuple[str, str]:
    """Return median and range, three digits each."""
    median, least, most = (
        _three(scale * spread[name]) for name in ("median", "least", "most")
    )
    return median, f"{least} – {most}"


def _three(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
