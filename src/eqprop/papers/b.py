"""Paper B in continuous time: theorem 3, truncation, and the projected cost.

The paper has no experiment. The networks here are Hopfield energies of tanh units on
8 × 8 digits, small enough for an adaptive solver to be exact to 1e-10.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import eqprop as ep

from ..systems import batch_costs
from ..theory import order_in_beta
from ._claim import claim, Findings
from ._common import apart, COST, flat, flat_digits, network
from ._figure import Curve, curves, power
from ._item import Paper

SETTLE = ep.Euler(dt=0.2, steps=20_000, tol=1e-14)
ORDERS: dict[Any, int] = {"one-sided": 1, "centered": 2}
EXACT = 1e-5
"""tolerance of finite differences"""
DEGREES = 0.05
"""tolerance of an angle"""
TIME = "time (neuron time constants)"


def problem(width: int, depth: int) -> tuple[Any, ...]:
    """A network with `depth` hidden layers, the cost, three digits and s⁰."""
    net, (x, y) = network((64, *(width,) * depth, 10)), flat_digits(3)
    return net, COST, x, y, ep.relax(net, x, SETTLE).state


@claim(
    "B.theorem3",
    shows="S and Θ of RBP and of EP along time, 1 to 3 hidden layers",
    source="paper B, theorem 3",
    quick={"width": 8, "depth": 2, "count": 21},
)
def theorem(width: int = 32, depth: int = 3, count: int = 81) -> Findings:
    """The error processes of RBP and of EP are the same at every time, as β → 0.

    Networks with 1 to {depth} hidden layers of {width} tanh units, 64 inputs and 10
    outputs; three digits, t ≤ {last:g}.
    """
    times, betas = np.linspace(0, 20, count), np.geomspace(1e-3, 0.1, 5)
    found = Findings(rows=2, depth=depth, width=width, last=times[-1])
    errors: dict[tuple[int, str], np.ndarray] = {}
    centered, shown = 0.0, []
    for layers in range(1, depth + 1):
        *data, state = problem(width, layers)
        options: Any = {"state": state, "times": times}
        rbp = ep.rbp_flow(*data, **options)
        for nudging, expected in ORDERS.items():
            processes = [
                ep.ep_flow(*data, beta=float(beta), nudging=nudging, **options)
                for beta in betas
            ]
            each = np.array([distances(process, rbp) for process in processes])
            errors[layers, nudging] = each
            for name, worst in zip("SΘ", each.max(-1).T, strict=True):
                order = order_in_beta(betas, worst, expected).measured
                label = f"order of {name} in β, {nudging}, {layers}h"
                limits = {"least": 0.95 * expected, "most": 2.1 * expected}
                found.add(label, order, **limits)
        centered = max(centered, errors[layers, "centered"][0].max())
        shown = [rbp, ep.ep_flow(*data, beta=1e-3, **options)]
    found.add("largest relative error at β = 0.001, centered", centered, most=EXACT)
    process_panels(found, *shown)
    error_panels(found, times, betas, errors)
    return found


def distances(found: ep.Process, rbp: ep.Process) -> list[np.ndarray]:
    """max |EP − RBP| at each time over the process's largest entry: of S, of Θ."""
    pairs = (found.states, rbp.states), (found.grads, rbp.grads)
    matrices = [(flat(a), flat(b)) for a, b in pairs]
    return [np.abs(a - b).max(1) / np.abs(b).max() for a, b in matrices]


def process_panels(found: Findings, rbp: ep.Process, nudged: ep.Process) -> None:
    """Draw the neuron and the synapse of every layer that change most."""
    panels = {
        "S of neurons (scaled)": (rbp.states, nudged.states),
        "Θ of synapses (scaled)": (rbp.grads.weights, nudged.grads.weights),
    }
    for name, layers in panels.items():
        lines = []
        for color, pair in enumerate(zip(*layers, strict=True)):
            a, b = map(flat, pair)
            unit = int(np.abs(a).max(0).argmax())
            size, label = np.abs(a[:, unit]).max(), f"layer {color + 1}"
            lines.append(Curve("", rbp.times, a[:, unit] / size, "solid", color))
            lines.append(Curve(label, rbp.times, b[:, unit] / size, "dashed", color))
        title = f"{len(lines) // 2} layers: RBP solid, EP (centered, β = 0.001) dashed"
        found.panel(TIME, name, *lines, title=title)


def error_panels(found: Findings, times: Any, betas: Any, errors: dict) -> None:
    """Draw the error against time at the smallest β, and its largest against β."""
    along, over = [], {"S": [], "Θ": []}
    for color, ((layers, nudging), each) in enumerate(errors.items()):
        label = f"{layers}h, {nudging}"
        kind = "solid" if nudging == "one-sided" else "dashed"
        along.append(Curve(label, times, each[0, 1], kind, color))
        for k, lines in enumerate(over.values()):
            worst = each[:, k].max(-1)
            lines.append(Curve(label, betas, worst, color=color))
            if layers == 1:
                p = ORDERS[nudging]
                at, style = (betas[0], 2 * worst[0]), {"kind": "other", "color": 6}
                lines.append(power(f"slope {p}", betas, p, at, **style))
    found.panel(TIME, "error of Θ at β = 0.001", *along, scale="y")
    for name, lines in over.items():
        found.panel("β", f"largest error of {name} over time", *lines, scale="xy")


@claim(
    "B.truncation",
    shows="angle of a gradient that is stopped at t, by EP and by RBP",
    source="paper B, corollary of theorem 3",
    quick={"width": 8, "depth": 2, "count": 24},
)
def truncation(width: int = 32, depth: int = 3, count: int = 100) -> Findings:
    """Stopping the nudged phase at t is the same as truncating recurrent
    backpropagation.

    Networks with 1 to {depth} hidden layers of {width} tanh units. The angle is that to
    the exact gradient, by centered EP with β = 0.001 and by RBP.
    """
    found = Findings(depth=depth, width=width)
    times, lines, gaps, largest, rise = np.linspace(0.25, 100, count), [], [], 0.0, 0.0
    for layers in range(1, depth + 1):
        *data, state = problem(width, layers)
        exact = ep.ImplicitDifferentiation(SETTLE)(*data).grads
        options: Any = {"state": state, "times": times}
        pair = ep.rbp_flow(*data, **options), ep.ep_flow(*data, beta=1e-3, **options)
        rbp, nudged = (np.asarray(ep.truncation(process, exact)) for process in pair)
        name, color = f"{layers}h", layers - 1
        lines.append(Curve(f"RBP, {name}", times, rbp, "solid", color))
        lines.append(Curve(f"EP, {name}", times, nudged, "dashed", color))
        gaps.append(Curve(name, times, nudged - rbp, "solid", color))
        largest = max(largest, np.abs(nudged - rbp).max())
        rise = max(rise, np.diff(nudged).max())
        least = 1.0 if layers == 1 else None
        found.add(f"angle (°) at t = {times[0]:g}, {name}", nudged[0], least=least)
        found.add(f"angle (°) at t = {times[-1]:g}, {name}", nudged[-1], most=1)
    found.add("largest difference of EP's and RBP's angles (°)", largest, most=DEGREES)
    found.add("largest rise of EP's angle between two times (°)", rise, most=DEGREES)
    label = "stopped at t (neuron time constants)"
    found.panel(label, "angle to the exact gradient (degrees)", *lines)
    found.panel(label, "the same", *lines, scale="y")
    found.panel(label, "EP's angle minus RBP's (degrees)", *gaps)
    return found


@claim(
    "B.projected-cost",
    shows="projected cost along the flow, and its gradients",
    source="paper B, eqs 4–12, theorem 1",
    quick={"width": 8, "count": 16},
)
def projected(width: int = 32, count: int = 61) -> Findings:
    """RBP's processes are the gradients of the projected cost L(s⁰, t).

    A network with two hidden layers of {width} tanh units and three digits, at every t
    ≤ {last:g}, along three directions. The motion starts at 0 and up to 1.0 noise away
    from s⁰.
    """
    times = np.linspace(0, 30, count)
    found = Findings(width=width, last=times[-1])
    net, cost, x, y, state = problem(width, 2)
    vector, unflatten = ravel_pytree(state)
    noise = jax.random.normal(jax.random.key(1), vector.shape)
    starts = {"0 (free phase)": jax.tree.map(jnp.zeros_like, state)}
    for size in (0.1, 0.3, 1.0):
        starts[f"s⁰ + {size:g} noise"] = unflatten(vector + size * noise)
    settled = float(jnp.mean(batch_costs(net, cost, x, y, state)))
    costs = {name: costs_along(net, x, y, s, times) for name, s in starts.items()}
    ends = max(abs(values[-1] - settled) / settled for values in costs.values())
    line = Curve("C(s⁰)", times, [settled] * count, "expected", 6)
    label, title = "projected cost L(s, t) of s", "free motion from s"
    found.panel(TIME, label, *curves(times, costs), line, title=title)

    params, static = eqx.partition(net, eqx.is_inexact_array)
    rbp = ep.rbp_flow(net, cost, x, y, state=state, times=times)
    states = jax.tree.map(lambda leaf: leaf / len(x), rbp.states)

    def of_state(start):
        return costs_along(net, x, y, start, times)

    def of_parameters(params):
        return costs_along(eqx.combine(params, static), x, y, state, times)

    pairs = {
        ("S", "in s, against S"): slopes(of_state, state, states),
        ("Θ", "in θ, against Θ"): slopes(of_parameters, params, rbp.grads),
    }
    for (name, what), (process, differences) in pairs.items():
        lines = []
        for k in range(3):
            labels = ("", "") if k else ("RBP's process", "finite differences of L")
            lines.append(Curve(labels[0], times, process[:, k], "solid", k))
            lines.append(Curve(labels[1], times, differences[:, k], "dashed", k))
        title = f"slope of L {what}, three directions"
        found.panel(TIME, f"{name} along a direction", *lines, title=title)
        label = f"relative error of finite differences of L to {name}"
        found.add(label, apart(process, differences), most=EXACT)
    at = count // 3
    reverse = jax.grad(
        lambda start: ep.projected_cost(net, cost, x, y, start, float(times[at]))
    )(state)
    then = jax.tree.map(lambda leaf: leaf[at], states)
    own = apart(*(ravel_pytree(tree)[0] for tree in (reverse, then)))
    label = f"relative error of reverse mode through the flow, t = {times[at]:g}"
    found.add(label, own, most=EXACT)
    found.add("relative error of L at the last time to C(s⁰)", ends, most=0.01)
    return found


def costs_along(net, x, y, state, times) -> Array:
    """L(s, t), mean over the batch, at every t."""
    states = ep.flow(net, x, state, times)
    return jax.vmap(lambda s: jnp.mean(batch_costs(net, COST, x, y, s)))(states)


def slopes(costs: Any, start: Any, process: Any) -> tuple[np.ndarray, np.ndarray]:
    """A process along three directions, and central differences: `[times, 3]`."""
    vector, unflatten = ravel_pytree(start)
    directions = jax.random.normal(jax.random.key(7), (3, vector.size))
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    delta = 1e-4
    found = [
        costs(unflatten(vector + delta * d)) - costs(unflatten(vector - delta * d))
        for d in directions
    ]
    rows = jax.vmap(lambda leaf: ravel_pytree(leaf)[0])(process)
    return np.asarray(rows @ directions.T), np.stack(found, 1) / (2 * delta)


PAPERS = (
    Paper(
        "B",
        "Scellier & Bengio 2018, equivalence with recurrent backpropagation (arXiv "
        "1711.08416)",
        (theorem, truncation, projected),
    ),
)
