"""Every system and every rule on the 8×8 digits, each in a coffee break.

No download and under two minutes on two cores.  The settings are ours, chosen so that
each rule learns; the papers' own sizes and numbers are other recipes.
"""

from ..estimators import (
    AbstractEstimator,
    AsymmetricEquilibriumPropagation,
    BackpropagationThroughTime,
    DyadicEquilibriumPropagation,
    EquilibriumPropagation,
    HolomorphicEquilibriumPropagation,
    ImplicitDifferentiation,
    RecurrentBackpropagation,
)
from ..relaxations import Euler, Sweep
from ..training import Config, Hopfield, Leaky, Model, Optimizer, Prototypical, Toy

SWEEPS = (Sweep(steps=10), Sweep(steps=5))
EULER = (Euler(dt=0.5, steps=30), Euler(dt=0.5, steps=15))
MAP = (Euler(dt=1.0, steps=20), Euler(dt=1.0, steps=10))

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
        "a softmax layer outside of the dynamics",
        "Laborieux 2021",
        "test error ≤ 3 %",
    ),
    "digits-toy": (
        _config(
            Toy(),
            EquilibriumPropagation(Euler(dt=0.2, steps=60), Euler(dt=0.2, steps=30)),
        ),
        "inputs, hidden units and outputs all joined",
        "D, figure 2 (its network)",
        "test error ≤ 8 %",
    ),
    "digits-prototypical": (
        _config(PROTOTYPICAL, EquilibriumPropagation(*MAP, 0.1)),
        "s ← σ(drive), σ outside of Φ",
        "D, section 4",
        "test error ≤ 4 %",
    ),
    "digits-leaky": (
        _config(_leaky(0.0), EquilibriumPropagation(*EULER)),
        "leaky integrators, tied at the start",
        "C, section 3",
        "test error ≤ 4 %",
    ),
    "digits-leaky-untied": (
        _config(_leaky(None), EquilibriumPropagation(*EULER)),
        "leaky integrators, untied at the start",
        "C, section 3",
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
