"""One recipe for each system and each learning rule, on the 8×8 digits.

Each needs no download and less than two minutes on two cores.  We chose the settings so
that each rule learns.  Other recipes have the papers' own sizes and numbers.
"""

import dataclasses

from ..estimators import (
    AbstractEstimator,
    AsymmetricEquilibriumPropagation,
    BackpropagationThroughTime,
    BoltzmannLearning,
    ContinualEquilibriumPropagation,
    ContrastiveDivergence,
    ContrastiveHebbianLearning,
    CoupledLearning,
    DyadicEquilibriumPropagation,
    EquilibriumPropagation,
    HolomorphicEquilibriumPropagation,
    ImplicitDifferentiation,
    JacobianHomeostasis,
    KolenPollackEquilibriumPropagation,
    RecurrentBackpropagation,
    SpikeTimingDependentPlasticity,
    StochasticEquilibriumPropagation,
    VectorFieldEquilibriumPropagation,
)
from ..relaxations import Euler, Langevin, Sweep
from ..systems import Convolution
from ..training import (
    Config,
    DiscreteHopfield,
    Hopfield,
    Leaky,
    Model,
    Optimizer,
    Prototypical,
    Toy,
    XieSeung,
)

SWEEPS = (Sweep(steps=10), Sweep(steps=5))
EULER = (Euler(dt=0.5, steps=30), Euler(dt=0.5, steps=15))
MAP = (Euler(dt=1.0, steps=20), Euler(dt=1.0, steps=10))
WARM = Langevin(dt=0.5, steps=20, temperature=1e-3, adjusted=False)
KERNELS = (Convolution(16, 3, pool="max"),)

HOPFIELD = Hopfield(hidden=(256,), output="linear")
SMOOTH = Hopfield(
    hidden=(128,), activation="shifted-sigmoid", output="linear", initializer="fan-in"
)
PROTOTYPICAL = Prototypical(
    hidden=(128,),
    activation="shifted-sigmoid",
    output="shifted-sigmoid",
    initializer="fan-in",
)
UNTIED = Leaky(
    hidden=(128,),
    activation="shifted-sigmoid",
    output="shifted-sigmoid",
    initializer="fan-in",
    angle=None,
    discrete=True,
)


def _config(model: Model, estimator: AbstractEstimator, epochs: int = 20) -> Config:
    return Config(
        data="digits",
        model=model,
        estimator=estimator,
        optimizer=Optimizer("adam", (2e-3,), "cosine"),
        epochs=epochs,
        batch_size=20,
    )


def _descent(
    model: Model,
    estimator: AbstractEstimator,
    epochs: int,
    optimizer: Optimizer,
) -> Config:
    """Return `_config` with an optimizer other than Adam."""
    config = _config(model, estimator, epochs)
    return dataclasses.replace(config, optimizer=optimizer)


def _images(model: Model, estimator: AbstractEstimator, epochs: int = 20) -> Config:
    return dataclasses.replace(_config(model, estimator, epochs), flatten=False)


def _leaky(angle: float | None) -> Leaky:
    return Leaky(
        hidden=(128,), output="linear", initializer="gain", gain=0.5, angle=angle
    )


RECIPES = {
    "digits-one-sided": (
        _config(HOPFIELD, EquilibriumPropagation(*SWEEPS, 0.25, "one-sided")),
        "EP with β against 0",
        "A, eqs 22–24",
        "test error ≤ 4 %",
    ),
    "digits-random-sign": (
        _config(HOPFIELD, EquilibriumPropagation(*SWEEPS, 0.25, "random-sign")),
        "EP with a random sign of β each batch",
        "A, section 5",
        "test error ≤ 5 %",
    ),
    "digits-softmax": (
        _config(
            Hopfield(hidden=(256,), cost="softmax-readout"),
            EquilibriumPropagation(*SWEEPS, 0.5),
        ),
        "a softmax layer outside the dynamics",
        "Laborieux 2021",
        "test error ≤ 3 %",
    ),
    "digits-toy": (
        _config(
            Toy(),
            EquilibriumPropagation(Euler(dt=0.2, steps=60), Euler(dt=0.2, steps=30)),
        ),
        "inputs, hidden units and outputs all connected",
        "D, figure 2 (its network)",
        "test error ≤ 8 %",
    ),
    "digits-prototypical": (
        _config(PROTOTYPICAL, EquilibriumPropagation(*MAP, 0.1)),
        "s ← σ(drive), σ outside Φ",
        "D",
        "test error ≤ 4 %",
    ),
    "digits-leaky": (
        _config(_leaky(0.0), EquilibriumPropagation(*EULER)),
        "leaky integrators, tied at the start",
        "C",
        "test error ≤ 4 %",
    ),
    "digits-leaky-untied": (
        _config(_leaky(None), EquilibriumPropagation(*EULER)),
        "leaky integrators, untied at the start",
        "C",
        "test error ≤ 6 %",
    ),
    "digits-asymmetric": (
        _config(UNTIED, AsymmetricEquilibriumPropagation(*MAP)),
        "AsymEP: exact gradients of an untied network",
        "beyond C (2602.03670)",
        "test error ≤ 4 %",
    ),
    "digits-dyadic": (
        _config(UNTIED, DyadicEquilibriumPropagation(MAP[0], dt=1.0, steps=10)),
        "Dyadic EP on the same network",
        "beyond C (2602.03670)",
        "test error ≤ 4 %",
    ),
    "digits-holomorphic": (
        _config(SMOOTH, HolomorphicEquilibriumPropagation(*EULER, 0.3, points=4)),
        "holomorphic EP, four complex nudges",
        "Laborieux & Zenke 2022",
        "test error ≤ 3 %",
    ),
    "digits-discrete": (
        _config(
            DiscreteHopfield(hidden=(256,), output="linear"),
            EquilibriumPropagation(*MAP, 0.25),
        ),
        "an energy as a primitive function",
        "D",
        "test error ≤ 4 %",
    ),
    "digits-convolutional": (
        _images(
            Hopfield(
                hidden=(),
                convolutions=KERNELS,
                output="linear",
                initializer="gain",
                gain=0.5,
            ),
            EquilibriumPropagation(*SWEEPS, 0.25),
        ),
        "a convolutional Hopfield network, by sweeps",
        "Scellier 2023",
        "test error ≤ 4 %",
    ),
    "digits-convolutional-prototypical": (
        _images(
            dataclasses.replace(PROTOTYPICAL, hidden=(), convolutions=KERNELS),
            EquilibriumPropagation(*MAP, 0.1),
        ),
        "a convolutional prototypical network",
        "D",
        "test error ≤ 4 %",
    ),
    "digits-convolutional-leaky": (
        _images(
            Leaky(
                hidden=(),
                convolutions=(Convolution(16, 3, pool="average"),),
                output="linear",
                initializer="gain",
                gain=0.5,
                angle=None,
            ),
            EquilibriumPropagation(*EULER),
        ),
        "convolutional leaky integrators, untied",
        "C",
        "test error ≤ 8 %",
    ),
    "digits-vector-field": (
        _config(HOPFIELD, VectorFieldEquilibriumPropagation(*SWEEPS)),
        "the rule that needs no energy",
        "C, eq 16",
        "test error ≤ 4 %",
    ),
    "digits-kolen-pollack": (
        _descent(
            _leaky(None),
            KolenPollackEquilibriumPropagation(*EULER, decay=1e-2),
            20,
            Optimizer("sgd", (0.03,), "cosine", {"momentum": 0.9}),
        ),
        "untied weights that align by decay",
        "Laborieux 2021",
        "test error ≤ 6 %",
    ),
    "digits-homeostasis": (
        _config(
            _leaky(None),
            JacobianHomeostasis(EquilibriumPropagation(*EULER), strength=0.1),
        ),
        "a penalty that makes the Jacobian symmetric",
        "Laborieux & Zenke 2023",
        "test error ≤ 6 %",
    ),
    "digits-continual": (
        _descent(
            PROTOTYPICAL,
            ContinualEquilibriumPropagation(*MAP, 0.5, "one-sided", learning_rate=0.05),
            30,
            Optimizer("sgd", (0.05,)),
        ),
        "parameters change at every nudged step",
        "Ernoult 2020",
        "test error ≤ 6 %",
    ),
    "digits-stdp": (
        _config(HOPFIELD, SpikeTimingDependentPlasticity(*SWEEPS)),
        "dW ∝ ρ(u) dρ(u)/dt along the nudged phase",
        "A, eqs 11–14",
        "test error ≤ 4 %",
    ),
    "digits-hebbian": (
        _config(HOPFIELD, ContrastiveHebbianLearning(*SWEEPS)),
        "contrastive Hebbian learning",
        "A, eqs 27–32",
        "test error ≤ 4 %",
    ),
    "digits-xie-seung": (
        _config(
            XieSeung(hidden=(256,), output="linear", gamma=0.3),
            ContrastiveHebbianLearning(*SWEEPS),
        ),
        "CHL with feedback weakened by γ",
        "A, eqs 33–35",
        "test error ≤ 3 %",
    ),
    "digits-coupled": (
        _config(HOPFIELD, CoupledLearning(*SWEEPS)),
        "coupled learning: outputs pulled to the target",
        "Scellier 2023",
        "test error ≤ 4 %",
    ),
    "digits-stochastic": (
        _config(
            HOPFIELD,
            StochasticEquilibriumPropagation(free=WARM, nudged=WARM, beta=0.25),
            10,
        ),
        "the gradient of E[C] by Langevin chains",
        "A, stochastic framework",
        "test error ≤ 6 %",
    ),
    "digits-boltzmann": (
        _config(HOPFIELD, BoltzmannLearning(free=WARM, clamped=WARM), 10),
        "Boltzmann learning by Langevin chains",
        "A, related work",
        "test error ≤ 6 %",
    ),
    "digits-divergence": (
        _config(HOPFIELD, ContrastiveDivergence(free=WARM, clamped=WARM, steps=10), 10),
        "contrastive divergence, CD-10",
        "A, related work",
        "test error ≤ 10 %",
    ),
    "digits-rbp": (
        _config(SMOOTH, RecurrentBackpropagation(EULER[0], dt=0.5, steps=15)),
        "recurrent backpropagation",
        "B, eqs 8–11",
        "test error ≤ 3 %",
    ),
    "digits-bptt": (
        _config(SMOOTH, BackpropagationThroughTime(EULER[0], dt=0.5, steps=15)),
        "backpropagation through 15 further steps",
        "D, theorem 1",
        "test error ≤ 3 %",
    ),
    "digits-implicit": (
        _config(SMOOTH, ImplicitDifferentiation(Euler(dt=0.5, steps=60)), 10),
        "implicit differentiation",
        "C, eq 17",
        "test error ≤ 4 %",
    ),
}
