"""Langevin dynamics, stochastic EP and Boltzmann learning, against closed forms."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import contrast, law, moments, objective, SELECT, surprise, T
from jax.flatten_util import ravel_pytree
from tolerances import IDENTITY
import zoo
from zoo import batch, box_hopfield, field, hopfield, primitive, quadratic, tanh_map

import eqprop as ep
from eqprop.estimators._clamped import Clamped

pytestmark = pytest.mark.usefixtures("x64")

COST = ep.SquaredError()


def chain(steps=60, adjusted=True, temperature=T, dt=0.25):
    return ep.Langevin(dt, steps, temperature, adjusted)


# What is compiled once and called once need not be optimised.
quick = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 1}
)


def call(rule, system, x, y, **options):
    """One call of a rule."""
    return quick(lambda x, y: rule(system, COST, x, y, **options))(x, y)


def relax(system, x, relaxation, seed=0):
    """Free chains."""
    key = jax.random.key(seed)
    return quick(lambda x: ep.relax(system, x, relaxation, key=key))(x)


def flat(gradient):
    return zoo.flat(gradient.grads)


@functools.cache
def problem():
    with jax.enable_x64(True):
        return quadratic(), *batch(size=2)


@functools.cache
def replicas(rule, count=64):
    """Losses with gradients, and stats, of independent repetitions."""
    system, x, y = problem()

    def one(key):
        found = rule(system, COST, x, y, key=key)
        stats = {k: v for k, v in found.stats.values.items() if v.ndim < 1}
        return jnp.append(found.loss, flat(found)), stats

    found = quick(jax.vmap(one))(jax.random.split(jax.random.key(0), count))
    return jax.tree.map(np.asarray, found)


def z_scores(values, exact):
    values = np.asarray(values)
    return (values.mean(0) - exact) / (values.std(0, ddof=1) / np.sqrt(len(values)))


def stochastic(adjusted=True, nudging="centered", **options):
    settings = {"beta": 0.5, "chains": 8, "samples": 40, "thinning": 1} | options
    return ep.StochasticEquilibriumPropagation(
        *(chain(adjusted=adjusted), chain(adjusted=adjusted)),
        nudging=nudging,
        **settings,
    )


def test_the_oracles_agree():
    """The contrast tends to autodiff's gradient; dE[C]/dβ = −Var(C)/T."""
    system, x, y = problem()
    exact = ravel_pytree(quick(jax.grad(objective))(system, x, y))[0]
    found = contrast(system, x, y, 1e-4, -1e-4, temperature=T)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-7)
    slope = [moments(system, x, y, b)[0] for b in (1e-4, -1e-4)]
    variances = []
    for one, target in zip(np.asarray(x), np.asarray(y), strict=True):
        mean, covariance = law(system, one, target, 0)
        s = SELECT @ covariance @ SELECT.T
        off = SELECT @ mean - target
        variances.append(0.5 * np.trace(s @ s) + off @ s @ off)
    assert (slope[0] - slope[1]) / 2e-4 == pytest.approx(
        -np.mean(variances) / T, rel=1e-6
    )


@pytest.mark.parametrize(
    ("adjusted", "nudging"), [(True, "centered"), (False, "one-sided")]
)
def test_stochastic_gradient_is_that_of_the_law(adjusted, nudging):
    """Loss and every gradient within the error of 64 repetitions.

    Adjusted, the law is e^{−F/T}; unadjusted the discretised chain's own, and the
    one is no match for the other.
    """
    system, x, y = problem()
    values, stats = replicas(stochastic(adjusted, nudging))
    other = -0.5 if nudging == "centered" else 0

    def exact(dt):
        gradient = contrast(system, x, y, 0.5, other, dt=dt)
        return np.append(moments(system, x, y, 0, dt=dt)[0], gradient)

    dt = None if adjusted else 0.25
    assert np.abs(z_scores(values, exact(dt))).max() < 4
    assert np.abs(z_scores(values, exact(0.25 if adjusted else None))).max() > 6
    # The error that a single call states is that of its loss.
    stated = np.sqrt(np.mean(stats["loss_error"] ** 2))
    assert stated == pytest.approx(np.std(values[:, 0]), rel=0.3)
    expected = 1 if not adjusted else pytest.approx(0.8, abs=0.1)
    assert stats["acceptance"].mean() == expected


def test_response_is_fluctuation():
    """E[∂C/∂θ] − Cov(C, ∂E/∂θ)/T over samples of p⁰ is dJ̃/dθ."""
    system, x, y = problem()
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 4000, 0), (x, y))
    s = relax(system, many[0], chain(), 3).state
    cost = jax.vmap(lambda s, y: COST(system.readout(s), y))(s, many[1])
    force = jax.vmap(lambda x, s: ravel_pytree(jax.grad(_energy)(system, x, s))[0])(
        many[0], s
    )
    products = -(cost - cost.mean())[:, None] * (force - force.mean(0)) / T
    exact = ravel_pytree(quick(jax.grad(objective))(system, x[:1], y[:1]))[0]
    assert np.abs(z_scores(products, exact)).max() < 4
    assert np.abs(z_scores(2 * products, exact)).max() > 10


def _energy(system, x, s):
    return system.energy(x, s)


@pytest.mark.slow
def test_errors_fall_with_common_noise_and_with_chains():
    """Independent noise multiplies the variance; 8 chains divide it by 8."""
    common, apart, one = (
        np.var(replicas(rule)[0][:, 1:], 0, ddof=1).sum()
        for rule in (
            stochastic(),
            stochastic(common_noise=False),
            stochastic(chains=1),
        )
    )
    assert apart / common > 3
    assert one / common == pytest.approx(8, rel=0.3)


def test_without_temperature_it_is_deterministic():
    """T → 0: EP's own gradient."""
    cold = chain(400, False, 1e-18)
    settle = ep.Euler(0.25, 2000, 1e-13)
    system, (x, y) = hopfield((3, 4, 2)), batch(size=2)
    expected = ep.EquilibriumPropagation(settle, settle, 0.1)(system, COST, x, y)
    rule = ep.StochasticEquilibriumPropagation(cold, cold, 0.1, samples=2)
    found = call(rule, system, x, y, key=jax.random.key(0))
    np.testing.assert_allclose(flat(found), flat(expected), atol=1e-7)
    assert float(found.loss) == pytest.approx(float(expected.loss), abs=1e-7)


class Double(ep.AbstractEnergy):
    """Two wells, in a box if there is one: nothing Gaussian."""

    depth: jax.Array
    bound: float = eqx.field(static=True, default=np.inf)

    def init_state(self, x):
        return jnp.zeros(1)

    def energy(self, x, s):
        return jnp.sum(self.depth * (s**2 - 1) ** 2 + x * s)

    def project(self, s):
        return jnp.clip(s, -0.3, self.bound)

    def readout(self, s):
        return s


@pytest.mark.parametrize("bound", [np.inf, 0.9])
def test_adjusted_law_within_bounds(bound):
    """E[s] and E[s²] of e^{−E/T} on the box, by quadrature; unadjusted differs."""
    system = Double(jnp.array(0.7), bound)
    x = jnp.full((6000, 1), 0.3)
    s = np.linspace(-0.3, min(bound, 4), 20001)
    weights = np.exp(-(0.7 * (s**2 - 1) ** 2 + 0.3 * s) / T)
    weights /= weights.sum()
    exact = np.array([weights @ s, weights @ s**2])
    deviations = []
    for adjusted in (True, False):
        found = relax(system, x, chain(40, adjusted, dt=0.15), 4)
        u = np.asarray(found.state)[:, 0]
        deviations.append(np.abs(z_scores(np.stack([u, u**2], 1), exact)).max())
        assert u.min() >= -0.3
        assert u.max() <= bound
        assert (found.status == ep.Status.unsettled).all()
    assert deviations[0] < 4
    assert deviations[1] > 8


def test_adjusted_primitive_has_the_law_of_its_flow():
    """Φ's velocity ∂Φ/∂s − s descends ½‖s‖² − Φ, so the precision is (1 − M)/T."""
    system = primitive()
    x = jnp.zeros((4000, 3))
    s = np.asarray(relax(system, x, chain(40), 1).state)
    exact = T * np.linalg.inv(np.eye(4) - np.asarray(system.M))
    products = (s[:, :, None] * s[:, None]).reshape(len(s), -1)
    assert np.abs(z_scores(products, exact.ravel())).max() < 4


def boltzmann(**options):
    settings = {"chains": 8, "samples": 40} | options
    return ep.BoltzmannLearning(chain(), chain(), **settings)


def test_boltzmann_gradient_is_that_of_the_surprise():
    """−d log p(y|x)/dθ in A, W and b."""
    system, x, y = problem()
    values, stats = replicas(boltzmann())
    exact = ravel_pytree(quick(jax.grad(surprise))(system, x, y))[0]
    scores = z_scores(values[:, 1:], exact)
    assert np.abs(scores).max() < 4
    assert np.abs(z_scores(2 * values[:, 1:], exact)).max() > 10
    assert 0.6 < stats["clamped_acceptance"].mean() < 1


def test_contrastive_divergence_tends_to_boltzmann():
    """CD-40 is Boltzmann; the mean of CD-2 has gone two steps to the free mean."""
    system, x, y = problem()

    def divergence(k, adjusted):
        phases = (chain(1), chain(40, adjusted), k)
        rule = ep.ContrastiveDivergence(*phases, chains=8, samples=10, thinning=2)
        return replicas(rule)[0][:, 1:]

    exact = ravel_pytree(quick(jax.grad(surprise))(system, x, y))[0]
    assert np.abs(z_scores(divergence(40, True), exact)).max() < 4
    decay = np.eye(5) - 0.25 * np.asarray(system.A)
    rows = []
    for one, target in zip(np.asarray(x), np.asarray(y), strict=True):
        free, _ = law(system, one, target, 0)
        held, _ = law(system, one, target, 1e9)
        rows.append((free + decay @ decay @ (held - free) - held) / T)
    two = divergence(2, False)[:, -5:]
    assert np.abs(z_scores(two, np.mean(rows, 0))).max() < 4
    assert np.abs(z_scores(two, exact[-5:])).max() > 10


def test_held_outputs_do_not_move_whatever_the_bounds():
    """The target, exactly, also outside of the box; the others move."""
    system, (x, y) = box_hopfield(), batch(size=2)
    dynamics = ep.Dynamics(Clamped(system, y[0]), x[0], None, None, 0.0)
    start = jax.tree.map(lambda u: u + 0.5, system.init_state(x[0]))
    for adjusted in (True, False):
        hot = chain(40, adjusted, 1e-2, 0.02)
        settle = quick(lambda s, hot=hot: hot.settle(dynamics, s, jax.random.key(0)))
        end = settle(start).state
        np.testing.assert_allclose(end[-1], y[0], atol=IDENTITY)
        assert jnp.abs(end[0] - start[0]).max() > 1e-3


RULES = {
    "stochastic": lambda: stochastic(chains=2, samples=3),
    "boltzmann": lambda: boltzmann(chains=2, samples=3),
    "cd": lambda: ep.ContrastiveDivergence(chain(5), chain(5), 3, 2, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stochastic", "cd"])
def test_weights_leave_examples_out(name):
    """A NaN of weight 0 leaks nowhere; states are one chain's, one an example."""
    system, (x, y) = hopfield((3, 4, 2)), batch(size=3)
    rule, key = RULES[name](), jax.random.key(0)
    weight = jnp.array([1.0, 0, 2])
    one = quick(lambda x, y: rule(system, COST, x, y, key=key, weight=weight))
    found, other = (one(x.at[1].set(bad), y) for bad in (jnp.nan, 0.3))
    np.testing.assert_allclose(flat(found), flat(other), atol=IDENTITY)
    assert np.isfinite(flat(found)).all()
    assert np.abs(flat(found)).max() > 0
    scalars = [v for v in found.stats.values.values() if v.ndim == 0]
    assert np.isfinite([found.loss, *scalars]).all()
    assert jax.tree.leaves(found.equilibrium.state)[0].shape[0] == 3
    steps = rule.free.steps + rule.samples * rule.thinning
    assert found.equilibrium.steps.tolist() == [steps] * 3
    assert found.equilibrium.status.tolist() == [1, 3, 1]


def test_training_on_the_way():
    """`fit` evaluates with noise too; a named rule comes with warm phases."""
    (x, y), like = batch(size=5), ep.EquilibriumPropagation(chain(), chain())
    x, y = x.astype(float), y.astype(float)
    for name in RULES:
        rule = ep.estimators.named_estimator(name, like)
        assert rule.free == like.free
        plain = ep.EquilibriumPropagation(ep.Sweep(5), ep.Sweep(3), 0.5)
        warm = ep.estimators.named_estimator(name, plain)
        assert isinstance(warm.free, ep.Langevin)
        assert not warm.free.adjusted
    found = ep.fit(
        *(hopfield((3, 4, 2)), COST, x, y),
        estimator=ep.BoltzmannLearning(chain(5, False), chain(5, False), samples=1),
        epochs=1,
        batch_size=4,
        test=(x, y),
        persistent=True,
    )
    assert found.history[-1]["settled"] == 0


def test_senseless_combinations_are_refused():
    """With the reason."""
    x, y = batch(size=2)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="pass key="):
        ep.relax(problem()[0], x, chain())
    with pytest.raises(ValueError, match="pass key="):
        stochastic()(problem()[0], COST, x, y)
    for system, kind in ((field(), "vector field"), (tanh_map(), "map")):
        with pytest.raises(ValueError, match=f"is a {kind}: its velocity descends no"):
            ep.relax(system, x, chain(), key=key)
        ep.relax(system, x, chain(1, False), key=key)
    with pytest.raises(ValueError, match="has no potential"):
        stochastic(False)(field(), COST, x, y, key=key)
    for bad, words in (
        ({"temperature": 0}, "temperature is 0; use ep.Euler"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be positive"),
        ({"dt": 0}, "dt is 0"),
        ({"tol": 1e-3}, "tol is 0.001; it must be None"),
    ):
        with pytest.raises(ValueError, match=words):
            ep.Langevin(**bad)
    with pytest.raises(ValueError, match="temperatures of the phases differ"):
        ep.BoltzmannLearning(chain(), chain(temperature=0.1))
    with pytest.raises(ValueError, match="free is Euler"):
        ep.StochasticEquilibriumPropagation(ep.Euler(), chain())
    with pytest.raises(ValueError, match="steps is 0; it must be a whole number ≥ 1"):
        ep.ContrastiveDivergence(chain(), chain(), 0)
    with pytest.raises(ValueError, match="choose 'centered' or 'one-sided'"):
        stochastic(nudging="random-sign")
    with pytest.raises(ValueError, match="no gradient at one given state"):
        jax.grad(lambda s: ep.settle(s, x, adjoint=stochastic(), key=key).sum())(
            problem()[0]
        )
    with pytest.raises(ValueError, match=r"readout mixes or changes units"):
        boltzmann()(_Curved(jnp.eye(2)), COST, x, y, key=key)
    with pytest.raises(ValueError, match="its target"):
        boltzmann()(problem()[0], lambda p, y: jnp.sum(p) * y, x, y[:, 0], key=key)


class _Curved(ep.AbstractEnergy):
    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def energy(self, x, s):
        return 0.5 * s @ self.w @ s

    def readout(self, s):
        return s**2
