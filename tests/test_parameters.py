"""Bounds of parameters, frozen parameters and shared arrays, in every trainer."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array
from tolerances import IDENTITY
from zoo import batch, hopfield

import eqprop as ep
from eqprop.systems._parameters import frozen_parameters, inside_bounds
from messages import assert_holds, command, refused

COST = ep.SquaredError()
SETTLE = ep.Euler(0.3, 15)


class Resistors(ep.AbstractEnergy):
    """Conductances g within [0, limit], the limit read in the projection alone."""

    g: Array
    bias: Array
    limit: Array

    def init_state(self, x):
        return jnp.zeros(4)

    def energy(self, x, s):
        drop = s[:, None] - x[None, :]
        return 0.5 * jnp.sum(s**2) + 0.5 * jnp.sum(self.g * drop**2) - self.bias @ s

    def readout(self, s):
        return s[:2]

    def project_parameters(self):
        inside = jnp.clip(self.g, 0, self.limit)
        return eqx.tree_at(lambda system: system.g, self, inside)


def resistors(limit=0.2):
    g = jax.random.uniform(jax.random.key(4), (4, 3), maxval=0.2)
    return Resistors(g, jnp.zeros(4), jnp.array(limit))


def rule(nudging="centered"):
    return ep.EquilibriumPropagation(SETTLE, SETTLE, 0.1, nudging)


def numbers(tree):
    return [
        np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]


# Bounds


@pytest.mark.usefixtures("x64")
def test_training_is_projected_gradient_descent():
    """As a plain loop that clips after each update; the limit itself stays."""
    system, (x, y) = resistors(), batch(size=8)
    for _ in range(4):
        for start in (0, 4):
            part = slice(start, start + 4)
            grads = rule()(system, COST, x[part], y[part]).grads
            moved = (system.g - 2.0 * grads.g, system.bias - 2.0 * grads.bias)
            moved = (jnp.clip(moved[0], 0, 0.2), moved[1])
            system = eqx.tree_at(lambda s: (s.g, s.bias), system, moved)
    settings = {"epochs": 4, "batch_size": 4, "shuffle": False}
    sgd = ep.Optimizer("sgd", (2.0,))
    found = ep.fit(
        *(resistors(), COST, x, y), estimator=rule(), optimizer=sgd, **settings
    )
    for a, b in zip(numbers(found.system), numbers(system), strict=True):
        np.testing.assert_allclose(a, b, atol=IDENTITY)
    assert {0.0, 0.2} & set(found.system.g.ravel().tolist())


def test_a_system_without_bounds_pays_nothing():
    """The very same arrays: nothing is added to the program."""
    for system in (hopfield(), ep.DiscreteEnergy(hopfield(), 0.2)):
        params, static = eqx.partition((system, COST), eqx.is_inexact_array)
        inside = inside_bounds(params, static)
        pairs = zip(jax.tree.leaves(inside), jax.tree.leaves(params), strict=True)
        program = jax.make_jaxpr(lambda p, s=static: inside_bounds(p, s))(params)
        if type(system) is not ep.DiscreteEnergy:
            assert all(a is b for a, b in pairs)
            assert not program.eqns


def test_a_wrapped_energy_keeps_its_bounds():
    inner = eqx.tree_at(lambda s: s.g, resistors(), jnp.full((4, 3), 0.9))
    projected = ep.DiscreteEnergy(inner, 0.2).project_parameters()
    assert (projected.system.g == 0.2).all()


class Lost(Resistors):
    def project_parameters(self):
        return None


class Cut(Resistors):
    def project_parameters(self):
        return eqx.tree_at(lambda system: system.g, self, self.g[:, :2])


class Misspelt(Resistors):
    def project_parameters(self):
        return self.conductance


@pytest.mark.parametrize(
    ("kind", "value", "fragments"),
    [
        (Resistors, -0.25, ("g starts outside", "1 of 12", "(2, 1)", "-0.25", "be 0;")),
        (Resistors, 0.75, ("(2, 1)", "0.75", "must be 0.2", "project_parameters()")),
        (Lost, 0.1, ("NoneType", "must return the system")),
        (Cut, 0.1, ("shape (4, 2) for g", "(4, 3)")),
        (Misspelt, 0.1, ("project_parameters failed", "'conductance'")),
    ],
)
def test_bounds_are_checked_at_the_start(kind, value, fragments):
    """The leaf, the place and the value, before anything is trained."""
    plain = resistors()
    system = kind(plain.g.at[2, 1].set(value), plain.bias, plain.limit)
    with pytest.raises(ValueError, match="project_parameters") as error:
        ep.fit(system, COST, *batch(size=4), estimator=rule())
    assert_holds(str(error.value), *fragments)


def test_bounds_do_not_hide_an_overflow():
    """An infinite update is a failed step, not a parameter at its bound."""
    huge = optax.chain(optax.sgd(1e38), optax.scale(1e38))
    with pytest.raises(RuntimeError, match=r"update|optimizer"):
        ep.fit(resistors(), COST, *batch(size=4), estimator=rule(), optimizer=huge)


@pytest.mark.usefixtures("x64")
def test_continual_ep_is_inside_at_every_step():
    """θ_{t+1} = P(θ_t − η d_t), as a plain loop finds it; SGD reaches its end."""
    system, (x, y), eta, beta = resistors(), batch(size=4), 0.6, 0.5
    nudged = ep.Euler(0.3, 5)
    continual = ep.ContinualEquilibriumPropagation(
        SETTLE, nudged, beta, learning_rate=eta
    )
    state = ep.relax(system, x, SETTLE).state
    first = system
    for _ in range(5):
        moved = ep.relax(
            *(system, x, ep.Euler(0.3, 1)), state=state, cost=COST, y=y, beta=beta
        ).state

        def change(system, before=state, after=moved):
            energy = jax.vmap(system.potential)
            return jnp.mean(energy(x, after) - energy(x, before)) / beta

        grads = eqx.filter_grad(change)(system)
        system = eqx.apply_updates(
            system, jax.tree.map(lambda g: -eta * g, grads)
        ).project_parameters()
        state = moved
    assert {0.0, 0.2} & set(system.g.ravel().tolist())
    grads = continual(first, COST, x, y).grads
    np.testing.assert_allclose(first.g - eta * grads.g, system.g, atol=IDENTITY)
    found = ep.fit(
        *(first, COST, x, y),
        estimator=continual,
        optimizer=ep.Optimizer("sgd", (eta,)),
        **{"epochs": 1, "batch_size": 4},
    )
    np.testing.assert_allclose(found.system.g, system.g, atol=IDENTITY)
    assert found.system.g.min() >= 0
    assert found.system.g.max() <= 0.2


# Optimizers that optax wraps and projects


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("way", ["chain", "projection", "steps"])
def test_optax_wraps_an_optimizer(way):
    """A rate per layer, then optax's projection, against a plain loop."""
    net, (x, y), rates = hopfield((3, 4, 2)), batch(size=4), (0.5, 0.2)
    plain = ep.Optimizer("sgd", rates)
    wrapped = {
        "chain": optax.chain(plain, optax.keep_params_nonnegative()),
        "projection": ep.Optimizer("sgd", rates, projection="non_negative"),
        "steps": optax.chain(
            optax.MultiSteps(plain, 1), optax.keep_params_nonnegative()
        ),
    }[way]
    settings = {"epochs": 3, "batch_size": 4}
    found = ep.fit(net, COST, x, y, estimator=rule(), optimizer=wrapped, **settings)
    for _ in range(3):
        grads = rule()(net, COST, x, y).grads
        layers = [
            (jnp.maximum(w - eta * g, 0), jnp.maximum(b - eta * h, 0))
            for w, b, g, h, eta in zip(
                *(net.weights, net.biases, grads.weights, grads.biases, rates),
                strict=True,
            )
        ]
        parts = tuple(zip(*layers, strict=True))
        net = eqx.tree_at(lambda n: (n.weights, n.biases), net, parts)
    for a, b in zip(numbers(found.system), numbers(net), strict=True):
        np.testing.assert_allclose(a, b, atol=IDENTITY)


def test_the_command_line_projects(small_file, capsys):
    """A box for every parameter, kept in the run's configuration."""
    words = ["train", "--data", str(small_file), "--run", "run", "--epochs", "1"]
    words += ["--optimizer.projection", "box", "--model.hidden", "4"]
    words += ["--optimizer.projection-options", "lower", "-0.1", "upper", "0.05"]
    status, _, message = command(capsys, *words)
    assert status == 0, message
    run = ep.load("run")
    kept = run.config.optimizer.projection_options
    assert kept == {"lower": -0.1, "upper": 0.05}
    values = np.concatenate([leaf.ravel() for leaf in numbers(run.system)])
    assert values.min() == pytest.approx(-0.1, abs=1e-7)
    assert values.max() == pytest.approx(0.05, abs=1e-7)


def test_projections_that_do_not_exist(capsys):
    for options, message in (
        ({"projection": "positive"}, "is 'positive'; choose one of .* non_negative"),
        ({"projection_options": {"lower": 0}}, "has no 'lower'; it takes none"),
        ({"projection": "box", "projection_options": {"low": 0}}, "takes lower, upper"),
        ({"projection": "box", "projection_options": {"lower": 0}}, "lacks upper"),
    ):
        with pytest.raises(ValueError, match=message):
            ep.Optimizer("sgd", (0.1,), **options)
    words = ("train", "--optimizer.projection", "sphere", "--run", "r")
    assert_holds(refused(capsys, *words), "'sphere'", "l2_sphere")
    with pytest.raises(ValueError, match="schedule is 'cosine'"):
        optax.chain(ep.Optimizer("sgd", (0.1,), "cosine"), optax.scale(1.0)).init({})


# Frozen parameters


class Partly(ep.AbstractEnergy):
    """`still` is frozen in the energy, `gain` in the readout, `unit` is dead."""

    w: Array
    still: Array
    gain: Array
    unit: Array
    unused: Array

    def init_state(self, x):
        return jnp.zeros(4)

    def energy(self, x, s):
        still = jax.lax.stop_gradient(self.still)
        dead = jnp.maximum(self.unit - 50, 0) * jnp.sum(s)
        return 0.5 * jnp.sum(s**2) - s @ (self.w @ x) * still - dead

    def readout(self, s):
        return jax.lax.stop_gradient(self.gain) * s[:2]


def partly():
    w = jax.random.normal(jax.random.key(1), (4, 3))
    return Partly(w, jnp.array(0.7), jnp.ones(2), jnp.array(2.0), jnp.ones(3))


class Outside(eqx.Module):
    """A cost of which one array is frozen."""

    scale: Array
    shift: Array

    def __call__(self, prediction, y):
        scaled = jax.lax.stop_gradient(self.scale) * prediction + self.shift
        return 0.5 * jnp.sum((scaled - y) ** 2)


DECAY = {"weight_decay": 0.1}
OPTIMIZERS = {
    "adamw": lambda: ep.Optimizer("adamw", (0.1,), options=DECAY),
    "lion": lambda: optax.lion(0.1, **DECAY),
    "wrapped": lambda: optax.chain(
        ep.Optimizer("adamw", (0.1,), options=DECAY), optax.keep_params_nonnegative()
    ),
    "added": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "steps": lambda: optax.MultiSteps(optax.adamw(0.1, **DECAY), 2),
    "noise": lambda: optax.chain(optax.sgd(0.1), optax.add_noise(0.1, 0.5, key=0)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_moves_what_is_frozen(name):
    """Bit for bit, in the system and in the cost; a dead unit decays as it should."""
    system, cost = partly(), Outside(jnp.full(2, 0.9), jnp.full(2, 0.5))
    found = ep.fit(
        *(system, cost, *batch(size=8)),
        estimator=rule(),
        optimizer=OPTIMIZERS[name](),
        **{"epochs": 2, "batch_size": 4},
    )
    for frozen in ("still", "gain", "unused"):
        np.testing.assert_array_equal(
            getattr(found.system, frozen), getattr(system, frozen)
        )
    np.testing.assert_array_equal(found.cost.scale, cost.scale)
    assert (found.system.w != system.w).any()
    assert (found.cost.shift != cost.shift).any()
    updates = 2 if name == "steps" else 4
    if name != "noise":
        assert found.system.unit == pytest.approx(2 * 0.99**updates, rel=1e-6)


def test_a_rule_that_gives_a_gradient_moves_it():
    """Only the optimizer's own part is held back: a rule may learn the first state."""

    class Start(ep.AbstractEnergy):
        first: Array
        w: Array

        def init_state(self, x):
            return self.first

        def energy(self, x, s):
            return 0.5 * jnp.sum((s - self.w * x) ** 2)

        def readout(self, s):
            return s

    class FirstState(ep.EquilibriumPropagation):
        def at(self, *arguments):
            found = super().at(*arguments)
            ones = jnp.ones_like(found.grads.first)
            return eqx.tree_at(lambda g: g.grads.first, found, ones)

    x, y = jnp.ones((4, 2)), jnp.zeros((4, 2))
    system = Start(jnp.ones(2), jnp.ones(2))
    settings = {"optimizer": optax.sgd(0.1), "epochs": 1, "batch_size": 4}
    learning = FirstState(SETTLE, SETTLE, 0.1)
    found = ep.fit(system, COST, x, y, estimator=learning, **settings)
    np.testing.assert_allclose(found.system.first, 0.9, rtol=1e-6)


def compare(w, x):
    return jnp.where(w > 0, x, -x)


def through_scan(w, x):
    w = jax.lax.stop_gradient(w)
    return jax.lax.scan(lambda u, _: (u + jnp.sin(w), None), x, None, 3)[0]


def in_a_branch(w, x):
    return jax.lax.cond(x[0] > 0, lambda: w * x, lambda: x)


WAYS = {
    "stopped": (lambda w, x: jax.lax.stop_gradient(w) * x, True),
    "in a jit": (jax.jit(lambda w, x: jax.lax.stop_gradient(w) * x), True),
    "in a scan": (through_scan, True),
    "compared": (compare, True),
    "rounded": (lambda w, x: jnp.round(w) * x, True),
    "not read": (lambda w, x: x, True),
    "times zero": (lambda w, x: 0 * w * x, False),
    "straight through": (
        lambda w, x: (w + jax.lax.stop_gradient(jnp.sign(w) - w)) * x,
        False,
    ),
    "in a branch": (in_a_branch, False),
    "stopped once": (lambda w, x: (w + jax.lax.stop_gradient(w)) * x, False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["energy", "field", "project", "readout"])
def test_what_is_frozen(way, kind):
    """By the program that reads the array, wherever in the model it is read."""
    function, expected = WAYS[way]
    reads = functools.partial(_reads, function, kind)

    class Model(ep.AbstractVectorField):
        w: Array

        def init_state(self, x):
            return jnp.zeros(3)

        def velocity(self, x, s):
            return reads("field", self.w, x) - s

        def project(self, s):
            return reads("project", self.w, s)

        def readout(self, s):
            return reads("readout", self.w, s)

    class Energy(Model):
        def potential(self, x, s):
            return jnp.sum(reads("energy", self.w, s))

    model = (Energy if kind == "energy" else Model)(jnp.ones(3))
    example = (jax.ShapeDtypeStruct((3,), float),) * 3
    assert frozen_parameters((model, COST), *example)[0].w is expected


def _reads(function, kind, here, w, x):
    return function(w, x) if kind == here else x


class OneWay(ep.LeakyIntegrator):
    """Backward weights that stay as they are."""

    def feedback(self, k):
        return jax.lax.stop_gradient(super().feedback(k))


@pytest.mark.usefixtures("x64")
def test_kolen_pollack_leaves_frozen_weights_alone():
    """They get no decay, and their partners a gradient of their own."""
    net = OneWay((3, 4, 4, 2), key=jax.random.key(0), angle=None)
    x, y = batch(size=4)
    options = {"free": SETTLE, "nudged": SETTLE, "beta": 0.1}
    pairs = ep.KolenPollackEquilibriumPropagation(**options, decay=0.25)
    found = pairs(net, COST, x, y).grads
    plain = ep.VectorFieldEquilibriumPropagation(**options)(net, COST, x, y).grads
    assert not any(b.any() for b in found.backward)
    for k in (1, 2):
        expected = plain.weights[k] + 0.25 * net.weights[k]
        np.testing.assert_allclose(found.weights[k], expected, atol=IDENTITY)
    settings = {"optimizer": optax.adamw(0.1), "epochs": 1, "batch_size": 2}
    trained = ep.fit(net, COST, x, y, estimator=pairs, **settings).system
    for before, after in zip(net.backward, trained.backward, strict=True):
        np.testing.assert_array_equal(before, after)


def test_continual_ep_sees_a_decay_of_parameters_that_are_zero():
    """At the start a decay of zero biases changes nothing; later it would."""
    net = hopfield((3, 4, 2))
    zeros = jax.tree.map(jnp.zeros_like, net.biases)
    net = eqx.tree_at(lambda n: n.biases, net, zeros)
    params = eqx.filter((net, COST), eqx.is_inexact_array)
    biases = jax.tree.map(lambda p: p.ndim == 1, params)
    sgd = optax.chain(optax.add_decayed_weights(0.1, biases), optax.sgd(0.1))
    continual = ep.ContinualEquilibriumPropagation(SETTLE, SETTLE, learning_rate=0.1)
    continual.check_optimizer(optax.sgd(0.1), params)
    for optimizer in (
        sgd,
        optax.chain(optax.sgd(0.1), optax.keep_params_nonnegative()),
    ):
        with pytest.raises(ValueError, match="plain SGD"):
            continual.check_optimizer(optimizer, params)


# One array in two fields


class Two(ep.AbstractEnergy):
    first: Array
    second: tuple

    def init_state(self, x):
        return jnp.zeros(3)

    def energy(self, x, s):
        pull = s @ self.first @ x + 0.1 * s @ self.second[0] @ s
        return 0.5 * jnp.sum(s**2) - pull

    def readout(self, s):
        return s[:2]


@pytest.mark.parametrize("kind", ["same", "view", "cost"])
def test_one_array_in_two_fields_is_told(kind):
    """Once, with both names and what to do; equal arrays are no such thing."""
    shared = 0.1 * np.ones((3, 3), np.float32)
    cost, other = COST, shared.T if kind == "view" else shared
    if kind == "cost":
        cost, other = Outside(jnp.ones(2), shared[0, :2]), shared.copy()
    names = {"cost": ("first", "cost.shift")}.get(kind, ("first", "second[0]"))
    settings = {"estimator": rule(), "epochs": 1}
    with pytest.warns(UserWarning, match="are one array") as told:
        ep.fit(Two(shared, (other,)), cost, *batch(size=4), **settings)
    assert len(told) == 1
    assert_holds(str(told[0].message), *names, "to tie them")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ep.fit(Two(shared, (shared.copy(),)), COST, *batch(size=4), **settings)
