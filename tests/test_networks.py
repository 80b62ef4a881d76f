"""Paper C's and D's networks against plain NumPy, and against each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")

SIZES = (3, 7, 5, 2)
X = np.random.default_rng(0).uniform(size=(4, 3))
Y = np.random.default_rng(1).uniform(size=(4, 2))


def numbers(tree):
    return [np.asarray(leaf) for leaf in tree]


def sigmoid(u):
    return 1 / (1 + np.exp(-4 * (u - 0.5)))


def make(kind, **options):
    options = {"activation": ep.shifted_sigmoid, **options}
    return kind(SIZES, key=jax.random.key(3), initializer=ep.fan_in_uniform, **options)


def test_prototypical_steps_are_paper_ds():
    """s^n ← σ(W s^{n−1} + Wᵀ s^{n+1} + b), nudged s^out ← σ(·) + β(y − s^out)."""
    net = make(ep.PrototypicalNetwork)
    weights, biases = numbers(net.weights), numbers(net.biases)
    s = [np.zeros((4, n)) for n in SIZES[1:]]
    for beta, steps in ((0.0, 7), (0.3, 5)):
        state = tuple(map(jnp.asarray, s))
        for _ in range(steps):
            below, above = [X, *s[:-1]], [*s[1:], None]
            new = []
            for k in range(3):
                drive = below[k] @ weights[k] + biases[k]
                if above[k] is not None:
                    drive = drive + above[k] @ weights[k + 1].T
                new.append(sigmoid(drive))
            new[-1] = new[-1] + beta * (Y - s[-1])
            s = new
        found = ep.relax(
            *(net, X, ep.Euler(1.0, steps)),
            state=state,
            cost=ep.SquaredError(),
            y=Y,
            beta=beta,
        )
        for a, b in zip(found.state, s, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-13)


def test_prototypical_rule_has_no_rho():
    """ΔW = (s sᵀ|β − s sᵀ|*)/β, Δb = (s^β − s*)/β (paper D), as a gradient negative."""
    net = make(ep.PrototypicalNetwork)
    free, nudged, beta = ep.Euler(1.0, 200), ep.Euler(1.0, 6), 0.1
    rule = ep.EquilibriumPropagation(free, nudged, beta, "one-sided")
    gradient = rule(net, ep.SquaredError(), X, Y)
    first = ep.relax(net, X, free).state
    second = ep.relax(
        net, X, nudged, state=first, cost=ep.SquaredError(), y=Y, beta=beta
    ).state
    below = [(X, X), *zip(first[:-1], second[:-1], strict=True)]
    for k, (low, high) in enumerate(below):
        outer = (high.T @ second[k] - low.T @ first[k]) / beta / len(X)
        np.testing.assert_allclose(gradient.grads.weights[k], -outer, atol=1e-12)
        bias = (second[k] - first[k]).mean(0) / beta
        np.testing.assert_allclose(gradient.grads.biases[k], -bias, atol=1e-12)


def test_prototypical_sweeps_settle_where_steps_do():
    """Odd and even layers in turn find the same fixed point in fewer updates."""
    net = make(ep.PrototypicalNetwork, activation=ep.tanh)
    steps = ep.relax(net, X, ep.Euler(1.0, 5000, 1e-13))
    sweeps = ep.relax(net, X, ep.Sweep(5000, 1e-13))
    for a, b in zip(steps.state, sweeps.state, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
    assert sweeps.steps.max() < steps.steps.max()


@pytest.mark.parametrize("activation", [ep.tanh, ep.hard_sigmoid])
def test_discrete_energy_is_euler_on_the_energy(activation):
    """Φ = ½‖s‖² − εE: the same states at every step, free and nudged; same gradient."""
    energy, dt, beta = make(ep.HopfieldEnergy, activation=activation), 0.2, 0.1
    discrete = ep.DiscreteEnergy(energy, dt)
    nudge = {"cost": ep.SquaredError(), "y": Y}
    a = ep.relax(discrete, X, ep.Euler(1.0, 9), **nudge, beta=dt * beta).state
    b = ep.relax(energy, X, ep.Euler(dt, 9), **nudge, beta=beta).state
    for u, v in zip(a, b, strict=True):
        np.testing.assert_allclose(u, v, atol=1e-14)
    rules = [
        ep.EquilibriumPropagation(ep.Euler(size, 400), ep.Euler(size, 9), nudge)
        for size, nudge in ((1.0, dt * beta), (dt, beta))
    ]
    primitive = rules[0](discrete, ep.SquaredError(), X, Y).grads.system
    expected = rules[1](energy, ep.SquaredError(), X, Y).grads
    for g, e in zip(jax.tree.leaves(primitive), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, atol=1e-11)


@pytest.mark.parametrize("discrete", [False, True])
def test_leaky_integrator_is_paper_cs(discrete):
    """μ = Wρ(s below) + Bρ(s above) + b − s, or ρ of the drive; no factor ρ′(s)."""
    net = make(ep.LeakyIntegrator, angle=60.0, discrete=discrete)
    forward, backward = numbers(net.weights), numbers(net.backward)
    s = [np.random.default_rng(k).uniform(size=n) for k, n in enumerate(SIZES[1:])]
    r = s if discrete else [sigmoid(u) for u in s]
    drives = [
        X[0] @ forward[0] + backward[0] @ r[1],
        r[0] @ forward[1] + backward[1] @ r[2],
        r[1] @ forward[2],
    ]
    drives = [d + np.asarray(b) for d, b in zip(drives, net.biases, strict=True)]
    if discrete:
        drives = [sigmoid(d) for d in drives]
    found = net.velocity(jnp.asarray(X[0]), tuple(map(jnp.asarray, s)))
    for v, d, u in zip(found, drives, s, strict=True):
        np.testing.assert_allclose(v, d - u, atol=1e-14)


@pytest.mark.parametrize("angle", [0.0, 22.5, 90.0, 135.0, 180.0])
def test_leaky_integrator_starts_at_the_angle(angle):
    """The share ½(1 − cos θ) of the signs is turned."""
    net = ep.LeakyIntegrator((4, 200, 150, 10), key=jax.random.key(0), angle=angle)
    for w, b in zip(net.weights[1:], net.backward, strict=True):
        np.testing.assert_allclose(jnp.abs(w), jnp.abs(b))
        cosine = jnp.sum(w * b) / (jnp.linalg.norm(w) * jnp.linalg.norm(b))
        assert float(jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))) == (
            pytest.approx(angle, abs=4)
        )
    drawn = ep.LeakyIntegrator((4, 200, 10), key=jax.random.key(0), angle=None)
    w, b = drawn.weights[1], drawn.backward[0]
    assert abs(float(jnp.sum(w * b) / jnp.linalg.norm(w) / jnp.linalg.norm(b))) < 0.1


def test_tied_leaky_integrators_are_the_hopfield_energy_where_rho_is_linear():
    """With B = Wᵀ and ρ′ = 1 paper C's network is paper A's."""
    options = {"activation": ep.identity, "initializer": ep.gain_uniform(0.4)}
    leaky = ep.LeakyIntegrator(SIZES, key=jax.random.key(0), **options)
    energy = ep.HopfieldEnergy(SIZES, key=jax.random.key(1), **options)
    energy = eqx.tree_at(
        lambda n: (n.weights, n.biases), energy, (leaky.weights, leaky.biases)
    )
    settle = ep.Euler(0.3, 2000, 1e-14)
    rule = ep.EquilibriumPropagation(settle, settle, 1e-3)
    a = rule(leaky, ep.SquaredError(), X, Y).grads
    b = rule(energy, ep.SquaredError(), X, Y).grads
    np.testing.assert_allclose(a.weights[0], b.weights[0], atol=1e-6)
    # What the tied weight learns is shared between the two untied ones.
    for k in (1, 2):
        both = a.weights[k] + a.backward[k - 1]
        np.testing.assert_allclose(both, b.weights[k], atol=1e-6)


def test_toy_network():
    """5-50-10, all three groups joined to each other; EP is exact."""
    net = ep.toy_network(key=jax.random.key(0))
    x, y = np.random.default_rng(0).uniform(size=(2, 5)), np.zeros((2, 10))
    assert net.init_state(x[0]).shape == (60,)
    assert int(net.mask.sum()) == 5 * 50 + 5 * 10 + 50 * 10
    settle = ep.Euler(0.08, 5000, 1e-13)
    rule = ep.EquilibriumPropagation(settle, settle, 1e-3)
    exact = ep.ImplicitDifferentiation(settle)(net, ep.SquaredError(), x, y).grads
    found = rule(net, ep.SquaredError(), x, y).grads
    np.testing.assert_allclose(found.weight, exact.weight, atol=1e-5)
    assert jnp.abs(exact.weight).max() > 1e-2


def test_errors():
    """What is wrong, what is allowed."""
    with pytest.raises(ValueError, match="angle is 200; it must be between 0 and 180"):
        make(ep.LeakyIntegrator, angle=200)
    with pytest.raises(ValueError, match="system is a PrototypicalNetwork"):
        ep.DiscreteEnergy(make(ep.PrototypicalNetwork), 0.1)
    with pytest.raises(ValueError, match="dt is 0; it must be positive"):
        ep.DiscreteEnergy(make(ep.HopfieldEnergy), 0)
    with pytest.raises(ValueError, match="sizes are"):
        ep.PrototypicalNetwork((3,), key=jax.random.key(0))
