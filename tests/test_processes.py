"""Papers B and D step by step: EP's, RBP's and BPTT's error processes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import IDENTITY, SLOPE
from zoo import (
    flat,
    batch,
    box,
    box_hopfield,
    dict_energy,
    field,
    hopfield,
    primitive,
    quadratic,
    SoftmaxReadout,
    tanh_map,
)

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")

DT, STEPS = 0.2, 12
SETTLE = ep.Euler(DT, 3000, 2e-15)
OPTIONS = {"free": SETTLE, "dt": DT, "steps": STEPS}
EXACT = {
    "quadratic": quadratic,
    "dict": dict_energy,
    "hopfield": hopfield,
    "box-hopfield": box_hopfield,
    "primitive": primitive,
    "symmetric-field": lambda: field(0.0),
    "box-field": lambda: box(0.0),
}
BIASED = {"map": tanh_map, "field": lambda: field(0.4), "box": lambda: box(0.4)}


def off(a, b):
    """The largest difference over all steps, relative to the largest entry."""
    return float(np.max(np.abs(flat(a) - flat(b))) / np.max(np.abs(flat(b))))


@eqx.filter_jit
def projected(system, x, process):
    """RBP's states after the Jacobian of `project` at s⁰ + dt velocity, densely."""
    s0 = ep.relax(system, x, SETTLE).state

    def one(x, s, errors):
        flat_s, unflatten = jax.flatten_util.ravel_pytree(s)
        v = jax.flatten_util.ravel_pytree(system.velocity(x, s))[0]
        matrix = jax.jacfwd(
            lambda u: jax.flatten_util.ravel_pytree(system.project(unflatten(u)))[0]
        )(flat_s + DT * v)
        rows = jax.vmap(lambda e: jax.flatten_util.ravel_pytree(e)[0])(errors)
        return jax.vmap(unflatten)(rows @ matrix.T)

    return jax.vmap(one, in_axes=(0, 0, 1), out_axes=1)(x, s0, process.states)


def some(systems, *fast):
    """All systems; those that are not named are slow."""
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow)
        for name in systems
    ]


@pytest.mark.parametrize("name", some(EXACT | BIASED, "dict", "box-hopfield", "map"))
def test_bptt_equals_rbp_at_every_step(name):
    """Theorem 1 of papers B and D, for every kind of system, `project` included."""
    system, (x, y) = (EXACT | BIASED)[name](), batch()
    rbp = ep.rbp_process(system, ep.SquaredError(), x, y, **OPTIONS)
    bptt = ep.bptt_process(system, ep.SquaredError(), x, y, **OPTIONS)
    assert off(bptt.states, rbp.states) <= IDENTITY
    assert off(bptt.grads, rbp.grads) <= IDENTITY
    for leaf in jax.tree.leaves(rbp.states):
        assert leaf.shape[:2] == (STEPS + 1, len(x))
    np.testing.assert_allclose(rbp.times, DT * np.arange(STEPS + 1))


def test_rbp_is_the_gradient_of_the_cost_after_t_steps():
    """S̄_t = ∂C(after t steps)/∂s and Θ̄_t = ∂C(after t steps)/∂θ, by autodiff."""
    system, (x, y) = box_hopfield(), batch(size=2)
    process = ep.rbp_process(system, ep.SquaredError(), x, y, **OPTIONS)
    s0 = ep.relax(system, x, SETTLE).state

    @eqx.filter_jit
    def gradients(t):
        def cost_after(system, s):
            end = ep.relax(system, x, ep.Euler(DT, t), state=s).state
            return 0.5 * jnp.sum((jax.vmap(system.readout)(end) - y) ** 2)

        by_system = eqx.filter_grad(lambda m: cost_after(m, s0) / len(x))(system)
        return jax.grad(lambda s: cost_after(system, s))(s0), by_system

    for t in (1, 5):
        states, grads = gradients(t)
        found = jax.tree.map(lambda leaf, t=t: leaf[t], (process.states, process.grads))
        np.testing.assert_allclose(flat(found[0]), flat(states), atol=1e-12)
        np.testing.assert_allclose(flat(found[1]), flat(grads), atol=1e-12)
    # Θ̄_0 = ∂C/∂θ, and here no parameter is in the readout.
    assert not flat(jax.tree.map(lambda leaf: leaf[0], process.grads)).any()


@pytest.mark.parametrize("nudging", ["one-sided", "centered"])
@pytest.mark.parametrize("name", some(EXACT, "dict", "box-hopfield"))
def test_ep_tends_to_rbp_with_its_order(name, nudging):
    """Theorem 3 of paper B: the error over all t falls as β, or β² when centered."""
    order = {"one-sided": 1, "centered": 2}[nudging]
    system, (x, y) = EXACT[name](), batch(size=3)
    rbp = ep.rbp_process(system, ep.SquaredError(), x, y, **OPTIONS)
    reference = projected(system, x, rbp)
    errors = []
    for beta in (4e-4, 2e-4):
        process = ep.ep_process(
            system, ep.SquaredError(), x, y, **OPTIONS, beta=beta, nudging=nudging
        )
        errors.append((off(process.states, reference), off(process.grads, rbp.grads)))
    # Where the dynamics is linear under the nudge nothing is left to fall.
    for large, small in np.array(errors).T:
        assert small < {"one-sided": 1e-2, "centered": 1e-5}[nudging]
        if small > 1e-11:
            slope = np.log2(large / small)
            assert slope == pytest.approx(order, rel=SLOPE), (large, small)


@pytest.mark.parametrize("name", some(BIASED, "map"))
def test_ep_differs_from_rbp_where_theory_does_not_promise(name):
    """At t = 0 the outputs agree; the bias does not fall with β."""
    system, (x, y) = BIASED[name](), batch()
    rbp = ep.rbp_process(system, ep.SquaredError(), x, y, **OPTIONS)
    errors = [
        off(
            ep.ep_process(system, ep.SquaredError(), x, y, **OPTIONS, beta=b).grads,
            rbp.grads,
        )
        for b in (1e-3, 1e-5)
    ]
    assert errors[1] > 1e-2
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


def test_processes_end_in_the_estimators():
    """Θ̄_K is what the estimators with K steps return."""
    system, (x, _) = hopfield((3, 6, 2)), batch(size=4)
    y = jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3)
    cost = SoftmaxReadout(jax.random.normal(jax.random.key(1), (3, 2)))
    nudged = ep.Euler(DT, STEPS)
    pairs = (
        (
            ep.ep_process(system, cost, x, y, **OPTIONS, beta=0.1),
            ep.EquilibriumPropagation(SETTLE, nudged, 0.1),
        ),
        (
            ep.rbp_process(system, cost, x, y, **OPTIONS),
            ep.RecurrentBackpropagation(SETTLE, DT, STEPS),
        ),
        (
            ep.bptt_process(system, cost, x, y, **OPTIONS),
            ep.BackpropagationThroughTime(SETTLE, DT, STEPS),
        ),
    )
    for process, rule in pairs:
        gradient = rule(system, cost, x, y)
        last = jax.tree.map(lambda leaf: leaf[-1], (process.grads, process.cost_grads))
        expected = flat((gradient.grads, gradient.cost_grads))
        np.testing.assert_allclose(flat(last), expected, atol=1e-11)


class Written(eqx.Module):
    """One dynamics, tanh units with symmetric weights, written in four ways."""

    W: jax.Array
    V: jax.Array

    def energy_of(self, x, s):
        r = jnp.tanh(s)
        return 0.5 * s @ s - 0.5 * r @ self.W @ r - r @ (self.V @ x)


class AsEnergy(Written, ep.AbstractEnergy):
    def init_state(self, x):
        return jnp.zeros(5)

    def readout(self, s):
        return s[:2]

    def energy(self, x, s):
        return self.energy_of(x, s)


class AsPrimitive(Written, ep.AbstractPrimitive):
    init_state, readout = AsEnergy.init_state, AsEnergy.readout

    def primitive(self, x, s):
        return 0.5 * s @ s - DT * self.energy_of(x, s)


class AsField(Written, ep.AbstractVectorField):
    init_state, readout = AsEnergy.init_state, AsEnergy.readout

    def velocity(self, x, s):
        r = jnp.tanh(s)
        return (1 - r**2) * (0.5 * (self.W + self.W.T) @ r + self.V @ x) - s


def test_one_dynamics_written_three_ways_has_one_gradient():
    """Energy, primitive Φ = ½‖s‖² − εE, vector field: the same EP gradient."""
    keys = jax.random.split(jax.random.key(3))
    w = 0.3 * jax.random.normal(keys[0], (5, 5))
    parts = (w + w.T, jax.random.normal(keys[1], (5, 3)))
    x, y = batch()
    settle, map_settle = ep.Euler(DT, 3000, 1e-14), ep.Euler(1.0, 3000, 1e-15)
    found = {
        kind: ep.EquilibriumPropagation(relaxation, relaxation, beta)(
            kind(*parts), ep.SquaredError(), x, y
        )
        # Φ's velocity is ε times the others', and so is its nudge.
        for kind, relaxation, beta in (
            (AsEnergy, settle, 1e-4),
            (AsField, settle, 1e-4),
            (AsPrimitive, map_settle, 1e-4 * DT),
        )
    }
    energy, vector, primitive = (flat(g.grads) for g in found.values())
    np.testing.assert_allclose(vector, energy, atol=1e-6)
    np.testing.assert_allclose(primitive, energy, atol=1e-6)
    exact = ep.ImplicitDifferentiation(settle)(
        AsEnergy(*parts), ep.SquaredError(), x, y
    )
    np.testing.assert_allclose(energy, flat(exact.grads), atol=1e-6)


def test_errors():
    """What is wrong, what is allowed, what to do."""
    problem = (quadratic(), ep.SquaredError(), *batch())
    with pytest.raises(ValueError, match="nudging is 'random-sign'; choose"):
        ep.ep_process(*problem, **OPTIONS, beta=0.1, nudging="random-sign")
    with pytest.raises(ValueError, match="beta is 0; it must be finite and not 0"):
        ep.ep_process(*problem, **OPTIONS, beta=0)
    with pytest.raises(ValueError, match="beta is nan"):
        ep.ep_process(*problem, **OPTIONS, beta=float("nan"))
    with pytest.raises(ValueError, match="steps is -1"):
        ep.rbp_process(*problem, free=SETTLE, dt=DT, steps=-1)
    with pytest.raises(ValueError, match="dt is -1"):
        ep.bptt_process(*problem, free=SETTLE, dt=-1, steps=3)
    with pytest.raises(ValueError, match="leading batch axes differ"):
        ep.rbp_process(*problem[:3], problem[3][:2], **OPTIONS)
