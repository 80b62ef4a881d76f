"""Recipes of our own: the first command, MNIST in seconds, and any model."""

from ..estimators import EquilibriumPropagation
from ..relaxations import Euler, Sweep
from ..systems import Convolution
from ..training import Config, Hopfield, Optimizer


def _dense(epochs: int) -> Config:
    return Config(
        data="mnist",
        model=Hopfield(hidden=(1024,), output="linear", initializer="gain", gain=0.5),
        estimator=EquilibriumPropagation(
            free=Sweep(steps=6), nudged=Sweep(steps=3), beta=0.25
        ),
        optimizer=Optimizer("adam", (7e-4,), "cosine"),
        epochs=epochs,
        batch_size=64,
    )


RECIPES = {
    "digits": (
        Config(
            data="digits",
            model=Hopfield(hidden=(256,), output="linear"),
            estimator=EquilibriumPropagation(
                free=Sweep(steps=10), nudged=Sweep(steps=5), beta=0.25
            ),
            optimizer=Optimizer("adam", (2e-3,), "cosine"),
            epochs=40,
            batch_size=32,
        ),
        "64-256-10 on bundled 8×8 digits, no download",
        "none",
        "test error ≤ 3 % in under a minute",
    ),
    "mnist-fast": (
        _dense(6),
        "784-1024-10 on MNIST, even/odd sweeps, centered, Adam",
        "none (network of Scellier 2024)",
        "test error ≤ 2 % in half a minute of training",
    ),
    "mnist-dense": (
        _dense(10),
        "mnist-fast, longer",
        "none (network of Scellier 2024)",
        "test error about 1.75 % in a minute of training",
    ),
    "mnist-conv": (
        Config(
            data="mnist",
            flatten=False,
            model=Hopfield(
                hidden=(128,),
                convolutions=tuple(Convolution(n, 5, pool="max") for n in (32, 64)),
                cost="softmax-readout",
                initializer="gain",
                gain=0.7,
            ),
            estimator=EquilibriumPropagation(
                free=Sweep(steps=7, omega=1.4), nudged=Sweep(steps=3), beta=0.5
            ),
            optimizer=Optimizer("adam", (3e-4,), "cosine"),
            epochs=9,
            batch_size=20,
        ),
        "32 and 64 kernels of 5×5, 128, 10 on MNIST, over-relaxed sweeps, Adam",
        "none",
        "test error about 1 % in 15 minutes of training",
    ),
    "custom": (
        Config(
            data=None,
            estimator=EquilibriumPropagation(
                free=Euler(dt=0.1, steps=300, tol=1e-4),
                nudged=Euler(dt=0.1, steps=100, tol=1e-4),
                beta=0.1,
            ),
            optimizer=Optimizer("adam", (1e-3,)),
            epochs=20,
            batch_size=32,
        ),
        "the default of --system: small Euler steps, centered, Adam",
        "none",
        "depends on the model",
    ),
}
