"""The penalty ‖J − Jᵀ‖²: its gradient, and what it does to the vector-field rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import IDENTITY
from zoo import flat, batch, dict_energy, field

import eqprop as ep
from eqprop.estimators._homeostasis import asymmetry_along
from eqprop.training._config import config_from_json, config_to_json

pytestmark = pytest.mark.usefixtures("x64")

COST = ep.SquaredError()
SETTLE = ep.Euler(0.3, 60)
RULE = ep.EquilibriumPropagation(SETTLE, SETTLE, 1e-3)
KEY = jax.random.key(0)


def leaky(sizes=(3, 6, 4, 2), angle=60.0):
    return ep.LeakyIntegrator(
        sizes,
        key=KEY,
        activation=ep.tanh,
        initializer=ep.fan_in_uniform,
        angle=angle,
    )


def dense(system, x, s):
    """‖J − Jᵀ‖²_F from the whole Jacobian."""
    vector, unflatten = jax.flatten_util.ravel_pytree(s)
    jacobian = jax.jacfwd(lambda u: flat(system.velocity(x, unflatten(u))))(vector)
    return jnp.sum((jacobian - jacobian.T) ** 2)


def angle(system, x, y, rule=RULE):
    """Degrees between the rule's gradient and the exact one."""
    exact = ep.ImplicitDifferentiation(SETTLE)(system, COST, x, y)
    a, b = flat(rule(system, COST, x, y).grads), flat(exact.grads)
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def test_probes_over_a_basis_are_the_dense_penalty():
    """Σ_k ‖(J − Jᵀ)e_k‖² = ‖J − Jᵀ‖²_F, for a tuple of layers; 0 for an energy."""
    x = batch(size=1)[0][0]

    @eqx.filter_jit
    def both(system):
        s = jax.tree.map(lambda u: u + 0.3, system.init_state(x))
        vector, unflatten = jax.flatten_util.ravel_pytree(s)
        along = jax.vmap(lambda v: asymmetry_along(system, x, s, unflatten(v)))
        return jnp.sum(along(jnp.eye(len(vector)))), dense(system, x, s)

    found, expected = both(leaky())
    assert found == pytest.approx(float(expected), rel=IDENTITY)
    assert found > 0.1
    assert max(both(dict_energy())) < IDENTITY


def test_the_added_gradient_is_that_of_the_dense_penalty():
    """Within the noise of many probes, states held fixed; its mean is what is told."""
    system, (x, y) = leaky((3, 4, 2)), batch(size=3)
    weight = jnp.array([1.0, 3.0, 0.0])
    rule = ep.JacobianHomeostasis(RULE, 0.5, probes=20_000)
    found = rule(system, COST, x.at[2].set(jnp.nan), y, key=KEY, weight=weight)
    plain = RULE(system, COST, x, y, weight=weight)
    state = plain.equilibrium.state

    def penalty(system):
        values = jax.vmap(lambda x, s: dense(system, x, s))(x, state)
        return values @ weight / 4, values

    slope = eqx.filter_jit(eqx.filter_value_and_grad(penalty, has_aux=True))
    (_, values), expected = slope(system)
    added, expected = flat(found.grads) - flat(plain.grads), 0.5 * flat(expected)
    assert np.linalg.norm(expected) > 0.1
    assert np.linalg.norm(added - expected) < 0.02 * np.linalg.norm(expected)
    np.testing.assert_allclose(found.stats["asymmetry"][:2], values[:2], rtol=0.05)
    assert found.loss == plain.loss
    assert set(plain.stats.keys()) < set(found.stats.keys())
    assert found.stats["rule"].endswith("vector-field rule, Jacobian homeostasis")


def test_few_probes_are_unbiased():
    """The mean over keys is the dense penalty, within five standard errors."""
    system, (x, _) = leaky(), batch(size=2)
    state = ep.relax(system, x, SETTLE).state
    rule = ep.JacobianHomeostasis(RULE, 1.0)
    keys = jax.random.split(KEY, 4000)
    penalty = jax.vmap(lambda k: rule._penalty(system, x, state, k, None)[0][0])
    each = np.asarray(jax.jit(penalty)(keys))
    exact = jax.jit(jax.vmap(lambda x, s: dense(system, x, s)))
    expected = np.mean(exact(x, state))
    error = np.std(each) / len(each) ** 0.5
    assert np.abs(np.mean(each) - expected) < 5 * error
    assert error < 0.05 * expected


def test_an_energy_is_left_alone():
    """Its Jacobian is symmetric: no penalty, and no gradient of one."""
    system, (x, y) = dict_energy(), batch(size=2)
    rule = ep.JacobianHomeostasis(RULE, 10.0)
    found, plain = rule(system, COST, x, y, key=KEY), RULE(system, COST, x, y)
    np.testing.assert_allclose(flat(found.grads), flat(plain.grads), atol=IDENTITY)


@pytest.mark.slow
def test_training_with_it_reduces_the_angle_to_the_exact_gradient():
    """From 60° between forward and backward weights; without it the angle stays."""
    x, y = batch(size=16)
    y = 0.3 * y
    angles, asymmetries = [], []
    for strength in (0.0, 1.0):
        found = ep.fit(
            *(leaky(), COST, x, y),
            estimator=ep.JacobianHomeostasis(RULE, strength),
            optimizer=ep.Optimizer("sgd", (0.05,)),
            epochs=60,
            batch_size=8,
        )
        assert found.history[-1]["loss"] < 0.7 * found.history[0]["loss"]
        angles.append(angle(found.system, x, y))
        last = ep.JacobianHomeostasis(RULE, 0.0)(found.system, COST, x, y, key=KEY)
        asymmetries.append(float(jnp.mean(last.stats["asymmetry"])))
    assert min(angle(leaky(), x, y), angles[0]) > 25
    assert angles[1] < 15
    assert asymmetries[1] < asymmetries[0] / 20


def test_what_makes_no_sense_is_refused_and_a_configuration_keeps_it():
    """With the reason; config.json holds the wrapper and its rule."""
    system, (x, y) = field(), batch(size=2)
    with pytest.raises(ValueError, match=r"random vectors; pass key=jax\.random\.key"):
        ep.JacobianHomeostasis(RULE, 0.1)(system, COST, x, y)
    with pytest.raises(ValueError, match="strength is -1; it must be ≥ 0"):
        ep.JacobianHomeostasis(RULE, -1)
    with pytest.raises(ValueError, match="probes is 0; it must be a whole number"):
        ep.JacobianHomeostasis(RULE, 1, 0)
    with pytest.raises(ValueError, match="give a learning rule"):
        ep.JacobianHomeostasis(SETTLE, 1)
    with pytest.raises(ValueError, match="adds a penalty"):
        ep.settle(system, x, adjoint=ep.JacobianHomeostasis(RULE, 0.1), key=KEY)
    moving = ep.ContinualEquilibriumPropagation(SETTLE, SETTLE, learning_rate=0.1)
    with pytest.raises(ValueError, match="is not plain SGD at the rule's own"):
        ep.fit(
            *(system, COST, x, y),
            estimator=ep.JacobianHomeostasis(moving, 0.1),
            optimizer=ep.Optimizer("adam", (0.1,)),
        )
    rule = ep.JacobianHomeostasis(RULE, 0.1, 2)
    config = ep.Config(estimator=rule, optimizer=ep.Optimizer("sgd", (0.1,)))
    assert config_from_json(config_to_json(config)) == config
