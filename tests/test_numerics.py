"""Numbers at their limits: rounding, extreme sizes, foreign arrays, copies, sweeps."""

import copy
import multiprocessing
import pickle
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import batch, hopfield, quadratic

import eqprop as ep
from eqprop.estimators import _rounding, NotSettled, RoundedGradient
from eqprop.relaxations._base import with_exact
from eqprop.systems import _check
from eqprop.systems._norm import norm

EULER = ep.Euler(0.4, 60)
COST = ep.SquaredError()


def largest(tree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def numbers(tree):
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


# Rounding


def rounded_and_exact(rule, system, x, y):
    """A rule's gradient in float32, and its own in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: jnp.asarray(a, float) if eqx.is_inexact_array(a) else a,
            (system, x, y),
        )
        exact = rule(wide[0], COST, *wide[1:])
    return rule(system, COST, x, y), numbers(exact.grads)


@pytest.mark.parametrize("nudging", ["one-sided", "centered"])
@pytest.mark.parametrize("activation", [ep.hard_sigmoid, ep.tanh])
def test_the_estimate_is_the_error_against_float64(activation, nudging):
    """Within a factor of 5 for every β; an error above 1 is all."""
    system = hopfield((12, 16, 4), activation, seed=8)
    x, y = batch(12, 4, 16, seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoundedGradient)
        for beta in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
            rule = ep.EquilibriumPropagation(EULER, EULER, beta, nudging)
            found, exact = rounded_and_exact(rule, system, x, y)
            own = numbers(found.grads)
            error = np.linalg.norm(own - exact) / max(np.linalg.norm(own), 1e-30)
            estimate = float(found.stats["rounding"])
            assert 0.2 < estimate / min(error, 1) < 5, (beta, error, estimate)


def test_a_rounded_gradient_is_told_once_with_a_beta_that_does(monkeypatch):
    """The β that the warning names leaves an error of about 1 %; float64 has none."""
    monkeypatch.setattr(_rounding, "_told", set())
    system, (x, y) = hopfield((3, 6, 2)), batch()
    rule = ep.EquilibriumPropagation(EULER, EULER, 3e-7, "one-sided")
    with pytest.warns(RoundedGradient, match="beta is 3e-07") as told:
        rule(system, COST, x, y)
    rule(system, COST, x, y)  # a second warning would be an error
    proposed = float(str(told[0].message).split("beta of about ")[1].split()[0][:-1])
    better = ep.EquilibriumPropagation(EULER, EULER, proposed, "one-sided")
    found, exact = rounded_and_exact(better, system, x, y)
    assert np.linalg.norm(numbers(found.grads) - exact) < 0.05 * np.linalg.norm(exact)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, float), (x, y))
        quiet = ep.EquilibriumPropagation(EULER, EULER, 2e-7, "one-sided")
        quiet(hopfield((3, 6, 2)), COST, *wide)


@pytest.mark.parametrize(
    "rule",
    [
        ep.CoupledLearning(EULER, EULER, 1e-8),
        ep.SpikeTimingDependentPlasticity(EULER, EULER, 1e-8),
        ep.ContinualEquilibriumPropagation(EULER, EULER, 1e-8, learning_rate=1e-9),
        ep.HolomorphicEquilibriumPropagation(EULER, EULER, 1e-8, 2),
        ep.AsymmetricEquilibriumPropagation(EULER, EULER, 1e-8),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_every_rule_that_contrasts_states_tells_it(rule, monkeypatch):
    """Those that linearise (RBP, BPTT, implicit, dyadic) contrast nothing."""
    monkeypatch.setattr(_rounding, "_told", set())
    x, y = batch()
    with pytest.warns(RoundedGradient, match=type(rule).__name__):
        rule(hopfield((3, 6, 2)), COST, x, y)


def test_a_solved_example_is_not_a_rounded_gradient():
    """At cost 0 the phases are equal, and so they should be."""
    system, (x, _) = hopfield((3, 6, 2)), batch()
    y = jax.vmap(system.readout)(ep.relax(system, x, EULER).state)
    found = ep.EquilibriumPropagation(EULER, EULER, 7e-3)(system, COST, x, y)
    assert found.loss < 1e-9


def test_training_tells_it_in_the_first_epoch(monkeypatch):
    """Once; a usual β is silent."""
    x, y = batch()
    for beta, told in ((0.2, 0), (1e-8, 1)):
        monkeypatch.setattr(_rounding, "_told", set())
        rule = ep.EquilibriumPropagation(EULER, EULER, beta)
        settings = {"estimator": rule, "epochs": 2, "batch_size": 3}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ep.fit(hopfield((3, 6, 2)), COST, x, y, **settings)
        found = [w for w in caught if w.category is RoundedGradient]
        assert len(found) == told


# Convergence of `settle`


def test_settle_returns_the_equilibrium_that_relax_finds():
    """Also under jit, as a constant for derivatives."""
    system, (x, _) = quadratic(), batch()
    rule = ep.ImplicitDifferentiation(ep.Euler(0.3, 4))
    expected = ep.relax(system, x, rule.free)

    @jax.jit
    def loss(x):
        state, found = ep.settle(system, x, adjoint=rule, with_equilibrium=True)
        return jnp.sum(state) + jnp.sum(found.residual), (state, found)

    (_, (state, found)), gradient = jax.value_and_grad(loss, has_aux=True)(x)
    np.testing.assert_allclose(state, expected.state, atol=1e-6)
    np.testing.assert_allclose(found.residual, expected.residual, rtol=1e-4)
    np.testing.assert_array_equal(found.status, expected.status)
    assert (np.asarray(found.status) != ep.Status.settled).all()
    plain = jax.grad(lambda x: jnp.sum(ep.settle(system, x, adjoint=rule)))(x)
    np.testing.assert_allclose(gradient, plain, rtol=1e-6)


def test_settle_warns_under_jit_where_asked():
    """Of both phases, and not where all settle."""
    system, (x, _) = quadratic(), batch()

    def gradient(steps, warn=True):
        phase = ep.Euler(0.3, steps)
        rule = ep.EquilibriumPropagation(phase, phase, 0.1)

        @jax.jit
        def loss(x):
            return jnp.sum(ep.settle(system, x, adjoint=rule, warn=warn))

        jax.block_until_ready(jax.grad(loss)(x))
        jax.effects_barrier()

    with pytest.warns(NotSettled) as told:
        gradient(3)
    said = " ".join(str(w.message) for w in told)
    assert "6 of 6 states of the free phase" in said
    assert "12 of 12 states of the nudged phase" in said
    gradient(3, warn=False)
    gradient(100)


# Sizes


@pytest.mark.parametrize("size", [1e-34, 1e-25, 1.0, 1e25, 1e37])
def test_norm_of_numbers_of_any_size(size):
    """Against float64, whose squares are in range; also of complex numbers."""
    v = np.random.default_rng(0).normal(size=9).astype(np.float32)
    tree = {"a": jnp.asarray(size * v[:4]), "b": jnp.asarray(size * v[4:])}
    expected = size * np.linalg.norm(np.float64(v))
    np.testing.assert_allclose(norm(tree), expected, rtol=1e-6)
    turned = jax.tree.map(lambda a: a * jnp.exp(0.3j), tree)
    np.testing.assert_allclose(norm(turned), expected, rtol=1e-5)
    assert norm(jnp.zeros(3)) == 0
    assert jnp.isnan(norm(jnp.array([1.0, jnp.nan])))


@pytest.mark.parametrize("size", [1e-25, 1e25])
@pytest.mark.parametrize("kind", ["ep", "implicit"])
def test_the_gradient_of_a_scaled_loss_is_scaled(kind, size):
    """Losses whose squared cotangents leave float32's range."""
    system, (x, y) = quadratic(), batch()
    rules = {
        "ep": ep.EquilibriumPropagation(EULER, EULER, 0.1),
        "implicit": ep.ImplicitDifferentiation(EULER),
    }

    def gradient(size):
        def loss(system, x):
            state = ep.settle(system, x, adjoint=rules[kind])
            return size * jnp.sum((jax.vmap(system.readout)(state) - y) ** 2)

        return jax.tree.map(lambda g: g / size, jax.grad(loss, (0, 1))(system, x))

    np.testing.assert_allclose(
        numbers(gradient(size)), numbers(gradient(1.0)), rtol=1e-4, atol=1e-6
    )


# Derivatives that no learning rule gives


def test_other_derivatives_of_settle_are_refused_in_words():
    """Forward mode and second derivatives, compiled or not."""
    system, (x, _) = quadratic(), batch()
    rule = ep.RecurrentBackpropagation(EULER, 0.4, 20)

    def loss(x):
        return jnp.sum(ep.settle(system, x, adjoint=rule) ** 2)

    forward = {
        "jvp": lambda: jax.jvp(loss, (x,), (x,)),
        "compiled": lambda: jax.jit(lambda x: jax.jvp(loss, (x,), (x,)))(x),
        "linearize": lambda: jax.linearize(loss, x)[1](x),
    }
    for run in forward.values():
        with pytest.raises(NotImplementedError, match=r"reverse mode.*forward mode"):
            run()
    second = {
        "hessian": lambda: jax.hessian(loss)(x),
        "twice": lambda: jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x),
    }
    for run in second.values():
        with pytest.raises(NotImplementedError, match="first derivatives"):
            run()
    # Reverse mode passes through checkpoint, scan and vmap.
    expected = jax.grad(loss)(x)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(x), expected)
    many = jax.vmap(jax.grad(loss))(jnp.stack([x, x]))
    np.testing.assert_allclose(many[1], expected, rtol=1e-5)


# Arrays of other libraries


class Tensor:
    """Like PyTorch's: a dtype of its own, read by NumPy once it is detached."""

    dtype = "foreign.float32"

    def __init__(self, array, needs_grad=True):
        self.array, self.needs_grad = array, needs_grad

    def detach(self):
        return Tensor(self.array, False)

    def __array__(self, dtype=None, copy=None):
        if self.needs_grad:
            raise RuntimeError("use detach() first")
        return np.asarray(self.array, dtype)


class OnDevice:
    """An array that only DLPack reads."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


FOREIGN = {
    "big-endian": lambda a: a.astype(">f4"),
    "long": lambda a: a.astype(np.longdouble),
    "tensor": Tensor,
    "dlpack": OnDevice,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_arrays_give_the_gradient_of_numpy_arrays(kind):
    """In a rule, `relax`, `settle` and `fit`."""
    system, (x, y) = quadratic(), batch()
    x, y = np.array(x), np.array(y)
    rule = ep.EquilibriumPropagation(EULER, EULER, 0.1)
    given = FOREIGN[kind](x), FOREIGN[kind](y)
    expected, found = rule(system, COST, x, y), rule(system, COST, *given)
    np.testing.assert_array_equal(numbers(found.grads), numbers(expected.grads))
    settled = ep.settle(system, given[0], adjoint=rule)
    np.testing.assert_allclose(settled, expected.equilibrium.state, atol=1e-6)
    relaxed = ep.relax(system, given[0], EULER)
    np.testing.assert_array_equal(relaxed.state, expected.equilibrium.state)


class Loader:
    """Batches one after the other."""

    def __iter__(self):
        yield np.zeros((2, 3)), np.zeros((2, 2))


@pytest.mark.parametrize(
    ("x", "fragments"),
    [
        (Loader(), ("x is a Loader", "zip(*loader)")),
        ((pair for pair in ()), ("x is a generator", "np.stack")),
        (np.ma.masked_less(np.ones((6, 3)), 0), ("masked array", "filled")),
        ("data.npz", ("x is a str", "np.load")),
        ([1.0, 2.0], ("x[0] is a Python float", "np.asarray(x)")),
        (Tensor(np.zeros((6, 3), object)), ("dtype object",)),
        (object(), ("x is a object, not an array",)),
    ],
)
def test_what_is_no_array_is_named(x, fragments):
    """With what it is and what to do."""
    _, y = batch()
    rule = ep.EquilibriumPropagation(EULER, EULER, 0.1)
    with pytest.raises(ValueError, match="x") as error:
        rule(quadratic(), COST, x, y)
    assert all(fragment in str(error.value) for fragment in fragments)


def test_the_advice_for_a_loader_works():
    """x, y = (np.concatenate(parts) for parts in zip(*loader))."""
    x, y = (np.concatenate(parts) for parts in zip(*Loader(), strict=True))
    assert _check.batch_size(x=x, y=y) == 2


def test_strict_promotion_is_refused_with_the_cure():
    """And the cure works."""
    x, y = batch()
    rule = ep.EquilibriumPropagation(EULER, EULER, 0.1)
    with jax.numpy_dtype_promotion("strict"):
        with pytest.raises(ValueError, match="jax_numpy_dtype_promotion is 'strict'"):
            rule(quadratic(), COST, x, y)
        with jax.numpy_dtype_promotion("standard"):
            rule(quadratic(), COST, x, y)


# Hyper-parameters


def rules(number, beta, dt, tol):
    """Rules whose hyper-parameters are numbers of any kind."""
    euler = ep.Euler(number(dt), 20, number(tol))
    phases = {"free": euler, "nudged": euler, "beta": number(beta)}
    sweep = ep.Sweep(5, number(tol), omega=number(1 + beta))
    walk = ep.Langevin(number(dt), 5, number(beta), adjusted=False)
    return {
        "ep": ep.EquilibriumPropagation(**phases),
        "sweep": ep.EquilibriumPropagation(sweep, sweep, number(beta), "one-sided"),
        "stdp": ep.SpikeTimingDependentPlasticity(**phases),
        "dyadic": ep.DyadicEquilibriumPropagation(euler, number(dt), 9, number(beta)),
        "rbp": ep.RecurrentBackpropagation(euler, number(dt), 9),
        "bptt": ep.BackpropagationThroughTime(euler, number(dt), 9),
        "implicit": ep.ImplicitDifferentiation(euler, number(100 * tol)),
        "stochastic": ep.StochasticEquilibriumPropagation(walk, walk, number(beta)),
    }


@pytest.mark.parametrize("kind", rules(float, 0.1, 0.2, 1e-4))
def test_a_sweep_compiles_once_and_numpy_numbers_are_numbers(kind, caplog):
    """The second value of every number finds the program of the first."""
    system, (x, y) = hopfield((3, 6, 2)), batch()
    key = jax.random.key(0)

    def gradient(number, *values):
        return rules(number, *values)[kind](system, COST, x, y, key=key)

    gradient(float, 0.1, 0.2, 1e-4)
    caplog.set_level("WARNING", "jax")
    with jax.log_compiles(True):
        other = gradient(float, 0.15, 0.25, 2e-4)
        same = gradient(np.float64, 0.15, 0.25, 2e-4)
    assert "Compiling" not in caplog.text
    np.testing.assert_array_equal(numbers(same.grads), numbers(other.grads))
    # Constants of a user's own program give the same numbers, to rounding.
    inside = eqx.filter_jit(
        lambda system, x, y: rules(np.float32, 0.15, 0.25, 2e-4)[kind](
            system, COST, x, y, key=key
        )
    )(system, x, y)
    assert largest(
        jax.tree.map(jnp.subtract, inside.grads, other.grads)
    ) < 1e-4 * largest(other.grads)


def test_jax_numbers_train():
    """NumPy's and JAX's numbers in the rule that `fit` compiles."""
    system, (x, y) = hopfield((3, 6, 2)), batch()
    losses = []
    for number in (float, np.float32, np.float64, jnp.float32):
        phase = ep.Euler(number(0.25), 20)
        rule = ep.EquilibriumPropagation(phase, phase, number(0.5))
        fit = ep.fit(system, COST, x, y, estimator=rule, epochs=1)
        losses.append(fit.history[0]["loss"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


# Copies


def _outputs(model, x):
    """For another process: the outputs of a network."""
    return np.asarray(jax.vmap(model.readout)(ep.relax(model, x, EULER).state))


KEY = jax.random.key(3)
PICKLED = {
    "hopfield": lambda: ep.HopfieldEnergy((3, 4, 2), key=KEY, activation=ep.tanh),
    "hard": lambda: ep.HopfieldEnergy((3, 4, 2), key=KEY, activation=ep.hard_sigmoid),
    "prototypical": lambda: ep.PrototypicalNetwork((3, 4, 2), key=KEY),
    "weak": lambda: ep.XieSeungEnergy((3, 4, 2), gamma=0.5, key=KEY),
    "own": lambda: hopfield((3, 4, 2), ep.Activation(jax.nn.relu, bend=1.0)),
}


@pytest.mark.parametrize("kind", PICKLED)
def test_networks_survive_a_pickle_and_a_copy(kind):
    """They are equal, so that no program is compiled again for the copy."""
    system, (x, _) = PICKLED[kind](), batch()
    for found in (pickle.loads(pickle.dumps(system)), copy.deepcopy(system)):
        assert eqx.tree_equal(found, system)
        assert jax.tree.structure(found) == jax.tree.structure(system)
        np.testing.assert_array_equal(_outputs(found, x), _outputs(system, x))


def test_a_fit_a_rule_and_a_config_survive_a_pickle():
    """Equal again."""
    system, (x, y) = PICKLED["hard"](), batch()
    rule = ep.EquilibriumPropagation(EULER, EULER, 0.2)
    fit = ep.fit(system, COST, x, y, estimator=rule, epochs=1)
    config = ep.recipe("digits").config
    found = pickle.loads(pickle.dumps((fit, rule, config)))
    assert eqx.tree_equal(found[0].system, fit.system)
    assert found[0].history == fit.history
    assert found[1:] == (rule, config)


def test_an_activation_without_a_name_cannot_be_pickled():
    """The error says what to do."""
    activation = ep.Activation(lambda s: s)
    with pytest.raises(pickle.PicklingError, match="define it with def"):
        pickle.dumps(activation)


@pytest.mark.slow
def test_another_process_gets_the_same_network():
    """By the spawn method, which pickles function and arguments."""
    system, (x, _) = PICKLED["hopfield"](), batch()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_outputs, (system, np.asarray(x)))
    np.testing.assert_allclose(found, _outputs(system, x), atol=1e-6)


def test_rounding_is_of_the_whole_gradient():
    """A readout of weights 0 sends no nudge: the gradient is 0, and not rounded."""

    class Readout(eqx.Module):
        weight: jax.Array

        def __call__(self, prediction, y):
            return 0.5 * jnp.sum((prediction @ self.weight - y) ** 2)

    net = ep.HopfieldEnergy((3, 5, 4), key=jax.random.key(0), activation=ep.tanh)
    x = jax.random.normal(jax.random.key(1), (6, 3))
    steps = ep.Euler(0.3, 60)
    rule = ep.EquilibriumPropagation(steps, steps, beta=0.1)
    for scale, most in ((0.0, 1e-5), (1e-6, 1e-3)):
        found = rule(net, Readout(jnp.full((4, 2), scale)), x, jnp.ones((6, 2)))
        assert float(found.stats["rounding"]) <= most
        assert float(jnp.abs(found.cost_grads.weight).max()) > 0.01


def test_a_batch_that_is_not_measured_pays_nothing_for_the_estimate():
    """Not measured: no call of `project`, and the same bits of the gradient."""
    x, y = (jnp.asarray(u, jnp.float32) for u in batch(size=3))
    phase = ep.Euler(0.3, 40)
    system = hopfield((3, 4, 2))
    calls = []

    class Counted(eqx.Module):
        def project(self, s):
            jax.debug.callback(lambda: calls.append(1))
            return s

    found = {}
    for exact in (True, False):
        rule = ep.EquilibriumPropagation(phase, phase, 0.2)
        measured = with_exact(rule, jnp.array(exact))
        found[exact] = measured(system, ep.SquaredError(), x, y)
        state = found[exact].equilibrium.state
        calls.clear()
        _rounding.rounding(Counted(), measured.nudged, state, state)
        jax.effects_barrier()
        assert len(calls) == 2 * exact
    assert found[True].stats["rounding"] > 0 == found[False].stats["rounding"]
    pairs = zip(*(jax.tree.leaves(g.grads) for g in found.values()), strict=True)
    for one, other in pairs:
        assert (one == other).all()
