"""CHL in Xie & Seung's network, whose feedback is weak, and backpropagation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..costs import SquaredError
from ..estimators import ContrastiveHebbianLearning
from ..systems import fan_in_uniform, hard_sigmoid, identity, tanh, XieSeungEnergy
from ._contrastive import _angle, _data, _flat, _order, _relative, SLOPE, SWEEP
from ._demonstration import Curve, Demonstration, Panel


def xie_seung(*, quick: bool = False) -> Demonstration:
    """Paper A, eqs 33–35: CHL tends to backpropagation as the feedback vanishes."""
    gammas = (0.03, 0.01) if quick else (0.3, 0.1, 0.03, 0.01)
    errors: dict[str, list[float]] = {"hard sigmoid": [], "tanh": []}
    angles: dict[str, list[float]] = {"hard sigmoid": [], "tanh": []}
    with jax.enable_x64(True):
        rule = ContrastiveHebbianLearning(SWEEP, SWEEP)
        x, y = _data(3, 2)
        for name, activation in (("hard sigmoid", hard_sigmoid), ("tanh", tanh)):
            for gamma in gammas:
                network = _feedback((3, 5, 4, 2), gamma, activation)
                found = rule(network, SquaredError(), x, y).grads
                exact = jax.grad(feed_forward, argnums=(0, 1))(
                    network.weights, network.biases, name.replace(" ", "_"), x, y
                )
                pair = _flat((found.weights, found.biases)), _flat(exact)
                errors[name].append(_relative(*pair))
                angles[name].append(_angle(*pair))
    orders = {name: _order(gammas[-2:], found[-2:]) for name, found in errors.items()}
    line = [2 * errors["tanh"][-1] * gamma / gammas[-1] for gamma in gammas]
    return Demonstration(
        claim="with feedback scaled by γ, CHL tends to backpropagation as γ → 0",
        source="Xie & Seung 2003; paper A, eqs 33–35",
        panels=(
            Panel(
                "feedback γ",
                "error to backpropagation's gradient",
                (
                    *(Curve(name, gammas, found) for name, found in errors.items()),
                    Curve("slope 1", gammas, line, "expected"),
                ),
                "xy",
            ),
            Panel(
                "feedback γ",
                "angle to backpropagation (degrees)",
                tuple(Curve(name, gammas, found) for name, found in angles.items()),
                "xy",
            ),
        ),
        findings={
            **{f"order {name}": order for name, order in orders.items()},
            **{f"error {name}": found[-1] for name, found in errors.items()},
        },
        holds=all(abs(order - 1) < SLOPE for order in orders.values()),
        words=(
            "The error to the feed-forward net's gradient is of order "
            + " and ".join(f"{order:.2f} ({name})" for name, order in orders.items())
            + f" in γ, down to {max(found[-1] for found in errors.values()):.1e} at "
            f"γ = {gammas[-1]}."
        ),
    )


def feed_forward(weights, biases, activation: str, x: Array, y: Array) -> Array:
    """½‖ŷ − y‖², its mean over the batch, of the net whose layers do not look up.

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
                slope = 1 - jnp.tanh(s) ** 2
                bend = 1 + 2 * jnp.tanh(s) * slope * a
                s = s - (s - slope * a) / bend
            rates = jnp.tanh(s)
    prediction = rates @ weights[-1] + biases[-1]
    return jnp.mean(0.5 * jnp.sum((prediction - y) ** 2, axis=1))


def _feedback(sizes, gamma: float, activation) -> XieSeungEnergy:
    """Weights small enough, and biases large enough, for a hard sigmoid's range."""
    network = XieSeungEnergy(
        sizes,
        gamma=gamma,
        key=jax.random.key(4),
        activation=activation,
        output=identity,
        initializer=fan_in_uniform,
    )
    weights = (*(0.3 * weight for weight in network.weights[:-1]), network.weights[-1])
    biases = (*(0 * bias + 0.5 for bias in network.biases[:-1]), network.biases[-1])
    return eqx.tree_at(lambda n: (n.weights, n.biases), network, (weights, biases))


ITEMS = {"A.xie-seung": xie_seung}
