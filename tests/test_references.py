"""RBP, BPTT and implicit differentiation: each against the others and the cost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import FINITE_DIFFERENCE, FLOAT32, IDENTITY
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
from eqprop.estimators import _implicit_differentiation, _step

pytestmark = pytest.mark.usefixtures("x64")

SETTLE = ep.Euler(0.2, 5000, 1e-13)
SYSTEMS = {
    "quadratic": quadratic,
    "dict": dict_energy,
    "hopfield": hopfield,
    "box-hopfield": box_hopfield,
    "primitive": primitive,
    "map": tanh_map,
    "symmetric-field": lambda: field(0.0),
    "field": lambda: field(0.4),
    "box-field": lambda: box(0.4),
}


def some(*fast):
    """All systems; those that are not named are slow."""
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow)
        for name in SYSTEMS
    ]


REFERENCES = {
    "rbp": lambda steps=1500: ep.RecurrentBackpropagation(SETTLE, 0.2, steps),
    "bptt": lambda steps=1500: ep.BackpropagationThroughTime(SETTLE, 0.2, steps),
    "implicit": lambda: ep.ImplicitDifferentiation(SETTLE),
}


def both(gradient):
    return flat((gradient.grads, gradient.cost_grads))


def settled_loss(model, x, y):
    system, cost = model
    state = ep.relax(system, x, SETTLE).state
    return jnp.mean(jax.vmap(cost)(jax.vmap(system.readout)(state), y))


def finite_differences(model, x, y, h=1e-5):
    params, static = eqx.partition(model, eqx.is_inexact_array)
    start, unflatten = jax.flatten_util.ravel_pytree(params)
    loss = jax.jit(lambda p: settled_loss(eqx.combine(unflatten(p), static), x, y))
    slope = jax.vmap(lambda e: (loss(start + h * e) - loss(start - h * e)) / (2 * h))
    return jax.jit(slope)(np.eye(len(start)))


@pytest.mark.parametrize("name", some("dict", "box-hopfield", "map", "box-field"))
def test_implicit_equals_finite_differences(name):
    """dJ/dθ of the settled cost, units held at a bound included."""
    system, (x, y) = SYSTEMS[name](), batch(size=3)
    gradient = ep.ImplicitDifferentiation(SETTLE)(system, ep.SquaredError(), x, y)
    expected = finite_differences((system, ep.SquaredError()), x, y)
    off = np.linalg.norm(both(gradient) - expected)
    assert off <= FINITE_DIFFERENCE * np.linalg.norm(expected)
    assert np.linalg.norm(expected) > 1e-3


@pytest.mark.slow  # every kind of system's is in test_contract.py
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("rule", ["rbp", "bptt"])
def test_converged_references_equal_implicit(name, rule):
    """At convergence all three are the same gradient, for every kind of system."""
    system, (x, y) = SYSTEMS[name](), batch(size=3)
    exact = ep.ImplicitDifferentiation(SETTLE)(system, ep.SquaredError(), x, y)
    found = REFERENCES[rule]()(system, ep.SquaredError(), x, y)
    off = np.linalg.norm(both(found) - both(exact))
    assert off <= IDENTITY * np.linalg.norm(both(exact))
    np.testing.assert_allclose(found.loss, exact.loss, rtol=1e-12)


@pytest.mark.parametrize("rule", REFERENCES)
def test_cost_with_parameters_and_weights(rule):
    """A softmax readout learns too; an example of weight 0 is left out, NaN or not."""
    system, (x, _) = hopfield((3, 6, 2)), batch(size=4)
    y = jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3)
    cost = SoftmaxReadout(jax.random.normal(jax.random.key(1), (3, 2)))
    few = REFERENCES[rule]()(system, cost, x[:3], y[:3])
    weight = jnp.array([1.0, 1, 1, 0])
    x = x.at[3].set(jnp.nan)
    weighted = REFERENCES[rule]()(system, cost, x, y, weight=weight)
    np.testing.assert_allclose(both(weighted), both(few), atol=IDENTITY)
    np.testing.assert_allclose(weighted.loss, few.loss, atol=IDENTITY)
    expected = finite_differences((system, cost), x[:3], y[:3])
    np.testing.assert_allclose(both(few), expected, atol=1e-8)


def test_truncated_rbp_is_ep_with_as_many_nudged_steps():
    """Stopping the nudged phase after K steps is truncated RBP (paper B, theorem 3)."""
    system, (x, y) = hopfield(), batch()
    for steps in (0, 7):
        rbp = ep.RecurrentBackpropagation(SETTLE, 0.3, steps)
        nudged = ep.Euler(0.3, steps)
        rule = ep.EquilibriumPropagation(SETTLE, nudged, 1e-4)
        expected = rbp(system, ep.SquaredError(), x, y)
        found = rule(system, ep.SquaredError(), x, y)
        np.testing.assert_allclose(both(found), both(expected), atol=1e-7)


def test_bptt_is_the_gradient_of_what_it_says_away_from_the_fixed_point():
    """From an unsettled state it still differentiates the cost after K steps."""
    system, (x, y) = hopfield(), batch()
    rule = ep.BackpropagationThroughTime(ep.Euler(0.3, 2), 0.25, 5)
    found = rule(system, ep.SquaredError(), x, y)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model):
        start = ep.relax(system, x, ep.Euler(0.3, 2)).state
        state = ep.relax(model, x, ep.Euler(0.25, 5), state=start).state
        prediction = jax.vmap(model.readout)(state)
        return 0.5 * jnp.mean(jnp.sum((prediction - y) ** 2, 1))

    np.testing.assert_allclose(flat(found.grads), flat(gradient(system)), atol=1e-12)
    exact = ep.ImplicitDifferentiation(SETTLE)(system, ep.SquaredError(), x, y)
    assert np.linalg.norm(both(found) - both(exact)) > 1e-3


class Flat(ep.AbstractEnergy):
    """Nothing pulls the second unit back: I − Jᵀ is singular."""

    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def energy(self, x, s):
        return 0.5 * s[0] ** 2 - s[0] * (self.w @ x)

    def readout(self, s):
        return s


def test_a_solve_that_fails_is_an_error_never_a_zero():
    """Outside of jit it raises, inside the gradient is NaN."""
    system, (x, y) = Flat(jnp.ones(3)), batch()
    rule = ep.ImplicitDifferentiation(SETTLE)
    with pytest.raises(ep.AdjointNotConverged, match=r"6 of 6 examples.*singular"):
        rule(system, ep.SquaredError(), x, y)
    inside = eqx.filter_jit(lambda s: rule(s, ep.SquaredError(), x, y).grads.w)
    assert jnp.isnan(inside(system)).all()


def test_a_solve_that_stops_short_is_an_error_too(monkeypatch):
    """A finite residual above the tolerance is as wrong as none."""

    def rough(linear, right):
        return right, jnp.asarray(1e-3)

    monkeypatch.setattr(_implicit_differentiation, "solve_fixed_point", rough)
    problem = (hopfield((3, 4, 2)), ep.SquaredError(), *batch(size=3))
    with pytest.raises(ep.AdjointNotConverged, match=r"3 of 3 .*residual 0\.001"):
        ep.ImplicitDifferentiation(ep.Euler(0.2, 77))(*problem)
    lenient = ep.ImplicitDifferentiation(ep.Euler(0.2, 77), tol=1e-2)(*problem)
    assert jnp.isfinite(lenient.loss)


def test_large_states_are_solved_by_gmres(monkeypatch):
    """The two ways of solving agree, and either finds a singular matrix out."""
    system, (x, y) = box_hopfield(), batch()
    rule = ep.ImplicitDifferentiation(SETTLE)
    direct = rule(system, ep.SquaredError(), x, y)
    monkeypatch.setattr(_step, "DENSE", 3)
    jax.clear_caches()
    krylov = rule(system, ep.SquaredError(), x, y)
    np.testing.assert_allclose(both(krylov), both(direct), atol=1e-12)
    assert (krylov.stats["adjoint_residual"] != direct.stats["adjoint_residual"]).any()
    monkeypatch.setattr(_step, "DENSE", 1)
    with pytest.raises(ep.AdjointNotConverged):
        rule(Flat(jnp.ones(3)), ep.SquaredError(), x, y)
    jax.clear_caches()


class Frozen(ep.AbstractEnergy):
    """`w` learns, `fixed` is frozen by stop_gradient, `mask` is a constant."""

    w: jax.Array
    fixed: jax.Array
    mask: jax.Array

    def init_state(self, x):
        return jnp.zeros(4)

    def energy(self, x, s):
        fixed = jax.lax.stop_gradient(self.fixed)
        drive = jnp.where(self.mask, self.w, 0) @ x + fixed
        return 0.5 * s @ s - jnp.tanh(s) @ drive

    def readout(self, s):
        return s[:2]


@pytest.mark.parametrize("rule", ["ep", "bptt"])
def test_stop_gradient_freezes_a_parameter(rule):
    """Its gradient is exactly zero; constants have none; the others are unchanged."""
    w = jax.random.normal(jax.random.key(0), (4, 3))
    system = Frozen(w, 0.3 * jnp.ones(4), w > 0)
    ep_rule = ep.EquilibriumPropagation(SETTLE, SETTLE, 1e-3)
    estimator = ep_rule if rule == "ep" else REFERENCES[rule]()
    x, y = batch()
    grads = estimator(system, ep.SquaredError(), x, y).grads
    assert (grads.fixed == 0).all()
    assert grads.mask is None
    assert (grads.w[~system.mask] == 0).all()
    exact = REFERENCES["implicit"]()(system, ep.SquaredError(), x, y).grads.w
    np.testing.assert_allclose(grads.w, exact, atol=1e-6)
    assert jnp.abs(exact).max() > 1e-2


def test_a_diverged_state_gives_nan_not_a_false_reason():
    """The adjoint is not to blame for a state that is not finite."""
    system, (x, y) = quadratic(), batch()
    rule = ep.ImplicitDifferentiation(ep.Euler(50.0, 500))
    assert not jnp.isfinite(rule(system, ep.SquaredError(), x, y).grads.W).any()


@pytest.mark.parametrize("rule", ["rbp", "implicit"])
def test_float32_agrees_with_float64(rule):
    """The references train in single precision."""
    system, (x, y) = hopfield(), batch()
    kind = REFERENCES[rule]
    wide = kind()(system, ep.SquaredError(), x, y)
    narrow = jax.tree.map(
        lambda p: p.astype(jnp.float32) if eqx.is_inexact_array(p) else p,
        (system, x, y),
    )
    free = ep.Euler(0.2, 1000)
    short = eqx.tree_at(lambda e: e.free, kind(), free, is_leaf=lambda e: e is SETTLE)
    found = short(narrow[0], ep.SquaredError(), *narrow[1:])
    assert flat(found.grads).dtype == jnp.float32
    np.testing.assert_allclose(flat(found.grads), flat(wide.grads), atol=FLOAT32)


def program(model, x, y, adjoint):
    """An ordinary layer, a settling network, an ordinary layer: one loss."""
    first, system, last = model
    state = ep.settle(system, jnp.tanh(x @ first), adjoint=adjoint)
    hidden = jnp.concatenate(
        [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(state)], 1
    )
    return jnp.mean((jnp.sin(hidden) @ last - y) ** 2)


GRADIENT = eqx.filter_jit(eqx.filter_grad(program))


def test_the_start_of_settle_is_a_constant():
    """A start that is computed from the same parameters changes no gradient."""
    system, (x, _) = hopfield(), batch(size=2)

    def loss(system, scale):
        start = jax.vmap(system.init_state)(x)
        start = jax.tree.map(lambda s: s + scale * system.weights[0][0, 0], start)
        settled = ep.settle(system, x, adjoint=REFERENCES["implicit"](), state=start)
        return jnp.sum(settled[-1] ** 2)

    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    warm, cold = (gradient(system, jnp.array(scale)) for scale in (0.1, 0.0))
    np.testing.assert_allclose(flat(warm), flat(cold), atol=1e-9)


@pytest.mark.parametrize("name", ["dict", "box-hopfield"])
def test_settle_is_a_layer_of_any_program(name):
    """jax.grad through `settle`: all parameters and x, against finite differences."""
    system, (x, y) = SYSTEMS[name](), batch(size=4)
    size = flat(system.init_state(x[0])).size
    keys = jax.random.split(jax.random.key(5))
    ends = jax.random.normal(keys[0], (3, 3)), jax.random.normal(keys[1], (size, 2))
    model = (ends[0], system, ends[1])
    exact = GRADIENT(model, x, y, REFERENCES["implicit"]())
    params, static = eqx.partition(model, eqx.is_inexact_array)
    start, unflatten = jax.flatten_util.ravel_pytree(params)
    loss = jax.jit(
        lambda p: program(
            eqx.combine(unflatten(p), static), x, y, REFERENCES["implicit"]()
        )
    )
    directions = np.random.default_rng(6).normal(size=(5, len(start)))
    for d in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        slope = (loss(start + 1e-5 * d) - loss(start - 1e-5 * d)) / 2e-5
        np.testing.assert_allclose(flat(exact) @ d, slope, rtol=1e-6, atol=1e-9)
    for rule in ("rbp", "bptt"):
        found = GRADIENT(model, x, y, REFERENCES[rule]())
        np.testing.assert_allclose(flat(found), flat(exact), atol=1e-9)


@pytest.mark.parametrize(("nudging", "order"), [("one-sided", 1), ("centered", 2)])
def test_settle_by_ep_tends_to_implicit_with_its_order(nudging, order):
    """EP inside a program, scaled per example: the bias falls as β or β²."""
    system, (x, y) = hopfield(), batch(size=4)
    ends = jnp.eye(3), jax.random.normal(jax.random.key(1), (13, 2))
    model = (ends[0], system, ends[1])
    exact = GRADIENT(model, x, y, REFERENCES["implicit"]())
    errors = []
    for beta in (2e-2, 1e-2):
        rule = ep.EquilibriumPropagation(SETTLE, SETTLE, beta, nudging)
        found = GRADIENT(model, x, y, rule)
        errors.append(np.linalg.norm(flat(found) - flat(exact)))
    assert errors[0] < 0.1 * np.linalg.norm(flat(exact))
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, rtol=0.05)


def test_settle_scales_the_nudge_to_each_cotangent():
    """A loss a million times larger has a gradient a million times larger, exactly."""
    system, (x, _) = hopfield(), batch(size=4)
    rule = ep.EquilibriumPropagation(SETTLE, SETTLE, 0.05)

    @jax.jit
    @jax.grad
    def gradient(x, scale):
        return jnp.sum(scale * jnp.sin(ep.settle(system, x, adjoint=rule)[-1]))

    one = gradient(x, np.ones((4, 1)))
    np.testing.assert_allclose(gradient(x, 1e6 * np.ones((4, 1))), 1e6 * one, rtol=1e-6)
    # An example that the loss does not depend on gets exactly no gradient.
    some = gradient(x, np.array([[1.0], [1], [1], [0]]))
    np.testing.assert_allclose(some[:3], one[:3], rtol=1e-6)
    assert (some[3] == 0).all()
    assert (gradient(x, np.zeros((4, 1))) == 0).all()


def test_settle_with_sweeps_and_under_jit():
    """A Sweep adjoint, whose curvature is a function of x, gives the same gradient."""
    system, (x, y) = hopfield((3, 6, 2), ep.shifted_sigmoid), batch(size=4)
    ends = jnp.eye(3), jax.random.normal(jax.random.key(1), (8, 2))
    model = (ends[0], system, ends[1])
    sweep = ep.Sweep(300, 1e-12)
    rule = ep.EquilibriumPropagation(sweep, sweep, 1e-4)
    exact = GRADIENT(model, x, y, REFERENCES["implicit"]())
    found = GRADIENT(model, x, y, rule)
    np.testing.assert_allclose(flat(found), flat(exact), atol=1e-6)


def test_settle_trains_end_to_end():
    """Layers around a settling network, all trained through EP."""
    x, _ = batch(size=40)
    y = jnp.stack([jnp.sin(3 * x[:, 0]) * x[:, 1], x[:, 2] ** 2], 1)
    keys = jax.random.split(jax.random.key(2))
    model = (
        0.5 * jax.random.normal(keys[0], (3, 3)),
        hopfield((3, 12, 4)),
        0.1 * jax.random.normal(keys[1], (16, 2)),
    )
    euler = ep.Euler(0.3, 60)
    rule = ep.EquilibriumPropagation(euler, euler, 0.1)
    step = eqx.filter_jit(eqx.filter_value_and_grad(program))
    losses = []
    for _ in range(150):
        loss, grads = step(model, x, y, rule)
        losses.append(float(loss))
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.5 * g, grads))
    assert losses[-1] < 0.2 * losses[0]


def test_errors():
    """What is wrong, what is allowed, what to do."""
    system, (x, y) = hopfield(), batch()
    with pytest.raises(ValueError, match="adjoint is a Euler; give an estimator"):
        ep.settle(system, x, adjoint=SETTLE)
    with pytest.raises(ValueError, match=r"steps is -1; it must be a whole number ≥ 0"):
        ep.RecurrentBackpropagation(SETTLE, 0.5, -1)
    with pytest.raises(ValueError, match=r"dt is 0; it must be positive"):
        ep.BackpropagationThroughTime(SETTLE, 0, 3)
    with pytest.raises(ValueError, match="free is 3; give a relaxation"):
        ep.ImplicitDifferentiation(3)
    with pytest.raises(ValueError, match=r"tol is 2.0; it must be between 0 and 1"):
        ep.ImplicitDifferentiation(SETTLE, tol=2.0)
    with pytest.raises(ValueError, match=r"SquaredError.*must be equal"):
        ep.RecurrentBackpropagation(SETTLE)(system, ep.SquaredError(), x, y[:, :1])
