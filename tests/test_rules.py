"""AsymEP, Dyadic EP and holomorphic EP, each by what its paper promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import SLOPE
from zoo import (
    flat,
    batch,
    box,
    box_hopfield,
    dict_energy,
    field,
    hopfield,
    tanh_map,
)

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")

SETTLE = ep.Euler(0.2, 4000, 1e-13)
COST = ep.SquaredError()
BIASED = {
    "field": lambda: field(0.4),
    "box": lambda: box(0.4),
    "map": tanh_map,
    "leaky": lambda: ep.LeakyIntegrator(
        (3, 6, 5, 2), key=jax.random.key(0), activation=ep.tanh, angle=90.0
    ),
}


def off(gradient, exact):
    a, b = (flat((g.grads, g.cost_grads)) for g in (gradient, exact))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("field", "box")]


@pytest.mark.parametrize("name", ["map", "leaky", *SLOW])
def test_asymmetric_rules_are_exact_where_ep_is_biased(name):
    """Equal to implicit differentiation where the plain rule is off by its bias."""
    problem = (BIASED[name](), COST, *batch(size=4))
    exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
    assert off(ep.EquilibriumPropagation(SETTLE, SETTLE, 1e-4)(*problem), exact) > 0.05
    asymmetric = ep.AsymmetricEquilibriumPropagation(SETTLE, SETTLE, 1e-4)
    assert off(asymmetric(*problem), exact) < 1e-6
    dyadic = ep.DyadicEquilibriumPropagation(SETTLE, 0.2, 1500)
    assert off(dyadic(*problem), exact) < 1e-10


def test_asymmetric_rule_equals_ep_for_an_energy():
    """Nothing to correct: the same gradient, dict states and all."""
    problem = (dict_energy(), COST, *batch(size=4))
    exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
    rule = ep.AsymmetricEquilibriumPropagation(SETTLE, SETTLE, 1e-4)
    assert off(rule(*problem), exact) < 1e-6


@pytest.mark.parametrize("name", ["map", *SLOW])
def test_temporal_derivatives_are_rbps_without_symmetry(name):
    """Paper B's theorem 3 for the corrected dynamics; the plain rule's differ."""
    system, (x, y) = BIASED[name](), batch(size=4)
    options = {"dt": 0.2, "steps": 15}
    rbp = ep.rbp_process(system, COST, x, y, free=SETTLE, **options)
    state = ep.relax(system, x, SETTLE).state
    corrected = ep.ep_process(
        *(ep.Symmetrized(system), COST, (x, state), y),
        free=ep.Euler(0.2, 0),
        beta=1e-4,
        **options,
    )
    plain = ep.ep_process(system, COST, x, y, free=SETTLE, beta=1e-4, **options)
    np.testing.assert_allclose(flat(corrected.grads.system), flat(rbp.grads), atol=1e-7)
    assert np.abs(flat(plain.grads) - flat(rbp.grads)).max() > 1e-2
    if name != "box":  # there `project` shows in EP's states
        np.testing.assert_allclose(corrected.states, rbp.states, atol=1e-7)


def test_dyadic_rule_has_no_bias_in_beta_and_is_truncated_rbp():
    """d is linear in β; K steps are RBP's K."""
    problem = (field(0.4), COST, *batch(size=4))
    rbp = ep.RecurrentBackpropagation(SETTLE, 0.2, 7)(*problem)
    for beta in (1e-3, 10.0):
        dyadic = ep.DyadicEquilibriumPropagation(SETTLE, 0.2, 7, beta)(*problem)
        assert off(dyadic, rbp) < 1e-10


def holomorphic(points, beta=0.1, nudged=SETTLE):
    return ep.HolomorphicEquilibriumPropagation(SETTLE, nudged, beta, points)


def test_two_points_are_centered_ep():
    """N = 2 is β against −β, for a potential and for a vector field."""
    for system in (hopfield(), field(0.3)):
        problem = (system, COST, *batch(size=4))
        centered = ep.EquilibriumPropagation(SETTLE, SETTLE, 0.1)(*problem)
        assert off(holomorphic(2)(*problem), centered) < 1e-10


@pytest.mark.parametrize(
    "points", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 6))]
)
def test_the_bias_is_of_order_beta_to_the_n(points):
    """Within the radius of convergence more points take the bias away."""
    problem = (hopfield((3, 6, 2), ep.shifted_sigmoid), COST, *batch(size=3))
    exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
    betas = (0.04, 0.02) if points == 6 else (0.01, 0.005)
    errors = [off(holomorphic(points, b)(*problem), exact) for b in betas]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(points, rel=SLOPE)


def test_a_phase_that_does_not_settle_is_reported_and_left_out():
    """The examples whose complex phases settle give the gradient."""
    system, (x, y) = hopfield((3, 6, 2)), batch(size=4)
    y = y.at[1].set(1e9)
    rule = holomorphic(4, nudged=ep.Euler(0.2, 120, 1e-8))
    found = rule(system, COST, x, y)
    assert int(found.stats["left_out"]) == 1
    kept = jnp.array([0, 2, 3])
    expected = rule(system, COST, x[kept], y[kept])
    assert off(found, expected) < 1e-10


def test_combinations_that_make_no_sense_are_refused():
    """With the reason."""
    x, y = batch()
    with pytest.raises(ValueError, match="project cannot take a complex state"):
        holomorphic(2)(box_hopfield(), COST, x, y)
    with pytest.raises(ValueError, match="points is 1; give a whole number ≥ 2"):
        holomorphic(1)
    with pytest.raises(ValueError, match="beta is -1; it must be positive"):
        holomorphic(2, beta=-1)
    with pytest.raises(ValueError, match="nudged is a Sweep; the correction"):
        ep.AsymmetricEquilibriumPropagation(SETTLE, ep.Sweep(3))
    with pytest.raises(ValueError, match="beta is 0; it must be finite and not 0"):
        ep.DyadicEquilibriumPropagation(SETTLE, beta=0)
