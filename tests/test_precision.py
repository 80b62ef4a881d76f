"""tf32 and bf16: what is rounded, what it costs, and that a run keeps to it."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop import cli
from eqprop._precision import rounded


def near(array, bits):
    """The nearest number with that many bits of mantissa, ties to even, by hand."""
    fraction, exponent = np.frexp(np.asarray(array, np.float64))
    scale = 2.0 ** (bits + 1)
    return np.ldexp(np.round(fraction * scale) / scale, exponent)


def product(x, weights):
    """A loop around a branch around products, differentiated."""

    def body(_, h):
        return jax.lax.cond(h[0, 0] > 0, lambda h: h @ weights, lambda h: -h, h)

    return jax.lax.fori_loop(0, 1, body, x)


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 10), ("bf16", 7)])
def test_operands_are_rounded_and_sums_are_not(precision, bits):
    """Inside loops and branches too; the result is a float32 sum of exact products."""
    x = jnp.abs(jax.random.normal(jax.random.key(0), (3, 5)))
    weights = jax.random.normal(jax.random.key(1), (5, 5))
    found = np.asarray(jax.jit(rounded(product, precision))(x, weights))
    expected = near(x, bits) @ near(weights, bits)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()
    assert np.abs(np.asarray(x @ weights) - expected).max() > 1e-4


def test_gradients_products_are_rounded():
    """∂/∂W Σ (xW)² / 2 = xᵀ(xW): both products of it, their operands rounded."""
    x = jax.random.normal(jax.random.key(0), (4, 6))
    weights = jax.random.normal(jax.random.key(1), (6, 3))
    gradient = jax.grad(lambda w: jnp.sum((x @ w) ** 2) / 2)
    found = np.asarray(rounded(gradient, "bf16")(weights))
    inner = (near(x, 7) @ near(weights, 7)).astype(np.float32)
    expected = near(x, 7).T @ near(inner, 7)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_convolutions_are_rounded():
    """The same as a convolution of rounded images and kernels."""
    layout = ("NHWC", "HWIO", "NHWC")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=layout
        )

    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 2))
    by_hand = (jnp.asarray(near(a, 7), jnp.float32) for a in (x, kernel))
    found = rounded(convolve, "bf16")(x, kernel)
    np.testing.assert_allclose(found, convolve(*by_hand), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_sums_written_as_products_stay_float32(precision):
    """What is asked for at the highest precision, and EP's contrast of biases by it."""
    x = jax.random.normal(jax.random.key(0), (3, 5))
    exact = lambda x: jax.lax.dot(x, x.T, precision="highest")  # noqa: E731
    np.testing.assert_array_equal(rounded(exact, precision)(x), exact(x))

    net = ep.HopfieldEnergy((4, 6, 3), key=jax.random.key(1))
    states = [
        tuple(
            jax.random.uniform(jax.random.fold_in(jax.random.key(2), i), (n,))
            for n in (6, 3)
        )
        for i in range(2)
    ]

    def contrast(net):
        free, nudged = (net.potential(x[0, :4], s) for s in states)
        return nudged - free

    found = rounded(eqx.filter_grad(contrast), precision)(net).biases
    for bias, free, nudged in zip(found, *map(net.rates, states), strict=True):
        np.testing.assert_allclose(bias, free - nudged, rtol=0, atol=1e-6)


@pytest.fixture
def options(x, y):
    np.savez("own.npz", x=x, y=y)
    small = ["--model.hidden", "6", "--model.output", "linear", "--epochs", "2"]
    return ["train", *small, "--data", "own.npz", "--json"]


def test_a_run_in_bf16_differs_and_says_by_how_much(options, capsys):
    """Its angle is small and not 0, it trains otherwise, and eval measures the same."""
    found = {}
    for precision in ("float32", "bf16"):
        own = ["--precision", precision, "--run", precision]
        assert cli.main([*options, *own]) == 0
        found[precision] = json.loads(capsys.readouterr().out)
    assert "precision" not in found["float32"]
    assert 1e-3 < found["bf16"]["precision"]["angle"] < 5
    assert found["bf16"]["loss"] != found["float32"]["loss"]
    assert found["bf16"]["loss"] == pytest.approx(found["float32"]["loss"], rel=0.05)
    run = ep.load("bf16")
    assert run.config.precision == "bf16"
    assert ep.evaluate(run)["loss"] == found["bf16"]["test_loss"]
    weights = jax.tree.leaves(eqx.filter(run.system, eqx.is_inexact_array))
    assert {leaf.dtype for leaf in weights} == {np.dtype(np.float32)}


def test_what_cannot_be_done_is_said_before_anything_is_made(options, capsys):
    """Complex products have no bf16; a platform that is not there has a name."""
    for wrong, words in (
        (["digits-holomorphic", "--precision", "bf16"], "complex"),
        (["digits", "--platform", "tpu"], 'pip install "jax[tpu]"'),
    ):
        assert cli.main(["train", *wrong, *options[1:], "--run", "run"]) == 2
        assert words in capsys.readouterr().err
        assert not Path("run").exists()


def test_an_unknown_precision_is_refused():
    """By name, where a configuration is made."""
    with pytest.raises(ValueError, match="float32, tf32, bf16"):
        dataclasses.replace(ep.recipe("digits").config, precision="half")
