"""Paper B in continuous time: theorem 3, truncation, and the projected cost.

The paper has no experiment; the networks here are Hopfield energies of tanh units on
8 x 8 digits, small enough for an adaptive solver to be exact to 1e-10.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ..costs import SquaredError
from ..estimators import ImplicitDifferentiation
from ..relaxations import Euler, relax
from ..systems import fan_in_uniform, HopfieldEnergy, tanh
from ..systems._total_energy import batch_costs
from ..verification import (
    ep_flow,
    flow,
    Process,
    projected_cost,
    rbp_flow,
    truncation,
)
from ..verification._metrics import order_in_beta
from ._convolution import digits
from ._demonstration import Curve, Demonstration, Panel

COST = SquaredError()
SETTLE = Euler(dt=0.2, steps=20_000, tol=1e-14)
ORDERS: dict[Literal["one-sided", "centered"], float] = {
    "one-sided": 1.0,
    "centered": 2.0,
}
EXAMPLES = 3
SLOPE, EXACT = 0.05, 1e-5
DEGREES = 0.05
"""tolerances: of an order in β, of finite differences, and of an angle"""


def depths(quick: bool) -> dict[int, tuple[int, ...]]:
    """Sizes by the number of hidden layers."""
    width, most = (8, 2) if quick else (32, 3)
    return {n: (64, *(width,) * n, 10) for n in range(1, most + 1)}


def problem(sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """A network, the cost, three digits and s⁰."""
    x, y = digits(EXAMPLES)
    network = HopfieldEnergy(
        sizes, key=jax.random.key(0), activation=tanh, initializer=fan_in_uniform
    )
    x = x.reshape(len(x), -1)
    return network, COST, x, y, relax(network, x, SETTLE).state


def theorem(*, quick: bool = False) -> Demonstration:
    """Theorem 3: S and Θ of RBP and of EP along time, 1 to 3 hidden layers."""
    times = np.linspace(0, 20, 21 if quick else 81)
    betas = np.geomspace(1e-3, 0.1, 5)
    errors, orders = {}, {}
    shown: Any = None
    with jax.enable_x64(True):
        for depth, sizes in depths(quick).items():
            *data, state = problem(sizes)
            options: Any = {"state": state, "times": times}
            rbp = rbp_flow(*data, **options)
            for nudging in ORDERS:
                found = []
                for beta in betas:
                    ep = ep_flow(*data, beta=float(beta), nudging=nudging, **options)
                    found.append(_errors(ep, rbp))
                errors[depth, nudging] = np.array(found)  # [β, (S, Θ), t]
            if depth == max(depths(quick)):
                shown = rbp, ep_flow(*data, beta=1e-3, **options)
    for key, found in errors.items():
        for name, worst in zip("SΘ", found.max(-1).T, strict=True):
            orders[(*key, name)] = order_in_beta(betas, worst, ORDERS[key[1]])
    least = max(found[0].max() for key, found in errors.items() if "centered" in key)
    measured = {
        nudging: [o.measured for key, o in orders.items() if nudging in key]
        for nudging in ORDERS
    }
    return Demonstration(
        claim="RBP's and EP's error processes are the same at every time, as β → 0",
        source="paper B, theorem 3",
        panels=(
            *_process_panels(*shown),
            *_error_panels(times, betas, errors),
        ),
        findings={
            **{f"order {n}, {d}h, {s}": o.measured for (d, s, n), o in orders.items()},
            **{
                f"largest error {name}, {depth}h, {nudging}, β = 0.001": worst
                for (depth, nudging), found in errors.items()
                for name, worst in zip("SΘ", found[0].max(-1), strict=True)
            },
        },
        holds=bool(
            all(order.holds(SLOPE) for order in orders.values()) and least < EXACT
        ),
        words=(
            f"64-{depths(quick)[1][1]}…-10, tanh, 1 to {len(depths(quick))} hidden "
            f"layers, t ≤ {times[-1]:g}: the largest error over time falls as β^"
            f"{min(measured['one-sided']):.2f} to {max(measured['one-sided']):.2f} "
            f"one-sided and β^{min(measured['centered']):.2f} to "
            f"{max(measured['centered']):.2f} centered (1 and 2 expected, within "
            f"{SLOPE:.0%}), to {least:.0e} of the process at β = 0.001 (tolerance "
            f"{EXACT:.0e})."
        ),
        rows=2,
    )


def _flat(tree: Any) -> np.ndarray:
    """Leaves `[times, …]` as one matrix `[times, all]`."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _errors(ep: Process, rbp: Process) -> list[np.ndarray]:
    """max |EP − RBP| at each time over the process's largest entry: of S, of Θ."""
    found = []
    for a, b in ((ep.states, rbp.states), (ep.grads, rbp.grads)):
        a, b = _flat(a), _flat(b)
        found.append(np.abs(a - b).max(1) / np.abs(b).max())
    return found


def _process_panels(rbp: Process, ep: Process) -> tuple[Panel, ...]:
    """The neuron and the synapse of every layer that change most."""
    panels = []
    for what, name in (("states", "S of neurons"), ("grads", "Θ of synapses")):
        curves = []
        trees = [getattr(p, what) for p in (rbp, ep)]
        trees = [tree.weights if what == "grads" else tree for tree in trees]
        for color, (a, b) in enumerate(zip(*trees, strict=True)):
            a, b = (_flat(leaf) for leaf in (a, b))
            unit = int(np.abs(a).max(0).argmax())
            size = np.abs(a[:, unit]).max()
            label = f"layer {color + 1}"
            for column, kind, text in ((a, "solid", ""), (b, "dashed", label)):
                values = column[:, unit] / size
                curves.append(Curve(text, rbp.times, values, kind, color))  # type: ignore[arg-type]
        title = f"{len(ep.states)} layers: RBP solid, EP (centered, β = 0.001) dashed"
        label = "time (neuron time constants)"
        panels.append(Panel(label, f"{name} (scaled)", tuple(curves), title=title))
    return tuple(panels)


def _error_panels(times, betas, errors) -> tuple[Panel, ...]:
    """Error against time at the smallest β, and its largest against β."""
    along, over = [], {"S": [], "Θ": []}
    for color, ((depth, nudging), found) in enumerate(errors.items()):
        kind = "solid" if nudging == "one-sided" else "dashed"
        label = f"{depth}h, {nudging}"
        along.append(Curve(label, times, found[0, 1], kind, color))
        for k, name in enumerate("SΘ"):
            worst = found[:, k].max(-1)
            over[name].append(Curve(label, betas, worst, color=color))
            if depth == 1:
                power = ORDERS[nudging]
                line = 2 * worst[0] * (betas / betas[0]) ** power
                over[name].append(Curve(f"slope {power:g}", betas, line, "other", 6))
    label = "time (neuron time constants)"
    return (
        Panel(label, "error of Θ at β = 0.001", tuple(along), "y"),
        *(
            Panel("β", f"largest error of {name} over time", tuple(curves), "xy")
            for name, curves in over.items()
        ),
    )


def truncated(*, quick: bool = False) -> Demonstration:
    """Corollary: the angle of a gradient stopped at t, by EP and by RBP."""
    times = np.linspace(0.25, 100, 24 if quick else 100)
    angles, curves = {}, []
    with jax.enable_x64(True):
        for depth, sizes in depths(quick).items():
            *data, state = problem(sizes)
            exact = ImplicitDifferentiation(SETTLE)(*data).grads
            options: Any = {"state": state, "times": times}
            pair = rbp_flow(*data, **options), ep_flow(*data, beta=1e-3, **options)
            angles[depth] = [np.asarray(truncation(p, exact)) for p in pair]
    for color, (depth, (rbp, ep)) in enumerate(angles.items()):
        curves.append(Curve(f"RBP, {depth}h", times, rbp, "solid", color))
        curves.append(Curve(f"EP, {depth}h", times, ep, "dashed", color))
    gaps = {depth: float(np.abs(a - b).max()) for depth, (a, b) in angles.items()}
    first = {depth: float(ep[0]) for depth, (_, ep) in angles.items()}
    last = {depth: float(ep[-1]) for depth, (_, ep) in angles.items()}
    falls = all((np.diff(ep) < DEGREES).all() for _, ep in angles.values())
    label = "stopped at t (neuron time constants)"
    return Demonstration(
        claim="Stopping the nudged phase at t is truncating recurrent backpropagation",
        source="paper B, corollary of theorem 3",
        panels=(
            Panel(label, "angle to the exact gradient (degrees)", tuple(curves)),
            Panel(label, "the same", tuple(curves), "y"),
            Panel(
                label,
                "EP's angle minus RBP's (degrees)",
                tuple(
                    Curve(f"{depth}h", times, ep - rbp, "solid", color)
                    for color, (depth, (rbp, ep)) in enumerate(angles.items())
                ),
            ),
        ),
        findings={
            **{f"largest difference of angles, {d}h": gap for d, gap in gaps.items()},
            **{f"angle at t = {times[0]:g}, {d}h": angle for d, angle in first.items()},
            **{f"angle at t = {times[-1]:g}, {d}h": angle for d, angle in last.items()},
        },
        holds=bool(
            max(gaps.values()) < DEGREES and falls and max(last.values()) < 1 < first[1]
        ),
        words=(
            f"1 to {len(angles)} hidden layers: the angle to the exact gradient falls "
            "from "
            f"{', '.join(f'{angle:.0f}°' for angle in first.values())} at t = "
            f"{times[0]:g} to {', '.join(f'{angle:.1g}°' for angle in last.values())} "
            f"at t = {times[-1]:g}; stopped EP (centered, β = 0.001) and stopped RBP "
            f"differ by at most {max(gaps.values()):.1g}° (tolerance {DEGREES}°)."
        ),
    )


def projected(*, quick: bool = False) -> Demonstration:
    """Projected cost along the flow, and its gradients by finite differences."""
    sizes = depths(quick)[2]
    times = np.linspace(0, 30, 16 if quick else 61)
    third = len(times) // 3
    with jax.enable_x64(True):
        network, cost, x, y, state = data = problem(sizes)
        flat, unflatten = ravel_pytree(state)
        random = jax.random.normal(jax.random.key(1), flat.shape)
        starts = {"0 (free phase)": jax.tree.map(jnp.zeros_like, state)}
        for size in (0.1, 0.3, 1.0):
            starts[f"s⁰ + {size:g} noise"] = unflatten(flat + size * random)
        costs = {
            name: np.asarray(_costs(network, x, y, s, times))
            for name, s in starts.items()
        }
        settled = float(jnp.mean(batch_costs(network, cost, x, y, state)))
        rbp = rbp_flow(network, cost, x, y, state=state, times=times)
        pairs = {
            "S": _state_slopes(data, rbp, times),
            "Θ": _parameter_slopes(data, rbp, times),
        }
        own = _own_gradient(data, rbp, times, third)
    errors = {
        name: float(np.abs(a - b).max() / np.abs(b).max())
        for name, (a, b) in pairs.items()
    }
    ends = max(abs(values[-1] - settled) / settled for values in costs.values())
    label = "time (neuron time constants)"
    panels = [
        Panel(
            label,
            "projected cost L(s, t) of s",
            (
                *(Curve(name, times, values) for name, values in costs.items()),
                Curve("C(s⁰)", times, [settled] * len(times), "expected", 6),
            ),
            title="free motion from s",
        )
    ]
    for name, (found, differences) in pairs.items():
        curves = []
        for k in range(3):
            text = "RBP's process" if k == 0 else ""
            curves.append(Curve(text, times, found[:, k], "solid", k))
            text = "finite differences of L" if k == 0 else ""
            curves.append(Curve(text, times, differences[:, k], "dashed", k))
        what = "in s, against S" if name == "S" else "in θ, against Θ"
        title = f"slope of L {what}, three directions"
        panels.append(
            Panel(label, f"{name} along a direction", (*curves,), title=title)
        )
    return Demonstration(
        claim="RBP's processes are the gradients of the projected cost L(s⁰, t)",
        source="paper B, eqs 4–12, theorem 1",
        panels=tuple(panels),
        findings={
            **{f"finite differences against {n}": error for n, error in errors.items()},
            "reverse mode through the flow against S": own,
            "L at the last time against C(s⁰)": ends,
        },
        holds=bool(max(*errors.values(), own) < EXACT and ends < 0.01),
        words=(
            "Finite differences of L(s, t) in s and in θ give S and Θ to "
            f"{errors['S']:.0e} and {errors['Θ']:.0e} of their size at every t ≤ "
            f"{times[-1]:g}, along three directions, and reverse mode through the "
            f"solver S at t = {times[third]:g} to {own:.0e} (tolerance "
            f"{EXACT:.0e}); from a far start L ends within {ends:.1e} of C(s⁰)."
        ),
    )


def _costs(network, x, y, state, times) -> Array:
    """L(s, t), mean over the batch, for every t."""
    states = flow(network, x, state, times)
    return jax.vmap(lambda s: jnp.mean(batch_costs(network, COST, x, y, s)))(states)


def _directions(size: int, count: int = 3) -> Array:
    found = jax.random.normal(jax.random.key(7), (count, size))
    return found / jnp.linalg.norm(found, axis=1, keepdims=True)


def _state_slopes(data, rbp: Process, times) -> tuple[np.ndarray, np.ndarray]:
    """S along random directions in s, and central differences of L: `[times, 3]`."""
    network, _, x, y, state = data
    flat, unflatten = ravel_pytree(state)
    delta, directions = 1e-4, _directions(flat.size)
    slopes = [
        _costs(network, x, y, unflatten(flat + delta * d), times)
        - _costs(network, x, y, unflatten(flat - delta * d), times)
        for d in directions
    ]
    rows = jax.vmap(lambda s: ravel_pytree(s)[0])(rbp.states) / len(x)
    return np.asarray(rows @ directions.T), np.stack(slopes, 1) / (2 * delta)


def _parameter_slopes(data, rbp: Process, times) -> tuple[np.ndarray, np.ndarray]:
    """Θ along random directions in θ, and central differences of L: `[times, 3]`."""
    network, _, x, y, state = data
    params, static = eqx.partition(network, eqx.is_inexact_array)
    theta, unflatten = ravel_pytree(params)
    delta, directions = 1e-4, _directions(theta.size)

    def costs(theta):
        return _costs(eqx.combine(unflatten(theta), static), x, y, state, times)

    slopes = [costs(theta + delta * d) - costs(theta - delta * d) for d in directions]
    rows = jax.vmap(lambda g: ravel_pytree(g)[0])(rbp.grads)
    return np.asarray(rows @ directions.T), np.stack(slopes, 1) / (2 * delta)


def _own_gradient(data, rbp: Process, times, at: int) -> float:
    """`projected_cost`'s own derivative in s, at times[at], against S."""
    network, cost, x, y, state = data

    def cost_of(s):
        return projected_cost(network, cost, x, y, s, float(times[at]))

    found, _ = ravel_pytree(jax.grad(cost_of)(state))
    expected, _ = ravel_pytree(jax.tree.map(lambda s: s[at] / len(x), rbp.states))
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


ITEMS = {
    "B.theorem3": theorem,
    "B.truncation": truncated,
    "B.projected-cost": projected,
}
"""Each takes tens of seconds; `quick` has narrower layers and fewer times."""
