"""Paper A's comparisons: CHL, Xie & Seung's network, the phases of each rule."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import eqprop as ep

from .. import _common as common
from .._claim import claim, Findings
from .._contrast import descent, SWEEP
from .._common import agreement, apart, COST, network, random_examples, SETTLE
from .._figure import Curve, curves, power

DT, STEPS = 0.4, 300


class TwoModes(ep.AbstractEnergy):
    """A hidden unit h with two wells, and an output o that follows it.

    E = ¼(h² − 1)² + h/5 + ½(o − w h − b)². The well at h < 0 is the deeper one; the
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


def two_modes(steps: int = 40, target: float = -0.8) -> dict[str, np.ndarray]:
    """Descend by CHL and by EP: CHL's objective, CHL's cost and EP's cost."""
    phase = ep.Euler(dt=0.2, steps=400)
    rules = {
        "CHL": ep.ContrastiveHebbianLearning(phase, phase),
        "EP": ep.EquilibriumPropagation(phase, phase, 0.01),
    }
    x, y = jnp.zeros((1, 1)), jnp.full((1, 1), target)
    found: dict[str, list[float]] = {"objective": [], "CHL": [], "EP": []}
    for name, rule in rules.items():
        system = TwoModes(jnp.array(1.0), jnp.array(0.0))
        for _ in range(steps):
            gradient = rule(system, COST, x, y)
            found[name].append(float(gradient.loss))
            if name == "CHL":
                found["objective"].append(float(gradient.stats["contrast"][0]))
            step = jax.tree.map(lambda g: -0.1 * g, gradient.grads)
            system = eqx.apply_updates(system, step)
    return {name: np.array(values) for name, values in found.items()}


@claim(
    "A.chl",
    shows="gradient of CHL, and its objective below zero",
    source="paper A, eqs 27–32 and the comparison with CHL",
)
def chl() -> Findings:
    """CHL descends E(s^∞) − E(s⁰), which may be negative; EP descends a cost.

    The gradient is that of a 3-6-3 network of tanh units, compared with finite
    differences along 12 directions. The objective is followed over 40 steps of gradient
    descent on an energy with two modes.
    """
    found = Findings()
    problem = network((3, 6, 3), seed=2, output=ep.identity), *random_examples(3, 3)
    rule = ep.ContrastiveHebbianLearning(SWEEP, SWEEP)
    slopes, expected = descent(rule, *problem)
    objective, cost, ep_cost = two_modes().values()
    found.add("error of the gradient", apart(slopes, expected), most=1e-6)
    found.add("CHL's objective at first", objective[0])
    found.add("CHL's objective at last", objective[-1], most=objective[0])
    found.add("CHL's objective, largest", objective.max(), most=0)
    found.add("CHL's cost at first", cost[0])
    found.add("CHL's cost at last", cost[-1], least=0.9 * cost[0])
    found.add("EP's cost at last", ep_cost[-1], most=0.01 * ep_cost[0])
    found.panel(
        "finite difference of E(s^∞) − E(s⁰)",
        "CHL's gradient along the same direction",
        Curve("12 random directions", expected, slopes),
        Curve("equal", expected, expected, "expected"),
    )
    steps = np.arange(len(cost))
    step = "gradient step, energy with two modes"
    objectives = {"CHL: E(s^∞) − E(s⁰)": objective, "EP: C(s⁰)": ep_cost}
    zero = Curve("zero", steps, 0 * steps, "other")
    found.panel(step, "the rule's own objective", *curves(steps, objectives), zero)
    costs = curves(steps, {"CHL": cost, "EP": ep_cost})
    found.panel(step, "cost of the free phase", *costs)
    return found


@claim(
    "A.xie-seung",
    shows="CHL against backpropagation as the feedback vanishes",
    source="Xie & Seung 2003; paper A, eqs 33–35",
    quick={"gammas": (0.03, 0.01)},
)
def xie_seung(gammas: Sequence[float] = (0.3, 0.1, 0.03, 0.01)) -> Findings:
    """With feedback scaled by γ, CHL tends to backpropagation as γ → 0.

    A 3-5-4-2 network with four random examples; the reference is the gradient of the
    feed-forward network.
    """
    found = Findings()
    rule = ep.ContrastiveHebbianLearning(SWEEP, SWEEP)
    x, y = random_examples(3, 2)
    errors, angles = {}, {}
    for name, rho in {"hard sigmoid": ep.hard_sigmoid, "tanh": ep.tanh}.items():
        pairs = []
        for gamma in gammas:
            net = weak_feedback((3, 5, 4, 2), gamma, rho)
            grads = rule(net, COST, x, y).grads
            exact = jax.grad(feed_forward, argnums=(0, 1))(
                net.weights, net.biases, name, x, y
            )
            pairs.append(agreement((grads.weights, grads.biases), exact))
        errors[name] = [pair.error for pair in pairs]
        angles[name] = [pair.angle for pair in pairs]
        found.near(
            f"order in γ, {name}", common.slope(gammas[-2:], errors[name][-2:]), 1, 0.05
        )
        found.add(f"relative error at γ = {gammas[-1]:g}, {name}", errors[name][-1])
    line = power("slope 1", gammas, 1, (gammas[-1], 2 * errors["tanh"][-1]))
    label, lines = "error to backpropagation's gradient", curves(gammas, errors)
    found.panel("feedback γ", label, *lines, line, scale="xy")
    label, lines = "angle to backpropagation (degrees)", curves(gammas, angles)
    found.panel("feedback γ", label, *lines, scale="xy")
    return found


def feed_forward(weights, biases, activation: str, x: Array, y: Array) -> Array:
    """½‖ŷ − y‖², mean over the batch, of the network without feedback.

    A layer solves s = ρ′(s) a for its drive a: s = a within the range of a hard
    sigmoid, and by Newton's method for tanh.
    """
    rates = x
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        a = rates @ weight + bias
        rates = a
        if activation == "tanh":
            s = jnp.zeros_like(a)
            for _ in range(20):
                rho = 1 - jnp.tanh(s) ** 2
                bend = 1 + 2 * jnp.tanh(s) * rho * a
                s = s - (s - rho * a) / bend
            rates = jnp.tanh(s)
    prediction = rates @ weights[-1] + biases[-1]
    return jnp.mean(jax.vmap(COST)(prediction, y))


def weak_feedback(sizes, gamma: float, activation) -> ep.XieSeungEnergy:
    """A network with small weights and large biases: within a hard sigmoid's range."""
    options = {"kind": ep.XieSeungEnergy, "gamma": gamma, "output": ep.identity}
    net = network(sizes, activation, seed=4, **options)
    weights = (*(0.3 * weight for weight in net.weights[:-1]), net.weights[-1])
    biases = (*(0 * bias + 0.5 for bias in net.biases[:-1]), net.biases[-1])
    return eqx.tree_at(lambda n: (n.weights, n.biases), net, (weights, biases))


BACKPROP, ALMEIDA = "backprop (through time)", "Almeida–Pineda"
WEAK, STRONG = "EP, β = 0.001", "EP, β = 1"


@claim(
    "A.phases",
    shows="second phases of backprop, EP, CHL and Almeida–Pineda",
    source="paper A, table 1 (its correspondences; the numbers are derived)",
)
def phases() -> Findings:
    """The second phases of backprop (through time), Almeida–Pineda and EP compute the
    same error in three ways; CHL computes another one.

    One settled network (64-16-16-10, tanh) and four digits. In the second phase,
    backprop goes back through the last steps, Almeida–Pineda lets a linearised network
    settle, EP lets the network itself settle under β ∂C/∂s, and CHL holds the outputs.
    The costate λ solves (∂²E/∂s²) λ = ∂C/∂s.

    In the paper: Table 1: the phases of backpropagation, EP, CHL, Boltzmann learning
    and Almeida–Pineda correspond to one another.
    """
    found = Findings(rows=2)
    net = network((64, 16, 16, 10), output=ep.identity)
    data: Any = (net, COST, *common.flat_digits(4))
    state = ep.relax(net, data[2], SETTLE).state
    exact = ep.ImplicitDifferentiation(SETTLE)(*data).grads
    options: dict[str, Any] = {"free": SETTLE, "dt": DT, "steps": STEPS}
    processes = {
        BACKPROP: ep.bptt_process(*data, **options),
        ALMEIDA: ep.rbp_process(*data, **options),
        WEAK: ep.ep_process(*data, beta=1e-3, **options),
        STRONG: ep.ep_process(*data, beta=1.0, nudging="one-sided", **options),
    }
    angles = {
        name: [
            agreement(jax.tree.map(lambda g, t=t: g[t], process.grads), exact).angle
            for t in range(STEPS + 1)
        ]
        for name, process in processes.items()
    }
    chl = ep.ContrastiveHebbianLearning(SETTLE, SETTLE)(*data).grads
    angles["CHL"] = [agreement(chl, exact).angle] * (STEPS + 1)
    moved = displacements(data, state, processes)
    costate = exact_costate(data, state)
    strong = angles[STRONG][-1]
    for name in (BACKPROP, ALMEIDA, WEAK):
        found.add(
            f"angle to the exact gradient (°), {name}", angles[name][-1], most=0.01
        )
        distance = apart(moved[name], costate)
        found.add(f"relative error to the costate, {name}", distance, most=1e-3)
    settled = ep.EquilibriumPropagation(SETTLE, SETTLE, 1e-3)(*data).grads
    angle = agreement(settled, exact).angle
    found.add("angle of the settled rule (°), β = 0.001", angle, most=0.01)
    found.add(f"angle to the exact gradient (°), {STRONG}", strong, least=0.01)
    label, least = "angle to the exact gradient (°), CHL", max(1.0, strong)
    found.add(label, angles["CHL"][-1], least=least)
    phase_panels(found, processes, angles, moved, costate)
    return found


def displacements(data: Any, state: Any, found: dict) -> dict[str, np.ndarray]:
    """The error that hidden units carry after each second phase, all units in a row."""
    net, _, x, y = data
    moved = {
        # Σ dt S_t: for EP it telescopes to (s⁰ − s^β)/β.
        name: _hidden(jax.tree.map(lambda s: DT * s[:-1].sum(0), process.states))
        for name, process in found.items()
    }

    def clamp(x, y):
        held = ep.relax(ep.Clamped(net, y), x[None], SETTLE).state
        return jax.tree.map(lambda leaf: leaf[0], held)

    held = jax.vmap(clamp)(x, y)
    moved["CHL"] = _hidden(jax.tree.map(jnp.subtract, state, held))
    return moved


def exact_costate(data: Any, state: Any) -> np.ndarray:
    """λ of every example by a dense solve, hidden units only."""
    net, cost, x, y = data

    def one(x, y, s):
        vector, unflatten = ravel_pytree(s)
        hessian = jax.hessian(lambda u: net.energy(x, unflatten(u)))(vector)
        pull = jax.grad(lambda u: cost(net.readout(unflatten(u)), y))(vector)
        return unflatten(jnp.linalg.solve(hessian, pull))

    return _hidden(jax.vmap(one)(x, y, state))


def _hidden(layers: Any) -> np.ndarray:
    return np.concatenate([np.asarray(layer).ravel() for layer in layers[:-1]])


def phase_panels(found: Findings, processes, angles, moved, costate) -> None:
    times = DT * np.arange(STEPS + 1)
    errors = {name: np.asarray(p.states[0][:, 0]) for name, p in processes.items()}
    unit = int(np.abs(errors[ALMEIDA]).max(0).argmax())
    lines = [
        Curve(name, times, each[:, unit], "solid" if name == ALMEIDA else "dashed")
        for name, each in errors.items()
    ]
    title, label = "a neuron of the first hidden layer", "time of the second phase"
    found.panel(label, "error S_t (EP: −Δs/β dt)", *lines, title=title)
    del moved[ALMEIDA]
    ends = np.sort(costate)
    found.panel(
        "costate λ of a hidden unit",
        "displacement after the second phase",
        *curves(costate, moved, "points"),
        Curve("equal", ends, ends, "expected", 6),
        title="Σ dt S_t; EP: (s⁰ − s^β)/β; CHL: s⁰ − s^clamped",
    )
    y = "angle to the exact gradient (degrees)"
    positive = {name: np.maximum(each[1:], 1e-6) for name, each in angles.items()}
    lines = curves(times[1:], positive, "solid")
    title = "the second phase stopped at t (CHL: settled)"
    found.panel(label, y, *lines, scale="y", title=title)
    breaks = str.maketrans({",": "\n", "–": "–\n"})
    names = [name.removesuffix(" (through time)") for name in angles]
    bars = tuple(name.translate(breaks) for name in names)
    last = Curve("", range(len(angles)), [each[-1] for each in angles.values()])
    found.panel("", y, last, title="at the end", bars=bars)
