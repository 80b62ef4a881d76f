"""One training step against the two ways in which PyTorch implementations do it.

    pip install -e . torch && python benchmarks/peers.py > benchmarks/peers.md

Same network, batch, T, K, β and update (paper D's prototypical network, one-sided EP,
SGD); the two PyTorch styles are our own writing of what public code does:

- autograd: Φ is written down and differentiated at every step;
- by hand: s ← ρ(drive) and the contrast are written out, under `no_grad`.

Each round times every style once, one after the other; medians over the rounds.
"""

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import torch
import torch.nn.functional as F

import eqprop as ep
from eqprop.training import make_trainer, Settings

BETA, RATE = 0.5, 0.01
Pool = ep.Convolution
NETS = {
    "784-512-10": ((784, 512, 10), 20, 30, 10),
    "784-512-512-10": ((784, 512, 512, 10), 20, 100, 20),
    "300-700-250-10": ((300, 700, 250, 10), 48, 60, 15),
    "MNIST conv 32-64": (
        ((28, 28, 1), Pool(32, 5, pool="max"), Pool(64, 5, pool="max"), 10),
        *(20, 50, 10),
    ),
    "CIFAR conv 128-256-512-512": (
        (
            (32, 32, 3),
            *(Pool(n, 3, padding=1, pool="max") for n in (128, 256, 512)),
            *(Pool(512, 3, padding=1, pool="max"), 10),
        ),
        *(8, 20, 6),
    ),
}


def rho(u: torch.Tensor) -> torch.Tensor:
    """The hard sigmoid."""
    return u.clamp(0, 1)


class Peer:
    """Weights and data of one network in PyTorch, layers as in `sizes`."""

    beta, rate, rho, linear_output = BETA, RATE, staticmethod(rho), False

    def __init__(self, sizes, batch: int, x: np.ndarray, y: np.ndarray):
        self.links, self.weights, self.shapes = sizes[1:], [], []
        self.x = torch.tensor(x[:batch])
        if isinstance(sizes[0], tuple):
            self.x = self.x.permute(0, 3, 1, 2).contiguous()
        self.y = torch.tensor(y[:batch])
        below = self.x
        for link in self.links:
            if isinstance(link, int):
                count = below[0].numel()
                weight = torch.randn(link, count) / count**0.5
            else:
                kernel = (link.channels, below.shape[1], link.kernel, link.kernel)
                weight = torch.randn(kernel) / (below.shape[1] * link.kernel**2) ** 0.5
            bias = torch.zeros(len(weight))
            self.weights.append((weight, bias))
            below = self.up(len(self.weights) - 1, below)
            self.shapes.append(below.shape)

    def up(self, k: int, below: torch.Tensor) -> torch.Tensor:
        """What layer k hears from below."""
        weight, bias = self.weights[k]
        if weight.ndim == 2:
            return F.linear(below.flatten(1), weight, bias)
        link = self.links[k]
        return F.max_pool2d(F.conv2d(below, weight, bias, 1, link.padding), 2)

    def rates(self, drives: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """ρ of every layer's drive."""
        *hidden, last = drives
        return [*map(self.rho, hidden), last if self.linear_output else self.rho(last)]

    def nudge(self, s: list[torch.Tensor], beta: float) -> None:
        if beta:
            s[-1] = s[-1] + beta * (self.y - s[-1])

    def start(self) -> list[torch.Tensor]:
        return [torch.zeros(shape) for shape in self.shapes]


class Autograd(Peer):
    """Φ differentiated by autograd at every step."""

    def phi(self, s: list[torch.Tensor]) -> torch.Tensor:
        below = [self.x, *s[:-1]]
        return sum((self.up(k, b) * s[k]).sum() for k, b in enumerate(below))

    def relax(self, s: list[torch.Tensor], steps: int, beta: float):
        for _ in range(steps):
            s = [u.requires_grad_() for u in s]
            before = s[-1]
            s = self.rates(torch.autograd.grad(self.phi(s), s))
            if beta:
                s[-1] = s[-1] + beta * (self.y - before)
            s = [u.detach() for u in s]
        return s

    def step(self, free: int, nudged: int) -> None:
        first = self.relax(self.start(), free, 0.0)
        second = self.relax(first, nudged, self.beta)
        for pair in self.weights:
            for leaf in pair:
                leaf.requires_grad_()
        leaves = [leaf for pair in self.weights for leaf in pair]
        change = (self.phi(first) - self.phi(second)) / (self.beta * len(self.x))
        grads = torch.autograd.grad(change, leaves)
        with torch.no_grad():
            for leaf, g in zip(leaves, grads, strict=True):
                leaf.requires_grad_(False)
                leaf -= self.rate * g


class ByHand(Peer):
    """Drives and contrast written out."""

    @torch.no_grad()
    def relax(self, s: list[torch.Tensor], steps: int, beta: float):
        for _ in range(steps):
            below = [self.x, *s[:-1]]
            drives, places = [], []
            for k, (link, (weight, bias)) in enumerate(
                zip(self.links, self.weights, strict=True)
            ):
                if weight.ndim == 2:
                    drives.append(F.linear(below[k].flatten(1), weight, bias))
                    places.append(None)
                    continue
                whole = F.conv2d(below[k], weight, bias, 1, link.padding)
                pooled, place = F.max_pool2d(whole, 2, return_indices=True)
                drives.append(pooled)
                places.append((place, whole.shape))
            for k in range(1, len(s)):
                weight = self.weights[k][0]
                if weight.ndim == 2:
                    down = (s[k] @ weight).view(s[k - 1].shape)
                else:
                    place, shape = places[k]
                    spread = F.max_unpool2d(s[k], place, 2, output_size=shape[-2:])
                    padding = self.links[k].padding
                    down = F.conv_transpose2d(spread, weight, padding=padding)
                drives[k - 1] = drives[k - 1] + down
            before = s[-1]
            s = self.rates(drives)
            if beta:
                s[-1] = s[-1] + beta * (self.y - before)
        return s

    def hebb(self, s: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """∂Φ/∂(weight, bias) of every layer."""
        below, found = [self.x, *s[:-1]], []
        for k, (link, (weight, bias)) in enumerate(
            zip(self.links, self.weights, strict=True)
        ):
            if weight.ndim == 2:
                found.append((s[k].T @ below[k].flatten(1), s[k].sum(0)))
                continue
            whole = F.conv2d(below[k], weight, bias, 1, link.padding)
            _, place = F.max_pool2d(whole, 2, return_indices=True)
            spread = F.max_unpool2d(s[k], place, 2, output_size=whole.shape[-2:])
            kernel = torch.nn.grad.conv2d_weight(
                below[k], weight.shape, spread, padding=link.padding
            )
            found.append((kernel, spread.sum((0, 2, 3))))
        return found

    @torch.no_grad()
    def step(self, free: int, nudged: int) -> None:
        first = self.relax(self.start(), free, 0.0)
        second = self.relax(first, nudged, self.beta)
        scale = self.rate / (self.beta * len(self.x))
        for pair, a, b in zip(
            self.weights, self.hebb(first), self.hebb(second), strict=True
        ):
            for leaf, before, after in zip(pair, a, b, strict=True):
                leaf += scale * (after - before)


class Ours:
    """A compiled epoch of eqprop, monitoring and shuffling included."""

    def __init__(self, sizes, batch: int, x, y, free: int, nudged: int):
        system = ep.PrototypicalNetwork(
            sizes, key=jax.random.key(0), activation=ep.hard_sigmoid
        )
        rule = ep.EquilibriumPropagation(
            free=ep.Euler(dt=1.0, steps=free),
            nudged=ep.Euler(dt=1.0, steps=nudged),
            beta=BETA,
            nudging="one-sided",
        )
        self.trainer = make_trainer(
            (system, ep.SquaredError()),
            {"train": (x, y)},
            Settings(epochs=1000, batch_size=batch),
            estimator=rule,
            optimizer=ep.Optimizer("sgd", (RATE,)),
        )
        self.state = self.trainer.init(system, ep.SquaredError())

    def epoch(self) -> None:
        for state in self.trainer.epoch(self.state):
            self.state = state
        assert not self.state.failed
        self.state = self.trainer.next_epoch(self.state)


def timed(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(name: str, rounds: int, budget: float) -> dict[str, list[float]]:
    """Milliseconds of a step in every round, by style."""
    sizes, batch, free, nudged = NETS[name]
    shape = sizes[0] if isinstance(sizes[0], tuple) else (sizes[0],)
    random = np.random.default_rng(0)
    # As many steps an epoch as take about `budget` seconds.
    probe = Autograd(sizes, batch, *_data(random, batch, shape))
    probe.step(free, nudged)
    steps = max(1, round(budget / timed(lambda: probe.step(free, nudged))))
    x, y = _data(random, steps * batch, shape)
    ours = Ours(sizes, batch, x, y, free, nudged)
    peers = {"autograd": Autograd, "by hand": ByHand}
    styles: dict[str, Callable[[], object]] = {"eqprop": ours.epoch}
    for style, kind in peers.items():
        peer = kind(sizes, batch, x, y)
        styles[style] = lambda peer=peer: [
            peer.step(free, nudged) for _ in range(steps)
        ]
    for run in styles.values():
        run()
    return {
        style: [1e3 * seconds / steps for seconds in times]
        for style, times in _rounds(styles, rounds).items()
    }


def _rounds(styles, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {style: [] for style in styles}
    for _ in range(rounds):
        for style, run in styles.items():
            times[style].append(timed(run))
    return times


def _data(random, count: int, shape) -> tuple[np.ndarray, np.ndarray]:
    x = random.random((count, *shape), np.float32)
    y = np.eye(10, dtype=np.float32)[random.integers(0, 10, count)]
    return x, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=", ".join(NETS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a style a round")
    options = parser.parse_args()
    command = " ".join(["python benchmarks/peers.py", *sys.argv[1:]])
    print(
        f"# One training step, eqprop against PyTorch\n\n{datetime.date.today()}, "
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads; jax "
        f"{jax.__version__}, torch {torch.__version__}; float32.\n"
        f"Command: `{command}`.\n\n"
        "Milliseconds of a training step: medians and, in brackets, the range of "
        f"{options.rounds} rounds.\nRatio: the faster PyTorch style over eqprop.\n\n"
        "| net | batch | T / K | autograd | by hand | eqprop | ratio |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name in options.nets:
        _, batch, free, nudged = NETS[name]
        times = measure(name, options.rounds, options.seconds)
        middle = {style: statistics.median(values) for style, values in times.items()}
        cells = [
            f"{middle[style]:.3g} ({min(times[style]):.3g}–{max(times[style]):.3g})"
            for style in ("autograd", "by hand", "eqprop")
        ]
        ratio = min(middle["autograd"], middle["by hand"]) / middle["eqprop"]
        print(
            f"| {name} | {batch} | {free} / {nudged} | {' | '.join(cells)} | "
            f"{ratio:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
