"""The page's port of PyTorch code: axes, states and gradients against NumPy alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from zoo import batch

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")


def correlate(image, kernel, bias):
    """`torch.nn.functional.conv2d` of one image `[c, h, w]`, in loops."""
    out, _, k, _ = kernel.shape
    rows, columns = image.shape[1] - k + 1, image.shape[2] - k + 1
    found = np.empty((out, rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = image[:, i : i + k, j : j + k]
            found[:, i, j] = np.sum(kernel * window, axis=(1, 2, 3)) + bias
    return found


def max_pool(image):
    """`torch.nn.functional.max_pool2d` of size 2."""
    c, h, w = image.shape
    return image.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))


def test_the_axes_of_images_kernels_and_flattened_images():
    """Φ of a network of two convolutions and a dense layer, channels first."""
    random = np.random.default_rng(0)
    draw = random.normal
    kernels = [draw(size=(3, 2, 3, 3)), draw(size=(4, 3, 2, 2))]
    biases = [draw(size=3), draw(size=4), draw(size=5)]
    dense = draw(size=(5, 4 * 2 * 1))
    x, s = draw(size=(2, 8, 6)), [draw(size=(3, 3, 2)), draw(size=(4, 2, 1))]
    out = draw(size=5)
    # In the original each layer below drives the one above through its operation.
    phi = np.sum(max_pool(correlate(x, kernels[0], biases[0])) * s[0])
    phi += np.sum(correlate(s[0], kernels[1], biases[1]) * s[1])
    phi += np.sum((dense @ s[1].ravel() + biases[2]) * out)

    behind = dense.reshape(5, 4, 2, 1).transpose(2, 3, 1, 0).reshape(2 * 1 * 4, 5)
    weights = (*(kernel.transpose(2, 3, 1, 0) for kernel in kernels), behind)
    layers = (ep.Convolution(3, 3, pool="max"), ep.Convolution(4, 2))
    net = ep.PrototypicalNetwork(
        ((8, 6, 2), *layers, 5), key=jax.random.key(0), activation=ep.identity
    )
    net = eqx.tree_at(
        lambda n: (n.weights, n.biases),
        net,
        jax.tree.map(jnp.asarray, (weights, tuple(biases))),
    )
    images = (image.transpose(1, 2, 0) for image in s)
    found = net.primitive(x.transpose(1, 2, 0), (*images, out))
    assert found == pytest.approx(phi, rel=1e-12)
    turned = eqx.tree_at(lambda n: n.weights[2], net, jnp.asarray(dense.T))
    images = (image.transpose(1, 2, 0) for image in s)
    assert turned.primitive(x.transpose(1, 2, 0), (*images, out)) != pytest.approx(phi)


class Inside(ep.AbstractMap):
    """The page's port: s ← σ(∂Φ/∂s − β ∂C/∂s)."""

    weights: tuple
    biases: tuple

    def init_state(self, x):
        return tuple(jnp.zeros_like(b) for b in self.biases)

    def primitive(self, x, s):
        below = (x, *s[:-1])
        parts = zip(below, self.weights, self.biases, s, strict=True)
        return sum(jnp.sum((lower @ w + b) * upper) for lower, w, b, upper in parts)

    def drive(self, x, s):
        return jax.grad(self.primitive, 1)(x, s)

    def map(self, x, s):
        return jax.tree.map(jnp.tanh, self.drive(x, s))

    def forced_velocity(self, x, s, force):
        inside = jax.tree.map(jnp.add, self.drive(x, s), force)
        return jax.tree.map(lambda d, u: jnp.tanh(d) - u, inside, s)

    def readout(self, s):
        return s[-1]


def inside():
    keys = jax.random.split(jax.random.key(3), 4)
    shapes = ((3, 6), (6, 4), (4, 2))
    weights = [
        0.6 * jax.random.normal(key, shape)
        for key, shape in zip(keys, shapes, strict=False)
    ]
    biases = [0.3 * jax.random.normal(keys[3], (shape[1],)) for shape in shapes]
    return Inside(tuple(weights), tuple(biases))


def original(weights, biases, x, y, s, beta, steps):
    """The public program's loop, in NumPy: torch's [out, in] and one whole batch."""
    for _ in range(steps):
        below, drives = (x, *s[:-1]), []
        for n, (w, b) in enumerate(zip(weights, biases, strict=True)):
            drive = below[n] @ w.T + b
            if n + 1 < len(s):
                drive = drive + s[n + 1] @ weights[n + 1]
            drives.append(drive)
        drives[-1] = drives[-1] - beta * (s[-1] - y)
        s = [np.tanh(drive) for drive in drives]
    return s


def test_states_and_gradients_are_those_of_the_original_loop():
    """T1 free and T2 nudged steps, and (∂Φ/∂θ(−β) − ∂Φ/∂θ(β))/2β, at a β of 0.3."""
    net, (x, y), beta = inside(), batch(size=4), 0.3
    x, y = np.asarray(x), np.asarray(y)
    theirs = [np.asarray(w).T for w in net.weights]
    biases = [np.asarray(b) for b in net.biases]
    start = [np.zeros((4, len(b))) for b in biases]
    free = original(theirs, biases, x, y, start, 0.0, 25)
    up, down = (original(theirs, biases, x, y, free, b, 7) for b in (beta, -beta))
    rule = ep.EquilibriumPropagation(ep.Euler(1.0, 25), ep.Euler(1.0, 7), beta)
    found = rule(net, ep.SquaredError(), x, y)
    for ours, other in zip(found.equilibrium.state, free, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-12)
    for n, grad in enumerate(found.grads.weights):
        below = [(x, *s)[n] for s in (down, up)]
        products = [u[n].T @ v for u, v in zip((down, up), below, strict=True)]
        expected = (products[0] - products[1]).T / (2 * beta * len(x))
        np.testing.assert_allclose(grad, expected, atol=1e-12)


def test_the_nudge_inside_is_exact_and_outside_is_not():
    """Against implicit differentiation, which both share: the free step is the same."""
    net, (x, y) = inside(), batch(size=4)
    settle = ep.Euler(0.5, 300)

    def weights(rule, network):
        return ravel_pytree(rule(network, ep.SquaredError(), x, y).grads.weights)[0]

    exact = weights(ep.ImplicitDifferentiation(settle), net)
    rule = ep.EquilibriumPropagation(settle, settle, 1e-3)
    off = jnp.linalg.norm(weights(rule, net) - exact) / jnp.linalg.norm(exact)
    assert off < 1e-5
    outside = ep.PrototypicalNetwork(
        (3, 6, 4, 2), key=jax.random.key(0), activation=ep.tanh
    )
    outside = eqx.tree_at(
        lambda n: (n.weights, n.biases), outside, (net.weights, net.biases)
    )
    found = weights(rule, outside)
    cosine = found @ exact / jnp.linalg.norm(found) / jnp.linalg.norm(exact)
    assert jnp.degrees(jnp.arccos(cosine)) > 5
