"""Beyond the papers: our best results, and training through a device."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

import eqprop as ep

from ._claim import claim, Findings
from ._common import COST, network
from ._figure import Curve
from ._item import Paper
from ._train import Training

MISMATCHES = (0.0, 0.05, 0.1, 0.2)
NOISE = 0.01
DT, STEPS, BETA = 0.3, 60, 0.5
SIZES = (3, 8, 2)


class Chip:
    """A simulated chip, in NumPy: a Hopfield network with one hidden layer of tanh.

    Every weight is the programmed one times a fixed 1 + mismatch · ξ. Every time a unit
    is read, its value is multiplied by a new 1 + noise · ξ.
    """

    def __init__(self, mismatch: float = 0.0, noise: float = 0.0, seed: int = 0):
        self.mismatch, self.noise, self.seed = mismatch, noise, seed
        self.random = np.random.default_rng(seed + 1)

    def settle(self, params: Any, x: Any, y: Any, beta: Any, state: Any) -> Any:
        """Both layers' potentials, as read after the chip has settled."""
        fixed = np.random.default_rng(self.seed)
        w, v = (
            w * (1 + self.mismatch * fixed.normal(size=w.shape)) for w in params.weights
        )
        (b, c), (hidden, out) = params.biases, state
        for _ in range(STEPS):
            r, o = np.tanh(hidden), np.tanh(out)
            to_hidden = (1 - r**2) * (x @ w + b + o @ v.T) - hidden
            to_out = (1 - o**2) * (r @ v + c) - out
            if y is not None:
                to_out = to_out - np.reshape(beta, (-1, 1)) * (out - y)
            hidden, out = hidden + DT * to_hidden, out + DT * to_out
        return tuple(
            u * (1 + self.noise * self.random.normal(size=u.shape))
            for u in (hidden, out)
        )

    def loss(self, system: Any, x: Any, y: Any) -> float:
        """The mean cost of the device's own prediction, read without noise."""
        quiet = Chip(self.mismatch, 0.0, self.seed)
        params: Any = jax.tree.map(np.asarray, system)
        start = tuple(np.zeros((len(x), len(b))) for b in params.biases)
        out = quiet.settle(params, np.asarray(x), None, 0.0, start)[-1]
        return float(np.mean(0.5 * np.sum((out - np.asarray(y)) ** 2, axis=1)))


def teacher_task(examples: int = 16) -> tuple[Any, Any]:
    """Inputs, and the predictions that another network of this kind makes from them."""
    x = jax.random.uniform(jax.random.key(1), (examples, 3), minval=-1)
    teacher = network((3, 4, 2), seed=9)
    teacher = jax.tree.map(lambda p: 2 * p if eqx.is_array(p) else p, teacher)
    return x, ep.relax(teacher, x, ep.Euler(dt=DT, steps=STEPS)).state[-1]


def train(chip: Chip | None, epochs: int) -> ep.AbstractSystem:
    """Train by EP, with the chip's states or with the model's."""
    phase: Any = ep.Euler(dt=DT, steps=STEPS)
    if chip is not None:
        phase = ep.HardwareInTheLoop(chip.settle)
    return ep.fit(
        network(SIZES, seed=2),
        COST,
        *teacher_task(),
        estimator=ep.EquilibriumPropagation(phase, phase, BETA),
        optimizer=ep.Optimizer("adam", (0.04,), "cosine"),
        epochs=epochs,
        batch_size=16,
    ).system


@claim(
    "chip-in-the-loop",
    shows="a device's loss against mismatch, for both ways to get its weights",
    source="arXiv 1602.05179, eqs 22–24, with measured states",
    quick={"mismatches": (0.0, 0.2)},
)
def chip_in_the_loop(
    mismatches: Sequence[float] = MISMATCHES, epochs: int = 300
) -> Findings:
    """EP from a device's own states trains the device, although its weights are not the
    programmed ones (a simulated chip, symmetric).

    A simulated chip with {noise:g} % read noise and a mismatch of 0 to {mismatch:g} %
    between each weight and its programmed value.
    """
    percent = [100 * mismatch for mismatch in mismatches]
    found = Findings(noise=100 * NOISE, mismatch=percent[-1])
    x, y = teacher_task()
    model = train(None, epochs)
    chips = [Chip(mismatch, NOISE) for mismatch in mismatches]
    through = [chip.loss(train(chip, epochs), x, y) for chip in chips]
    deployed = [chip.loss(model, x, y) for chip in chips]
    start = chips[-1].loss(network(SIZES, seed=2), x, y)
    at = f"loss at {percent[-1]:g} % mismatch"
    found.add("loss before training", start)
    found.add(f"{at}, trained through the device", through[-1], most=0.05 * start)
    found.add(f"{at}, weights of the model deployed", deployed[-1])
    found.add("the latter over the former", deployed[-1] / through[-1], least=3)
    ratio = max(through) / min(through)
    found.add("largest over smallest loss, trained through the device", ratio, most=3)
    found.panel(
        "device mismatch of each weight (%)",
        "device's loss",
        Curve("trained through the device", percent, through),
        Curve("trained on the model, then deployed", percent, deployed),
        Curve("before training", percent, [start] * len(percent), "expected"),
        scale="y",
    )
    return found


def best(recipe: str, shows: str, minutes: float) -> Training:
    """A training of one of our best recipes."""
    return Training(
        f"beyond.{recipe.removeprefix('best-')}",
        recipe=recipe,
        shows=shows,
        minutes=minutes,
        in_paper="No paper. We compared settings on examples held out from the "
        "training set; the network that is reported was trained on all of them.",
    )


MOVED = "on mirrored and moved images of Fashion-MNIST"
MIRRORED = "on mirrored images of Fashion-MNIST"
PAPERS = (
    Paper(
        "beyond",
        "Beyond the papers",
        (
            chip_in_the_loop,
            best("mnist-dense", "784-1024-10 on MNIST, not augmented", 2),
            best(
                "best-mnist-dense-shifted", "784-2048-10 on moved images of MNIST", 25
            ),
            best("mnist-conv", "32-64-128-10 on MNIST, not augmented", 25),
            best(
                "best-mnist-conv-shifted", "32-64-128-10 on moved images of MNIST", 30
            ),
            best(
                "best-fashion-dense", "784-2048-10 on Fashion-MNIST, not augmented", 20
            ),
            best("best-fashion-dense-mirrored", f"784-2048-10 {MIRRORED}", 40),
            best("best-fashion-dense-moved", f"784-2048-10 {MOVED}", 40),
            best(
                "best-fashion-conv", "32-64-128-10 on Fashion-MNIST, not augmented", 30
            ),
            best("best-fashion-conv-mirrored", f"32-64-128-10 {MIRRORED}", 55),
            best(
                "best-fashion-conv-3x3-mirrored",
                f"32-64-256-10, kernels of 3 × 3, {MIRRORED}",
                75,
            ),
            best(
                "best-fashion-conv-weak-mirrored",
                f"32-64-256-10, kernels of 3 × 3, weak feedback, {MIRRORED}",
                50,
            ),
        ),
    ),
)
