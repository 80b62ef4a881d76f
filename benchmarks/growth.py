"""How time, memory and steps to settle grow, with fitted exponents.

    python benchmarks/growth.py --figure benchmarks/growth.png > benchmarks/growth.md

First one training step (gradient and SGD update) by EP and by BPTT, against steps,
depth, width, batch and parameters; then the steps that a free phase takes to a residual
of 1e-6, against depth, at initialisation and after a short training.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from page import heading

import eqprop as ep
from eqprop.data import load
from eqprop.bench._timing import compiled, Program, Spread, time_rounds

INPUTS, OUTPUTS = 64, 10
RULES: dict[str, Callable[[int], ep.AbstractEstimator]] = {
    "EP": lambda t: ep.EquilibriumPropagation(ep.Euler(0.5, t), ep.Euler(0.5, t), 0.25),
    "BPTT": lambda t: ep.BackpropagationThroughTime(ep.Euler(0.5, t), 0.5, t),
}
OF_STEPS: dict[str, Callable[[int], ep.AbstractEstimator]] = {
    "RBP": lambda t: ep.RecurrentBackpropagation(ep.Euler(0.5, t), 0.5, t),
    "implicit": lambda t: ep.ImplicitDifferentiation(ep.Euler(0.5, t)),
}
"""measured against T alone"""
RESIDUAL = 1e-6
GAINS, SWEEPS, BETA = (3.0, 0.8), (5, 2), 0.05
"""of the networks that settle: with smaller weights or a larger β, deep ones learn
little; gains of the input's weights and of all others, sweeps a layer, β"""
RELAXATIONS: dict[str, Callable[[int], ep.AbstractRelaxation]] = {
    "Euler": lambda steps: ep.Euler(0.5, steps, RESIDUAL),
    "Sweep": lambda steps: ep.Sweep(steps, RESIDUAL),
    "Sweep, ω = 1.7": lambda steps: ep.Sweep(steps, RESIDUAL, omega=1.7),
}
"""of `steps` steps at most: a new relaxation needs a line here"""


@dataclasses.dataclass(frozen=True)
class Size:
    """What a training step is taken of: hidden layers of one width, T = K = steps."""

    steps: int = 30
    depth: int = 2
    width: int = 256
    batch: int = 32


@dataclasses.dataclass(frozen=True)
class Plan:
    """All sizes that are measured."""

    base: Size = Size()
    steps: tuple[int, ...] = (10, 30, 100, 300, 1000)
    depth: tuple[int, ...] = (1, 2, 4, 8, 16)
    width: tuple[int, ...] = (64, 128, 256, 512, 1024)
    batch: tuple[int, ...] = (8, 32, 128, 512)
    rounds: int = 5
    seconds: float = 0.05
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    units: int = 128
    most: int = 20_000
    examples: int = 50
    epochs: int = 15


QUICK = Plan(
    Size(steps=2, depth=1, width=8, batch=4),
    *((2, 40), (1, 2), (8, 16), (4, 8)),
    **{"rounds": 1, "seconds": 1e-3},
    **{"depths": (1, 2), "units": 8, "most": 50, "examples": 5, "epochs": 1},
)


def training_step(rule: ep.AbstractEstimator, size: Size) -> tuple[Callable, Any]:
    """The function of one step, and its arguments: examples first."""
    sizes = (INPUTS, *(size.width,) * size.depth, OUTPUTS)
    system = ep.HopfieldEnergy(sizes, key=jax.random.key(0), activation=ep.tanh)
    x = jax.random.uniform(jax.random.key(1), (size.batch, INPUTS))
    y = jax.nn.one_hot(jnp.arange(size.batch) % OUTPUTS, OUTPUTS)

    def step(examples, system):
        gradient = rule(system, ep.SquaredError(), *examples)
        updates = jax.tree.map(lambda g: -0.01 * g, gradient.grads)
        return eqx.apply_updates(system, updates)

    return step, ((x, y), system)


def temporaries(rule: ep.AbstractEstimator, size: Size) -> int:
    """Bytes that the compiled step reserves besides its arguments and its result."""
    step, arguments = training_step(rule, size)
    return compiled(step, *arguments).memory_analysis().temp_size_in_bytes


def parameters(size: Size) -> int:
    """How many weights and biases."""
    sizes = (INPUTS, *(size.width,) * size.depth, OUTPUTS)
    return sum((below + 1) * above for below, above in itertools.pairwise(sizes))


Curves = dict[str, dict[str, tuple[list[float], list[Spread], list[float]]]]
"""by axis and rule: sizes, seconds of a step, bytes"""


def measure(plan: Plan) -> Curves:
    """Time and memory of every size; parameters grow with the width."""
    curves: Curves = {axis: {} for axis in AXES}
    makers = RULES | OF_STEPS
    wanted = {
        (axis, rule): [
            (rule, dataclasses.replace(plan.base, **{axis: n}))
            for n in getattr(plan, axis)
        ]
        for axis in AXES
        if axis != "parameters"
        for rule in (makers if axis == "steps" else RULES)
    }
    jobs, used = {}, {}
    for rule, size in {key for keys in wanted.values() for key in keys}:
        estimator = makers[rule](size.steps)
        step, arguments = training_step(estimator, size)
        jobs[rule, size] = Program(step, *arguments)
        used[rule, size] = float(temporaries(estimator, size))
    times = time_rounds(jobs, plan.rounds, plan.seconds)
    for (axis, rule), keys in wanted.items():
        spreads = [Spread.of(times[key]) for key in keys]
        memory = [used[key] for key in keys]
        sizes = [float(n) for n in getattr(plan, axis)]
        curves[axis][rule] = (sizes, spreads, memory)
        if axis == "width":
            counts = [float(parameters(size)) for _, size in keys]
            curves["parameters"][rule] = (counts, spreads, memory)
    return curves


def exponent(x: Any, y: Any) -> tuple[float, float, float]:
    """p of y ∝ x^p by least squares of the logarithms; least and most of neighbours."""
    return _slope(np.log(x), np.log(y))


def factor(x: Any, y: Any) -> tuple[float, float, float]:
    """f of y ∝ f^x in the same way."""
    f, least, most = np.exp(_slope(np.asarray(x, float), np.log(y)))
    return float(f), float(least), float(most)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    between = np.diff(y) / np.diff(x)
    return float(np.polyfit(x, y, 1)[0]), float(between.min()), float(between.max())


@functools.cache
def digits() -> Any:
    """The training and test examples of the 8×8 digits, in float64."""
    dataset = load("digits")

    def pair(split):
        return split.x.astype(float), dataset.targets(split.y).astype(float)

    return pair(dataset.train), pair(dataset.test)


def networks(plan: Plan, depth: int) -> dict[str, tuple[Any, float | None]]:
    """A network at initialisation and after training, with its test error."""
    (x, y), test = digits()
    system = ep.HopfieldEnergy(
        (INPUTS, *(plan.units,) * depth, OUTPUTS),
        **{"key": jax.random.key(depth), "output": ep.identity},
        initializer=ep.gain_uniform(GAINS[1]),
    )
    scale = GAINS[0] / GAINS[1]
    system = eqx.tree_at(lambda s: s.weights[0], system, replace_fn=lambda w: scale * w)
    cost = ep.SquaredError()
    rule = ep.EquilibriumPropagation(
        *(ep.Sweep(n * depth, omega=1.5) for n in SWEEPS), BETA
    )
    fit = ep.fit(
        *(system, cost, x, y),
        estimator=rule,
        optimizer=ep.Optimizer("adam", (3e-4,), "cosine"),
        epochs=plan.epochs,
        batch_size=32,
        test=test,
    )
    error = fit.history[-1]["test_error"]
    return {"at initialisation": (system, None), "after training": (fit.system, error)}


@dataclasses.dataclass(frozen=True)
class Settled:
    """Mean and most of the examples' steps, and the share of them that settled."""

    mean: float
    most: int
    share: float

    @classmethod
    def of(cls, ended: ep.Equilibrium) -> "Settled":
        steps, status = np.asarray(ended.steps), np.asarray(ended.status)
        share = np.mean(status == ep.Status.settled)
        return cls(float(steps.mean()), int(steps.max()), float(share))


def settling(plan: Plan) -> dict[str, dict[str, list[Any]]]:
    """By state of training and relaxation: `Settled` for each depth; and errors.

    In float64: rounding of float32 alone leaves residuals about 1e-6.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    with jax.enable_x64(True):
        for depth in plan.depths:
            for state, (system, error) in networks(plan, depth).items():
                rows = found.setdefault(state, {"error": []})
                rows["error"].append(error)
                x = digits()[1][0][: plan.examples]
                for name, make in RELAXATIONS.items():
                    ended = ep.relax(system, x, make(plan.most))
                    rows.setdefault(name, []).append(Settled.of(ended))
    return found


def print_growth(curves: Curves, plan: Plan) -> None:
    """The table of one training step."""
    print(_STEP.format(rounds=plan.rounds, **dataclasses.asdict(plan.base)))
    print("| against | from – to | rule | ms | p of time | MiB | p of memory |")
    print("|---|---|---|---|---|---|---|")
    for axis, rules in curves.items():
        for rule, (sizes, spreads, used) in rules.items():
            seconds = [spread.median for spread in spreads]
            print(
                f"| {AXES[axis]} | {sizes[0]:.0f} – {sizes[-1]:.0f} | {rule} | "
                f"{1e3 * seconds[0]:.3g} – {1e3 * seconds[-1]:.3g} | "
                f"{_three(exponent(sizes, seconds))} | "
                f"{used[0] / 2**20:.3g} – {used[-1] / 2**20:.3g} | "
                f"{_three(exponent(sizes, used))} |"
            )


_STEP = f"""
One training step: T free Euler steps; then EP (centered, T nudged steps), BPTT (back
through T further steps), RBP (T steps) or a linear solve; then the SGD update.
`ep.HopfieldEnergy`, {INPUTS} inputs, {OUTPUTS} outputs, tanh, float32. Where nothing
else is said: T = {{steps}}, hidden layers {{depth}}, width {{width}}, batch {{batch}};
parameters grow with the width. p: time or memory ∝ size^p, by least squares of the
logarithms, and in brackets the range between neighbouring sizes. Time: median of rounds
({{rounds}}); memory: temporaries of the compiled step.
"""
_SETTLING = f"""
Steps to a residual of {RESIDUAL:g} against the number of hidden layers, {{units}} units
each: hard sigmoid, linear output, float64, from zero, {{examples}} test digits: mean
and, in brackets, the most. At most {{most}} steps; where not all examples settled by
then, the share that did. Initial weights: gain {GAINS[0]:g} from the input and
{GAINS[1]:g} elsewhere. Training: epochs ({{epochs}}) of EP, centered, β = {BETA:g}, by
over-relaxed sweeps, {SWEEPS[0]} free and {SWEEPS[1]} nudged ones a layer, Adam. f: mean
steps ∝ f^layers, by least squares of the logarithms, and in brackets the range between
neighbours, over the depths at which all settled.
"""
AXES = {
    "steps": "T",
    "depth": "hidden layers",
    "width": "width",
    "batch": "batch",
    "parameters": "parameters",
}


def _three(values: tuple[float, float, float]) -> str:
    middle, least, most = values
    return f"{middle:.2f} ({least:.2f} – {most:.2f})"


def print_settling(found: dict[str, dict[str, list[Any]]], plan: Plan) -> None:
    """The table of steps against depth."""
    print(_SETTLING.format(**dataclasses.asdict(plan)))
    layers = " | ".join(map(str, plan.depths))
    print(f"| | relaxation | {layers} | f |")
    print("|---|---|" + "---|" * (len(plan.depths) + 1))
    for state, rows in found.items():
        for name in RELAXATIONS:
            cells = " | ".join(map(_cell, rows[name]))
            print(f"| {state} | {name} | {cells} | {_growth(plan, rows[name])} |")
        if rows["error"][0] is not None:
            cells = " | ".join(f"{100 * error:.1f} %" for error in rows["error"])
            print(f"| {state} | test error | {cells} | |")


def _cell(found: Settled) -> str:
    steps = f"{found.mean:.0f} ({found.most})"
    return steps if found.share == 1 else f"{steps}, {100 * found.share:.0f} %"


def _growth(plan: Plan, found: list[Settled]) -> str:
    """The factor over the depths at which every example has settled."""
    pairs = zip(plan.depths, found, strict=True)
    kept = [(depth, settled.mean) for depth, settled in pairs if settled.share == 1]
    return "–" if len(kept) < 2 else _three(factor(*zip(*kept, strict=True)))


def _short(count: float) -> str:
    """`512`, `66.4k`, `4.2M`."""
    if count < 1e4:
        return f"{count:g}"
    return f"{count / 1e3:.3g}k" if count < 1e6 else f"{count / 1e6:.3g}M"


def draw(path: Path, curves: Curves, settled: dict, plan: Plan) -> None:
    """Time and memory above, steps against depth below."""
    from matplotlib.figure import Figure

    figure = Figure((15, 9.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 1.1))
    axes = above.subplots(2, len(curves), sharex="col", sharey="row")
    for column, (axis, rules) in zip(axes.T, curves.items(), strict=True):
        for rule, (sizes, spreads, used) in rules.items():
            seconds = [spread.median for spread in spreads]
            p = (exponent(sizes, seconds)[0], exponent(sizes, used)[0])
            low = [s.median - s.least for s in spreads]
            high = [s.most - s.median for s in spreads]
            column[0].errorbar(
                *(sizes, seconds, (low, high)),
                **{"marker": "o", "label": f"{rule}: p = {p[0]:.2f}", "capsize": 2},
            )
            mib = [u / 2**20 for u in used]
            column[1].plot(sizes, mib, "o-", label=f"{rule}: p = {p[1]:.2f}")
        for panel in column:
            panel.set(xscale="log", yscale="log")
            panel.set_xticks(sizes, [_short(n) for n in sizes], fontsize=8)
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
        column[1].set_xlabel(AXES[axis])
    axes[0, 0].set_ylabel("time of a training step (s)")
    axes[1, 0].set_ylabel("temporaries (MiB)")
    panels = below.subplots(1, len(settled), sharey=True)
    for panel, (state, rows) in zip(
        np.atleast_1d(panels), settled.items(), strict=True
    ):
        for name in RELAXATIONS:
            panel.plot(plan.depths, [s.mean for s in rows[name]], "o-", label=name)
        panel.set(yscale="log", xlabel="hidden layers", title=state)
        panel.set_xticks(plan.depths)
        panel.set_ylabel(f"steps to a residual of {RESIDUAL:g}")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    """Print the page and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, help="FILE.png to draw as well")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    options = parser.parse_args(argv)
    plan = QUICK if options.quick else Plan()
    print(heading("Growth", __file__))
    if options.figure:
        print(f"![the curves of the tables]({options.figure.name})")
    curves = measure(plan)
    print_growth(curves, plan)
    settled = settling(plan)
    print_settling(settled, plan)
    if options.figure:
        draw(options.figure, curves, settled, plan)


if __name__ == "__main__":
    main()
