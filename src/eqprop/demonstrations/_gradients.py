"""EP's orders in β, exact gradients without symmetry, and holomorphic nudges."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ..costs import SoftmaxReadout, SquaredError
from ..estimators import (
    AbstractEstimator,
    AsymmetricEquilibriumPropagation,
    DyadicEquilibriumPropagation,
    EquilibriumPropagation,
    Gradient,
    HolomorphicEquilibriumPropagation,
    ImplicitDifferentiation,
    Symmetrized,
)
from ..relaxations import Euler, relax
from ..systems import fan_in_uniform, HopfieldEnergy, LeakyIntegrator
from ..systems import shifted_sigmoid, tanh
from ..verification import ep_process, rbp_process
from ._convolution import _pooled, digits
from ._demonstration import Curve, Demonstration, Panel

SETTLE = Euler(dt=0.2, steps=4000, tol=1e-13)
BETAS = tuple(2.0**-k for k in range(2, 8))
ANGLES = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
STEPS = 20
UP, DOWN = "one-sided, β", "one-sided, −β"
SAME = 1e-9
"""relative difference of gradients that are the same by algebra"""


def examples(outputs: int = 2) -> tuple[Array, Array]:
    """Four random inputs and targets."""
    x, y = jax.random.split(jax.random.key(1))
    return jax.random.uniform(x, (4, 3)), jax.random.normal(y, (4, outputs))


def hopfield(sizes: tuple[int, ...], activation: Any) -> HopfieldEnergy:
    """A layered network with weights of both signs, and biases."""
    return HopfieldEnergy(
        sizes, key=jax.random.key(2), activation=activation, initializer=fan_in_uniform
    )


def off(found: Gradient, exact: Gradient) -> float:
    """‖g − exact‖ / ‖exact‖ over the parameters of system and cost."""
    g, e = (ravel_pytree((one.grads, one.cost_grads))[0] for one in (found, exact))
    return float(jnp.linalg.norm(g - e) / jnp.linalg.norm(e))


def order(errors: Sequence[float], betas: Sequence[float] = BETAS) -> float:
    """The slope of log error against log β at the smaller β."""
    half = len(betas) // 2
    return float(np.polyfit(np.log(betas[half:]), np.log(errors[half:]), 1)[0])


def sloped(errors: Sequence[float], betas: Sequence[float], power: int) -> Curve:
    """The expected power of β through the last of the errors."""
    line = [errors[-1] * (beta / betas[-1]) ** power for beta in betas]
    return Curve(f"slope {power}", betas, line, "expected")


def _mean(gradients: Sequence[Gradient]) -> Gradient:
    return jax.tree.map(
        lambda *g: sum(g) / len(g) if eqx.is_inexact_array(g[0]) else g[0], *gradients
    )


def _one(beta: float, side: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(SETTLE, SETTLE, jnp.asarray(beta), side)  # type: ignore[arg-type]


def _nudged(problem: tuple, nudging: Any) -> list[float]:
    """The error for every β."""
    exact = ImplicitDifferentiation(SETTLE)(*problem)
    return [off(_one(beta, nudging)(*problem), exact) for beta in BETAS]


def nudging(*, quick: bool = False) -> Demonstration:
    """The order in β of each nudging, and of a softmax layer outside the dynamics."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        x, y = examples()
        network = (hopfield((3, 6, 5, 2), tanh), SquaredError(), x, y)
        labels = jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3)
        readout = SoftmaxReadout(5, 3, key=jax.random.key(5))
        softmax = (hopfield((3, 6, 5), tanh), readout, x, labels)
        expected = {"one-sided": 1, "centered": 2}
        found = {name: _nudged(network, name) for name in expected}
        outside = {name: _nudged(softmax, name) for name in expected}
    orders = {name: order(errors) for name, errors in found.items()}
    orders |= {f"{name}, softmax": order(errors) for name, errors in outside.items()}
    wanted = 2 * [*expected.values()]

    def panel(errors: dict[str, list[float]], what: str) -> Panel:
        curves = [Curve(name, BETAS, e) for name, e in errors.items()]
        lines = [sloped(errors[name], BETAS, p) for name, p in expected.items()]
        return Panel("β", what, (*curves, *lines), "xy")

    return Demonstration(
        claim="EP's error is of order β one-sided, β² centered, also under a softmax",
        source="arXiv 1602.05179; arXiv 2006.03824",
        panels=(
            panel(found, "relative error, Hopfield energy"),
            panel(outside, "the same, softmax layer and its own gradient"),
        ),
        findings={f"order, {name}": value for name, value in orders.items()},
        holds=all(
            abs(value - power) < 0.1
            for value, power in zip(orders.values(), wanted, strict=True)
        ),
        words="The error falls as "
        + ", ".join(f"β^{value:.2f} ({name})" for name, value in orders.items())
        + ".",
    )


def _leaky(angle: float) -> LeakyIntegrator:
    return LeakyIntegrator(
        (3, 6, 5, 2), key=jax.random.key(0), activation=tanh, angle=angle
    )


def _processes(system: LeakyIntegrator, x: Array, y: Array) -> dict[str, np.ndarray]:
    """−ds/dt/β of the first example's neurons, RBP's error and both rules'."""
    cost, options = SquaredError(), {"dt": 0.2, "steps": STEPS}
    state = relax(system, x, SETTLE).state
    still = Euler(dt=0.2, steps=0)
    rbp = rbp_process(system, cost, x, y, free=SETTLE, **options)
    plain = ep_process(system, cost, x, y, free=SETTLE, beta=1e-4, **options)
    corrected = ep_process(
        *(Symmetrized(system), cost, (x, state), y), free=still, beta=1e-4, **options
    )

    def neurons(process) -> np.ndarray:
        layers = jax.tree.leaves(process.states)
        return np.concatenate([np.asarray(layer[:, 0]) for layer in layers], -1)

    return {"RBP": neurons(rbp), "AsymEP": neurons(corrected), "EP": neurons(plain)}


def asymmetric(*, quick: bool = False) -> Demonstration:
    """AsymEP and Dyadic EP where EP is biased, and RBP's error in their neurons."""
    del quick  # the same: seconds
    rules: dict[str, AbstractEstimator] = {
        "EP": EquilibriumPropagation(SETTLE, SETTLE, 1e-4),
        "AsymEP": AsymmetricEquilibriumPropagation(SETTLE, SETTLE, 1e-4),
        "Dyadic EP": DyadicEquilibriumPropagation(SETTLE, dt=0.2, steps=1500),
    }
    with jax.enable_x64(True):
        x, y = examples()
        errors: dict[str, list[float]] = {name: [] for name in rules}
        for angle in ANGLES:
            problem = (_leaky(angle), SquaredError(), x, y)
            exact = ImplicitDifferentiation(SETTLE)(*problem)
            for name, rule in rules.items():
                errors[name].append(off(rule(*problem), exact))
        traces = _processes(_leaky(90.0), x, y)
    size = np.abs(traces["RBP"]).max()
    gaps = {
        name: float(np.abs(traces[name] - traces["RBP"]).max() / size)
        for name in ("AsymEP", "EP")
    }
    worst = {name: max(values) for name, values in errors.items()}
    # The neuron of which EP's derivative differs most.
    neuron = int(np.argmax(np.abs(traces["EP"] - traces["RBP"]).max(0)))
    times = np.arange(len(traces["RBP"]))
    return Demonstration(
        claim="AsymEP and Dyadic EP are exact without symmetry, AsymEP's neurons at "
        "every step",
        source="arXiv 2602.03670; arXiv 1711.08416, theorem 3",
        panels=(
            Panel(
                "angle of forward and backward weights (degrees)",
                "relative error of the gradient",
                tuple(Curve(name, ANGLES, values) for name, values in errors.items()),
                "y",
            ),
            Panel(
                "nudged steps, weights at 90°",
                "−Δs/β dt of a neuron",
                (
                    Curve("AsymEP", times, traces["AsymEP"][:, neuron]),
                    Curve("EP", times, traces["EP"][:, neuron]),
                    Curve("RBP", times, traces["RBP"][:, neuron], "expected"),
                ),
            ),
        ),
        findings={
            **{f"worst error, {name}": value for name, value in worst.items()},
            **{f"neurons off RBP's, {name}": value for name, value in gaps.items()},
        },
        holds=bool(
            worst["AsymEP"] < 1e-6
            and worst["Dyadic EP"] < 1e-6
            and worst["EP"] > 0.05
            and gaps["AsymEP"] < 1e-6
            and gaps["EP"] > 1e-2
        ),
        words=f"At 90° EP is off by {errors['EP'][-1]:.0%}; AsymEP never by more than "
        f"{worst['AsymEP']:.1g}, Dyadic EP by {worst['Dyadic EP']:.1g}. AsymEP's "
        f"neurons follow RBP's to {gaps['AsymEP']:.1g} of their size, EP's to "
        f"{gaps['EP']:.0%}.",
    )


def holomorphic(*, quick: bool = False) -> Demonstration:
    """The order β^N of N complex nudges."""
    del quick  # the same: seconds
    betas = {2: BETAS, 3: BETAS, 4: BETAS, 6: BETAS[:4]}
    with jax.enable_x64(True):
        problem = (hopfield((3, 6, 2), shifted_sigmoid), SquaredError(), *examples())
        exact = ImplicitDifferentiation(SETTLE)(*problem)
        errors = {
            points: [
                off(_circle(points, 0.2 * beta)(*problem), exact)
                for beta in betas[points]
            ]
            for points in betas
        }
        centered = EquilibriumPropagation(SETTLE, SETTLE, 0.1)(*problem)
        gap = off(_circle(2, 0.1)(*problem), centered)
    orders = {n: order(values, betas[n]) for n, values in errors.items()}
    curves: list[Curve] = []
    for n, values in errors.items():
        radii = [0.2 * beta for beta in betas[n]]
        curves += [Curve(f"N = {n}", radii, values), sloped(values, radii, n)]
    return Demonstration(
        claim="N complex nudges on the circle |β| have an error of order β^N",
        source="Laborieux & Zenke 2022, arXiv 2209.00530",
        panels=(Panel("|β|", "relative error of the gradient", tuple(curves), "xy"),),
        findings={
            **{f"order, N = {n}": value for n, value in orders.items()},
            "N = 2 against centered EP": gap,
        },
        holds=all(abs(value - n) < 0.05 * n for n, value in orders.items())
        and gap < 1e-9,
        words="The error falls as "
        + ", ".join(f"|β|^{value:.2f} (N = {n})" for n, value in orders.items())
        + f"; N = 2 is centered EP to {gap:.0e}.",
    )


def _circle(points: int, beta: float) -> HolomorphicEquilibriumPropagation:
    return HolomorphicEquilibriumPropagation(SETTLE, SETTLE, jnp.asarray(beta), points)  # type: ignore[arg-type]


def bias(*, quick: bool = False) -> Demonstration:
    """Bias of one-sided, random-sign, centered and holomorphic EP against β."""
    betas = BETAS[2:] if quick else BETAS
    wanted = {UP: 1, DOWN: 1, "centered": 2, "holomorphic, N = 4": 4}
    errors: dict[str, list[float]] = {name: [] for name in wanted}
    apart = []
    with jax.enable_x64(True):
        problem = _convolutional(2 if quick else 4)
        exact = ImplicitDifferentiation(SETTLE)(*problem)
        found: dict[str, Gradient] = {}
        for beta in betas:
            found = {
                UP: _one(beta, "one-sided")(*problem),
                DOWN: _one(-beta, "one-sided")(*problem),
                "centered": _one(beta, "centered")(*problem),
                "holomorphic, N = 4": _circle(4, beta)(*problem),
            }
            for name, gradient in found.items():
                errors[name].append(off(gradient, exact))
            apart.append(off(_mean([found[UP], found[DOWN]]), found["centered"]))
        drawn = _drawn(problem, betas[-1], found[UP], found[DOWN])
    # The fourth power meets rounding at the smaller β.
    used = {
        name: slice(0, 4) if power == 4 else slice(None)
        for name, power in wanted.items()
    }
    orders = {n: order(e[used[n]], betas[used[n]]) for n, e in errors.items()}
    least = {name: values[0] for name, values in errors.items()}
    curves = [Curve(name, betas, values) for name, values in errors.items()]
    for name in (UP, "centered", "holomorphic, N = 4"):
        line = [errors[name][0] * (b / betas[0]) ** wanted[name] for b in betas]
        label = "slopes 1, 2, 4" if name == UP else ""
        curves.append(Curve(label, betas, line, "other", 6))
    return Demonstration(
        claim="EP's bias is of order β under a nudge of β or −β, of which a random "
        "sign draws one; β² centered, which is their mean; β^N for N complex nudges",
        source="Laborieux et al. 2021; Laborieux & Zenke 2022",
        panels=(Panel("β", "relative error of the gradient", tuple(curves), "xy"),),
        findings={
            **{f"order, {name}": value for name, value in orders.items()},
            **{f"error at β = {betas[0]:g}, {n}": value for n, value in least.items()},
            "mean of β and −β against centered": max(apart),
            "random sign against β or −β": drawn,
        },
        holds=all(abs(orders[n] - power) < 0.1 * power for n, power in wanted.items())
        and max(apart) < SAME
        and drawn < SAME,
        words=(
            "Convolutional Hopfield network, softmax pooling and softmax readout, "
            "digits. The error falls as "
            + ", ".join(f"β^{value:.2f} ({name})" for name, value in orders.items())
            + f"; at β = {betas[0]:g} it is "
            + ", ".join(f"{value:.1g} ({name})" for name, value in least.items())
            + f". The mean of β and −β is centered EP to {max(apart):.0e}; the draws "
            f"of a random sign are the two to {drawn:.0e} (tolerance {SAME:.0e})."
        ),
    )


def _drawn(problem: tuple, beta: float, up: Gradient, down: Gradient) -> float:
    """How far eight draws of a random sign are from both; inf if one never comes."""
    rule = _one(beta, "random-sign")
    draws = [rule(*problem, key=jax.random.key(k)) for k in range(8)]
    gaps = np.array([[off(draw, one) for one in (up, down)] for draw in draws])
    both = set(gaps.argmin(axis=1)) == {0, 1}
    return float(gaps.min(axis=1).max()) if both else float("inf")


def _convolutional(count: int) -> tuple:
    """A small net of the kind of Laborieux's: smooth, so that β may be complex."""
    x, y = digits(count)
    network = HopfieldEnergy(
        ((8, 8, 1), _pooled(4, "softmax"), _pooled(6, "softmax"), 16),
        key=jax.random.key(1),
        activation=shifted_sigmoid,
        initializer=fan_in_uniform,
    )
    return network, SoftmaxReadout(16, 10, key=jax.random.key(5)), x, y


ITEMS = {
    "A.nudging": nudging,
    "C.asymmetric": asymmetric,
    "Laborieux2021.bias": bias,
    "Laborieux2022.holomorphic": holomorphic,
}
