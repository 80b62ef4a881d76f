"""Paper C: what is left of the gradient where feedback is not the transpose.

784-512-10 at its initial weights.  "As trained" are T, K and β of VF-1h of continual
EP's code, 30 and 10 steps of s ← ρ(drive) and 0.1; paper C's own hyper-parameters are
not known.  "Settled" is paper C's leaky integrator at its fixed point with a small
nudge, where theorem 1 speaks of the limit.  Its Jacobian W ρ′ − 1 is symmetric at 0°
only where ρ is linear: there the rule is exact, and with a sigmoid it is not.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ..costs import SquaredError
from ..estimators import (
    AbstractEstimator,
    AsymmetricEquilibriumPropagation,
    ImplicitDifferentiation,
    VectorFieldEquilibriumPropagation,
)
from ..relaxations import Euler
from ..systems import fan_in_uniform, identity, LeakyIntegrator, shifted_sigmoid
from ..verification._metrics import agreement
from ._demonstration import Curve, Demonstration, Panel
from ._images import images

ANGLES = tuple(22.5 * k for k in range(9))
SETTLE = Euler(dt=0.2, steps=1000, tol=1e-12)
MAP = Euler(dt=1.0, steps=1000, tol=1e-12)
EXACT = 1e-5
"""largest relative error of a rule that is called exact, at β = 1e-4"""
DESCENDS = 45.0
"""up to this angle every update of the settled rule must be a descent"""

SETTLED: dict[str, AbstractEstimator] = {
    "rule": VectorFieldEquilibriumPropagation(SETTLE, SETTLE, 1e-4),
    "AsymEP": AsymmetricEquilibriumPropagation(SETTLE, SETTLE, 1e-4),
}
TRAINED = {
    "rule": VectorFieldEquilibriumPropagation(
        Euler(dt=1.0, steps=30), Euler(dt=1.0, steps=10), 0.1, "one-sided"
    )
}


@eqx.filter_jit
def gradients(rules: tuple[AbstractEstimator, ...], system: Any, x: Array, y: Array):
    """Each rule's mean gradient, and ∂J/∂W·g of every example, all and hidden weights.

    g descends if the product is positive: ν of paper C is −g.
    """

    def one(total, example):
        x, y = example
        found = [
            rule.estimate(system, SquaredError(), x[None], y[None], None, None, None)
            for rule in rules
        ]
        grads = [gradient.grads for gradient in found]
        hidden = jnp.stack([jnp.sum(g.weights[0] * grads[0].weights[0]) for g in grads])
        rows = jnp.stack([ravel_pytree(g)[0] for g in grads])
        return total + rows, (rows @ rows[0], hidden)

    size = ravel_pytree(eqx.filter(system, eqx.is_inexact_array))[0].size
    total, products = jax.lax.scan(one, jnp.zeros((len(rules), size)), (x, y))
    return total / len(x), products


def measured(network: str, data: Any, angles: tuple[float, ...]) -> Any:
    """For each rule and angle: error, angle to the exact gradient, and two shares."""
    rules = TRAINED if network == "as trained" else SETTLED
    exact = ImplicitDifferentiation(MAP if network == "as trained" else SETTLE)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in rules}
    for angle in angles:
        system = LeakyIntegrator(
            (784, 512, 10),
            key=jax.random.key(0),
            activation=identity if network == "linear" else shifted_sigmoid,
            initializer=fan_in_uniform,
            angle=angle,
            discrete=network == "as trained",
        )
        # A tuple: a dictionary would be sorted on its way through the compiler.
        mean, products = gradients((exact, *rules.values()), system, data.flat, data.y)
        for k, name in enumerate(rules, 1):
            off = agreement(mean[k], mean[0])
            shares = [float(jnp.mean(product[:, k] > 0)) for product in products]
            found[name].append((off.error, off.angle, *shares))
    return {name: np.array(values).T for name, values in found.items()}


def symmetry(*, quick: bool = False) -> Demonstration:
    """Error of paper C's rule against the initial angle, and its descents."""
    with jax.enable_x64(True):
        data = images(4 if quick else 100)
        angles = ANGLES[::4] if quick else ANGLES
        found = {
            f"{rule}, {network}": rows
            for network in ("linear", "sigmoid", "as trained")
            for rule, rows in measured(network, data, angles).items()
        }
    linear, field, trained = (
        found[f"rule, {network}"] for network in ("linear", "sigmoid", "as trained")
    )
    exact = [rows for name, rows in found.items() if name.startswith("AsymEP")]
    worst = max(float(rows[0].max()) for rows in exact)
    early = np.asarray(angles) <= DESCENDS
    middle = len(angles) // 2
    rises = all((np.diff(rows[1]) > 0).all() for rows in (linear, field))
    label = "initial angle of forward and backward weights (degrees)"

    def panel(row: int, what: str, scale: Any = "") -> Panel:
        curves = tuple(Curve(name, angles, rows[row]) for name, rows in found.items())
        return Panel(label, what, curves, scale)

    return Demonstration(
        claim="The vector-field rule is as exact as the Jacobian is symmetric; "
        "corrected for asymmetry it is exact at every angle",
        source="paper C, theorem 1 (eqs 16–18); arXiv 2602.03670",
        panels=(
            panel(0, "relative error of the gradient", "y"),
            panel(1, "angle to the exact gradient (degrees)"),
            panel(2, "share of updates with ∂J/∂W·ν < 0"),
            panel(3, "the same, input weights only"),
        ),
        findings={
            f"{what}, {name}, {angle:g}°": float(value)
            for name, rows in found.items()
            for what, row in zip(
                ("error", "angle", "descents", "descents, input weights"),
                rows,
                strict=True,
            )
            for angle, value in zip(angles, row, strict=True)
        },
        holds=bool(
            linear[0, 0] < EXACT
            and worst < EXACT
            and rises
            and field[2:, early].min() == min(rows[2:].min() for rows in exact) == 1
            and field[3, -1] == 0
        ),
        words=(
            f"784-512-10, {len(data.x)} examples ({data.name}), settled: with linear "
            f"units the rule is off by {linear[0, 0]:.0e} at 0° and "
            f"{linear[0, middle]:.0%} at {angles[middle]:g}°; with a sigmoid its angle "
            f"is {field[1, 0]:.0f}° at 0°, {field[1, middle]:.0f}° at "
            f"{angles[middle]:g}° and {field[1, -1]:.0f}° at 180°. AsymEP is never off "
            f"by more than {worst:.0e} (tolerance {EXACT:.0e}). Updates that descend "
            f"(sigmoid): {field[2, early].min():.0%} up to {DESCENDS:g}°, "
            f"{field[2, middle]:.0%} at {angles[middle]:g}°, {field[2, -1]:.0%} at "
            f"180°; of the input weights, whose error came through the feedback, "
            f"{field[3, early].min():.0%}, {field[3, middle]:.0%} and "
            f"{field[3, -1]:.0%} (100 % up to {DESCENDS:g}° and 0 % at 180° expected); "
            f"with linear units {linear[2, early].min():.0%}, {linear[2, middle]:.0%} "
            f"and {linear[2, -1]:.0%} of the whole updates; "
            f"AsymEP's {min(r[2:].min() for r in exact):.0%}. With T, K and β of a "
            f"training, at its initial weights, the angle is {trained[1, 0]:.0f}° at "
            f"0°, {trained[1, middle]:.0f}° at {angles[middle]:g}° and "
            f"{trained[1, -1]:.0f}° at 180°, the input weights' descents "
            f"{trained[3, 0]:.0%}, {trained[3, middle]:.0%} and {trained[3, -1]:.0%}."
        ),
        rows=2,
    )


ITEMS = {"C.symmetry": symmetry}
