"""Small convolutional networks: EP against BPTT, and where EP is exact."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import eqprop as ep

from ...theory import order_in_beta, process_rmse
from .._claim import claim, Findings
from .._common import agreement, COST, digits, network, off, pooled, traced
from .._figure import Curve, curves, power

BETAS = tuple(np.geomspace(1e-3, 0.1, 7).tolist())
LAYERS = ("convolution 1", "convolution 2", "dense")


class Updates(NamedTuple):
    """A layer's updates `[steps, …]`, their angle at each step, and their RMSE."""

    ep: np.ndarray
    bptt: np.ndarray
    angle: list[float]
    rmse: float


@claim(
    "D.convolution",
    shows="EP's summed updates beside BPTT's, layer by layer; the energy's error in β",
    source="paper D, figure 4; Scellier et al. 2023",
)
def convolution() -> Findings:
    """In a prototypical convolutional network EP's updates follow BPTT's gradients step
    by step; for a settled energy EP's gradient is exact as β → 0.

    A prototypical network with two convolutions, ten digits, β = 0.02 and K = 10; a
    Hopfield energy with two convolutions, settled, four digits.

    In the paper: Figure 4 shows EP's updates beside BPTT's gradients, step by step, in
    a larger convolutional network (item D.fig4).
    """
    found = Findings()
    x, y = digits(10)
    layers = dict(zip(LAYERS, prototypical(x, y), strict=True))
    errors = {f"{p} pooling": hopfield(p, x[:4], y[:4]) for p in ("softmax", "max")}
    worst = max(np.nanmax(layer.angle) for layer in layers.values())
    rmse = [layer.rmse for layer in layers.values()]
    found.add("prototypical: largest angle of EP to BPTT (°)", worst, most=45)
    found.add("prototypical: least RMSE of a layer", min(rmse))
    found.add("prototypical: largest RMSE of a layer", max(rmse), most=0.7)
    for name, each in errors.items():
        order = order_in_beta(BETAS, each, 2.0).measured
        found.add(f"energy: order in β, {name}", order, least=1.9, most=4.2)
    least = max(map(min, errors.values()))
    found.add(f"energy: relative error at β = {BETAS[0]:g}", least)
    t = "steps t of the nudged phase"
    found.panel(t, "update up to t of one weight (scaled)", *synapses(layers))
    angles = {name: layer.angle for name, layer in layers.items()}
    lines = curves(range(11), angles)
    found.panel(t, "angle of EP to BPTT (degrees)", *lines)
    line = power("∝ β²", BETAS, 2, (BETAS[0], errors["softmax pooling"][0]))
    label, lines = "relative error of EP, Hopfield energy", curves(BETAS, errors)
    found.panel("β", label, *lines, line, scale="xy")
    return found


def prototypical(x: Any, y: Any) -> list[Updates]:
    """Each layer's weight updates by EP (β = 0.02) and BPTT over K = 10 steps."""
    sizes = ((8, 8, 1), pooled(8, "max"), pooled(16, "max"), 10)
    net = network(sizes, ep.hard_sigmoid, kind=ep.PrototypicalNetwork)
    state = ep.relax(net, x, ep.Euler(dt=1.0, steps=500)).state
    options: dict[str, Any] = {"dt": 1.0, "steps": 10, "state": state}
    options["free"] = ep.Euler(dt=1.0, steps=0)
    by_ep = ep.ep_process(net, COST, x, y, beta=0.02, **options).grads.weights
    by_bptt = ep.bptt_process(net, COST, x, y, **options).grads.weights
    found = []
    for a, b in zip(map(np.asarray, by_ep), map(np.asarray, by_bptt), strict=True):
        moved = np.any(b != 0, axis=0)
        angles = [agreement(u, v).angle for u, v in zip(a, b, strict=True)]
        found.append(Updates(a, b, angles, float(process_rmse(a, b)[moved].mean())))
    return found


def hopfield(pool: Any, x: Any, y: Any) -> list[float]:
    """EP's error against the exact gradient for each β, centered nudging."""
    sizes = ((8, 8, 1), pooled(4, pool), pooled(6, pool), 10)
    net = network(sizes, ep.shifted_sigmoid, seed=1)
    settle = ep.Euler(dt=0.3, steps=1000, tol=1e-13)
    exact = ep.ImplicitDifferentiation(settle)(net, COST, x, y)
    rules = [ep.EquilibriumPropagation(settle, settle, traced(beta)) for beta in BETAS]
    return [off(rule(net, COST, x, y), exact) for rule in rules]


def synapses(layers: Mapping[Any, Updates]) -> list[Curve]:
    """The weight of largest total gradient of each layer, scaled to end at 1."""
    lines = []
    for name, layer in layers.items():
        steps = range(len(layer.bptt))
        place = np.unravel_index(
            np.argmax(np.abs(layer.bptt[-1])), layer.bptt.shape[1:]
        )
        found, bptt = (each[(slice(None), *place)] for each in (layer.ep, layer.bptt))
        lines.append(Curve(f"EP, {name}", steps, found / bptt[-1]))
        lines.append(Curve(f"BPTT, {name}", steps, bptt / bptt[-1], "expected"))
    return lines
