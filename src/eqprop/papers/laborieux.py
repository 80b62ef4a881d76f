"""Laborieux et al. 2021 and Laborieux & Zenke 2022: the bias of EP, complex nudges."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

import eqprop as ep

from . import _common as common
from ._claim import claim, Findings
from ._common import BETAS, COST, digits, network, nudged, off, order, pooled, SETTLE
from ._figure import Curve, curves, power
from ._item import Paper

UP, DOWN, HOLOMORPHIC = "one-sided, β", "one-sided, −β", "holomorphic, N = 4"
ORDERS = {UP: 1, DOWN: 1, "centered": 2, HOLOMORPHIC: 4}
SAME = 1e-9
"""relative difference of gradients that are the same by algebra"""


def circle(points: int, beta: float) -> ep.HolomorphicEquilibriumPropagation:
    """EP with complex nudges."""
    return ep.HolomorphicEquilibriumPropagation(
        SETTLE, SETTLE, common.traced(beta), points
    )


@claim(
    "Laborieux2021.bias",
    shows="bias of one-sided, random-sign, centered and holomorphic EP against β",
    source="Laborieux et al. 2021; Laborieux & Zenke 2022",
    quick={"betas": BETAS[2:], "count": 2},
)
def bias(betas: Sequence[float] = BETAS, count: int = 4) -> Findings:
    """EP's bias is of order β with a nudge of β or −β, one of which a random sign
    draws; of order β² with centered nudging, which is their mean; and of order β^N with
    N complex nudges.

    A convolutional Hopfield network with softmax pooling and a softmax readout, {count}
    digits.
    """
    found = Findings(count=count)
    x, y = digits(count)
    sizes = ((8, 8, 1), pooled(4, "softmax"), pooled(6, "softmax"), 16)
    readout = ep.SoftmaxReadout(16, 10, key=jax.random.key(5))
    problem = network(sizes, ep.shifted_sigmoid, seed=1), readout, x, y
    exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
    errors: dict[str, list[float]] = {name: [] for name in ORDERS}
    distances, grads = [], {}
    for beta in betas:
        rules = {
            UP: nudged(beta, "one-sided"),
            DOWN: nudged(-beta, "one-sided"),
            "centered": nudged(beta, "centered"),
            HOLOMORPHIC: circle(4, beta),
        }
        grads = {name: rule(*problem) for name, rule in rules.items()}
        for name, gradient in grads.items():
            errors[name].append(off(gradient, exact))
        distances.append(off(mean(grads[UP], grads[DOWN]), grads["centered"]))
    lines = curves(betas, errors)
    for name, p in ORDERS.items():
        # The fourth power meets rounding at the smaller β.
        used = slice(0, 4) if p == 4 else slice(None)
        measured = order(betas[used], errors[name][used])
        found.near(f"order in β, {name}", measured, p, 0.1 * p)
        found.add(f"relative error at β = {betas[0]:g}, {name}", errors[name][0])
        if name != DOWN:
            label = "slopes 1, 2, 4" if name == UP else ""
            at = betas[0], errors[name][0]
            lines.append(power(label, betas, p, at, kind="other", color=6))
    found.add("mean of β and −β against centered EP", max(distances), most=SAME)
    drawn = distance_of_draws(problem, betas[-1], (grads[UP], grads[DOWN]))
    found.add("draws of a random sign against β or −β", drawn, most=SAME)
    found.panel("β", "relative error of the gradient", *lines, scale="xy")
    return found


def mean(one: ep.Gradient, other: ep.Gradient) -> ep.Gradient:
    return jax.tree.map(
        lambda a, b: (a + b) / 2 if eqx.is_inexact_array(a) else a, one, other
    )


def distance_of_draws(
    problem: Any, beta: float, ends: tuple[ep.Gradient, ep.Gradient]
) -> float:
    """How far eight draws of a random sign are from β and −β; inf if one is missing."""
    rule = nudged(beta, "random-sign")
    draws = [rule(*problem, key=jax.random.key(k)) for k in range(8)]
    gaps = np.array([[off(draw, end) for end in ends] for draw in draws])
    both = set(gaps.argmin(axis=1)) == {0, 1}
    return float(gaps.min(axis=1).max()) if both else float("inf")


@claim(
    "Laborieux2022.holomorphic",
    shows="order β^N of N complex nudges",
    source="Laborieux & Zenke 2022, arXiv 2209.00530",
)
def holomorphic() -> Findings:
    """N complex nudges on the circle |β| have an error of order β^N.

    A 3-6-2 network of shifted sigmoids with four random examples.

    In the paper: Figure 2: gradient error of a toy network against β and N. We do not
    know its values.
    """
    found = Findings()
    net = network((3, 6, 2), ep.shifted_sigmoid, seed=2)
    problem = net, COST, *common.random_examples(3, 2)
    exact, lines = ep.ImplicitDifferentiation(SETTLE)(*problem), []
    for n in (2, 3, 4, 6):
        betas = [0.2 * beta for beta in (BETAS[:4] if n == 6 else BETAS)]
        errors = [off(circle(n, beta)(*problem), exact) for beta in betas]
        found.near(f"order in |β|, N = {n}", order(betas, errors), n, 0.05 * n)
        lines.append(Curve(f"N = {n}", betas, errors))
        lines.append(power(f"slope {n}", betas, n, (betas[-1], errors[-1])))
    centered = ep.EquilibriumPropagation(SETTLE, SETTLE, 0.1)(*problem)
    same = off(circle(2, 0.1)(*problem), centered)
    found.add("N = 2 against centered EP", same, most=SAME)
    found.panel("|β|", "relative error of the gradient", *lines, scale="xy")
    return found


PAPERS = (
    Paper(
        "Laborieux2021",
        "Laborieux et al. 2021, scaling EP (arXiv 2006.03824)",
        (bias,),
        not_run="Test errors on CIFAR-10 of a network of four convolutions. Squared "
        "error: 86.7 (5.8) % one-sided, 21.6 (20.0) % with random signs, 12.5 (0.2) % "
        "centered. Cross-entropy: 11.7 (0.2) % centered, 11.9 (0.3) % with dropout, "
        "75.5 (4.7) % untied, and 13.2 (0.5) % by Kolen–Pollack updates. BPTT: 9.5 to "
        "11.1 % (from their poster, standard deviations in brackets) [L].",
    ),
    Paper(
        "Laborieux2022",
        "Laborieux & Zenke 2022, holomorphic EP (arXiv 2209.00530)",
        (holomorphic,),
        not_run="Table 1, 784-256-256-10 on MNIST: errors of the best epoch, without "
        "and with noise in the states: 1.87 ± 0.01 and 88.65 % (N = 1, β = 0.1), 2.24 "
        "± 0.05 and 3.01 ± 0.10 % (N = 1, β = 0.4), 1.97 ± 0.08 and 1.96 ± 0.07 % (N = "
        "10), 2.05 ± 0.02 and 1.91 ± 0.16 % (continuous) [L]. Table 2, accuracies of "
        "the best epoch: 88.6 ± 0.2 % on CIFAR-10, 61.6 ± 0.1 % on CIFAR-100, 36.5 ± "
        "0.3 % on ImageNet-32 [L].",
    ),
)
