"""How near a relaxation step comes to the machine's matrix-product rate, and why not.

    python benchmarks/limit.py > benchmarks/limit.md

The rate is the better of NumPy's and XLA's, at several sizes, measured in the same
rounds as the steps.  A step's operations are counted by hand: two for each product of
each link above the input's, upwards and downwards; the input's drive, which is computed
once a relaxation, and all that is no product count nothing.
"""

import argparse
import math
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from page import heading

import eqprop as ep
from eqprop.bench import _timing
from eqprop.bench._timing import Job, matrix_products, Relaxing, time_rounds

C = ep.Convolution
NETS: dict[str, tuple[Any, int]] = {
    "784-512-10": ((784, 512, 10), 128),
    "784-1024-10": ((784, 1024, 10), 128),
    "784-512-512-10": ((784, 512, 512, 10), 128),
    "784-2048-2048-10": ((784, 2048, 2048, 10), 128),
    "MNIST conv 32-64, 5×5": (
        ((28, 28, 1), C(32, 5, pool="max"), C(64, 5, pool="max"), 10),
        64,
    ),
    "CIFAR conv 128-256-512-512, 3×3": (
        (
            (32, 32, 3),
            *(C(n, 3, padding=1, pool="max") for n in (128, 256, 512, 512)),
            10,
        ),
        8,
    ),
}
SMALL: dict[str, tuple[Any, int]] = {
    "conv 3-4": (((8, 8, 1), C(3, 3, pool="max"), C(4, 2), 5), 2),
}
RELAXATIONS = {"Euler": ep.Euler(dt=0.5), "Sweep": ep.Sweep()}
TARGETS = {"dense": 0.70, "conv": 0.65}


def link_flops(system: ep.HopfieldEnergy, k: int, batch: int) -> float:
    """Operations of a step in link k, up and down; products with padding left out."""
    link, below = system.links[k], system.shapes[k]
    if not isinstance(link, ep.Convolution):
        return 4.0 * batch * math.prod(below) * link.units

    def heard(size: int) -> int:
        """Over all places of a kernel, the pixels that it covers along one axis."""
        places = range(0, size + 2 * link.padding - link.kernel + 1, link.stride)
        return sum(
            link.padding <= place + i < link.padding + size
            for place in places
            for i in range(link.kernel)
        )

    pixels = heard(below[0]) * heard(below[1])
    return 4.0 * batch * pixels * below[2] * link.channels


def link_alone(system: ep.HopfieldEnergy, k: int, batch: int) -> Job:
    """Rates up and down link k, again and again: products, and pooling if any.

    The weights are divided by their gain, so that numbers neither grow nor shrink.
    """
    link, weight = system.links[k], system.weights[k]
    random = np.random.default_rng(0)
    shapes = [(batch, *system.shapes[k]), (batch, *system.shapes[k + 1])]
    start = tuple(jnp.asarray(random.random(s), weight.dtype) for s in shapes)

    def step(weight, rates):
        up = jax.vmap(lambda r: link.forward(weight, r))
        down = jax.vmap(lambda r, u: link.both(weight, weight, r, u)[1])
        return down(*rates), up(rates[0])

    @jax.jit
    def gain(weight):
        def again(_, carry):
            lower, _ = carry
            lower = lower / jnp.linalg.norm(lower)
            image = step(weight, (lower, step(weight, (lower, start[1]))[1]))[0]
            return image, jnp.sqrt(jnp.linalg.norm(image))

        return jax.lax.fori_loop(0, 8, again, (start[0], jnp.ones((), weight.dtype)))[1]

    weight = weight / gain(weight)
    run = jax.jit(
        lambda weight, rates, repeats: jax.lax.fori_loop(
            0, repeats, lambda _, rates: step(weight, rates), rates
        )
    )
    program = run.lower(weight, start, 1).compile()
    return lambda repeats: jax.block_until_ready(program(weight, start, repeats))


def measure(sizes: Any, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds of a step by relaxation, of each link alone, and the rate, by round."""
    system = ep.HopfieldEnergy(sizes, key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (batch, *system.shapes[0]))
    products, flops = matrix_products(jnp.float32)
    steps = {name: Relaxing(system, r, x, ["batch"]) for name, r in RELAXATIONS.items()}
    jobs: dict[str, Job] = dict(products)
    for name, relaxing in steps.items():
        for part in ("batch, short", "batch, long"):
            jobs[f"{name}, {part}"] = relaxing.jobs[part]
    links = range(1, len(system.links))
    jobs |= {f"link {k}": link_alone(system, k, batch) for k in links}
    times = time_rounds(jobs, rounds, seconds)
    rates = {name: [flops[name] / t for t in times[name]] for name in products}
    best = max(rates, key=lambda name: statistics.median(rates[name]))
    return {
        "links": {k: times[f"link {k}"] for k in links},
        "flops": {k: link_flops(system, k, batch) for k in links},
        "counted": {name: relaxing.flops for name, relaxing in steps.items()},
        "steps": {
            name: relaxing.step(_of(times, name), "batch")
            for name, relaxing in steps.items()
        },
        "peak": (best, rates[best]),
    }


def _of(times: dict[str, list[float]], name: str) -> dict[str, list[float]]:
    start = f"{name}, "
    return {k.removeprefix(start): v for k, v in times.items() if k.startswith(start)}


def cells(found: dict[str, Any], name: str, target: float) -> list[str]:
    """A row: the step, its rate and fraction, and where the time goes, in per cent."""
    step, peak = found["steps"][name], found["peak"][1]
    work = sum(found["flops"].values())
    links = [sum(values) for values in zip(*found["links"].values(), strict=True)]
    fraction = [work / s / p for s, p in zip(step, peak, strict=True)]
    slower = [
        (alone - work / p) / s for alone, s, p in zip(links, step, peak, strict=True)
    ]
    rest = [1 - f - more for f, more in zip(fraction, slower, strict=True)]
    median = statistics.median
    counted = found["counted"][name]
    return [
        _range(step, 1e3),
        f"{work / median(step) / 1e9:.0f}",
        "–" if counted is None else f"{counted / work:.2f}",
        _range(fraction, 100),
        "yes" if median(fraction) >= target else "no",
        f"{100 * median(slower):.0f}",
        f"{100 * median(rest):.0f}",
    ]


def _range(values: list[float], scale: float) -> str:
    """Median and range."""
    least, most = scale * min(values), scale * max(values)
    return f"{scale * statistics.median(values):.3g} ({least:.3g}–{most:.3g})"


def main(argv: list[str] | None = None) -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", help=", ".join(NETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each, a round")
    parser.add_argument("--quick", action="store_true", help="a tiny net, one round")
    options = parser.parse_args(argv)
    nets = SMALL if options.quick else NETS
    unknown = set(options.nets) - set(nets)
    if unknown:
        parser.error(f"there is no net {unknown.pop()!r}; choose {', '.join(nets)}")
    if options.quick:
        options.rounds, options.seconds = 1, 1e-3
        _timing.ON_PROCESSOR, _timing.DIFFERENCE = (64,), 1e-4
    print(heading("The limit: steps beside matrix products", __file__))
    print(_EXPLAINED.format(rounds=options.rounds, **TARGETS))
    rows = []
    for name in options.nets or nets:
        sizes, batch = nets[name]
        found = measure(sizes, batch, options.rounds, options.seconds)
        kind = "dense" if isinstance(sizes[0], int) else "conv"
        for relaxation in RELAXATIONS:
            row = cells(found, relaxation, TARGETS[kind])
            print(_row([name, str(batch), relaxation, *row]), flush=True)
        rows += _links(name, found)
    print(_LINKS)
    print("\n".join(rows))


def _links(name: str, found: dict[str, Any]) -> list[str]:
    best, peak = found["peak"]
    rows = []
    for k, seconds in found["links"].items():
        rate = [found["flops"][k] / t for t in seconds]
        part = [r / p for r, p in zip(rate, peak, strict=True)]
        cells = [_range(seconds, 1e3), f"{statistics.median(rate) / 1e9:.0f}"]
        limit = f"{statistics.median(peak) / 1e9:.0f} ({best})"
        rows.append(_row([name, f"{k + 1}", *cells, _range(part, 100), limit]))
    return rows


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


_EXPLAINED = """
One step of `ep.HopfieldEnergy`, hard sigmoid, float32, by the difference of a long and
a short relaxation: medians and, in brackets, the range of {rounds} rounds. Of peak: the
step's products (a multiplication and an addition each; the input's drive, computed
once, left out) over the better of NumPy's and XLA's rates of square matrix products in
the same rounds. Target: {dense:.0%} for dense nets, {conv:.0%} for convolutional ones.
Where the rest of a step's time goes: to links whose products, in shapes of their own,
run below that rate (with pooling), and to all else: activations, projection, sums,
reading and writing states, the loop (below 0 where links run faster together than
alone). XLA's count: what `eqprop bench` counts, over the products.

| net | batch | relaxation | step, ms | GFLOP/s | XLA's count | of peak, % | reached \
| links below peak, % | all else, % |
|---|---|---|---|---|---|---|---|---|---|"""
_LINKS = """
Each link alone, up and down (link 1 is the input's, computed once a relaxation):

| net | link | ms | GFLOP/s | of peak, % | peak, GFLOP/s |
|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
