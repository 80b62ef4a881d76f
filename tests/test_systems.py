"""Systems: velocities against the papers' equations, written out in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import FINITE_DIFFERENCE, FIXED_POINT, IDENTITY
from zoo import batch, hopfield, Primitive, Quadratic, quadratic

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")


def test_hard_sigmoid_derivative_is_inclusive():
    """An exclusive derivative freezes a network that starts at zero (paper A)."""
    points = jnp.array([-0.5, -1e-9, 0.0, 0.5, 1.0, 1 + 1e-9, 2.0])
    slopes = jax.vmap(jax.grad(ep.hard_sigmoid))(points)
    np.testing.assert_array_equal(slopes, [0, 0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("activation", "formula", "slope"),
    [
        (ep.shifted_sigmoid, lambda s: 1 / (1 + np.exp(-4 * (s - 0.5))), None),
        (ep.tanh, np.tanh, lambda s: 1 - np.tanh(s) ** 2),
        (ep.identity, lambda s: s, lambda s: np.ones_like(s)),
    ],
)
def test_activations(activation, formula, slope):
    """ρ and ρ′ are those of the papers; |ρ″| stays below the declared bend."""
    s = np.linspace(-3, 4, 701)
    np.testing.assert_allclose(activation(jnp.asarray(s)), formula(s), atol=IDENTITY)
    rho = formula(s)
    expected = 4 * rho * (1 - rho) if slope is None else slope(s)
    got = jax.vmap(jax.grad(activation))(jnp.asarray(s))
    np.testing.assert_allclose(got, expected, atol=IDENTITY)
    second = jax.vmap(jax.grad(jax.grad(activation)))(jnp.asarray(s))
    largest = float(jnp.abs(second).max())
    assert largest <= activation.bend + 1e-12
    # The bound is the supremum, not just any large number.
    assert largest >= 0.999 * activation.bend


@pytest.mark.parametrize("activation", [ep.hard_sigmoid, ep.tanh, ep.shifted_sigmoid])
def test_layered_velocity_is_equation_8(activation):
    """−∂E/∂s_i = ρ′(s_i)(Σ_j W_ij ρ(u_j) + b_i) − s_i (paper A, eq 8)."""
    net = hopfield(activation=activation)
    x = np.array([0.2, 0.9, 0.4])
    keys = jax.random.split(jax.random.key(7), 3)
    s = tuple(
        jax.random.uniform(k, b.shape) for k, b in zip(keys, net.biases, strict=True)
    )
    rates = [x, *(np.asarray(activation(u)) for u in s)]
    slope = jax.vmap(jax.grad(activation))
    for k, found in enumerate(net.velocity(jnp.asarray(x), s)):
        drive = rates[k] @ np.asarray(net.weights[k]) + np.asarray(net.biases[k])
        if k + 2 < len(rates):
            drive = drive + np.asarray(net.weights[k + 1]) @ rates[k + 2]
        expected = np.asarray(slope(s[k])) * drive - np.asarray(s[k])
        np.testing.assert_allclose(found, expected, atol=IDENTITY)


def _masked_like(net, x_size):
    """The masked graph with the same links as a layered network."""
    sizes = [x_size, *(len(b) for b in net.biases)]
    ends = np.cumsum([0, *sizes])
    mask = np.zeros((ends[-1], ends[-1]), bool)
    weight = np.zeros(mask.shape)
    for k, w in enumerate(net.weights):
        rows, columns = slice(ends[k], ends[k + 1]), slice(ends[k + 1], ends[k + 2])
        mask[rows, columns], weight[rows, columns] = True, w
    graph = ep.MaskedHopfieldEnergy(
        mask | mask.T,
        inputs=x_size,
        outputs=sizes[-1],
        key=jax.random.key(0),
        activation=net.activations[0],
    )
    values = (jnp.asarray(weight), jnp.concatenate(net.biases))
    return eqx.tree_at(lambda g: (g.weight, g.bias), graph, values)


@pytest.mark.parametrize("activation", [ep.hard_sigmoid, ep.tanh])
def test_block_tridiagonal_mask_is_the_layered_network(activation):
    """The two classes are one energy: same equilibrium, same gradient, to 1e-12."""
    net = hopfield(activation=activation)
    graph = _masked_like(net, 3)
    x, y = batch()
    estimator = ep.EquilibriumPropagation(ep.Euler(0.3, 300), ep.Euler(0.3, 40), 0.1)
    layered = estimator(net, ep.SquaredError(), x, y)
    masked = estimator(graph, ep.SquaredError(), x, y)
    states = jnp.concatenate(layered.equilibrium.state, axis=1)
    np.testing.assert_allclose(masked.equilibrium.state, states, atol=1e-12)
    biases = jnp.concatenate(layered.grads.biases)
    np.testing.assert_allclose(masked.grads.bias, biases, atol=1e-12)
    np.testing.assert_allclose(
        masked.grads.weight[:3, 3:9], layered.grads.weights[0], atol=1e-12
    )
    assert masked.grads.mask is None


def test_masked_graph_never_uses_absent_links():
    """Gradients of absent links are zero, and their weights have no effect."""
    rng = np.random.default_rng(0)
    mask = np.triu(rng.random((9, 9)) < 0.5, 1)
    mask[:3, :3] = False
    graph = ep.MaskedHopfieldEnergy(
        mask | mask.T, inputs=3, outputs=2, key=jax.random.key(1), activation=ep.tanh
    )
    x, y = batch()
    estimator = ep.EquilibriumPropagation(ep.Euler(0.2, 200), ep.Euler(0.2, 50), 0.1)
    gradient = estimator(graph, ep.SquaredError(), x, y)
    np.testing.assert_array_equal(gradient.grads.weight[~mask], 0)
    noisy = eqx.tree_at(
        lambda g: g.weight, graph, jnp.where(graph.mask, graph.weight, 7.0)
    )
    np.testing.assert_array_equal(
        estimator(noisy, ep.SquaredError(), x, y).loss, gradient.loss
    )


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.ones((4, 4)), {}, "square boolean"),
        (np.ones((4, 3), bool), {}, "square boolean"),
        (np.triu(np.ones((4, 4), bool), 1), {}, "symmetric"),
        (np.ones((4, 4), bool), {}, "diagonal"),
        (~np.eye(4, dtype=bool), {"outputs": 4}, "do not fit 4 units"),
        (~np.eye(4, dtype=bool), {"inputs": 2}, "inputs with each other"),
    ],
)
def test_bad_masks(mask, options, message):
    """A mask that is no undirected graph would silently give another energy."""
    options = {"inputs": 1, "outputs": 1} | options
    with pytest.raises(ValueError, match=message):
        ep.MaskedHopfieldEnergy(mask, key=jax.random.key(0), **options)


@pytest.mark.parametrize("sizes", [(), (4,), (4, 0), (4, -1, 2), (4, 2.5)])
def test_bad_sizes(sizes):
    """The error names the sizes."""
    with pytest.raises(ValueError, match="sizes are"):
        ep.HopfieldEnergy(sizes, key=jax.random.key(0))


def test_initializers_draw_as_the_papers_do():
    """Uniform, with the papers' limits reached and not exceeded; biases as stated."""
    key = jax.random.key(0)
    for initializer, limit, bias_limit in (
        (ep.glorot_uniform, (6 / 500) ** 0.5, 0.0),
        (ep.fan_in_uniform, 300**-0.5, 300**-0.5),
        (ep.gain_uniform(0.7), 0.7 * 300**-0.5, 0.5 * 300**-0.5),
    ):
        weight, bias = initializer(key, 300, 200)
        assert weight.shape == (300, 200)
        assert bias.shape == (200,)
        assert 0.99 * limit < float(jnp.abs(weight).max()) <= limit
        assert float(jnp.abs(bias).max()) <= bias_limit
        assert abs(float(weight.std()) / (limit / 3**0.5) - 1) < 0.02


class AsField(ep.AbstractVectorField):
    """Another system's velocity, with its potential hidden."""

    inner: Quadratic

    def init_state(self, x):
        return self.inner.init_state(x)

    def velocity(self, x, s):
        return self.inner.velocity(x, s)

    def readout(self, s):
        return self.inner.readout(s)


class AsPrimitive(ep.AbstractPrimitive):
    """Φ = ½‖s‖² − E (paper D, with ε = 1)."""

    inner: Quadratic

    def init_state(self, x):
        return self.inner.init_state(x)

    def primitive(self, x, s):
        return 0.5 * jnp.sum(s**2) - self.inner.energy(x, s)

    def readout(self, s):
        return self.inner.readout(s)


class AsMap(AsPrimitive, ep.AbstractMap):
    """F = s − ∂E/∂s with the same Φ for learning."""

    def map(self, x, s):
        return s + self.inner.velocity(x, s)

    velocity = ep.AbstractMap.velocity


@pytest.mark.parametrize("kind", [AsField, AsPrimitive, AsMap])
def test_same_dynamics_written_otherwise_has_the_same_gradient(kind):
    """A symmetric system's gradient does not depend on how it is described."""
    system = quadratic()
    x, y = batch()
    estimator = ep.EquilibriumPropagation(ep.Euler(0.3, 400), ep.Euler(0.3, 400), 1e-3)
    energy = estimator(system, ep.SquaredError(), x, y)
    other = estimator(kind(system), ep.SquaredError(), x, y)
    np.testing.assert_allclose(
        other.equilibrium.state, energy.equilibrium.state, atol=FIXED_POINT
    )
    pairs = zip(
        jax.tree.leaves(other.grads.inner), jax.tree.leaves(energy.grads), strict=True
    )
    for found, expected in pairs:
        # The two rules differ by O(β²) where s enters the gradient squared.
        np.testing.assert_allclose(found, expected, atol=FINITE_DIFFERENCE)


def test_primitive_step_is_its_gradient():
    """One step of size 1 of a primitive is s ← ∂Φ/∂s (paper D)."""
    k1, k2 = jax.random.split(jax.random.key(0))
    m = jax.random.normal(k1, (4, 4)) / 10
    system = Primitive(m + m.T, jax.random.normal(k2, (4, 3)))
    x, _ = batch()
    s = jax.random.normal(jax.random.key(3), (6, 4))
    stepped = ep.relax(system, x, ep.Euler(1.0, 1), state=s).state
    expected = s @ (m + m.T) + x @ system.W.T
    np.testing.assert_allclose(stepped, expected, atol=IDENTITY)


def test_permuting_hidden_units_permutes_gradients():
    """A network has no preferred order of its units."""
    net = hopfield((3, 6, 2))
    order = jnp.array([3, 0, 5, 1, 4, 2])
    weights = (net.weights[0][:, order], net.weights[1][order])
    permuted = eqx.tree_at(
        lambda n: (n.weights, n.biases[0]), net, (weights, net.biases[0][order])
    )
    x, y = batch()
    estimator = ep.EquilibriumPropagation(ep.Euler(0.2, 100), ep.Euler(0.2, 30), 0.1)
    first = estimator(net, ep.SquaredError(), x, y).grads
    second = estimator(permuted, ep.SquaredError(), x, y).grads
    np.testing.assert_allclose(
        second.weights[0], first.weights[0][:, order], atol=IDENTITY
    )
    np.testing.assert_allclose(
        second.weights[1], first.weights[1][order], atol=IDENTITY
    )


def test_derived_velocity_is_holomorphic_for_complex_states():
    """For complex s, −∂E/∂s is the complex derivative (design: holomorphic EP)."""
    system = quadratic()
    s = jnp.array([1 + 2j, -1j, 0.5, 2 - 1j, 0.3j])
    x = jnp.ones(3)
    expected = -(system.A @ s) + system.W @ x + system.b
    np.testing.assert_allclose(system.velocity(x, s), expected, atol=IDENTITY)
    cost = ep.SquaredError()(s[:2], jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(cost, 0.5 * ((2j) ** 2 + (-1j) ** 2), atol=IDENTITY)
