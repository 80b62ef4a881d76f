"""One contract for all: each learning rule on each kind of system.

A rule either meets it or refuses the system with the reason.  It holds: the gradient
has the system's shape, the loss is the cost of the free state, an example of weight 0
leaves no trace though it is NaN, and the gradient is that of the rule's own objective:

- the limits β → 0 of EP, from a dense Jacobian (`limit`), which for a symmetric one are
  the exact gradient;
- finite differences of the rule's own contrast, for rules that hold outputs;
- at T → 0 a sampler's gradient is that of the rule without noise.
"""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from zoo import Primitive, box, dict_energy, field, flat, hopfield, quadratic

import eqprop as ep
from eqprop.systems._base import has_potential

pytestmark = pytest.mark.usefixtures("x64")

EULER = ep.Euler(dt=0.2, steps=1500)
COLD = ep.Langevin(dt=0.2, steps=300, temperature=1e-9, adjusted=False)
BETA = 1e-4
STEP = 0.3

PHASES = {"free": EULER, "nudged": EULER, "beta": BETA}
RULES = {
    "ep": ep.EquilibriumPropagation(**PHASES),
    "asym": ep.AsymmetricEquilibriumPropagation(**PHASES),
    "dyadic": ep.DyadicEquilibriumPropagation(EULER, dt=0.2, steps=1500, beta=BETA),
    "cep": ep.ContinualEquilibriumPropagation(**PHASES, learning_rate=1e-9),
    "stdp": ep.SpikeTimingDependentPlasticity(**PHASES),
    "vf": ep.VectorFieldEquilibriumPropagation(**PHASES),
    "kp": ep.KolenPollackEquilibriumPropagation(**PHASES, decay=0.0),
    "holomorphic": ep.HolomorphicEquilibriumPropagation(EULER, EULER, 1e-2, points=2),
    "chl": ep.ContrastiveHebbianLearning(free=EULER, clamped=EULER),
    "coupled": ep.CoupledLearning(free=EULER, clamped=EULER, beta=STEP),
    "stochastic": ep.StochasticEquilibriumPropagation(
        free=COLD, nudged=COLD, beta=1e-2
    ),
    "boltzmann": ep.BoltzmannLearning(free=COLD, clamped=COLD),
    "cd": ep.ContrastiveDivergence(free=COLD, clamped=COLD, steps=300, samples=2),
    "rbp": ep.RecurrentBackpropagation(EULER, dt=0.2, steps=1500),
    "bptt": ep.BackpropagationThroughTime(EULER, dt=0.2, steps=1500),
    "implicit": ep.ImplicitDifferentiation(EULER),
    "homeostasis": ep.JacobianHomeostasis(ep.EquilibriumPropagation(**PHASES), 0.0),
}


class Total(ep.AbstractTotalEnergy):
    """F = ½ k‖s‖² − s·Wx + β‖s − y‖² + β² s₀: bent in β, with the cost inside."""

    W: jax.Array
    k: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def total_energy(self, x, y, s, beta):
        inside = 0.5 * self.k * jnp.sum(s**2) - s @ (self.W @ x)
        return inside + beta * jnp.sum((s - y) ** 2) + beta**2 * s[0]

    def readout(self, s):
        return s


def layered(kind, **options):
    sizes, key = (3, 5, 4, 2), jax.random.key(2)
    initializer = ep.fan_in_uniform
    return kind(sizes, key=key, activation=ep.tanh, initializer=initializer, **options)


def _primitive():
    m, w = field().A, field().W
    return Primitive(0.2 * (m + m.T), w)


KINDS = {
    "quadratic": quadratic,
    "hopfield": hopfield,
    "masked": lambda: ep.toy_network(
        key=jax.random.key(4), inputs=3, hidden=4, outputs=2
    ),
    "convolutional": lambda: ep.HopfieldEnergy(
        ((4, 3, 1), ep.Convolution(2, 2, pool="average"), 2),
        key=jax.random.key(6),
        activation=ep.tanh,
    ),
    "xie-seung": lambda: layered(ep.XieSeungEnergy, gamma=0.6, output=ep.identity),
    "dict": dict_energy,
    "discrete": lambda: ep.DiscreteEnergy(hopfield(), 1.0),
    "primitive": _primitive,
    "prototypical": lambda: layered(ep.PrototypicalNetwork),
    "untied": lambda: layered(ep.LeakyIntegrator, angle=40.0),
    "untied-map": lambda: layered(ep.LeakyIntegrator, angle=40.0, discrete=True),
    "symmetric-field": lambda: field(0.0),
    "field": field,
    "box": box,
    "total": lambda: Total(jnp.arange(6.0).reshape(2, 3) / 5, jnp.array(1.5)),
}


# Of the combinations that compile, each rule's own (each takes a second); the others
# are slow.  What is refused is refused before anything is compiled.
FAST = {
    "hopfield": set(RULES),
    "dict": {"ep", "holomorphic", "stochastic"},
    "prototypical": {"ep", "chl", "coupled", "bptt"},
    "untied": {"cep", "stdp", "vf", "kp", "homeostasis"},
    "untied-map": {"ep", "asym"},
    "box": {"ep", "asym", "dyadic", "vf", "rbp", "bptt", "implicit"},
}
MAPS, UNTIED = {"prototypical"}, {"untied", "untied-map"}
FIELDS = UNTIED | {"symmetric-field", "field", "box"}
HOLD, NOISY = {"chl", "coupled", "boltzmann", "cd"}, {"stochastic", "boltzmann", "cd"}


def refusal(rule, kind):
    """What a refusal says, or `None` where the rule must work."""
    if rule == "kp":
        return None if kind in UNTIED else "declares no pairs of forward and backward"
    if rule in HOLD | NOISY and kind in FIELDS:
        return "has no potential"
    if rule in NOISY and kind in MAPS:
        return "is a map"
    if rule in HOLD and kind == "dict":
        return "readout mixes or changes units"
    if rule in HOLD and kind == "total":
        return "brings a total energy with a nudge of its own"
    if rule == "holomorphic" and kind == "box":
        return "project cannot take a complex state"
    return None


@functools.cache
def problem(kind):
    """System, cost, inputs of which the last is NaN, targets, and weights."""
    shape = (6, 4, 3, 1) if kind == "convolutional" else (6, 3)
    keys = jax.random.split(jax.random.key(1))
    x = jax.random.uniform(keys[0], shape).at[-1].set(jnp.nan)
    y = 0.5 * jax.random.normal(keys[1], (6, 2))
    cost = None if kind == "total" else ep.SquaredError()
    return KINDS[kind](), cost, x, y, jnp.array([1.0, 2, 1, 1, 0.5, 0])


@functools.cache
def limits(kind):
    """The loss, and the gradients to which the rules tend, by dense algebra.

    With T(s) = project(s + v), F = P + βC, A = 1 − ∂T/∂s at s⁰ and q = ds^β/dβ =
    −A⁻¹ ∂project ∂C/∂s: EP's contrast of a potential P tends to ∂C/∂θ + q·∂²P/∂θ∂s,
    of a velocity v to ∂C/∂θ − q·∂v/∂θ, where v = tanh(a) − s of its drive a, and the
    exact gradient is ∂C/∂θ + λ·∂T/∂θ with Aᵀλ = ∂C/∂s.
    """
    system, cost, x, y, weight = problem(kind)
    x, y, weight = x[:-1], y[:-1], weight[:-1]
    settled = ep.relax(system, x, EULER).state
    theta, rebuild = ravel_pytree(eqx.filter(system, eqx.is_inexact_array))
    constants = eqx.filter(system, eqx.is_inexact_array, inverse=True)

    def example(x, y, settled):
        s0, shaped = ravel_pytree(settled)

        def model(t):
            return eqx.combine(rebuild(t), constants)

        def paid(t, s):
            if cost is None:
                return jax.grad(lambda b: model(t).total_energy(x, y, shaped(s), b))(
                    0.0
                )
            return cost(model(t).readout(shaped(s)), y)

        def velocity(t, s):
            return ravel_pytree(model(t).velocity(x, shaped(s)))[0]

        def learns(t, s):
            v = velocity(t, s)
            return jnp.arctanh(v + s) if kind == "untied-map" else v

        def project(s):
            return ravel_pytree(system.project(shaped(s)))[0]

        def moved(t, s):
            return project(s + velocity(t, s))

        here, pull = (theta, s0), jax.grad(paid, 1)(theta, s0)
        a = jnp.eye(s0.size) - jax.jacobian(moved, 1)(*here)
        held = jax.jvp(project, (s0 + velocity(*here),), (pull,))[1]
        q = -jnp.linalg.solve(a, held)
        adjoint = jnp.linalg.solve(a.T, pull)
        direct = jax.grad(paid)(*here)
        found = {
            "exact": direct + adjoint @ jax.jacobian(moved)(*here),
            "field": direct - q @ jax.jacobian(learns)(*here),
        }
        if has_potential(system):
            slope = jax.grad(lambda t, s: model(t).potential(x, shaped(s)), 1)
            found["potential"] = direct + q @ jax.jacobian(slope)(*here)
        return paid(*here), found

    losses, found = jax.jit(jax.vmap(example))(x, y, settled)
    share = np.asarray(weight) / np.sum(weight)
    return np.dot(share, losses), {n: np.dot(share, g) for n, g in found.items()}


@functools.cache
def estimate(rule, kind):
    """The rule's gradient of the batch, and its flat parameter gradient."""
    system, cost, x, y, weight = problem(kind)
    found = RULES[rule](system, cost, x, y, key=jax.random.key(0), weight=weight)
    return found, flat(found.grads)


TOLERANCE = {"cep": 2e-3, "holomorphic": 1e-3, "stochastic": 5e-3}
DENSE = {"asym": 1e-6, "dyadic": 1e-6, "rbp": 1e-10, "bptt": 1e-10, "implicit": 1e-10}


def combinations():
    """All rules on all kinds of systems, most of them slow."""
    for rule, kind in itertools.product(RULES, KINDS):
        fast = refusal(rule, kind) is not None or rule in FAST.get(kind, ())
        yield pytest.param(rule, kind, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("rule", "kind"), [*combinations()])
def test_contract(rule, kind):
    reason = refusal(rule, kind)
    if reason is not None:
        with pytest.raises(ValueError, match=reason):
            estimate(rule, kind)
        return
    system = problem(kind)[0]
    found, gradient = estimate(rule, kind)
    assert jax.tree.structure(found.grads) == jax.tree.structure(
        eqx.filter(system, eqx.is_inexact_array)
    )
    loss, limit = limits(kind)
    assert np.isclose(found.loss, loss, rtol=1e-3 if rule in NOISY else 1e-8)
    assert isinstance(found.stats["rule"], str)
    if rule in DENSE:
        assert off(gradient, limit["exact"]) < DENSE[rule]
    elif rule in {"boltzmann", "cd"}:
        cold = COLD.temperature * gradient
        assert off(cold, estimate("chl", kind)[1]) < 5e-3
    elif rule == "chl":
        check_own_contrast(kind)
    elif rule == "coupled":
        assert off(gradient, held_either_side(kind)) < 1e-8
    elif rule == "kp":
        theirs = estimate("vf", kind)[0].grads.reciprocal()
        for w, b, g, h in zip(*found.grads.reciprocal(), *theirs, strict=True):
            np.testing.assert_allclose(w, (g + h) / 2, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(w, b)
    else:
        potential = has_potential(system) and (rule != "vf" or kind in MAPS)
        expected = limit["potential" if potential else "field"]
        assert off(gradient, expected) < TOLERANCE.get(rule, 1e-6)


def off(found, expected):
    """The largest entry of the difference, in units of the expected one's."""
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def held_either_side(kind):
    """Coupled learning's gradient: CHL's with the outputs held on both sides of o."""
    system, cost, x, y, weight = problem(kind)
    o = jax.vmap(system.readout)(estimate("chl", kind)[0].equilibrium.state)
    ends = [
        RULES["chl"](system, cost, x, o + beta * (y - o), weight=weight).grads
        for beta in (STEP, -STEP)
    ]
    return (flat(ends[0]) - flat(ends[1])) / (2 * STEP)


def check_own_contrast(kind):
    """CHL's gradient is that of the contrast E(clamped) − E(free) that it states.

    A map is no energy: its states are not stationary points of the contrast.
    """
    if kind in MAPS:
        return
    system, cost, x, y, weight = problem(kind)
    theta, rebuild = ravel_pytree(eqx.filter(system, eqx.is_inexact_array))
    constants = eqx.filter(system, eqx.is_inexact_array, inverse=True)
    direction = jax.random.normal(jax.random.key(3), theta.shape)
    share = weight[:-1] / jnp.sum(weight)

    def contrast(size):
        moved = eqx.combine(rebuild(theta + size * direction), constants)
        found = RULES["chl"](moved, cost, x, y, weight=weight)
        return share @ found.stats["contrast"][:-1]

    slope = (contrast(1e-5) - contrast(-1e-5)) / 2e-5
    assert np.isclose(estimate("chl", kind)[1] @ direction, slope, rtol=1e-6)
