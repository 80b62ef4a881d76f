"""Jacobian homeostasis: the vector-field rule becomes right while it learns."""

import jax
import jax.numpy as jnp

from ..costs import SquaredError
from ..estimators import (
    EquilibriumPropagation,
    ImplicitDifferentiation,
    JacobianHomeostasis,
)
from ..relaxations import Euler
from ..systems import fan_in_uniform, LeakyIntegrator, tanh
from ..training import Fit, fit, Observer, Optimizer
from ..verification._metrics import agreement
from ._demonstration import Curve, Demonstration, Panel

SETTLE = Euler(dt=0.3, steps=60)
RULE = EquilibriumPropagation(free=SETTLE, nudged=SETTLE, beta=1e-3)
STRENGTH = 3.0
EVERY = 10


class Watch(Observer):
    """Asymmetry and angle to the exact gradient, every few epochs."""

    def __init__(self, x, y):
        self.batch, self.epochs = (x, y), []
        self.asymmetry, self.angle = [], []

    def measure(self, epoch, system, cost):
        rule = JacobianHomeostasis(estimator=RULE, strength=0, probes=8)
        found = rule(system, cost, *self.batch, key=jax.random.key(1))
        exact = ImplicitDifferentiation(SETTLE)(system, cost, *self.batch)
        self.epochs.append(epoch)
        self.asymmetry.append(float(jnp.mean(found.stats["asymmetry"])))
        self.angle.append(agreement(found.grads, exact.grads).angle)

    def on_start(self, trainer, state, epochs):
        self.measure(0, state.system, state.cost)

    def on_epoch(self, state, record):
        if record["epoch"] % EVERY == 0:
            self.measure(record["epoch"], state.system, state.cost)


def watched(strength: float, epochs: int) -> tuple[Watch, Fit]:
    """Train a network whose backward weights are 60° off the forward ones."""
    kx, ky = jax.random.split(jax.random.key(1))
    x, y = jax.random.uniform(kx, (16, 3)), 0.3 * jax.random.normal(ky, (16, 2))
    system = LeakyIntegrator(
        (3, 6, 4, 2),
        key=jax.random.key(0),
        activation=tanh,
        initializer=fan_in_uniform,
        angle=60.0,
    )
    watch = Watch(x, y)
    found = fit(
        *(system, SquaredError(), x, y),
        estimator=JacobianHomeostasis(estimator=RULE, strength=strength),
        optimizer=Optimizer("sgd", (0.02,)),
        epochs=epochs,
        batch_size=8,
        observer=watch,
    )
    return watch, found


def homeostasis(epochs: int = 150, *, quick: bool = False) -> Demonstration:
    """With and without the penalty: asymmetry, angle and loss over training."""
    epochs = 20 if quick else epochs
    with jax.enable_x64(True):
        runs = {name: watched(s, epochs) for name, s in _STRENGTHS.items()}
    (plain, _), (penal, _) = runs.values()
    findings = {
        "angle at the start": plain.angle[0],
        "angle without": plain.angle[-1],
        "angle with": penal.angle[-1],
        "asymmetry without": plain.asymmetry[-1],
        "asymmetry with": penal.asymmetry[-1],
    }

    def curves(what):
        return tuple(
            Curve(name, watch.epochs, getattr(watch, what))
            for name, (watch, _) in runs.items()
        )

    losses = tuple(
        Curve(name, range(1, epochs + 1), [r["loss"] for r in fitted.history])
        for name, (_, fitted) in runs.items()
    )
    return Demonstration(
        claim="Penalising ‖J − Jᵀ‖² brings a vector field's EP near the exact gradient",
        source="arXiv 2309.02214; paper C, eq 18",
        panels=(
            Panel("epoch", "‖J − Jᵀ‖² (mean)", curves("asymmetry"), "y"),
            Panel("epoch", "angle to the exact gradient (°)", curves("angle")),
            Panel("epoch", "loss", losses),
        ),
        findings=findings,
        holds=bool(
            penal.angle[-1] < 0.5 * plain.angle[-1]
            and penal.asymmetry[-1] < 0.05 * plain.asymmetry[-1]
        ),
        words=(
            f"From {plain.angle[0]:.0f}° the angle goes to {penal.angle[-1]:.1f}° with "
            f"the penalty and to {plain.angle[-1]:.0f}° without; ‖J − Jᵀ‖² to "
            f"{penal.asymmetry[-1]:.2g} and {plain.asymmetry[-1]:.2g}; the loss to "
            f"{losses[1].y[-1]:.3g} and {losses[0].y[-1]:.3g}."
        ),
    )


_STRENGTHS = {"no penalty": 0.0, f"strength {STRENGTH:g}": STRENGTH}
ITEMS = {"C.homeostasis": homeostasis}
