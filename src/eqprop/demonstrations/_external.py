"""Training through a device against training its model and deploying the weights."""

from typing import Any

import jax
import numpy as np

from ..costs import SquaredError
from ..estimators import EquilibriumPropagation
from ..relaxations import Euler, HardwareInTheLoop, relax
from ..systems import AbstractSystem, fan_in_uniform, HopfieldEnergy, tanh
from ..training import fit, Optimizer
from ._demonstration import Curve, Demonstration, Panel

MISMATCHES = (0.0, 0.05, 0.1, 0.2)
NOISE = 0.01
DT, STEPS, BETA = 0.3, 60, 0.5


class Chip:
    """A simulated chip, in NumPy: a Hopfield network with one hidden layer of tanh.

    Every weight is the programmed one times a fixed 1 + mismatch · ξ, and every read
    of a unit is multiplied by 1 + noise · ξ, drawn anew.
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

    def loss(self, system: AbstractSystem, x: Any, y: Any) -> float:
        """The mean cost of what the device itself predicts, read without noise."""
        quiet = Chip(self.mismatch, 0.0, self.seed)
        params: Any = jax.tree.map(np.asarray, system)
        start = tuple(np.zeros((len(x), len(b))) for b in params.biases)
        out = quiet.settle(params, np.asarray(x), None, 0.0, start)[-1]
        return float(np.mean(0.5 * np.sum((out - np.asarray(y)) ** 2, axis=1)))


def network(sizes: tuple[int, ...], seed: int) -> HopfieldEnergy:
    """A network of tanh units."""
    return HopfieldEnergy(
        sizes,
        key=jax.random.key(seed),
        activation=tanh,
        initializer=fan_in_uniform,
    )


def teacher_task(examples: int = 16) -> tuple[Any, Any]:
    """Inputs, and what another network of this kind predicts of them."""
    x = jax.random.uniform(jax.random.key(1), (examples, 3), minval=-1)
    teacher = network((3, 4, 2), 9)
    teacher = jax.tree.map(lambda p: 2 * p if hasattr(p, "dtype") else p, teacher)
    return x, relax(teacher, x, Euler(dt=DT, steps=STEPS)).state[-1]


def train(chip: Chip | None, epochs: int) -> AbstractSystem:
    """EP on the chip's states, or on the model's."""
    phase: Any = Euler(dt=DT, steps=STEPS)
    if chip is not None:
        phase = HardwareInTheLoop(chip.settle)
    return fit(
        *(network((3, 8, 2), 2), SquaredError(), *teacher_task()),
        estimator=EquilibriumPropagation(phase, phase, BETA),
        optimizer=Optimizer("adam", (0.04,), "cosine"),
        epochs=epochs,
        batch_size=16,
    ).system


def chip_in_the_loop(
    mismatches: tuple[float, ...] = MISMATCHES,
    epochs: int = 300,
    *,
    quick: bool = False,
) -> Demonstration:
    """The device's loss, for both ways to get its weights, against its mismatch."""
    mismatches = mismatches[:: len(mismatches) - 1] if quick else mismatches
    with jax.enable_x64(True):
        x, y = teacher_task()
        model = train(None, epochs)
        chips = [Chip(mismatch, NOISE) for mismatch in mismatches]
        through = [chip.loss(train(chip, epochs), x, y) for chip in chips]
        deployed = [chip.loss(model, x, y) for chip in chips]
        start = chips[-1].loss(network((3, 8, 2), 2), x, y)
    percent = [100 * mismatch for mismatch in mismatches]
    gain = deployed[-1] / through[-1]
    spread = max(through) / min(through)
    curves = (
        Curve("trained through the device", percent, through),
        Curve("trained on the model, then deployed", percent, deployed),
        Curve("before training", percent, [start] * len(percent), "expected"),
    )
    return Demonstration(
        claim="EP from a device's own states trains the device, though its weights are "
        "not the programmed ones (a simulated chip, symmetric)",
        source="arXiv 1602.05179, eqs 22–24, with measured states",
        panels=(
            Panel("device mismatch of each weight (%)", "device's loss", curves, "y"),
        ),
        findings={"gain": gain, "spread": spread, "start": start},
        holds=bool(gain > 3 and spread < 3 and through[-1] < 0.05 * start),
        words=(
            f"A simulated chip: at {percent[-1]:g} % mismatch and {100 * NOISE:g} % "
            f"read noise the device's loss is {through[-1]:.2g} if trained through it "
            f"and {deployed[-1]:.2g} if the model's weights are deployed ({gain:.0f} "
            f"times more); through it, mismatch changes the loss at most "
            f"{spread:.1f}-fold."
        ),
    )


ITEMS = {"chip-in-the-loop": chip_in_the_loop}
