"""EP's gradients: closed forms, finite differences, and the order of the bias in β."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tolerances import FINITE_DIFFERENCE, IDENTITY, SLOPE
from zoo import (
    flat,
    batch,
    dict_energy,
    field,
    hopfield,
    Primitive,
    quadratic,
    SoftmaxReadout,
)

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")

SETTLE = ep.Euler(0.2, 8000, 1e-13)


def centered(beta=1e-4, relaxation=SETTLE):
    return ep.EquilibriumPropagation(relaxation, relaxation, beta)


def settled_loss(system, cost, x, y, relaxation=SETTLE):
    """J(θ): the mean cost of the free fixed point, found without any estimator."""
    state = ep.relax(system, x, relaxation).state
    return jnp.mean(jax.vmap(cost)(jax.vmap(system.readout)(state), y))


def finite_difference(loss, parameters, step=1e-5):
    """Central differences of `loss` in every number of a pytree of parameters."""
    start, unflatten = jax.flatten_util.ravel_pytree(parameters)
    moved = jax.jit(lambda p: loss(unflatten(p)))
    slopes = [
        (moved(start + step * e) - moved(start - step * e)) / (2 * step)
        for e in jnp.eye(start.size)
    ]
    return jnp.stack(slopes)


def quadratic_gradient(system, x, y):
    """J = ½‖R A⁻¹(Wx + b) − y‖²: dJ/db = A⁻ᵀRᵀ(ŷ − y), dJ/dW = that times xᵀ."""
    s = np.linalg.solve(system.A, (x @ system.W.T + system.b).T).T
    error = np.zeros_like(s)
    error[:, -2:] = s[:, -2:] - y
    adjoint = np.linalg.solve(system.A.T, error.T).T
    return adjoint.T @ np.asarray(x) / len(x), adjoint.mean(0)


def test_quadratic_energy_has_a_closed_form():
    """Centered EP of a quadratic energy with β → 0 is dJ/dθ (paper A, theorem 1)."""
    system = quadratic()
    x, y = batch()
    d_w, d_b = quadratic_gradient(system, x, y)
    gradient = centered(1e-4)(system, ep.SquaredError(), x, y)
    np.testing.assert_allclose(gradient.grads.W, d_w, atol=1e-7)
    np.testing.assert_allclose(gradient.grads.b, d_b, atol=1e-7)
    np.testing.assert_allclose(
        gradient.loss, settled_loss(system, ep.SquaredError(), x, y), atol=IDENTITY
    )


def test_quadratic_energy_at_finite_beta():
    """At any β the contrast is −(s^β − s^{−β})/2β averaged: no limit is needed."""
    system = quadratic()
    x, y = batch()
    beta, read = 0.3, np.eye(5)[-2:]
    drive = np.asarray(x @ system.W.T + system.b)

    def nudged(b):
        matrix = np.asarray(system.A) + b * read.T @ read
        return np.linalg.solve(matrix, (drive + b * np.asarray(y) @ read).T).T

    pairs = {"centered": (beta, -beta), "one-sided": (beta, 0.0)}
    for nudging, (high, low) in pairs.items():
        rule = ep.EquilibriumPropagation(SETTLE, SETTLE, beta, nudging)
        found = rule(system, ep.SquaredError(), x, y)
        expected = -(nudged(high) - nudged(low)).mean(0) / (high - low)
        np.testing.assert_allclose(found.grads.b, expected, atol=1e-9)


SYSTEMS = {
    "quadratic": lambda: quadratic(),
    "dict": lambda: dict_energy(),
    "hopfield-tanh": lambda: hopfield(activation=ep.tanh),
    "hopfield-sigmoid": lambda: hopfield((3, 4, 2), activation=ep.shifted_sigmoid),
    "hopfield-box": lambda: hopfield((3, 8, 2), activation=ep.hard_sigmoid, seed=4),
    "linear-output": lambda: hopfield((3, 5, 2), ep.tanh, ep.identity),
    "primitive": lambda: Primitive(
        0.1 * jnp.array([[1.0, 2, 0, 1], [2, -1, 3, 0], [0, 3, 1, 1], [1, 0, 1, 2]]),
        jax.random.normal(jax.random.key(0), (4, 3)),
    ),
    "symmetric-field": lambda: field(0.0),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradient_equals_finite_differences_of_the_settled_cost(name):
    """Theorem 1 of paper A on energies, primitives and symmetric fields."""
    system = SYSTEMS[name]()
    x, y = batch()
    cost = ep.SquaredError()
    params, rest = eqx.partition(system, eqx.is_inexact_array)
    expected = finite_difference(
        lambda p: settled_loss(eqx.combine(p, rest), cost, x, y), params
    )
    assert float(jnp.abs(expected).max()) > 1e-3
    found = flat(centered()(system, cost, x, y).grads)
    scale = jnp.linalg.norm(expected)
    if name in ("primitive", "symmetric-field", "quadratic"):
        # A symmetric matrix that a user holds whole: EP's contrast is the derivative
        # along symmetric changes, finite differences break the symmetry.
        found, expected = (
            symmetric_part(system, found),
            symmetric_part(system, expected),
        )
    assert jnp.linalg.norm(found - expected) <= FINITE_DIFFERENCE * scale


def symmetric_part(system, gradient):
    """The gradient with that of each square matrix replaced by its symmetric part."""
    _, unflatten = jax.flatten_util.ravel_pytree(
        eqx.filter(system, eqx.is_inexact_array)
    )
    return flat(
        jax.tree.map(
            lambda g: g + g.T if g.ndim == 2 and g.shape[0] == g.shape[1] else g,
            unflatten(gradient),
        )
    )


def test_parameters_of_the_readout_and_of_the_cost():
    """They receive ∂C/∂θ like any other parameter (paper A, eq 23)."""

    class Read(type(quadratic())):
        r: jax.Array

        def readout(self, s):
            return self.r @ s

    base = quadratic()
    system = Read(base.A, base.W, base.b, jax.random.normal(jax.random.key(2), (3, 5)))
    cost = SoftmaxReadout(jax.random.normal(jax.random.key(3), (4, 3)))
    x, _ = batch()
    y = jax.nn.one_hot(jnp.arange(len(x)) % 4, 4)
    gradient = centered()(system, cost, x, y)
    by_readout = finite_difference(
        lambda r: settled_loss(eqx.tree_at(lambda q: q.r, system, r), cost, x, y),
        system.r,
    )
    by_cost = finite_difference(
        lambda w: settled_loss(system, SoftmaxReadout(w), x, y), cost.weight
    )
    for found, expected in (
        (gradient.grads.r, by_readout),
        (gradient.cost_grads.weight, by_cost),
    ):
        assert np.linalg.norm(flat(found) - expected) <= (
            FINITE_DIFFERENCE * jnp.linalg.norm(expected)
        )


@pytest.mark.parametrize(("nudging", "order"), [("one-sided", 1), ("centered", 2)])
@pytest.mark.parametrize(
    "name", ["dict", pytest.param("hopfield-tanh", marks=pytest.mark.slow)]
)
def test_bias_falls_with_the_order_theory_expects(nudging, order, name):
    """O(β) one-sided, O(β²) centered (Laborieux et al. 2021)."""
    system = SYSTEMS[name]()
    x, y = batch()
    cost = ep.SquaredError()
    exact = flat(centered(1e-5)(system, cost, x, y).grads)
    betas = np.array([0.04, 0.02, 0.01])
    errors = [
        float(
            np.linalg.norm(
                flat(
                    ep.EquilibriumPropagation(SETTLE, SETTLE, float(b), nudging)(
                        system, cost, x, y
                    ).grads
                )
                - exact
            )
        )
        for b in betas
    ]
    slope = np.polyfit(np.log(betas), np.log(errors), 1)[0]
    assert abs(slope - order) < SLOPE * order


def test_vector_field_rule_is_equation_18():
    """ν = −∂C/∂s ((∂μ/∂s)ᵀ)⁻¹ ∂μ/∂θ, not the gradient, where J is asymmetric."""
    system = field(0.8)
    x, y = batch()
    gradient = centered(1e-4)(system, ep.SquaredError(), x, y)
    s = np.linalg.solve(system.A, (x @ system.W.T).T).T
    error = np.zeros_like(s)
    error[:, :2] = s[:, :2] - y
    plain = np.linalg.solve(system.A, error.T).T  # −(∂μ/∂s)⁻¹ ∂C/∂s, J = −A
    exact = np.linalg.solve(system.A.T, error.T).T
    np.testing.assert_allclose(gradient.grads.W, plain.T @ x / len(x), atol=1e-6)
    np.testing.assert_allclose(gradient.grads.A, -plain.T @ s / len(x), atol=1e-6)
    assert np.abs(plain - exact).max() > 1e-2
    assert "vector-field" in gradient.stats["rule"]


def test_signs_of_beta():
    """−β is the one-sided rule on the other side; random-sign is one of the two."""
    system = hopfield()
    x, y = batch()
    cost = ep.SquaredError()
    rule = {
        sign: flat(
            ep.EquilibriumPropagation(SETTLE, SETTLE, sign * 0.1, "one-sided")(
                system, cost, x, y
            ).grads
        )
        for sign in (1, -1)
    }
    assert jnp.abs(rule[1] - rule[-1]).max() > 1e-4
    random = ep.EquilibriumPropagation(SETTLE, SETTLE, 0.1, "random-sign")
    seen = set()
    for seed in range(12):
        found = flat(random(system, cost, x, y, key=jax.random.key(seed)).grads)
        distance = {s: float(jnp.abs(found - g).max()) for s, g in rule.items()}
        seen.add(min(distance, key=distance.__getitem__))
        assert min(distance.values()) < IDENTITY
    assert seen == {1, -1}
    mean = (rule[1] + rule[-1]) / 2
    np.testing.assert_allclose(
        flat(centered(0.1)(system, cost, x, y).grads), mean, atol=1e-9
    )


def test_batch_gradient_is_the_weighted_mean_of_single_ones():
    """With weights Σ w g / Σ w; loss and cost likewise."""
    system = hopfield()
    x, y = batch()
    rule = centered(0.1, ep.Euler(0.2, 60))
    cost = ep.SquaredError()
    singles = [rule(system, cost, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    grads = jnp.stack([flat(g.grads) for g in singles])
    losses = jnp.stack([g.loss for g in singles])
    together = rule(system, cost, x, y)
    np.testing.assert_allclose(flat(together.grads), grads.mean(0), atol=IDENTITY)
    np.testing.assert_allclose(together.loss, losses.mean(), atol=IDENTITY)
    weight = jnp.array([0.0, 1, 2, 0, 0.5, 3])
    weighted = rule(system, cost, x, y, weight=weight)
    expected = (weight @ grads) / weight.sum()
    np.testing.assert_allclose(flat(weighted.grads), expected, atol=IDENTITY)
    np.testing.assert_allclose(
        weighted.loss, weight @ losses / weight.sum(), atol=IDENTITY
    )


@pytest.mark.parametrize("name", ["symmetric-field"])
def test_weight_zero_leaves_even_a_nan_out(name):
    """An example of weight 0 changes nothing, not even by being NaN."""
    system = SYSTEMS[name]()
    x, y = batch()
    rule = centered(0.1, ep.Euler(0.2, 60))
    weight = jnp.array([1.0, 1, 1, 1, 0, 0])
    bad_x, bad_y = x.at[4:].set(jnp.nan), y.at[5].set(jnp.inf)
    found = rule(system, ep.SquaredError(), bad_x, bad_y, weight=weight)
    expected = rule(system, ep.SquaredError(), x[:4], y[:4])
    np.testing.assert_allclose(flat(found.grads), flat(expected.grads), atol=IDENTITY)
    np.testing.assert_allclose(found.loss, expected.loss, atol=IDENTITY)


def test_gradient_has_the_contracts_shape():
    """`grads` like the system with None for constants; free equilibrium; named rule."""
    system = dict_energy()
    x, y = batch()
    gradient = centered(0.1, ep.Euler(0.2, 60))(system, ep.SquaredError(), x, y)
    assert gradient.grads.power is None
    assert gradient.grads.w.shape == system.w.shape
    free = ep.relax(system, x, ep.Euler(0.2, 60))
    np.testing.assert_array_equal(gradient.equilibrium.state["a"], free.state["a"])
    assert gradient.equilibrium.residual.shape == (6,)
    assert gradient.stats["nudged_residual"].shape == (2, 6)
    assert set(gradient.stats.keys()) >= {"rule", "nudged_steps", "nudged_status"}
    assert "centered" in gradient.stats["rule"]


def test_estimator_works_inside_jit_and_scan():
    """No part of it runs in Python: a user's own compiled program may call it."""
    system = quadratic()
    x, y = batch()
    rule = centered(0.1, ep.Euler(0.2, 60))

    def step(system, _):
        gradient = rule(system, ep.SquaredError(), x, y)
        updated = eqx.apply_updates(
            system, jax.tree.map(lambda g: -0.1 * g, gradient.grads)
        )
        return updated, gradient.loss

    _, losses = jax.jit(lambda s: jax.lax.scan(step, s, length=5))(system)
    assert (jnp.diff(losses) < 0).all()
    np.testing.assert_allclose(
        losses[0], rule(system, ep.SquaredError(), x, y).loss, atol=IDENTITY
    )


def test_free_phase_starts_from_the_given_state():
    """A settled state given back needs no steps to be settled."""
    system = hopfield()
    x, y = batch()
    rule = centered(0.1, ep.Euler(0.2, 500, 1e-8))
    first = rule(system, ep.SquaredError(), x, y)
    again = rule(system, ep.SquaredError(), x, y, state=first.equilibrium.state)
    assert int(first.equilibrium.steps.min()) > 10
    assert int(again.equilibrium.steps.max()) == 1


@given(seed=st.integers(0, 100))
@settings(max_examples=5, deadline=None)
def test_ep_reduces_the_loss(seed):
    """A small step against the gradient lowers the settled cost."""
    system = hopfield(seed=seed)
    x, y = batch(seed=seed)
    cost = ep.SquaredError()
    gradient = centered(0.01)(system, cost, x, y)
    moved = eqx.apply_updates(system, jax.tree.map(lambda g: -1e-3 * g, gradient.grads))
    assert settled_loss(moved, cost, x, y) < gradient.loss


@pytest.mark.parametrize("beta", [0, 0.0, float("nan"), float("inf")])
def test_bad_beta(beta):
    """β = 0 has no contrast."""
    with pytest.raises(ValueError, match="beta is"):
        ep.EquilibriumPropagation(ep.Euler(), ep.Euler(), beta)


def test_bad_requests():
    """Each says what is missing or wrong."""
    with pytest.raises(ValueError, match="nudging is 'both'"):
        ep.EquilibriumPropagation(ep.Euler(), ep.Euler(), 0.1, "both")
    with pytest.raises(ValueError, match="free is"):
        ep.EquilibriumPropagation(ep.Euler, ep.Euler(), 0.1)
    with pytest.raises(ValueError, match="beta is 0"):
        ep.EquilibriumPropagation(ep.Euler(), ep.Euler(), np.float32(0))
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        ep.HopfieldEnergy((3, 2), key=jax.random.key(0), activation="tanh")
    system = quadratic()
    x, y = batch()
    random = ep.EquilibriumPropagation(ep.Euler(), ep.Euler(), 0.1, "random-sign")
    with pytest.raises(ValueError, match="pass key"):
        random(system, ep.SquaredError(), x, y)
    with pytest.raises(ValueError, match="weight has shape"):
        centered()(system, ep.SquaredError(), x, y, weight=jnp.ones(3))
    with pytest.raises(ValueError, match="they must be equal"):
        centered()(system, ep.SquaredError(), x, jnp.ones((6, 3)))
