"""Why prototypical networks do not always settle, and what an odd K does to them.

In a layered network each odd layer receives input from even layers only, and the other
way round. With synchronous steps of dt = 1, the odd layers at odd times interact only
with the even layers at even times: the network decouples into two networks. Each
settles. If an input has several fixed points, the two may settle at different ones; the
state then oscillates between two mixtures of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eqprop as ep

from .._claim import claim, Findings
from .._common import COST, flat_digits, network
from .._figure import Curve, curves

SIZES = (64, 64, 64, 10)
FREE, NUDGED, BETA, RATES = 100, 20, 0.5, (0.2, 0.05, 0.005)
"""T, K, β and rates of paper D's P-2h"""
LONG = 1000
"""number of steps after which everything that can settle has settled"""
OSCILLATES = 0.1
"""an example oscillates if its velocity is then above this"""
FIXED = 1e-8
"""a state is a fixed point if its velocity is below this"""
SHOWN = range(61)
"""steps of an example that is drawn"""
COUNTS = range(1, 25)
"""steps K of the nudged phase"""


def steps(count: int) -> ep.Euler:
    """Synchronous steps of all layers."""
    return ep.Euler(dt=1.0, steps=count)


@claim(
    "D.interleaved",
    shows="two fixed points in turn (period 2), and their contrast against K",
    source="derived here; paper D's prototypical setting",
)
def interleaved() -> Findings:
    """With dt = 1 a layered network decouples into two; where they settle at different
    fixed points its state has period 2, and with an odd K the contrast is that of two
    fixed points.

    {sizes} trained on {count} digits like paper D's P-2h. Some examples never settle.
    For each of them, the state is taken apart into the states of the two networks,
    which are fixed points. Sweeps settle all of them.
    """
    x, y = flat_digits(1500)
    found = Findings(sizes="-".join(map(str, SIZES)), count=len(x))
    net = trained(x, y)
    ended = ep.relax(net, x, steps(LONG))
    swings = np.asarray(ended.residual) > OSCILLATES
    if not swings.any():
        raise RuntimeError("every example settled: there is nothing to show")
    halves = one_by_one(net, x[swings], ended.state, swings)
    others = np.flatnonzero(~swings)[: 10 * swings.sum()]
    norms = contrasts(net, x[swings], y[swings])
    still = contrasts(net, x[others], y[others])
    outputs = np.stack([np.asarray(half.state[-1]) for half in halves])
    first, second = outputs.argmax(axis=2)
    swept = ep.relax(net, x[swings], ep.Sweep(LONG, FIXED)).residual
    odd, even = (norms[start::2].mean() for start in (0, 1))
    found.add("examples that never settle", swings.sum(), least=1)
    residual = max(half.residual.max() for half in halves)
    found.add("largest residual of their halves", residual, most=FIXED)
    found.add("examples whose halves are of different classes", (first != second).sum())
    found.add("contrast with an odd K over that with an even K", odd / even, least=2)
    label = "contrast with an odd K over that of other examples"
    found.add(label, odd / still.mean(), least=10)
    found.add("largest residual after sweeps", swept.max(), most=FIXED)
    outputs_panel(found, net, x[swings], outputs)
    lines = curves(COUNTS, {"examples of period 2": norms, "others": still})
    label = "norm of an example's contrast (mean)"
    found.panel("steps K of the nudged phase", label, *lines, scale="y")
    return found


def trained(x: Any, y: Any) -> ep.AbstractSystem:
    """Train by paper D's steps, all layers at once."""
    return ep.fit(
        network(SIZES, ep.shifted_sigmoid, kind=ep.PrototypicalNetwork),
        COST,
        x,
        y,
        estimator=ep.EquilibriumPropagation(
            steps(FREE), steps(NUDGED), BETA, "one-sided"
        ),
        optimizer=ep.Optimizer("sgd", RATES),
        epochs=20,
        batch_size=20,
    ).system


def one_by_one(net: Any, x: Any, state: Any, swings: Any) -> list[ep.Equilibrium]:
    """Combine odd layers of one step with even layers of the next, and the reverse."""
    now = tuple(layer[swings] for layer in state)
    then = ep.relax(net, x, steps(1), state=now).state
    halves = [
        tuple(each[k % 2][k] for k in range(len(now)))
        for each in ((now, then), (then, now))
    ]
    return [ep.relax(net, x, steps(0), state=half) for half in halves]


def contrasts(net: Any, x: Any, y: Any) -> np.ndarray:
    """Mean norm of ∂Φ/∂θ at s^β_K minus that at s_T, for every K."""

    @jax.jit
    def norm(nudged, free):
        def direction(x, s):
            return jax.grad(lambda net: net.primitive(x, s))(net)

        ends = (jax.vmap(direction)(x, s) for s in (nudged, free))
        change = jax.tree.leaves(jax.tree.map(jnp.subtract, *ends))
        squares = [jnp.sum(u.reshape(len(u), -1) ** 2, 1) for u in change]
        return jnp.mean(jnp.sqrt(sum(squares)))

    nudge: dict[str, Any] = {"cost": COST, "y": y, "beta": BETA}
    free = ep.relax(net, x, steps(FREE)).state
    nudged, means = free, []
    for _ in COUNTS:
        nudged = ep.relax(net, x, steps(1), state=nudged, **nudge).state
        means.append(float(norm(nudged, free)))
    return np.array(means)


def outputs_panel(found: Findings, net: Any, x: Any, both: np.ndarray) -> None:
    """Draw the two outputs that differ most between an example's fixed points."""
    apart = np.abs(both[0] - both[1])
    shown = np.argmax(np.sort(apart, axis=1)[:, -2])  # by the second largest
    state, along, lines, ends = None, [], [], []
    for t in SHOWN:
        state = ep.relax(net, x[shown][None], steps(int(t > 0)), state=state).state
        along.append(np.asarray(state[-1][0]))
    for color, unit in enumerate(np.argsort(-apart[shown])[:2]):
        lines.append(Curve(f"output {unit}", SHOWN, [s[unit] for s in along]))
        for end in both[:, shown, unit]:
            ends.append(Curve("", (0, SHOWN[-1]), (end, end), "expected", color))
    title = "dashed: the two fixed points of this example"
    x_label = "steps t, all layers at once"
    found.panel(x_label, "state", *lines, *ends, title=title)
