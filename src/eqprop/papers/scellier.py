"""Scellier et al. 2023 and 2024: coupled learning, deep Hopfield networks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import eqprop as ep

from ._claim import claim, Findings
from ._common import agreement, apart, COST, network, random_examples, slope, traced
from ._contrast import descent, SWEEP
from ._figure import Curve, curves, power
from ._item import Paper
from ._train import Training
from ._verdict import Published

KINDS: dict[str, tuple[int, Any, int]] = {
    "P-CpL": (1, "one-sided", 1),
    "N-CpL": (-1, "one-sided", 1),
    "C-CpL": (1, "centered", 2),
}
"""sign of β, nudging, and expected order in β"""


def rule(kind: str, beta: float) -> ep.CoupledLearning:
    sign, nudging, _ = KINDS[kind]
    return ep.CoupledLearning(SWEEP, SWEEP, traced(sign * beta), nudging)


@claim(
    "Scellier2023.coupled",
    shows="P-, N- and C-CpL: their objective and their limit",
    source="Stern et al. 2021; Scellier et al. 2023",
    quick={"betas": (0.03, 0.01)},
)
def coupled(betas: Sequence[float] = (0.3, 0.1, 0.03, 0.01)) -> Findings:
    """Coupled learning descends its own contrast; for small β this is the cost's
    gradient in the metric of the outputs' stiffness.

    A 3-6-3 network of tanh units with four random examples. The contrast's gradient at
    β = 0.5 is compared with finite differences along 12 directions. The limit is the
    cost's gradient in the metric.
    """
    found = Findings()
    net, (x, y) = network((3, 6, 3), seed=2, output=ep.identity), random_examples(3, 3)
    pairs = {kind: descent(rule(kind, 0.5), net, x, y) for kind in KINDS}
    worst = max(apart(*pair) for pair in pairs.values())
    found.add("error of the contrast's gradient", worst, most=1e-6)
    exact = ep.ImplicitDifferentiation(SWEEP)
    truth = exact(net, COST, x, y).grads
    limit = exact(net, in_metric, x, (y, stiffness(net, x))).grads
    errors, angles = {}, {}
    for kind, (_, _, expected) in KINDS.items():
        grads = [rule(kind, beta)(net, COST, x, y).grads for beta in betas]
        errors[kind] = [agreement(each, limit).error for each in grads]
        angles[kind] = [agreement(each, truth).angle for each in grads]
        measured = slope(betas[-2:], errors[kind][-2:])
        label = f"order in β of the distance to the limit, {kind}"
        found.near(label, measured, expected, 0.05 * expected)
        label = f"angle to the cost's gradient at β = {betas[-1]:g} (°), {kind}"
        found.add(label, angles[kind][-1])
    final = agreement(limit, truth).angle
    found.add("angle of the limit to the cost's gradient (°)", final)
    lines = [Curve(kind, b, a) for kind, (a, b) in pairs.items()]
    equal = pairs["P-CpL"][1]
    found.panel(
        "finite difference of the contrast, β = 0.5",
        "gradient along the same direction",
        *lines,
        Curve("equal", equal, equal, "expected"),
    )
    found.panel(
        "β",
        "error to the gradient in the metric",
        *curves(betas, errors),
        power("slope 1", betas, 1, (betas[-1], 2 * errors["P-CpL"][-1])),
        power("slope 2", betas, 2, (betas[-1], errors["C-CpL"][-1] / 2)),
        scale="xy",
    )
    line = Curve("limit", betas, [final] * len(betas), "expected")
    label = "angle to the cost's gradient (°)"
    found.panel("β", label, *curves(betas, angles), line, scale="x")
    return found


def in_metric(prediction: Array, y: tuple[Array, Array]) -> Array:
    """½ (ŷ − y)ᵀK(ŷ − y) with K held fixed: an example's y is (y, K)."""
    away = prediction - y[0]
    return 0.5 * away @ y[1] @ away


def stiffness(net: ep.HopfieldEnergy, x: Array) -> Array:
    """K of each example: ∂²E/∂o² with the other units settled, a Schur complement."""

    def one(x, s):
        vector, unflatten = ravel_pytree(s)
        hessian = jax.hessian(lambda u: net.energy(x, unflatten(u)))(vector)
        n = s[-1].size
        inner, cross, outer = hessian[:-n, :-n], hessian[:-n, -n:], hessian[-n:, -n:]
        return outer - cross.T @ jnp.linalg.solve(inner, cross)

    return jax.vmap(one)(x, ep.relax(net, x, SWEEP).state)


def deep(layers: int, shows: str, error: float, minutes: float) -> Training:
    """A training of a deep Hopfield network."""
    return Training(
        f"Scellier2024.{layers}h",
        recipe=f"deep-hopfield-{layers}h",
        shows=shows,
        minutes=minutes,
        published=(Published("test_error", error, None, "C", 0.005),),
        in_paper="Test errors of one, two and three layers in comments of the code's "
        "commands.",
        settings="Biases start uniform within ±½/√(fan-in); in the authors' code they "
        "start at 0.",
    )


PAPERS = (
    Paper(
        "Scellier2023",
        "Scellier et al. 2023, energy-based algorithms (arXiv 2312.15103)",
        (coupled,),
        not_run="Tables 1 to 3, convolutional Hopfield networks on MNIST, "
        "Fashion-MNIST, SVHN, CIFAR-10 and CIFAR-100. We do not know their errors. The "
        "abstract says that simulations became 13.5 times faster than those of "
        "Laborieux et al. 2021 [P].",
    ),
    Paper(
        "Scellier2024",
        "code of Scellier et al. 2024, deep Hopfield networks",
        (
            deep(1, "784-1024-10, centered EP", 1.79, 15),
            deep(2, "784-2 × 1024-10, centered EP", 1.65, 500),
            deep(3, "784-3 × 1024-10, centered EP", 1.65, 1200),
        ),
    ),
)
