"""Paper A's table 1 in numbers: what each learning rule's second phase computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..costs import SquaredError
from ..estimators import (
    Clamped,
    ContrastiveHebbianLearning,
    EquilibriumPropagation,
    ImplicitDifferentiation,
)
from ..relaxations import Euler, relax
from ..systems import fan_in_uniform, HopfieldEnergy, identity, tanh
from ..verification import bptt_process, ep_process, rbp_process
from ..verification._metrics import agreement
from ._convolution import digits
from ._demonstration import Curve, Demonstration, Panel

COST = SquaredError()
SETTLE = Euler(dt=0.2, steps=4000, tol=1e-13)
DT, STEPS = 0.4, 300
EXACT, NEAR = 0.01, 1.0
"""degrees: at most of a rule that is exact in the limit, at least of CHL"""


def phases(*, quick: bool = False) -> Demonstration:
    """Table 1: backprop, EP, CHL and Almeida–Pineda on one settled network."""
    del quick  # seconds as it is
    with jax.enable_x64(True):
        x, y = digits(4)
        network = HopfieldEnergy(
            (64, 16, 16, 10),
            key=jax.random.key(0),
            activation=tanh,
            output=identity,
            initializer=fan_in_uniform,
        )
        data: tuple[Any, ...] = (network, COST, x.reshape(4, -1), y)
        state = relax(network, data[2], SETTLE).state
        exact = ImplicitDifferentiation(SETTLE)(*data).grads
        options: dict[str, Any] = {"free": SETTLE, "dt": DT, "steps": STEPS}
        found = {
            "backprop (through time)": bptt_process(*data, **options),
            "Almeida–Pineda": rbp_process(*data, **options),
            "EP, β = 0.001": ep_process(*data, beta=1e-3, **options),
            "EP, β = 1": ep_process(*data, beta=1.0, nudging="one-sided", **options),
        }
        angles = {name: _angles(p.grads, exact) for name, p in found.items()}
        chl = ContrastiveHebbianLearning(SETTLE, SETTLE)(*data).grads
        angles["CHL"] = np.full(STEPS + 1, agreement(chl, exact).angle)
        moved = _displacements(data, state, found)
        costate = _costate(data, state)
        weak = EquilibriumPropagation(SETTLE, SETTLE, 1e-3)(*data).grads
    last = {name: float(values[-1]) for name, values in angles.items()}
    own = agreement(weak, exact).angle
    off = {
        name: float(np.abs(values - costate).max() / np.abs(costate).max())
        for name, values in moved.items()
    }
    linear = ("backprop (through time)", "Almeida–Pineda", "EP, β = 0.001")
    return Demonstration(
        claim="The second phases of backprop (through time), Almeida–Pineda and EP "
        "compute the same error, by three means; CHL's another",
        source="paper A, table 1 (its correspondences; the numbers are derived)",
        panels=_panels(found, angles, moved, costate),
        findings={
            **{f"angle to the exact gradient, {n}": angle for n, angle in last.items()},
            **{f"displacement off the costate, {n}": o for n, o in off.items()},
            "angle of the settled rule, β = 0.001": own,
        },
        holds=bool(
            max(*(last[name] for name in linear), own) < EXACT
            and max(off[name] for name in linear) < 1e-3
            and last["CHL"] > NEAR
            and last["CHL"] > last["EP, β = 1"] > EXACT
        ),
        words=(
            "One settled network, 64-16-16-10. Second phase: backprop goes back "
            "through the last steps, Almeida–Pineda lets a linearised network settle, "
            "EP lets the network itself settle under β ∂C/∂s, CHL with its outputs "
            "held. The first two, and EP at β = 0.001, find the costate λ, "
            "(∂²E/∂s²)λ = ∂C/∂s, to "
            f"{max(off[name] for name in linear):.0e}, and updates within "
            f"{max(last[name] for name in linear):.1g}° of the exact gradient "
            f"(tolerance {EXACT}°); EP at β = 1 stands at {last['EP, β = 1']:.1f}°, "
            f"CHL at {last['CHL']:.1f}°."
        ),
        rows=2,
    )


def _angles(grads: Any, exact: Any) -> np.ndarray:
    """Degrees to the exact gradient at every t; NaN at t = 0, where nothing moved."""

    def angle(t: int) -> float:
        return agreement(jax.tree.map(lambda g: g[t], grads), exact).angle

    return np.array([angle(t) for t in range(STEPS + 1)])


def _displacements(data, state, found) -> dict[str, np.ndarray]:
    """What hidden units carry after the second phase, as an error: all of them."""
    network, _, x, y = data
    moved = {
        # Σ dt S_t: for EP it telescopes to (s⁰ − s^β)/β.
        name: _hidden(jax.tree.map(lambda s: DT * s[:-1].sum(0), process.states))
        for name, process in found.items()
    }

    def clamp(x, y):
        held = relax(Clamped(network, y), x[None], SETTLE).state
        return jax.tree.map(lambda leaf: leaf[0], held)

    held = jax.vmap(clamp)(x, y)
    moved["CHL"] = _hidden(jax.tree.map(jnp.subtract, state, held))
    return moved


def _costate(data, state) -> np.ndarray:
    """λ of every example by a dense solve, hidden units only."""
    network, cost, x, y = data

    def one(x, y, s):
        flat, unflatten = ravel_pytree(s)
        hessian = jax.hessian(lambda u: network.energy(x, unflatten(u)))(flat)
        slope = jax.grad(lambda u: cost(network.readout(unflatten(u)), y))(flat)
        return unflatten(jnp.linalg.solve(hessian, slope))

    return _hidden(jax.vmap(one)(x, y, state))


def _hidden(layers) -> np.ndarray:
    return np.concatenate([np.asarray(layer).ravel() for layer in layers[:-1]])


def _panels(found, angles, moved, costate) -> tuple[Panel, ...]:
    times = DT * np.arange(STEPS + 1)
    errors = {name: np.asarray(p.states[0][:, 0]) for name, p in found.items()}
    unit = int(np.abs(errors["Almeida–Pineda"]).max(0).argmax())
    kinds: Any = dict.fromkeys(found, "dashed") | {"Almeida–Pineda": "solid"}
    order = np.argsort(costate)
    breaks = str.maketrans({",": "\n", "–": "–\n"})
    label = "time of the second phase"
    shown = [name for name in moved if name != "Almeida–Pineda"]
    return (
        Panel(
            label,
            "error S_t (EP: −Δs/β dt)",
            tuple(
                Curve(name, times, values[:, unit], kinds[name])
                for name, values in errors.items()
            ),
            title="a neuron of the first hidden layer",
        ),
        Panel(
            "costate λ of a hidden unit",
            "what its second phase leaves",
            (
                *(Curve(n, costate, moved[n], "points") for n in shown),
                Curve("equal", costate[order], costate[order], "expected", 6),
            ),
            title="Σ dt S_t; EP: (s⁰ − s^β)/β; CHL: s⁰ − s^clamped",
        ),
        Panel(
            label,
            "angle to the exact gradient (degrees)",
            tuple(
                Curve(name, times[1:], np.maximum(values[1:], 1e-6), "solid")
                for name, values in angles.items()
            ),
            "y",
            title="the second phase stopped at t (CHL: settled)",
        ),
        Panel(
            "",
            "angle to the exact gradient (degrees)",
            (Curve("", range(len(angles)), [v[-1] for v in angles.values()]),),
            title="at the end",
            bars=tuple(
                name.replace(" (through time)", "").translate(breaks) for name in angles
            ),
        ),
    )


ITEMS = {"A.phases": phases}
