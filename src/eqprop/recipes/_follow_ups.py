"""Follow-ups of papers A–D on MNIST: continual EP, and deep Hopfield networks.

- Continual EP (Ernoult et al. 2020, arXiv 2005.04168), one hidden layer of paper D's
  prototypical network: T, K, β, rates and epochs of the authors' commands.
- Deep Hopfield networks of 1024 units a layer (code of Scellier et al. 2023 and of a
  paper of 2024): even and odd layers in turn, centered EP, linear outputs, rates that
  fall by 1 % an epoch.  The code's biases start at 0, ours in ±½/√(fan-in).
"""

from ..estimators import ContinualEquilibriumPropagation, EquilibriumPropagation
from ..relaxations import Euler, Sweep
from ..training import Config, Hopfield, Optimizer
from ._paper_d import ROWS

CONTINUAL = (0.0056, 0.0028)

# Sweeps of the free and of the nudged phase, rates from the input side on.
DEEP: dict[int, tuple[int, int, tuple[float, ...]]] = {
    1: (15, 15, (0.05, 0.05)),
    2: (50, 20, (0.2, 0.05, 0.01)),
    3: (100, 10, (0.2, 0.05, 0.01, 0.002)),
}


def _deep(layers: int) -> Config:
    free, nudged, lr = DEEP[layers]
    return Config(
        data="mnist",
        model=Hopfield(
            hidden=(1024,) * layers, output="linear", initializer="gain", gain=0.7
        ),
        estimator=EquilibriumPropagation(
            Sweep(steps=free), Sweep(steps=nudged), beta=0.2
        ),
        optimizer=Optimizer("sgd", lr, "exponential"),
        epochs=100,
        batch_size=16,
    )


RECIPES = {
    "c-ep-1h": (
        Config(
            data="mnist",
            model=ROWS["p-1h"][0],
            estimator=ContinualEquilibriumPropagation(
                free=Euler(dt=1.0, steps=40),
                nudged=Euler(dt=1.0, steps=15),
                beta=0.2,
                nudging="one-sided",
                learning_rate=CONTINUAL,
            ),
            optimizer=Optimizer("sgd", CONTINUAL),
            epochs=100,
            batch_size=20,
        ),
        "784-512-10, parameters that move at every nudged step",
        "Ernoult 2020, figure 5",
        "not run yet",
    ),
    **{
        f"deep-hopfield-{layers}h": (
            _deep(layers),
            f"{layers} hidden layer{'s' * (layers > 1)} of 1024, swept, centered EP",
            "Scellier 2024 (code)",
            "not run yet",
        )
        for layers in DEEP
    },
}
