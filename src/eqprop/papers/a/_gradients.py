"""Paper A's gradient: its order in β, other total energies, and its STDP form."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqprop as ep

from ...systems import batch_costs
from .. import _common as common
from .._claim import claim, Findings
from .._common import apart, BETAS, COST, network, nudged, off, SETTLE
from .._figure import Curve, power

Shape = Literal["affine", "sinh", "coupling"]


@claim(
    "A.nudging",
    shows="order in β of each nudging, with and without a softmax layer",
    source="arXiv 1602.05179; arXiv 2006.03824",
)
def nudging() -> Findings:
    """EP's error is of order β with one-sided nudging and of order β² with centered
    nudging, also with a softmax readout.

    A Hopfield network (3-6-5-2, tanh) with a squared error, and one (3-6-5) with a
    softmax readout of three classes; four random examples.
    """
    found = Findings()
    labels = jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3)
    readout = ep.SoftmaxReadout(5, 3, key=jax.random.key(5))
    x, y = common.random_examples(3, 2)
    problems = {
        "": (network((3, 6, 5, 2), seed=2), COST, x, y),
        ", softmax": (network((3, 6, 5), seed=2), readout, x, labels),
    }
    for end, problem in problems.items():
        exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
        measured, expected = [], []
        for name, exponent in (("one-sided", 1), ("centered", 2)):
            errors = [off(nudged(beta, name)(*problem), exact) for beta in BETAS]
            order = common.order(BETAS, errors)
            found.near(f"order in β, {name}{end}", order, exponent, 0.1)
            measured.append(Curve(name, BETAS, errors))
            at = (BETAS[-1], errors[-1])
            expected.append(power(f"slope {exponent}", BETAS, exponent, at))
        found.panel("β", f"relative error{end}", *measured, *expected, scale="xy")
    return found


class Net(ep.AbstractTotalEnergy):
    """E = ½‖s‖² + ¼‖s‖⁴₄ − tanh(s)·(W x + ½ M tanh(s)), in three total energies.

    `affine` is E + β C', `sinh` is E + sinh(4β)/4 C'. In `coupling` β also scales W x
    by 1 + β y₁ + β². C' = C + ½ decay ‖W‖².
    """

    W: Array
    M: Array
    shape: Shape = eqx.field(static=True)
    decay: float = 0.0

    def init_state(self, x):
        return jnp.zeros_like(self.W[:, 0])

    def readout(self, s):
        return s[:2]

    def total_energy(self, x, y, s, beta):
        gain, nudge = 1.0, beta
        if self.shape == "sinh":
            nudge = jnp.sinh(4 * beta) / 4
        elif self.shape == "coupling":
            gain = 1 + beta * y[0] + beta**2
        rate, mixed = jnp.tanh(s), (self.M + self.M.T) / 2
        leak = 0.5 * jnp.sum(s**2) + 0.25 * jnp.sum(s**4)
        pull = rate @ (gain * (self.W @ x) + 0.5 * mixed @ rate)
        cost = COST(self.readout(s), y)
        return leak - pull + nudge * (cost + 0.5 * self.decay * jnp.sum(self.W**2))


def net(shape: Shape, decay: float = 0.0) -> tuple[Net, None, Array, Array]:
    """A network of five units with four examples; the cost is part of the energy."""
    w, m, x, y = jax.random.split(jax.random.key(0), 4)
    weights = jax.random.normal(w, (5, 3)), 0.3 * jax.random.normal(m, (5, 5))
    system = Net(*weights, shape, decay)
    return system, None, jax.random.normal(x, (4, 3)), jax.random.normal(y, (4, 2))


@claim(
    "A.total-energy",
    shows="order in β of three total energies, and the gradient of a penalty",
    source="arXiv 1602.05179, eqs 23 and 26, footnote 3",
    quick={"shapes": {"affine": "E + β C", "coupling": "β in W x"}},
)
def total_energy(shapes: dict[Shape, str] | None = None) -> Findings:
    """EP differentiates any total energy F(β), with an error of order β².

    Five units with four random examples and centered EP. The penalty ½ λ‖W‖² is part of
    the cost; its gradient is compared with finite differences.
    """
    found = Findings()
    sinh: dict[Shape, str] = {"sinh": "E + ¼ sinh(4β) C"}
    shapes = shapes or {"affine": "E + β C", **sinh, "coupling": "β in W x"}
    betas, lines = [2.0**-k for k in range(3, 9)], []
    for shape, name in shapes.items():
        problem = net(shape)
        exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
        errors = [off(nudged(beta)(*problem), exact) for beta in betas]
        slope = common.slope(betas[-4:], errors[-4:])
        found.near(f"order in β, {name}", slope, 2, 0.1)
        lines.append(Curve(name, betas, errors))
    line = power("slope 2", betas, 2, (betas[0], lines[0].y[0]))
    found.panel("β", "relative error of centered EP", *lines, line, scale="xy")
    by_ep, slopes = penalty_gradients()
    found.add("relative error with a penalty", apart(by_ep, slopes), most=1e-5)
    rank, ends = np.argsort(slopes), (slopes.min(), slopes.max())
    found.panel(
        "∂(C + λΩ)/∂W by finite differences",
        "by EP, λΩ inside the cost",
        Curve("each weight", slopes[rank], by_ep[rank]),
        Curve("equal", ends, ends, "expected"),
    )
    return found


def penalty_gradients(decay: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """∂J/∂W of J = C(s⁰) + λΩ by EP at a small β and by finite differences."""
    system, cost, x, y = net("affine", decay)
    rule = ep.EquilibriumPropagation(SETTLE, SETTLE, 1e-4)
    found = np.asarray(rule(system, cost, x, y).grads.W).ravel()

    @eqx.filter_jit
    def objective(weight):
        moved = eqx.tree_at(lambda s: s.W, system, weight)
        state = ep.relax(moved, x, SETTLE).state
        return jnp.mean(batch_costs(moved, None, x, y, state))

    steps = 1e-5 * np.eye(found.size).reshape(-1, *system.W.shape)
    slopes = [
        float(objective(system.W + h) - objective(system.W - h)) / 2e-5 for h in steps
    ]
    return found, np.asarray(slopes)


@claim(
    "A.stdp",
    shows="∫ρdρ, ∫ρdu and the contrast along the path; their ratio and ρ′",
    source="Scellier & Bengio 2017, eqs 10–14",
)
def spike_timing(beta: float = 0.05, dt: float = 0.2, steps: int = 24) -> Findings:
    """The integral of ρ(u_i) dρ(u_j) along the nudged phase, summed over both
    directions of a synapse, is EP's contrast; the integral of ρ(u_i) du_j lacks the
    factor ρ′(u_j).

    One example of a 5-8-3 network of tanh units; the errors of the integrals are
    relative to the largest contrast.
    """
    problem = common.step_problem(batch=1)
    settle = ep.Euler(dt=0.2, steps=3000, tol=1e-13)
    options: Any = {"dt": dt, "steps": steps, "beta": beta, "nudging": "one-sided"}
    contrast = ep.ep_process(*problem, free=settle, **options)
    phases = settle, ep.Euler(dt=dt, steps=steps), beta, "one-sided"
    rates, potentials = (
        ep.SpikeTimingDependentPlasticity(*phases, integral).path(*problem)
        for integral in ("rates", "potentials")
    )
    # An input does not move: only the synapse onto the hidden unit learns.
    ratio = np.asarray(rates.grads.weights[0] / potentials.grads.weights[0])[-1, 0]
    slope = 1 - np.tanh(np.asarray(rates.equilibrium.state[0][0])) ** 2
    rank = np.argsort(slope)
    whole, by_rates, by_potentials = (
        common.flat(way.grads) for way in (contrast, rates, potentials)
    )
    distance = float(np.abs(ratio / slope - 1).max())
    times, shown = dt * np.arange(steps + 1), problem[0].weights[0].size
    found = Findings()
    found.add("error of ∫ρ dρ", apart(by_rates, whole), most=1e-9)
    found.add("error of ∫ρ du", apart(by_potentials, whole), least=10 * distance)
    found.add("relative error of their ratio to ρ′(u_j)", distance, most=0.02)
    found.panel(
        "time of the nudged phase",
        "gradient of one weight",
        Curve("−∫ρ dρ / β", times, by_rates[:, shown]),
        Curve("−∫ρ du / β", times, by_potentials[:, shown]),
        Curve("contrast of the ends", times, whole[:, shown], "expected"),
    )
    found.panel(
        "ρ′(u_j) at the free state",
        "∫ρ dρ over ∫ρ du, input to hidden",
        Curve("hidden units", slope[rank], ratio[rank]),
        Curve("ρ′(u_j)", slope[rank], slope[rank], "expected"),
    )
    return found
