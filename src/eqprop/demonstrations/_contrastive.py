"""Rules that clamp the outputs: CHL and coupled learning."""

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
    Clamped,
    ContrastiveHebbianLearning,
    CoupledLearning,
    EquilibriumPropagation,
    ImplicitDifferentiation,
)
from ..relaxations import Euler, relax, Sweep
from ..systems import (
    AbstractEnergy,
    fan_in_uniform,
    HopfieldEnergy,
    identity,
    tanh,
)
from ._demonstration import Curve, Demonstration, Panel

SWEEP = Sweep(300, 1e-13)
EXACT, SLOPE = 1e-6, 0.05


class TwoModes(AbstractEnergy):
    """A hidden unit h with two wells, and an output o that follows it.

    E = ¼(h² − 1)² + h/5 + ½(o − w h − b)²: the well at h < 0 is the deeper one, the
    state starts in the other.
    """

    weight: Array
    bias: Array

    def init_state(self, x):
        return jnp.stack([jnp.ones_like(self.weight), self.weight + self.bias])

    def energy(self, x, s):
        h, o = s
        wells = 0.25 * (h**2 - 1) ** 2 + 0.2 * h
        return wells + 0.5 * (o - self.weight * h - self.bias) ** 2

    def readout(self, s):
        return s[1:]


def two_modes(steps: int = 40, target: float = -0.8) -> dict[str, dict[str, Any]]:
    """Gradient descent by CHL and by EP: each rule's objective, and the cost."""
    phase = Euler(dt=0.2, steps=400)
    rules = {
        "chl": ContrastiveHebbianLearning(phase, phase),
        "ep": EquilibriumPropagation(phase, phase, 0.01),
    }
    x, y = jnp.zeros((1, 1)), jnp.full((1, 1), target)
    found = {}
    for name, rule in rules.items():
        system, costs, objectives = TwoModes(jnp.array(1.0), jnp.array(0.0)), [], []
        for _ in range(steps):
            gradient = rule(system, SquaredError(), x, y)
            costs.append(float(gradient.loss))
            if name == "chl":
                objectives.append(float(gradient.stats["contrast"][0]))
            step = jax.tree.map(lambda g: -0.1 * g, gradient.grads)
            system = eqx.apply_updates(system, step)
        found[name] = {
            "cost": np.array(costs),
            "objective": np.array(objectives or costs),
        }
    return found


def chl(*, quick: bool = False) -> Demonstration:
    """Paper A, section on CHL: its gradient, and its objective below zero."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        network, x, y = _network((3, 6, 3))
        rule = ContrastiveHebbianLearning(SWEEP, SWEEP)
        slopes, expected = _directions(rule, network, x, y)
        trained = two_modes()
    error = float(np.max(np.abs(slopes - expected)) / np.max(np.abs(expected)))
    objective, cost = trained["chl"]["objective"], trained["chl"]["cost"]
    ep = trained["ep"]["cost"]
    holds = bool(
        error < EXACT
        and (objective < 0).all()
        and objective[-1] < objective[0]
        and cost[-1] > 0.9 * cost[0]
        and ep[-1] < 0.01 * ep[0]
    )
    return Demonstration(
        claim="CHL descends E(s^∞) − E(s⁰), which may be negative; EP descends a cost",
        source="paper A, eqs 27–32 and the comparison with CHL",
        panels=_chl_panels(slopes, expected, trained),
        findings={
            "finite_difference_error": error,
            "objective_first": float(objective[0]),
            "objective_last": float(objective[-1]),
            "chl_cost_first": float(cost[0]),
            "chl_cost_last": float(cost[-1]),
            "ep_cost_last": float(ep[-1]),
        },
        holds=holds,
        words=(
            f"CHL's gradient is that of its objective (error {error:.1e}). With two "
            f"modes the objective falls from {objective[0]:.2f} to {objective[-1]:.2f} "
            f"while the cost goes from {cost[0]:.2f} to {cost[-1]:.2f}; EP's cost "
            f"falls to {ep[-1]:.1e}."
        ),
    )


def _chl_panels(slopes, expected, trained) -> tuple[Panel, ...]:
    objective, cost = trained["chl"]["objective"], trained["chl"]["cost"]
    ep = trained["ep"]["cost"]
    steps: Any = np.arange(len(ep))
    return (
        Panel(
            "finite difference of E(s^∞) − E(s⁰)",
            "CHL's gradient along the same direction",
            (
                Curve("12 random directions", expected, slopes),
                Curve("equal", expected, expected, "expected"),
            ),
        ),
        Panel(
            "gradient step, energy with two modes",
            "the rule's own objective",
            (
                Curve("CHL: E(s^∞) − E(s⁰)", steps, objective),
                Curve("EP: C(s⁰)", steps, trained["ep"]["objective"]),
                Curve("zero", steps, 0 * steps, "other"),
            ),
        ),
        Panel(
            "gradient step, energy with two modes",
            "cost of the free phase",
            (Curve("CHL", steps, cost), Curve("EP", steps, ep)),
        ),
    )


def coupled(*, quick: bool = False) -> Demonstration:
    """Scellier et al. 2023: P-, N- and C-CpL, their objective and their limit."""
    with jax.enable_x64(True):
        network, x, y = _network((3, 6, 3))
        cost = SquaredError()
        kinds: dict[str, tuple[int, Any]] = {
            "P-CpL": (1, "one-sided"),
            "N-CpL": (-1, "one-sided"),
            "C-CpL": (1, "centered"),
        }

        def coupled_rule(name: str, beta: float) -> CoupledLearning:
            sign, nudging = kinds[name]
            traced: Any = jnp.asarray(sign * beta)  # one compilation for all β
            return CoupledLearning(SWEEP, SWEEP, traced, nudging)

        pairs = {n: _directions(coupled_rule(n, 0.5), network, x, y) for n in kinds}
        exact = ImplicitDifferentiation(SWEEP)
        truth = _flat(exact(network, cost, x, y).grads)
        in_metric = (y, _stiffness(network, x))
        limit = _flat(exact(network, _metric, x, in_metric).grads)
        betas = (0.03, 0.01) if quick else (0.3, 0.1, 0.03, 0.01)
        grads = {
            name: [
                _flat(coupled_rule(name, beta)(network, cost, x, y).grads)
                for beta in betas
            ]
            for name in kinds
        }
    errors = {
        name: [_relative(g, limit) for g in found] for name, found in grads.items()
    }
    angles = {name: [_angle(g, truth) for g in found] for name, found in grads.items()}
    orders = {name: _order(betas[-2:], found[-2:]) for name, found in errors.items()}
    promised = {"P-CpL": 1, "N-CpL": 1, "C-CpL": 2}
    error = max(
        float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs.values()
    )
    off = max(abs(orders[name] / promised[name] - 1) for name in orders)
    final = _angle(limit, truth)
    return Demonstration(
        claim="coupled learning descends its own contrast; for small β this is the "
        "cost's gradient in the metric of the outputs' stiffness",
        source="Stern et al. 2021; Scellier et al. 2023",
        panels=_coupled_panels(pairs, betas, errors, angles, final),
        findings={
            "finite_difference_error": error,
            **{f"order_{name}": order for name, order in orders.items()},
            **{f"angle_{name}": angle[-1] for name, angle in angles.items()},
            "angle_limit": final,
        },
        holds=bool(error < EXACT and off < SLOPE),
        words=(
            f"P-, N- and C-CpL follow their own contrast (error {error:.1e}). Their "
            "distance to the gradient in the metric is of order "
            f"{orders['P-CpL']:.2f}, {orders['N-CpL']:.2f} and {orders['C-CpL']:.2f} "
            f"in β; that gradient stands at {final:.1f}° to the cost's."
        ),
    )


def _coupled_panels(pairs, betas, errors, angles, final) -> tuple[Panel, ...]:
    return (
        Panel(
            "finite difference of the contrast, β = 0.5",
            "gradient along the same direction",
            (
                *(Curve(name, b, a) for name, (a, b) in pairs.items()),
                Curve("equal", pairs["P-CpL"][1], pairs["P-CpL"][1], "expected"),
            ),
        ),
        Panel(
            "β",
            "error to the gradient in the metric",
            (
                *(Curve(name, betas, errors[name]) for name in errors),
                Curve(
                    "slope 1",
                    betas,
                    [2 * errors["P-CpL"][-1] * b / betas[-1] for b in betas],
                    "expected",
                ),
                Curve(
                    "slope 2",
                    betas,
                    [errors["C-CpL"][-1] / 2 * (b / betas[-1]) ** 2 for b in betas],
                    "expected",
                ),
            ),
            "xy",
        ),
        Panel(
            "β",
            "angle to the cost's gradient (°)",
            (
                *(Curve(name, betas, angles[name]) for name in errors),
                Curve("limit", betas, [final] * len(betas), "expected"),
            ),
            "x",
        ),
    )


def _network(sizes) -> tuple[HopfieldEnergy, Array, Array]:
    network = HopfieldEnergy(
        sizes,
        key=jax.random.key(2),
        activation=tanh,
        output=identity,
        initializer=fan_in_uniform,
    )
    return network, *_data(sizes[0], sizes[-1])


def _data(inputs: int, outputs: int) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(1))
    x = jax.random.uniform(keys[0], (4, inputs))
    return x, jax.random.normal(keys[1], (4, outputs))


def _directions(rule: AbstractEstimator, network, x, y) -> tuple[Any, Any]:
    """A rule's gradient along 12 directions, and its contrast's central differences.

    The contrast is relaxed anew at θ ± δ, the clamped values held fixed.
    """
    found = rule(network, SquaredError(), x, y)
    params, static = eqx.partition(network, eqx.is_inexact_array)
    theta, unflatten = ravel_pytree(params)
    directions = jax.random.normal(jax.random.key(0), (12, theta.size))
    directions = directions / theta.size**0.5
    o = jax.vmap(network.readout)(found.equilibrium.state)
    betas = rule.betas()  # type: ignore[attr-defined]
    targets = [(1 - beta) * o + beta * y for beta in betas]

    def energy(system, target):
        def one(x, target):
            clamped = system if target is None else Clamped(system, target)
            end = relax(clamped, x[None], SWEEP).state
            return system.potential(x, jax.tree.map(lambda leaf: leaf[0], end))

        return jnp.mean(jax.vmap(one)(x, target))

    def contrast(theta):
        system = eqx.combine(unflatten(theta), static)
        first = energy(system, targets[0])
        if len(targets) == 1:
            return (first - energy(system, None)) / betas[0]
        return (first - energy(system, targets[1])) / (betas[0] - betas[1])

    delta = 1e-4
    ends = jnp.concatenate([theta + delta * directions, theta - delta * directions])
    up, down = jnp.split(jax.jit(jax.vmap(contrast))(ends), 2)
    slopes, expected = directions @ _flat(found.grads), (up - down) / (2 * delta)
    order = np.argsort(expected)
    return np.asarray(slopes)[order], np.asarray(expected)[order]


def _metric(prediction: Array, y: tuple[Array, Array]) -> Array:
    """½ (ŷ − y)ᵀK(ŷ − y) with K held fixed: an example's y is (y, K)."""
    away = prediction - y[0]
    return 0.5 * away @ y[1] @ away


def _stiffness(network: HopfieldEnergy, x: Array) -> Array:
    """K of each example: ∂²E/∂o² with the other units settled, a Schur complement."""

    def one(x, s):
        flat, unflatten = ravel_pytree(s)
        hessian = jax.hessian(lambda u: network.energy(x, unflatten(u)))(flat)
        n = s[-1].size
        inner, cross, outer = hessian[:-n, :-n], hessian[:-n, -n:], hessian[-n:, -n:]
        return outer - cross.T @ jnp.linalg.solve(inner, cross)

    return jax.vmap(one)(x, relax(network, x, SWEEP).state)


def _flat(tree: Any) -> Array:
    return ravel_pytree(tree)[0]


def _relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _angle(a: Array, b: Array) -> float:
    """Degrees between two vectors."""
    u, v = (np.asarray(w) / np.linalg.norm(w) for w in (a, b))
    return float(np.degrees(2 * np.arcsin(min(np.linalg.norm(u - v) / 2, 1))))


def _order(steps, errors) -> float:
    """The slope of log error over log step between two points."""
    return float(np.diff(np.log(errors))[0] / np.diff(np.log(steps))[0])


ITEMS = {
    "A.chl": chl,
    "Scellier2023.coupled": coupled,
}
