"""Every form of the cross-correlation against SciPy's, and against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate as scipy_correlate

import eqprop as ep
from eqprop.kernels import _correlation
from eqprop.kernels._correlation import correlate

SHAPES = [  # height, width, channels, channels above, kernel
    (12, 12, 32, 6, 5),
    (13, 9, 16, 3, 3),
    (11, 17, 20, 2, 4),
    (9, 9, 16, 1, 5),
]


def problem(shape, dtype=np.float32):
    height, width, below, above, size = shape
    random = np.random.default_rng(0)
    image = random.normal(size=(height, width, below)).astype(dtype)
    kernel = random.normal(size=(size, size, below, above)).astype(dtype)
    upper = random.normal(size=(height - size + 1, width - size + 1, above))
    return image, kernel, upper.astype(dtype)


def oracle(image, kernel):
    maps = [
        scipy_correlate(image.astype(float), kernel[..., k].astype(float), "valid")
        for k in range(kernel.shape[-1])
    ]
    return np.concatenate(maps, axis=-1)


def distance(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_winograds_tiles_are_the_correlation(shape):
    image, kernel, _ = problem(shape)
    assert _correlation._tiled(1, image, kernel)
    assert distance(correlate(1, image, kernel), oracle(image, kernel)) < 1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
def test_winograds_algorithm_is_exact(shape):
    image, kernel, _ = (jnp.asarray(a) for a in problem(shape, np.float64))
    found = jax.jit(
        lambda r, w: _correlation._winograd(r, _correlation._kernel_values(w))
    )(image, kernel)
    assert distance(found, oracle(image, kernel)) < 1e-13


@pytest.mark.parametrize("shape", SHAPES[::2])
def test_derivatives_are_those_of_xlas_convolution(shape):
    arrays = problem(shape)

    @functools.partial(jax.jit, static_argnums=0)
    def along(form, image, kernel, upper):
        _, pull = jax.vjp(lambda r, w: form(1, r, w), image, kernel)
        _, push = jax.jvp(lambda r: form(1, r, kernel), (image,), (image[::-1],))
        # Mixed: how the way back to the image depends on the kernel.
        mixed = jax.grad(
            lambda w: jnp.vdot(
                jax.vjp(lambda r: form(1, r, w), image)[1](upper)[0], image[::-1]
            )
        )
        return *pull(upper), push, mixed(kernel)

    for found, expected in zip(
        along(correlate, *arrays), along(_correlation._convolve, *arrays), strict=True
    ):
        assert distance(found, expected) < 1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_float64_is_exact_in_every_form(channels, stride):
    shape = (9, 8, channels, 4, 3)
    image, kernel, _ = (jnp.asarray(a) for a in problem(shape, np.float64))
    expected = oracle(image, kernel)[::stride, ::stride]
    forms = (correlate, _correlation._patches, _correlation._convolve)
    for form in forms:
        found = jax.jit(form, static_argnums=0)(stride, image, kernel)
        assert distance(found, expected) < 1e-13


@pytest.mark.parametrize("size", [5, 2])
def test_a_prepared_kernel_is_the_kernel(size):
    """In value and in both derivatives; a kernel of 2 x 2 has no tiles to prepare."""
    image, kernel, upper = problem((12, 12, 32, 6, size))

    def sums(image, kernel, prepare):
        return jnp.sum(correlate(1, image, prepare(kernel)) * upper)

    grad = jax.jit(jax.value_and_grad(sums, (0, 1)), static_argnums=2)
    value, derivatives = grad(image, kernel, _correlation.prepare)
    plain, expected = grad(image, kernel, lambda kernel: kernel)
    assert isinstance(_correlation.prepare(kernel), tuple) == (size == 5)
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    for a, b in zip(derivatives, expected, strict=True):
        assert distance(a, b) < 1e-6


def test_a_prepared_network_is_the_network():
    sizes = ((12, 12, 16), ep.Convolution(4, 5, pool="max"), 3)
    net = ep.HopfieldEnergy(sizes, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), sizes[0])
    s = tuple(jnp.full(shape, 0.3) for shape in net.shapes[1:])
    prepared, plain = jax.jit(
        lambda net: (net.prepared().velocity(x, s), net.velocity(x, s))
    )(net)
    for a, b in zip(prepared, plain, strict=True):
        assert distance(a, b) < 1e-6


def test_a_batch_is_its_examples():
    image, kernel, _ = problem(SHAPES[0])
    batch = np.stack([image, image[::-1], image[:, ::-1]])
    one = jax.jit(lambda r: correlate(1, r, jnp.asarray(kernel)))
    found = jax.jit(jax.vmap(one))(batch)
    assert distance(found, np.stack([one(r) for r in batch])) < 1e-6


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((8, 8, 16, 4, 5), 1),  # a single tile
        ((12, 12, 15, 4, 5), 1),  # few channels
        ((12, 12, 16, 4, 5), 2),
        ((14, 14, 16, 4, 7), 1),  # too many points to be accurate
    ],
)
def test_tiles_are_not_taken_where_others_are_faster_or_better(shape, stride):
    image, kernel, _ = problem(shape)
    assert not _correlation._tiled(stride, image, kernel)
    expected = oracle(image, kernel)[::stride, ::stride]
    assert distance(correlate(stride, image, kernel), expected) < 2e-6


def test_accelerators_get_xlas_convolution(monkeypatch):
    image, kernel, _ = problem(SHAPES[0])
    monkeypatch.setattr(_correlation, "_on_cpu", lambda: False)
    for form in (
        lambda r: correlate(1, r, kernel),
        jax.grad(lambda r: jnp.sum(correlate(1, r, kernel))),
    ):
        text = str(jax.make_jaxpr(form)(image))
        assert "conv_general_dilated" in text
        assert "split" not in text
