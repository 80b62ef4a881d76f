"""Time to the same result: a gradient within 5° of the exact one, and 2.0 % on MNIST.

    pip install -e . torch
    python benchmarks/same_result.py > benchmarks/same_result.md

Gradient: from a cold start, with two sets of weights: as drawn (paper D's initializer)
and after an epoch of training.  Every contender states its angle to implicit
differentiation in float64, over all parameters, and its milliseconds.  The papers' own
T and K come first, then the fewest of their multiples within 5°; of eqprop, ever more
sweeps until they are within 5°.  Peers are the same arithmetic compiled by eqprop and,
if PyTorch is installed, the two styles of peers.py, whose time holds the update.

Training: the recipe mnist-fast to its first epoch at 2.0 % test error, against paper
D's one-layer network, at the paper's T, K, β, rates and batch.  PyTorch's training is
not run: its seconds are its measured time of a step, times the steps that the same
arithmetic, compiled by eqprop, takes to 2.0 %.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eqprop as ep
from contenders import contenders, Paper, peers, Problem, torch, WITHIN
from eqprop.data import load
from eqprop.training import evaluate, make_trainer
from page import heading

BATCH, GOAL = 20, 0.02
Examples = tuple[jax.Array, jax.Array]

PAPERS = {
    (784, 512, 10): (Paper("D", 30, 10, 0.1), Paper("A", 20, 4, 1.0, 0.5)),
    (784, 512, 512, 10): (Paper("D", 100, 20, 0.5), Paper("A", 100, 6, 2.0, 0.5)),
}
QUICK = {(64, 16, 10): (Paper("D", 30, 10, 0.1),)}


def examples(name: str) -> tuple[Examples, Examples]:
    """Training and test examples."""
    data = load(name)
    assert data.test is not None
    train, test = (
        (jnp.asarray(split.x), jnp.asarray(data.targets(split.y)))
        for split in (data.train, data.test)
    )
    return train, test


def timed(runs: list[Callable], rounds: int, least: float) -> list[list[float]]:
    """Milliseconds of each program in every round, in turns."""
    times = []
    for run in runs:
        jax.block_until_ready(run())
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(max(1, round(least / (time.perf_counter() - began))))
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, count, ms in zip(runs, times, found, strict=True):
            began = time.perf_counter()
            for _ in range(count):
                last = run()
            jax.block_until_ready(last)
            ms.append(1e3 * (time.perf_counter() - began) / count)
    return found


def gradients(nets: dict, data: Examples, options: argparse.Namespace) -> None:
    """Print the table of times to a gradient."""
    print("| net | weights | who | setting | angle, ° | ms | peer / eqprop |")
    print("|---|---|---|---|---|---|---|")
    for sizes, papers in nets.items():
        net = ep.HopfieldEnergy(
            sizes,
            key=jax.random.key(0),
            output=ep.identity,
            initializer=ep.fan_in_uniform,
        )
        trained = train(net, data, ep.recipe("mnist-fast").config, 1).state.system
        for weights, system in (("as drawn", net), ("after an epoch", trained)):
            problem = Problem(system, data[0][-BATCH:], data[1][-BATCH:])
            found = contenders(problem, papers)
            ms = timed([c.run for c in found], options.rounds, options.least)
            middle = [statistics.median(values) for values in ms]
            pairs = zip(found, middle, strict=True)
            fast = [m for c, m in pairs if c.who == "eqprop" and c.within]
            best = min(fast, default=float("nan"))
            name = "-".join(map(str, sizes))
            for c, values, m in zip(found, ms, middle, strict=True):
                ratio = "" if c.who == "eqprop" else f"{m / best:.1f}"
                print(
                    f"| {name} | {weights} | {c.who} | {c.setting} | {c.angle:.1f} | "
                    f"{m:.3g} ({min(values):.3g}–{max(values):.3g}) | {ratio} |",
                    flush=True,
                )


class Training:
    """Epochs of a trainer, their seconds and test errors; compiling is not timed."""

    def __init__(self, system: Any, data: Examples, config: ep.Config):
        self.trainer = make_trainer(
            (system, ep.SquaredError()),
            {"train": data},
            config.settings,
            estimator=config.estimator,
            optimizer=config.optimizer,
        )
        self.state = self.trainer.init(system, ep.SquaredError())
        self.steps, self.seconds = 0, 0.0

    def epoch(self) -> None:
        rest = self.trainer.epoch(self.state)
        if not self.steps:
            self.state = next(rest)
        began = time.perf_counter()
        for state in rest:
            self.state = state
        self.seconds += time.perf_counter() - began
        if self.state.failed:
            raise SystemExit("a step failed: the numbers are not finite")
        self.steps += self.trainer.steps
        self.state = self.trainer.next_epoch(self.state)

    def error(self, test: Examples) -> float:
        state, free = self.state, self.trainer.estimator.free
        return evaluate(state.model, free, test)[0]["error"]


def train(system: Any, data: Examples, config: ep.Config, epochs: int) -> Training:
    found = Training(system, data, config)
    for _ in range(epochs):
        found.epoch()
    return found


def until(goal: float, training: Training, test: Examples, epochs: int) -> str:
    """Train to the goal; what was reached, in words."""
    for epoch in range(1, epochs + 1):
        training.epoch()
        if (error := training.error(test)) <= goal:
            return f"{100 * error:.2f} % in epoch {epoch}"
    return f"only {100 * error:.2f} % in epoch {epochs}"


def goal(
    data: Examples, test: Examples, options: argparse.Namespace, paper: Paper
) -> None:
    """Print the table of times to a test error."""
    width, outputs = data[0].shape[1], data[1].shape[1]
    config = ep.recipe("digits" if options.quick else "mnist-fast").config
    system, _ = config.model.build((width,), outputs, config.keys()[0])
    ours = Training(system, data, config)
    reached = until(options.goal, ours, test, config.epochs)
    slow = dataclasses.replace(
        config,
        estimator=ep.EquilibriumPropagation(
            free=ep.Euler(1.0, paper.free),
            nudged=ep.Euler(1.0, paper.nudged),
            beta=paper.beta,
            nudging="one-sided",
        ),
        optimizer=ep.Optimizer("sgd", (0.08, 0.04)),
        batch_size=BATCH,
        epochs=options.epochs,
    )
    sizes = (width, 512, outputs)
    peer = ep.PrototypicalNetwork(
        sizes,
        key=jax.random.key(0),
        activation=ep.shifted_sigmoid,
        initializer=ep.fan_in_uniform,
    )
    theirs = Training(peer, data, slow)
    found = until(options.goal, theirs, test, options.epochs)
    rows = [
        ("eqprop, " + ("digits" if options.quick else "mnist-fast"), reached, ours),
        (f"paper {paper.name}, compiled: {paper}", found, theirs),
    ]
    print(f"\n| who | {100 * options.goal:g} % | steps | ms a step | s | / eqprop |")
    print("|---|---|---|---|---|---|")
    for who, what, run in rows:
        ms = 1e3 * run.seconds / run.steps
        ratio = run.seconds / ours.seconds
        print(
            f"| {who} | {what} | {run.steps} | {ms:.3g} | {run.seconds:.1f} | "
            f"{ratio:.1f} |",
            flush=True,
        )
    if torch is None:
        return
    styles = {"autograd": peers.Autograd, "by hand": peers.ByHand}
    batch = [np.array(part[:BATCH]) for part in data]
    runs = []
    for kind in styles.values():
        step = kind(sizes, BATCH, *batch)
        step.rho, step.beta = lambda u: torch.sigmoid(4 * u - 2), paper.beta
        runs.append(lambda step=step: step.step(paper.free, paper.nudged))
    measured = timed(runs, options.rounds, options.least)
    for style, values in zip(styles, measured, strict=True):
        seconds = statistics.median(values) / 1e3 * theirs.steps
        print(
            f"| paper {paper.name}, PyTorch {style} | by its ms a step | "
            f"{theirs.steps} | {statistics.median(values):.3g} "
            f"({min(values):.3g}–{max(values):.3g}) | {seconds:.0f} | "
            f"{seconds / ours.seconds:.1f} |"
        )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    both = ("gradient", "training")
    parser.add_argument("--only", choices=both, help="one of the two tables")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--least", type=float, default=0.3, help="seconds of a round")
    parser.add_argument("--epochs", type=int, default=30, help="of the peer, at most")
    parser.add_argument("--quick", action="store_true", help="a tiny net on digits")
    options = parser.parse_args(argv)
    for name in ("rounds", "epochs"):
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    options.goal = 0.1 if options.quick else GOAL
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    nets = QUICK if options.quick else PAPERS
    data, test = examples("digits" if options.quick else "mnist")
    versions = () if torch is None else (f"torch {torch.__version__}",)
    print(heading("Time to the same result", __file__, *versions))
    if torch is None:
        print("PyTorch is not installed: its styles are left out.\n")
    if options.only != "training":
        print(
            f"Time to a gradient within {WITHIN:g}° of the exact one from a cold "
            f"start, batch {BATCH}, float32: medians and, in brackets,\nranges of "
            f"{options.rounds} rounds, in turns. Last column: over eqprop's fastest "
            f"within {WITHIN:g}°.\n"
        )
        gradients(nets, data, options)
    if options.only != "gradient":
        goal(data, test, options, next(iter(nets.values()))[0])


if __name__ == "__main__":
    main()
