"""Follow-ups of papers A–D on MNIST: continual EP and deep Hopfield networks.

- Continual EP (Ernoult et al. 2020, arXiv 2005.04168): paper D's prototypical networks
  (C-EP) and vector fields that start tied (C-VF).  T, K, β and its signs, rates and
  epochs are those of the authors' commands.
- Deep Hopfield networks with 1024 units a layer (code of Scellier et al. 2024): even
  and odd layers in turn, centered EP, linear outputs, rates that fall by 1 % an epoch.
  The code's biases start at 0; ours start in ±½/√(fan-in).
"""

from ..estimators import ContinualEquilibriumPropagation, EquilibriumPropagation
from ..relaxations import Euler, Sweep
from ..training import Config, Hopfield, Leaky, Optimizer
from ._paper_c import RECIPES as VECTOR_FIELDS
from ._paper_d import ROWS

P1, P2 = (ROWS[name][0] for name in ("p-1h", "p-2h"))
VF1, VF2 = (VECTOR_FIELDS[name][0].model for name in ("vf-1h", "vf-2h"))

# The network, T, K, β, its sign, rates from the input side on, epochs.
CONTINUAL: dict[str, tuple] = {
    "c-ep-1h": (P1, 40, 15, 0.2, "one-sided", (0.0056, 0.0028), 100),
    "c-ep-2h": (P2, 100, 20, 0.5, "one-sided", (0.01, 0.0018, 0.00018), 150),
    "c-vf-1h": (VF1, 40, 15, 0.2, "random-sign", (0.0076, 0.0038), 100),
    "c-vf-2h": (VF2, 100, 20, 0.35, "random-sign", (0.009, 0.0016, 0.00016), 150),
}

# Sweeps of the free and of the nudged phase, rates from the input side on.
DEEP: dict[int, tuple[int, int, tuple[float, ...]]] = {
    1: (15, 15, (0.05, 0.05)),
    2: (50, 20, (0.2, 0.05, 0.01)),
    3: (100, 10, (0.2, 0.05, 0.01, 0.002)),
}
EXPECTED = {
    "c-ep-1h": "test error about 6 %, some examples oscillate; 2.3 % if they settle",
    "deep-hopfield-1h": "test error about 1.8 % in 10 minutes",
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


def _continual(name: str) -> Config:
    model, free, nudged, beta, nudging, lr, epochs = CONTINUAL[name]
    phases = (Euler(dt=1.0, steps=free), Euler(dt=1.0, steps=nudged))
    return Config(
        data="mnist",
        model=model,
        estimator=ContinualEquilibriumPropagation(
            *phases, beta, nudging, learning_rate=lr
        ),
        optimizer=Optimizer("sgd", lr),
        epochs=epochs,
        batch_size=20,
    )


RECIPES = {
    **{
        name: (
            _continual(name),
            f"784-{'512-' * len(row[0].hidden)}10"
            f"{', tied at the start' * isinstance(row[0], Leaky)}, parameters change "
            "at every nudged step",
            "Ernoult 2020, figure 5",
            EXPECTED.get(name, "not run yet"),
        )
        for name, row in CONTINUAL.items()
    },
    **{
        f"deep-hopfield-{layers}h": (
            _deep(layers),
            f"{layers} hidden layer{'s' * (layers > 1)} of 1024, sweeps, centered EP",
            "Scellier 2024 (code)",
            EXPECTED.get(f"deep-hopfield-{layers}h", "not run yet"),
        )
        for layers in DEEP
    },
}
