"""Paper D's convolutional network: EP against BPTT, and where EP is exact."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import data
from ..costs import SquaredError
from ..estimators import EquilibriumPropagation, ImplicitDifferentiation
from ..relaxations import Euler, relax
from ..systems import (
    Convolution,
    fan_in_uniform,
    hard_sigmoid,
    HopfieldEnergy,
    PrototypicalNetwork,
    shifted_sigmoid,
)
from ..verification import bptt_process, ep_process
from ..verification._metrics import agreement, order_in_beta, process_rmse
from ._demonstration import Curve, Demonstration, Panel

BETAS = tuple(np.geomspace(1e-3, 0.1, 7).tolist())
LAYERS = ("convolution 1", "convolution 2", "dense")


def convolution(*, quick: bool = False) -> Demonstration:
    """EP's summed updates beside BPTT's, layer by layer; the energy's error in β."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        x, y = digits(10)
        layers = prototypical(x, y)
        errors = {pool: hopfield(pool, x[:4], y[:4]) for pool in ("softmax", "max")}
    orders = {pool: order_in_beta(BETAS, e, 2.0) for pool, e in errors.items()}
    worst = max(float(np.nanmax(layer["angle"])) for layer in layers)
    rmse = [float(layer["rmse"]) for layer in layers]
    exact = all(order.holds() for order in orders.values())
    holds = bool(worst < 45 and max(rmse) < 0.7 and exact)
    least = max(min(e) for e in errors.values())
    return Demonstration(
        claim="In a prototypical convolutional network EP's updates follow BPTT's "
        "gradients step by step; of an energy, settled, EP's gradient is exact as "
        "β → 0",
        source="paper D, figure 4; Scellier et al. 2023",
        panels=(
            _synapses(layers),
            Panel(
                "steps t of the nudged phase",
                "angle of EP to BPTT (degrees)",
                tuple(
                    Curve(name, range(len(layer["angle"])), layer["angle"])
                    for name, layer in zip(LAYERS, layers, strict=True)
                ),
            ),
            Panel(
                "β",
                "relative error of EP, Hopfield energy",
                (
                    Curve("softmax pooling", BETAS, errors["softmax"]),
                    Curve("max pooling", BETAS, errors["max"]),
                    Curve(
                        "∝ β²",
                        BETAS,
                        [errors["softmax"][0] * (b / BETAS[0]) ** 2 for b in BETAS],
                        "expected",
                    ),
                ),
                "xy",
            ),
        ),
        findings={
            "largest_angle": worst,
            **{f"rmse_{k}": value for k, value in enumerate(rmse)},
            **{f"order_{pool}": order.measured for pool, order in orders.items()},
            "least_error": least,
        },
        holds=holds,
        words=(
            f"Prototypical network: EP's update stays within {worst:.0f}° of BPTT's in "
            f"every layer and at every step, RMSE {min(rmse):.2f} to {max(rmse):.2f}. "
            "Hopfield energy: the error falls as "
            f"β^{orders['softmax'].measured:.2f} with softmax pooling and "
            f"β^{orders['max'].measured:.2f} with max pooling, to {least:.0e} at "
            f"β = {BETAS[0]:g}."
        ),
    )


def digits(count: int) -> tuple[Any, Any]:
    """8 x 8 handwritten digits in [0, 1] and their classes, one-hot."""
    images, labels = data.digits()
    return jnp.asarray(images[:count, ..., None]), jnp.eye(10)[labels[:count]]


def prototypical(x: Any, y: Any) -> list[dict[str, Any]]:
    """Each layer's weight updates by EP (β = 0.02) and BPTT over K = 10 steps."""
    net = PrototypicalNetwork(
        ((8, 8, 1), _pooled(8, "max"), _pooled(16, "max"), 10),
        key=jax.random.key(0),
        activation=hard_sigmoid,
        initializer=fan_in_uniform,
    )
    state = relax(net, x, Euler(dt=1.0, steps=500)).state
    steps: dict[str, Any] = {
        "free": Euler(dt=1.0, steps=0),
        "dt": 1.0,
        "steps": 10,
        "state": state,
    }
    ep = ep_process(net, SquaredError(), x, y, beta=0.02, **steps).grads.weights
    bptt = bptt_process(net, SquaredError(), x, y, **steps).grads.weights
    found = []
    for a, b in zip(map(np.asarray, ep), map(np.asarray, bptt), strict=True):
        moved = np.any(b != 0, axis=0)
        angles = [agreement(u, v).angle for u, v in zip(a, b, strict=True)]
        rmse = process_rmse(a, b)[moved].mean()
        found.append({"ep": a, "bptt": b, "angle": np.array(angles), "rmse": rmse})
    return found


def hopfield(pool: Any, x: Any, y: Any) -> list[float]:
    """EP's error against the exact gradient for each β, centered nudging."""
    net = HopfieldEnergy(
        ((8, 8, 1), _pooled(4, pool), _pooled(6, pool), 10),
        key=jax.random.key(1),
        activation=shifted_sigmoid,
        initializer=fan_in_uniform,
    )
    settle, cost = Euler(dt=0.3, steps=1000, tol=1e-13), SquaredError()
    exact = ImplicitDifferentiation(settle)(net, cost, x, y).grads
    errors = []
    for beta in BETAS:
        # An array, so that all β share one compiled program.
        rule = EquilibriumPropagation(settle, settle, jnp.asarray(beta))  # type: ignore[arg-type]
        errors.append(agreement(rule(net, cost, x, y).grads, exact).error)
    return errors


def _pooled(channels: int, pool: Any) -> Convolution:
    return Convolution(channels, 3, padding=1, pool=pool)


def _synapses(layers: list[dict[str, Any]]) -> Panel:
    """The weight of largest total gradient of each layer, scaled to end at 1."""
    curves = []
    for name, layer in zip(LAYERS, layers, strict=True):
        place = np.unravel_index(
            np.argmax(np.abs(layer["bptt"][-1])), layer["bptt"].shape[1:]
        )
        ep, bptt = (layer[rule][(slice(None), *place)] for rule in ("ep", "bptt"))
        t = range(len(bptt))
        curves.append(Curve(f"EP, {name}", t, ep / bptt[-1]))
        curves.append(Curve(f"BPTT, {name}", t, bptt / bptt[-1], "expected"))
    return Panel(
        "steps t of the nudged phase",
        "update up to t of one weight (scaled)",
        tuple(curves),
    )


ITEMS = {"D.convolution": convolution}
