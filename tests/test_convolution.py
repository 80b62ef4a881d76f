"""Convolutional layers against plain NumPy loops, dense matrices, and each other."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolution import correlate, drives, Layer, primitive
from tolerances import IDENTITY
from zoo import flat

import eqprop as ep
from eqprop.kernels import _correlation

pytestmark = pytest.mark.usefixtures("x64")

COST = ep.SquaredError()
GEOMETRIES = {
    "overlapping max": (
        (9, 8, 2),
        ep.Convolution(3, 3, padding=1, pool="max", pool_size=3, pool_stride=2),
        ep.Convolution(2, 2, padding=1),
        3,
    ),
    "average and max": (
        (11, 9, 1),
        ep.Convolution(2, 4, stride=2, padding=2, pool="average"),
        ep.Convolution(3, 2, padding=1, pool="max", pool_stride=1),
        3,
    ),
    "softmax and max": (
        (13, 10, 2),
        ep.Convolution(3, 3, stride=3, padding=1, pool="softmax", pool_stride=1),
        ep.Convolution(2, 3, padding=2, pool="max"),
        3,
    ),
    "softmax above": (
        (6, 7, 1),
        ep.Convolution(3, 2, pool="max", pool_stride=1),
        ep.Convolution(2, 2, padding=1, pool="softmax"),
        3,
    ),
}
SHAPES = {
    "overlapping max": ((4, 3, 3), (5, 4, 2), (3,)),
    "average and max": ((3, 2, 2), (3, 2, 3), (3,)),
    "softmax and max": ((4, 3, 3), (3, 2, 2), (3,)),
    "softmax above": ((4, 5, 3), (2, 3, 2), (3,)),
}


def make(kind, sizes, seed=3, **options):
    options = {"activation": ep.tanh, "initializer": ep.fan_in_uniform, **options}
    return kind(sizes, key=jax.random.key(seed), **options)


def examples(sizes, batch=2, outputs=3):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(batch, *sizes[0])), rng.uniform(size=(batch, outputs))


def random_state(net, seed=5):
    rng = np.random.default_rng(seed)
    return tuple(rng.uniform(size=shape) for shape in net.shapes[1:])


velocity = eqx.filter_jit(lambda net, x, s: net.velocity(x, s))


def written_out(sizes, net):
    """The same network in NumPy."""
    parts = zip(sizes[1:], net.weights, net.biases, strict=True)
    return [Layer(*part) for part in parts]


def close(found, expected, atol=IDENTITY):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def off(gradient, exact):
    a, b = flat(gradient.grads), flat(exact.grads)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("shape", "link"),
    [
        ((5, 4, 2), ep.Convolution(3, 3)),
        ((7, 5, 1), ep.Convolution(2, 2, stride=3, padding=1)),
        ((5, 6, 2), ep.Convolution(1, 4, stride=2, padding=2)),
        ((4, 4, 3), ep.Convolution(2, 1)),
    ],
)
def test_convolution_is_a_matrix_built_column_by_column(shape, link):
    """Values, both first derivatives, and the mixed second one that BPTT takes."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(link.kernel, link.kernel, shape[2], link.channels))
    units = np.eye(np.prod(shape)).reshape(-1, *shape)
    columns = [correlate(u, kernel, link.stride, link.padding) for u in units]
    matrix = np.stack([c.ravel() for c in columns])
    x, z = rng.normal(size=shape), rng.normal(size=columns[0].shape)

    @jax.jit
    def found(kernel, x, z):
        value, pull = jax.vjp(link.linear, kernel, x)
        moved = jax.grad(lambda w: jnp.vdot(jax.vjp(link.linear, w, x)[1](z)[1], x))
        return value, *pull(z), moved(kernel)

    value, by_kernel, by_image, mixed = found(kernel, x, z)
    assert value.shape == (*link.shape(shape, 1)[:2], link.channels)
    close(value.ravel(), x.ravel() @ matrix)
    close(by_image.ravel(), matrix @ z.ravel())
    by_hand = Layer(link, kernel, np.zeros(link.channels)).gradients(x, z)[0]
    close(by_kernel, by_hand)
    # ⟨∂(W ⋆ x)/∂x ᵀ z, x⟩ = ⟨W ⋆ x, z⟩, as the convolution is linear in x.
    close(mixed, by_hand)


@pytest.mark.parametrize(
    "name",
    [
        "overlapping max",
        "average and max",
        pytest.param("softmax and max", marks=pytest.mark.slow),
        pytest.param("softmax above", marks=pytest.mark.slow),
    ],
)
def test_prototypical_network_is_paper_ds(name):
    """Φ, steps and EP's contrast, written out with loops, argmax and unpooling."""
    sizes = GEOMETRIES[name]
    net = make(ep.PrototypicalNetwork, sizes)
    layers, (x, y) = written_out(sizes, net), examples(sizes)
    assert net.shapes[1:] == SHAPES[name]
    s = random_state(net)
    found = eqx.filter_jit(lambda net, x, s: net.primitive(x, s))(net, x[0], s)
    np.testing.assert_allclose(found, primitive(layers, x[0], s))
    beta, free, nudged = 0.2, ep.Euler(1.0, 4), ep.Euler(1.0, 3)
    rule = ep.EquilibriumPropagation(free, nudged, beta, "one-sided")
    gradient = rule(net, COST, x, y)
    expected = [(0, 0)] * 3
    for n in range(2):
        s = [np.zeros(shape) for shape in net.shapes[1:]]
        for _ in range(4):
            s = [np.tanh(d) for d in drives(layers, x[n], s)]
        close(jax.tree.map(lambda u, n=n: u[n], gradient.equilibrium.state), tuple(s))
        phases = [s]
        for _ in range(3):
            push = beta * (y[n] - s[-1])
            s = [np.tanh(d) for d in drives(layers, x[n], s)]
            s[-1] = s[-1] + push
        phases.append(s)
        for k, layer in enumerate(layers):
            low, high = (
                layer.gradients(x[n] if k == 0 else s[k - 1], s[k]) for s in phases
            )
            update = [(h - b) / beta / 2 for h, b in zip(high, low, strict=True)]
            expected[k] = [e - u for e, u in zip(expected[k], update, strict=True)]
    close(gradient.grads.weights, [e[0] for e in expected])
    close(gradient.grads.biases, [e[1] for e in expected])


@pytest.mark.parametrize("name", ["overlapping max", "softmax above"])
def test_leaky_feedback_runs_through_its_own_kernels(name):
    """B in the transposed convolution, unpooled to where W's convolution points."""
    sizes = GEOMETRIES[name]
    net = make(ep.LeakyIntegrator, sizes, angle=None)
    assert [b.shape for b in net.backward] == [w.shape for w in net.weights[1:]]
    assert not np.allclose(net.backward[0], net.weights[1])
    x, s = examples(sizes)[0][0], random_state(net)
    rates = [np.tanh(u) for u in s]
    expected = drives(written_out(sizes, net), x, rates, net.backward)
    expected = [d - u for d, u in zip(expected, s, strict=True)]
    close(velocity(net, x, s), tuple(expected))


def test_tied_discrete_leaky_integrators_are_the_prototypical_network():
    """With angle 0 and ρ outside: one map, one set of drives."""
    sizes = GEOMETRIES["average and max"]
    leaky = make(ep.LeakyIntegrator, sizes, angle=0.0, discrete=True)
    net = make(ep.PrototypicalNetwork, sizes)
    where = lambda n: (n.weights, n.biases)  # noqa: E731
    net = eqx.tree_at(where, net, where(leaky))
    x, s = examples(sizes)[0][0], random_state(net)
    close(velocity(leaky, x, s), velocity(net, x, s))
    # The rule of both: a tied weight learns what its two directions learn.
    steps = ep.Euler(1.0, 20)
    rule = ep.VectorFieldEquilibriumPropagation(steps, steps, 0.1)
    images = np.stack([x, x[::-1]])
    y = np.ones((2, *net.readout(s).shape))
    untied = rule(leaky, ep.SquaredError(), images, y).grads
    tied = rule(net, ep.SquaredError(), images, y).grads
    both = [w + b for w, b in zip(*untied.reciprocal(), strict=True)]
    close((untied.weights[0], *both), tied.weights)
    close(untied.biases, tied.biases)
    turned = make(ep.LeakyIntegrator, sizes, angle=60.0).backward
    for b, w in zip(turned, make(ep.LeakyIntegrator, sizes).weights[1:], strict=True):
        cosine = np.sum(b * w) / np.linalg.norm(b) / np.linalg.norm(w)
        assert np.degrees(np.arccos(cosine)) == pytest.approx(60, abs=15)


def test_of_equal_values_the_first_in_reading_order_is_the_largest():
    """Ties are broken as PyTorch's argmax breaks them, in value and derivative."""
    link = ep.Convolution(1, 1, pool="max", pool_size=2)
    z = jnp.array([[0.0, 5, 1, 1], [5, 5, 1, 1]])[..., None]

    @jax.jit
    def found(z):
        value, pull = jax.vjp(link.pooled, z)
        second = jax.hessian(lambda u: jnp.sum(link.pooled(u) ** 2))(z)
        return value, pull(jnp.array([[[7.0], [3.0]]]))[0], second

    value, places, second = found(z)
    np.testing.assert_array_equal(value[..., 0], [[5, 1]])
    np.testing.assert_array_equal(places[..., 0], [[0, 7, 3, 0], [0, 0, 0, 0]])
    # A second derivative is zero, not undefined.
    np.testing.assert_array_equal(
        second.reshape(8, 8), np.diag([0, 2, 2, 0, 0, 0, 0, 0])
    )


def test_hopfield_energy_without_pooling_is_the_masked_graph():
    """The convolution as a dense matrix of links: same energy, same velocity."""
    sizes = ((4, 3, 2), ep.Convolution(2, 2, padding=1), 3)
    net = make(ep.HopfieldEnergy, sizes)
    count = [int(np.prod(shape)) for shape in net.shapes]
    ends = np.cumsum([0, *count])
    weight = np.zeros((ends[-1], ends[-1]))
    units = np.eye(count[0]).reshape(-1, *sizes[0])
    columns = [correlate(u, np.asarray(net.weights[0]), 1, 1).ravel() for u in units]
    weight[: ends[1], ends[1] : ends[2]] = columns
    weight[ends[1] : ends[2], ends[2] :] = net.weights[1]
    mask = weight != 0
    options = {"key": jax.random.key(0), "activation": ep.tanh}
    graph = ep.MaskedHopfieldEnergy(mask | mask.T, inputs=24, outputs=3, **options)
    bias = jnp.concatenate([jnp.tile(net.biases[0], count[1] // 2), net.biases[1]])
    graph = eqx.tree_at(lambda g: (g.weight, g.bias), graph, (weight, bias))
    x, s = examples(sizes)[0][0], random_state(net)
    both = eqx.filter_jit(lambda net, x, s: (net.energy(x, s), net.velocity(x, s)))
    found, expected = both(net, x, s), both(graph, x.ravel(), flat(s))
    np.testing.assert_allclose(found[0], expected[0])
    np.testing.assert_allclose(flat(found[1]), expected[1], atol=1e-12)


def small(kind, pool, channels=3, **options):
    sizes = ((6, 6, 1), ep.Convolution(channels, 3, pool=pool), 3)
    deep = (*sizes[:2], ep.Convolution(2, 2, padding=1, pool=pool), 3)
    options = {"initializer": ep.gain_uniform(0.8), **options}
    return make(kind, deep, **options), *examples(deep)


def test_methods_of_a_subclass_may_read_the_weights():
    """Where kernels are prepared for many steps, the user's energy still has arrays."""

    class Decayed(ep.HopfieldEnergy):
        def energy(self, x, s):
            return super().energy(x, s) + 0.1 * sum(jnp.sum(w**2) for w in self.weights)

    sizes = ((8, 8, 1), ep.Convolution(16, 3), ep.Convolution(16, 3), 3)
    net, plain = (
        jax.tree.map(
            lambda p: p.astype("float32") if eqx.is_inexact_array(p) else p,
            kind(sizes, key=jax.random.key(0), activation=ep.tanh),
        )
        for kind in (Decayed, ep.HopfieldEnergy)
    )
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1), "float32")
    found, same = (ep.relax(n, x, ep.Euler(0.2, 5)).state for n in (net, plain))
    for a, b in zip(found, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    kinds = [type(weight) for weight in plain.prepared().prepared_weights]
    assert (_correlation.Prepared in kinds) == (jax.default_backend() == "cpu")


def test_references_agree_where_the_map_is_smooth():
    """RBP, BPTT and implicit differentiation at one fixed point of a map."""
    net, x, y = small(ep.PrototypicalNetwork, "softmax")
    free = ep.Euler(1.0, 2000, 1e-14)
    exact = ep.ImplicitDifferentiation(free)(net, COST, x, y)
    assert int(exact.equilibrium.steps.max()) < 2000
    for kind in (ep.RecurrentBackpropagation, ep.BackpropagationThroughTime):
        assert off(kind(free, 1.0, 300)(net, COST, x, y), exact) < IDENTITY
    assert min(float(jnp.abs(g).max()) for g in exact.grads.weights) > 1e-4


@pytest.mark.parametrize("pool", ["softmax", "max"])
def test_ep_is_exact_for_the_energy(pool):
    """Implicit differentiation's gradient, and holomorphic EP's where there is one."""
    net, x, y = small(ep.HopfieldEnergy, pool)
    settle = ep.Euler(0.3, 2000, 1e-13)
    exact = ep.ImplicitDifferentiation(settle)(net, COST, x, y)
    rule = ep.EquilibriumPropagation(settle, settle, 1e-4)
    assert off(rule(net, COST, x, y), exact) < 1e-6
    holomorphic = ep.HolomorphicEquilibriumPropagation(settle, settle, 0.02, 6)
    if pool == "max":
        with pytest.raises(ValueError, match="no order; use pool='softmax'"):
            holomorphic(net, COST, x, y)
    else:
        found = holomorphic(net, COST, x, y)
        assert int(found.stats["left_out"]) == 0
        assert off(found, exact) < 1e-5


@pytest.mark.parametrize(
    ("pool", "output"),
    [(None, ep.identity), ("average", None), ("max", ep.identity), ("max", None)],
)
def test_sweeps_descend(pool, output):
    """With hidden rates ≥ 0 energy + β cost never rises, and Euler settles there."""
    options = {"activation": ep.hard_sigmoid, "initializer": ep.gain_uniform(2.0)}
    net, x, y = small(ep.HopfieldEnergy, pool, 4, output=output, **options)
    rng = np.random.default_rng(1)
    start = tuple(rng.uniform(size=(2, *shape)) for shape in net.shapes[1:])
    nudge = {"cost": COST, "y": y, "beta": 0.5}

    def total(s):
        return jax.vmap(net.energy)(x, s) + 0.5 * jax.vmap(COST)(s[-1], y)

    @jax.jit
    def path(s):
        def sweep(s, _):
            return ep.relax(net, x, ep.Sweep(1), state=s, **nudge).state, total(s)

        return jax.lax.scan(sweep, s, None, length=25)

    end, totals = path(start)
    assert float(jnp.diff(totals, axis=0).max()) < 1e-12
    assert float((totals[0] - totals[-1]).min()) > 1e-2
    inside = np.concatenate([np.ravel(u) for u in end[:-1]])
    assert ((inside > 0) & (inside < 1)).mean() > 0.1
    if pool == "max" and output is not None:
        swept = ep.relax(net, x, ep.Sweep(500, 1e-13), state=end, **nudge)
        steps = ep.relax(net, x, ep.Euler(0.2, 4000, 1e-13), state=end, **nudge)
        assert int(swept.status.max()) == int(steps.status.max()) == ep.Status.settled
        close(swept.state, steps.state, 1e-9)


@pytest.mark.slow
def test_verify_holds():
    """The library's own check of a model, on a small convolutional network."""
    net, x, y = small(ep.HopfieldEnergy, "average")
    assert ep.verify(net, COST, x, y).holds


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        (
            ((28, 28, 1), *(ep.Convolution(c, 5, pool="max") for c in (32, 64)), 10),
            ((12, 12, 32), (4, 4, 64), (10,)),
        ),
        *(
            (
                (
                    (32, 32, 3),
                    *(
                        ep.Convolution(c, 3, padding=p, pool="max")
                        for c, p in zip((128, 256, 512, 512), padding, strict=True)
                    ),
                    10,
                ),
                ((16, 16, 128), (8, 8, 256), (4, 4, 512), last, (10,)),
            )
            for padding, last in (
                ((1, 1, 1, 0), (1, 1, 512)),
                ((1, 1, 1, 1), (2, 2, 512)),
            )
        ),
    ],
)
def test_networks_of_the_papers(sizes, shapes):
    """MNIST of paper D; CIFAR-10 of Laborieux 2021 and of Scellier 2023."""

    def build():
        net = ep.PrototypicalNetwork(sizes, key=jax.random.key(0))
        state = net.init_state(jnp.zeros(sizes[0]))
        return net, state, net.map(jnp.zeros(sizes[0]), state)

    net, state, image = jax.eval_shape(build)
    assert tuple(u.shape for u in state) == tuple(u.shape for u in image) == shapes
    assert tuple(b.shape[0] for b in net.biases) == tuple(s[-1] for s in shapes)
    assert net.weights[-1].shape == (int(np.prod(shapes[-2])), 10)


@pytest.mark.parametrize(
    ("initializer", "weight", "bias"),
    [
        (ep.glorot_uniform, (6 / (9 * 4 + 9 * 20)) ** 0.5, 0),
        (ep.fan_in_uniform, 1 / 6, 1 / 6),
        (ep.gain_uniform(0.7), 0.7 / 6, 0.5 / 6),
    ],
)
def test_initial_kernels(initializer, weight, bias):
    """Uniform with fan-in kernel² · channels below, fan-out kernel² · channels."""
    net = ep.HopfieldEnergy(
        ((5, 5, 4), ep.Convolution(20, 3), 2),
        key=jax.random.key(0),
        initializer=initializer,
    )
    assert net.weights[0].shape == (3, 3, 4, 20)
    for found, limit in ((net.weights[0], weight), (net.biases[0], bias)):
        largest = float(jnp.abs(found).max())
        assert 0.85 * limit <= largest <= limit
    np.testing.assert_allclose(np.std(net.weights[0]), weight / 3**0.5, rtol=0.1)


def test_a_link_is_a_plain_record():
    """Hashable, and back from JSON by its fields."""
    link = ep.Convolution(8, 3, padding=1, pool="max", pool_stride=1)
    record = json.loads(json.dumps(dataclasses.asdict(link)))
    assert ep.Convolution(**record) == link
    assert hash(ep.Convolution(**record)) == hash(link)


def test_images_of_one_channel_may_come_without_it():
    """The same state; other shapes are refused with both."""
    net = make(ep.PrototypicalNetwork, ((6, 5, 1), ep.Convolution(2, 3), 3))
    x = examples(((6, 5, 1),))[0]
    s = random_state(net)
    close(*(net.velocity(v, s) for v in (x[0], x[0, ..., 0])), 0)
    assert float(net.primitive(x[0], s)) == float(net.primitive(x[0, ..., 0], s))
    with pytest.raises(ValueError, match=r"shape \(30,\); the network takes \(6, 5, 1"):
        ep.relax(net, x.reshape(2, 30), ep.Euler())
    with pytest.raises(ValueError, match=r"shape \(5, 6\); .*\[batch, 6, 5, 1\]"):
        net.init_state(x[0, ..., 0].T)
