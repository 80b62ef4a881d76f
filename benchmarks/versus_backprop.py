"""What a person gives up by leaving backprop: errors and seconds of both.

    python benchmarks/versus_backprop.py > benchmarks/versus_backprop.md

Every net trains by backprop and by EP rules of rising cost, from few sweeps of the
layers to many.  Backprop gets the same layers as a feedforward net, with what suits it
best: ReLU, cross-entropy, He's initial weights, and a compiled loop over the epoch.
Both have Adam with cosine decay, the same batches in the same number and the same
epochs.  All rules of a net take turns, an epoch each, so that what else the machine
does falls on all of them; the first step, which waits for the compiler, is not timed.

The test error of EP is that of the rule's own free sweeps from zero, and of `SETTLED`
where states persist.

With `--records FILE.json` every finished part, a net and a seed, is kept there and not
done again: `--nets` one by one, then once without to print the whole page.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import eqprop as ep
from eqprop.data import load
from eqprop.training import evaluate, make_trainer, Settings
from page import heading

BATCH = 64
SETTLED = ep.Sweep(20)
BACKPROP, BACKPROP_RATE = "backprop", 1e-3


@dataclasses.dataclass(frozen=True)
class Rule:
    """An EP rule by its sweeps."""

    free: int
    nudged: int
    nudging: Any = "centered"
    persistent: bool = False
    readout: bool = False
    """the output is a softmax layer outside of the dynamics"""

    def __str__(self) -> str:
        warm = ", persistent" if self.persistent else ""
        readout = ", softmax readout" if self.readout else ""
        return f"EP {self.free} / {self.nudged}, {self.nudging}{warm}{readout}"


@dataclasses.dataclass(frozen=True)
class Net:
    """Layers above the input, what EP needs there, and how long all rules train."""

    layers: tuple
    rules: tuple[Rule, ...]
    epochs: int
    gains: tuple[float, float]
    """of the initial weights: those of the input, which no state feeds back through,
    and the others, which decide how fast the sweeps settle"""
    beta: float
    rate: float


def conv(channels: int, kernel: int) -> ep.Convolution:
    return ep.Convolution(channels, kernel, pool="max")


def soft(free: int, nudged: int) -> Rule:
    """The output a softmax layer outside of the dynamics, over a dense layer."""
    return Rule(free, nudged, readout=True)


# Rules in the order of cost.  Few sweeps need "centered": the two nudged phases share
# what the free one left unsettled, which cancels.
NETS = {
    "784-1024-10": Net(
        (1024, 10), (Rule(2, 1), Rule(3, 2), Rule(6, 3)), 6, (0.5, 0.5), 0.25, 7e-4
    ),
    "784-512-512-10": Net(
        (512, 512, 10),
        (
            *(soft(2, 1), soft(3, 2), soft(6, 4), soft(12, 8), soft(24, 16)),
            Rule(6, 4),
        ),
        *(3, (3.0, 0.7), 0.25, 1e-3),
    ),
    "784-512-512-512-10": Net(
        (512, 512, 512, 10),
        (
            *(soft(2, 2), soft(3, 2), soft(6, 4), soft(12, 8), soft(24, 16)),
            Rule(6, 4),
        ),
        *(3, (3.0, 0.7), 0.25, 1e-3),
    ),
    "MNIST conv 32-64": Net(
        (conv(32, 5), conv(64, 5), 10),
        (Rule(2, 2), Rule(3, 2), Rule(6, 4), Rule(12, 8)),
        *(1, (1.0, 0.5), 0.25, 1e-3),
    ),
}
QUICK = {
    "64-32-10": Net((32, 10), (Rule(4, 2),), 30, (0.5, 0.5), 0.25, 5e-3),
    "digits conv 8": Net(
        (conv(8, 3), 10),
        (Rule(2, 2, persistent=True),),
        *(30, (0.5, 0.5), 0.25, 5e-3),
    ),
}

Examples = tuple[jax.Array, jax.Array]


def examples(name: str, images: bool, most: int) -> tuple[Examples, Examples]:
    """Training and test examples, those of training in whole batches."""
    data = load(name, flatten=not images)
    assert data.test is not None

    def pair(split, count: int) -> Examples:
        return jnp.asarray(split.x[:count]), jnp.asarray(data.targets(split.y[:count]))

    return (
        pair(data.train, min(most, len(data.train)) // BATCH * BATCH),
        pair(data.test, len(data.test)),
    )


def sizes(net: Net, x: jax.Array) -> tuple:
    """The input's size and the net's layers; images get their channel."""
    return ((*x.shape[1:], 1) if x.ndim == 3 else x.shape[1], *net.layers)


class Backprop:
    """The feedforward net with the layers of a `HopfieldEnergy`."""

    def __init__(self, net: Net, train: Examples, epochs: int, seed: int):
        holder = ep.HopfieldEnergy(
            sizes(net, train[0]),
            key=jax.random.key(seed),
            initializer=ep.gain_uniform(6**0.5),
        )
        self.links, self.seed, self.number = holder.links, seed, 0
        self.params = (holder.weights, holder.biases)
        self.steps = len(train[0]) // BATCH
        rate = optax.cosine_decay_schedule(BACKPROP_RATE, epochs * self.steps)
        self.optimizer = optax.adam(rate)
        self.memory = self.optimizer.init(self.params)
        # The first epoch's program serves all; making it is not timed.
        arguments = (self.params, self.memory, *train, self.order())
        jitted = jax.jit(self._advance, donate_argnums=(0, 1))
        self.run = jitted.lower(*arguments).compile()
        self.train = train

    def order(self) -> jax.Array:
        random = np.random.default_rng([self.seed, self.number])
        return jnp.asarray(random.permutation(self.steps * BATCH).reshape(-1, BATCH))

    def outputs(self, params, x: jax.Array) -> jax.Array:
        """Logits of one example."""
        weights, biases = params
        x = x[..., None] if x.ndim == 2 else x
        for k, link in enumerate(self.links):
            x = link.forward(weights[k], x) + biases[k]
            x = jax.nn.relu(x) if k + 1 < len(self.links) else x
        return x

    def _advance(self, params, memory, x, y, order):
        def loss(params, x, y):
            logits = jax.vmap(self.outputs, (None, 0))(params, x)
            return jnp.mean(optax.softmax_cross_entropy(logits, y))

        def step(carry, index):
            params, memory = carry
            grads = jax.grad(loss)(params, x[index], y[index])
            updates, memory = self.optimizer.update(grads, memory)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, (params, memory), order)[0]

    def epoch(self) -> float:
        """Seconds of a step over the next epoch."""
        order = self.order()
        began = time.perf_counter()
        found = self.run(self.params, self.memory, *self.train, order)
        self.params, self.memory = jax.block_until_ready(found)
        self.number += 1
        return (time.perf_counter() - began) / self.steps

    def test(self, x: jax.Array, y: jax.Array) -> float:
        logits = jax.lax.map(
            lambda one: self.outputs(self.params, one), x, batch_size=500
        )
        return float(jnp.mean(jnp.argmax(logits, -1) != jnp.argmax(y, -1)))


class Settling:
    """A rule of eqprop in its own training loop, monitoring included."""

    def __init__(self, net: Net, rule: Rule, train: Examples, epochs: int, seed: int):
        layers, cost = sizes(net, train[0]), ep.SquaredError()
        if rule.readout:
            *layers, outputs = layers
            cost = ep.SoftmaxReadout(layers[-1], outputs, key=jax.random.key(seed + 1))
        system = ep.HopfieldEnergy(
            layers,
            key=jax.random.key(seed),
            output=None if rule.readout else ep.identity,
            initializer=ep.gain_uniform(net.gains[1]),
        )
        scale = net.gains[0] / net.gains[1]
        system = eqx.tree_at(
            lambda s: s.weights[0], system, replace_fn=lambda w: scale * w
        )
        self.trainer = make_trainer(
            (system, cost),
            {"train": train},
            Settings(
                epochs=epochs, batch_size=BATCH, seed=seed, persistent=rule.persistent
            ),
            estimator=ep.EquilibriumPropagation(
                free=ep.Sweep(rule.free),
                nudged=ep.Sweep(rule.nudged, backward=len(system.links) % 2 == 0),
                beta=net.beta,
                nudging=rule.nudging,
            ),
            optimizer=ep.Optimizer("adam", (net.rate,), "cosine"),
        )
        state = self.trainer.init(system, cost)
        self.state, self.rest = self._started(state)

    def _started(self, state) -> tuple[Any, Iterator]:
        """The state after the epoch's first step, which compiles, and the others."""
        rest = self.trainer.epoch(state)
        return next(rest), rest

    def epoch(self) -> float:
        """Seconds of a step over the rest of the epoch."""
        began, before = time.perf_counter(), int(self.state.step)
        for state in self.rest:
            self.state = state
        if self.state.failed:
            raise SystemExit("a step failed: the numbers are not finite")
        seconds = (time.perf_counter() - began) / (self.trainer.steps - before)
        following = self.trainer.next_epoch(self.state)
        self.state, self.rest = following, self.trainer.epoch(following)
        return seconds

    def test(self, x: jax.Array, y: jax.Array) -> float:
        trainer, state = self.trainer, self.state
        free = SETTLED if trainer.settings.persistent else trainer.estimator.free
        return evaluate(state.model, free, (x, y))[0]["error"]


def measure(part: dict, net: Net, data: str) -> list[dict]:
    """A row for backprop and one for each rule, all trained from one seed."""
    seed, epochs = part["seed"], part["epochs"]
    images = any(isinstance(layer, ep.Convolution) for layer in net.layers)
    train, test = examples(data, images, part["examples"])
    learners = {BACKPROP: Backprop(net, train, epochs, seed)} | {
        str(rule): Settling(net, rule, train, epochs, seed) for rule in net.rules
    }
    seconds: dict[str, list[float]] = {learner: [] for learner in learners}
    for _ in range(epochs):
        for learner, run in learners.items():
            seconds[learner].append(run.epoch())
    steps = len(train[0]) // BATCH
    return [
        {
            **part,
            "learner": learner,
            "ms": [1e3 * s for s in seconds[learner]],
            "seconds": steps * sum(seconds[learner]),
            "error": 100 * run.test(*test),
        }
        for learner, run in learners.items()
    ]


def spread(values: list[float], form: str) -> str:
    """The median and, in brackets, the range."""
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}}–{max(values):{form}})"


def table(rows: list[dict]) -> Iterator[str]:
    """Lines of Markdown: a row for each net and learner."""
    yield "| net | epochs | learner | ms a step | × backprop | training s | error % |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["net"], row["learner"]), []).append(row)
    for (net, learner), group in groups.items():
        steps = [ms for row in group for ms in row["ms"]]
        theirs = [ms for row in groups[net, BACKPROP] for ms in row["ms"]]
        ratio = statistics.median(steps) / statistics.median(theirs)
        seconds = statistics.median(row["seconds"] for row in group)
        yield (
            f"| {net} | {group[0]['epochs']} | {learner} | {spread(steps, '.3g')} | "
            f"{ratio:.2f} | "
            f"{seconds:.1f} | {spread([row['error'] for row in group], '.2f')} |"
        )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", help=", ".join(NETS))
    parser.add_argument("--epochs", type=int, help="of every net; its own if not given")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, …")
    parser.add_argument("--examples", type=int, default=60_000, help="at most")
    parser.add_argument("--records", type=Path, help="finished parts, kept as JSON")
    parser.add_argument("--quick", action="store_true", help="two tiny nets on digits")
    options = parser.parse_args(argv)
    nets = QUICK if options.quick else NETS
    unknown = [name for name in options.nets or () if name not in nets]
    if unknown:
        parser.error(f"--nets {unknown[0]!r}: there is {', '.join(map(repr, nets))}")
    for name, least in {"epochs": 1, "seeds": 1, "examples": BATCH}.items():
        if (value := getattr(options, name)) is not None and value < least:
            parser.error(f"--{name} is {value}; give at least {least}")
    options.nets = {name: nets[name] for name in options.nets or nets}
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    rows, kept = [], []
    if options.records and options.records.exists():
        kept = json.loads(options.records.read_text(encoding="utf-8"))
    data = "digits" if options.quick else "mnist"
    for name, net in options.nets.items():
        for seed in range(options.seeds):
            part = {"net": name, "epochs": options.epochs or net.epochs}
            part |= {"examples": options.examples, "seed": seed}
            found = [row for row in kept if part.items() <= row.items()]
            if not found:
                found = measure(part, net, data)
                eqx.clear_caches()
                jax.clear_caches()
            rows += found
            if options.records and found[0] not in kept:
                kept += found
                options.records.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print(heading("What a person gives up by leaving backprop", __file__))
    print(
        "One training step of EP against one of backprop in the feedforward net of "
        f"the same layers, batch\n{BATCH}, float32, in turns; EP as free / nudged "
        "sweeps. Medians and, in brackets, ranges over\nepochs and seeds; the test "
        "error after the last epoch.\n"
    )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
