"""The softmax layer outside of the dynamics, with a gradient of its own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_estimators import centered, finite_difference, settled_loss
from tolerances import FINITE_DIFFERENCE
from zoo import hopfield

import eqprop as ep


def problem():
    system = hopfield((3, 6, 4), ep.tanh)
    cost = ep.SoftmaxReadout(4, 3, key=jax.random.key(1))
    x = jax.random.uniform(jax.random.key(2), (5, 3))
    return system, cost, x, jax.nn.one_hot(jnp.array([0, 1, 2, 1, 0]), 3)


def test_both_gradients_are_those_of_the_settled_cost(x64):
    """Finite differences of J in the layer's parameters and in the network's."""
    system, cost, x, y = problem()
    found = centered()(system, cost, x, y)
    expected = finite_difference(lambda c: settled_loss(system, c, x, y), cost)
    flat = jax.flatten_util.ravel_pytree
    np.testing.assert_allclose(
        flat(found.cost_grads)[0], expected, atol=FINITE_DIFFERENCE
    )
    slopes = finite_difference(
        lambda b: settled_loss(eqx.tree_at(lambda s: s.biases, system, b), cost, x, y),
        system.biases,
    )
    np.testing.assert_allclose(
        flat(found.grads.biases)[0], slopes, atol=FINITE_DIFFERENCE
    )


def test_the_curvature_is_above_every_eigenvalue(x64):
    """So that a sweep's step is safe, whatever the prediction."""
    _, cost, _, y = problem()
    hessian = jax.jit(jax.hessian(cost))
    for s in 3 * jax.random.normal(jax.random.key(3), (20, 4)):
        assert np.linalg.eigvalsh(hessian(s, y[0])).max() <= float(cost.curvature)


def test_classes_are_those_of_the_layer(x, y, tmp_path):
    """Training counts the layer's errors, and predict writes its logits."""
    np.savez(tmp_path / "own.npz", x=x, y=y)
    run = ep.train(
        "digits",
        run=tmp_path / "run",
        data=tmp_path / "own.npz",
        model=ep.Hopfield(hidden=(12,), cost="softmax-readout"),
        epochs=40,
        batch_size=4,
    )
    assert run.history[-1]["train_error"] < 0.3
    logits = ep.predict(run, x)
    assert logits.shape == (60, 3)
    assert np.mean(logits.argmax(1) != y) < 0.35


def test_what_does_not_fit_is_told():
    """Sizes, and a network without the layer to read."""
    with pytest.raises(ValueError, match=r"prediction has shape \(2,\)"):
        ep.SoftmaxReadout(4, 3, key=jax.random.key(0))(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="classes is 0"):
        ep.SoftmaxReadout(4, 0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="reads the last hidden layer"):
        ep.Hopfield(hidden=(), cost="softmax-readout")
