"""Rules that learn along the nudged path, and the vector-field rules."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import IDENTITY, SLOPE
from zoo import (
    flat,
    batch,
    dict_energy,
    hopfield,
    SoftmaxReadout,
    tanh_map,
)

import eqprop as ep
from eqprop.estimators import ESTIMATORS, named_estimator
from eqprop.training import config_from_json, config_to_json

pytestmark = pytest.mark.usefixtures("x64")

SETTLE = ep.Euler(0.2, 4000, 1e-13)
PATH = ep.Euler(0.2, 12)
COST = ep.SquaredError()


def off(found, expected):
    a, b = (flat((g.grads, g.cost_grads)) for g in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def small():
    return hopfield((3, 4, 2))


def leaky(**options):
    return ep.LeakyIntegrator(
        (3, 4, 2), key=jax.random.key(0), activation=ep.tanh, angle=90.0, **options
    )


def continual(beta=0.05, eta=0.1, nudged=PATH, nudging="one-sided"):
    return ep.ContinualEquilibriumPropagation(SETTLE, nudged, beta, nudging, eta)


def stdp(beta=0.05, nudging="one-sided", rule="rates", nudged=PATH):
    return ep.SpikeTimingDependentPlasticity(SETTLE, nudged, beta, nudging, rule)


# Continual EP


def written_out(system, cost, x, y, rates, beta, dt, steps):
    """C-EP as the paper's loop; the potential's increment or that of C-VF."""
    s = ep.relax(system, x, SETTLE).state
    total = eqx.partition((system, cost), eqx.is_inexact_array)

    def costs(model, s):
        return jnp.mean(jax.vmap(lambda s, y: model[1](model[0].readout(s), y))(s, y))

    def potentials(model, s):
        return jnp.mean(jax.vmap(model[0].potential)(x, s))

    @eqx.filter_jit
    def step(model, s, first):
        def nudge(s, y):
            return jax.grad(lambda u: model[1](model[0].readout(u), y))(s)

        velocity = jax.vmap(model[0].velocity)(x, s)
        force = jax.vmap(nudge)(s, y)
        moved = jax.tree.map(
            lambda s, v, f: s + dt * (v - beta * f), s, velocity, force
        )
        change = eqx.filter_grad(lambda m: costs(m, moved) - first * costs(m, s))(model)
        if model[0].potential is not None:
            after, before = (eqx.filter_grad(potentials)(model, u) for u in (moved, s))
            learned = jax.tree.map(lambda a, b: (a - b) / beta, after, before)
        else:

            def along(m):
                pairs = zip(
                    jax.tree.leaves(jax.vmap(m[0].velocity)(x, s)),
                    jax.tree.leaves(jax.tree.map(jnp.subtract, moved, s)),
                    strict=True,
                )
                return -sum(jnp.sum(v * d) for v, d in pairs) / (beta * len(x))

            learned = eqx.filter_grad(along)(model)
        params, static = eqx.partition(model, eqx.is_inexact_array)
        params = jax.tree.map(
            lambda p, a, b, eta: p - eta * (a + b), params, learned, change, rates
        )
        return eqx.combine(params, static), moved

    model = eqx.combine(*total)
    for t in range(steps):
        # The first step adds ∂C/∂θ(s⁰), of which the difference takes one away.
        model, s = step(model, s, jnp.where(t == 0, 0.0, 1.0))
    return model


@pytest.mark.parametrize("name", ["hopfield", "leaky"])
def test_sgd_lands_where_the_path_ended(name):
    """θ_K of the paper's loop, with a rate for each layer and a cost that learns."""
    system = {"hopfield": small, "leaky": leaky}[name]()
    cost = SoftmaxReadout(jnp.array([[1.0, 0.5], [-0.5, 1.0]]))
    x, y = batch(size=3)
    rule = continual(eta=(0.1, 0.2, 0.3), nudged=ep.Euler(0.2, 4))
    model = (system, cost)
    params = eqx.filter(model, eqx.is_inexact_array)
    groups = {"hopfield": ((0, 1), (0, 1)), "leaky": ((0, 1), (0, 1), (1,))}[name]
    rates = jax.tree.unflatten(
        jax.tree.structure(params),
        [(0.1, 0.2)[k] for group in groups for k in group] + [0.3],
    )
    expected = written_out(system, cost, x, y, rates, 0.05, 0.2, 4)
    gradient = rule(system, cost, x, y)
    optimizer = ep.Optimizer("sgd", (0.1, 0.2, 0.3)).build(model, 1)
    grads = (gradient.grads, gradient.cost_grads)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    landed = flat(eqx.filter(eqx.apply_updates(model, updates), eqx.is_inexact_array))
    theta = flat(eqx.filter(expected, eqx.is_inexact_array))
    np.testing.assert_allclose(landed, theta, atol=1e-14)
    assert jnp.abs(landed - flat(params)).max() > 1e-3


@pytest.mark.parametrize(
    "name", ["hopfield", pytest.param("dict", marks=pytest.mark.slow)]
)
def test_continual_updates_are_eps_and_bptts_as_the_rate_vanishes(name):
    """Step by step, t = 0…K: the error falls with slope 1 in η."""
    system, (x, y) = {"hopfield": small, "dict": dict_energy}[name](), batch(size=3)
    options = {"free": SETTLE, "dt": 0.2, "steps": 12}
    expected = ep.ep_process(
        *(system, COST, x, y), **options, beta=1e-2, nudging="one-sided"
    )
    errors = []
    for eta in (1e-4, 1e-5):
        path = continual(1e-2, jnp.asarray(eta)).path(system, COST, x, y)
        errors.append(np.abs(flat(path.grads) - flat(expected.grads)).max())
    assert np.log10(errors[0] / errors[1]) == pytest.approx(1, rel=SLOPE)
    bptt = ep.bptt_process(system, COST, x, y, **options)
    errors = []
    for beta in (1e-3, 1e-4):
        path = continual(jnp.asarray(beta), jnp.asarray(1e-4 * beta**2)).path(
            *(system, COST, x, y)
        )
        errors.append(np.abs(flat(path.grads) - flat(bptt.grads)).max())
    assert np.log10(errors[0] / errors[1]) == pytest.approx(1, rel=SLOPE)
    assert errors[1] < 1e-3 * np.abs(flat(bptt.grads)).max()
    assert path.grads.__class__ is system.__class__


class Noisy(ep.Euler):
    """Euler steps with a random kick."""

    def step(self, dynamics, s, key):
        moved, residual = super().step(dynamics, s, key)
        kick = 1e-3 * jax.random.normal(key)
        return jax.tree.map(lambda u: u + kick, moved), residual


@pytest.mark.parametrize(
    ("nudged", "rule"),
    [
        (ep.Euler(0.2, 300, 1e-3), "continual"),
        (ep.Sweep(3), "stdp"),
        (Noisy(0.2, 6), "continual"),
    ],
)
def test_the_path_is_that_of_the_relaxation(nudged, rule):
    """Stopping of single examples, blocks in turn, randomness: those of EP's phase."""
    problem = (small(), COST, *batch(size=4))
    key = jax.random.key(3)
    plain = ep.EquilibriumPropagation(SETTLE, nudged, 0.05, "random-sign")
    expected = plain(*problem, key=key)
    if rule == "stdp":
        found = stdp(0.05, "random-sign", nudged=nudged)(*problem, key=key)
    else:
        found = continual(0.05, 1e-11, nudged, "random-sign")(*problem, key=key)
    assert off(found, expected) < 1e-8
    for what in ("nudged_steps", "nudged_status"):
        np.testing.assert_array_equal(found.stats[what], expected.stats[what])
    if nudged.tol is not None:
        assert len(set(np.asarray(expected.stats["nudged_steps"]).ravel())) > 1


def test_only_plain_sgd_at_the_same_rate_trains_continual_ep():
    """What remembers, schedules, clips, decays or has another rate is refused."""
    system, (x, y) = small(), batch(size=4)
    wrong = [
        ep.Optimizer("adam", (0.1,)),
        ep.Optimizer("sgd", (0.2,)),
        ep.Optimizer("sgd", (0.1, 0.2)),
        ep.Optimizer("sgd", (0.1,), options={"momentum": 0.9}),
        ep.Optimizer("sgd", (0.1,), schedule="cosine"),
        optax.chain(optax.clip_by_global_norm(1e3), optax.sgd(0.1)),
        optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1)),
    ]
    for optimizer in wrong:
        if isinstance(optimizer, ep.Optimizer):
            optimizer = optimizer.build((system, COST), 1000)
        with pytest.raises(ValueError, match=r"use ep.Optimizer\('sgd', \(0.1,\)\)"):
            continual().check_optimizer(
                optimizer, eqx.filter((system, COST), eqx.is_inexact_array)
            )
    with pytest.raises(ValueError, match="is not plain SGD at the rule's own"):
        ep.fit(system, COST, x, y, estimator=continual())  # Adam
    settings = {"epochs": 1, "batch_size": 4}
    fitted = ep.fit(
        *(system, COST, x, y),
        estimator=continual(),
        optimizer=ep.Optimizer("sgd", (0.1,)),
        **settings,
    )
    gradient = continual()(system, COST, x, y)
    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, eqx.filter(system, eqx.is_array), gradient.grads
    )
    np.testing.assert_allclose(
        *(flat(eqx.filter(s, eqx.is_array)) for s in (fitted.system, expected)),
        atol=IDENTITY,
    )


# Spike timing


@pytest.mark.parametrize(
    ("name", "nudging"),
    [
        ("hopfield", "centered"),
        ("prototypical", "one-sided"),
        pytest.param("map", "one-sided", marks=pytest.mark.slow),
    ],
)
def test_the_integral_of_rates_is_the_contrast(name, nudging):
    """Exactly: ρρ is bilinear; so is a primitive, taken with the trapezoid."""
    system = {
        "hopfield": hopfield,
        "prototypical": lambda: ep.PrototypicalNetwork(
            (3, 4, 2), key=jax.random.key(1)
        ),
        "map": tanh_map,
    }[name]()
    problem = (system, COST, *batch(size=4))
    contrast = ep.EquilibriumPropagation(SETTLE, PATH, 0.3, nudging)(*problem)
    assert off(stdp(0.3, nudging)(*problem), contrast) < IDENTITY


def test_the_integral_of_a_general_energy_is_of_second_order_in_dt():
    """The trapezoid along the same time of path."""
    problem = (dict_energy(), COST, *batch(size=4))
    errors = []
    for refinement in (4, 8):
        nudged = ep.Euler(0.2 / refinement, 6 * refinement)
        contrast = ep.EquilibriumPropagation(SETTLE, nudged, 1.0, "one-sided")
        found = stdp(1.0, nudged=nudged)
        errors.append(off(found(*problem), contrast(*problem)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, rel=SLOPE)
    assert errors[1] > 1e-8


def numpy_path(system, x, y, state, beta, force, steps=12, dt=0.2):
    """States of a 2-layer network along the nudged phase, in plain NumPy."""
    h, o = (np.asarray(layer) for layer in state)
    path = [(h, o)]
    for _ in range(steps):
        dh, do = force(h, o)
        h, o = h + dt * (dh - h), o + dt * (do - o + beta * (y - o))
        path.append((h, o))
    return path


def test_potentials_lack_the_factor_of_the_rates():
    """Both rules against sums of ρ(u_i) ρ′(u_j) du_j and ρ(u_i) du_j in NumPy."""
    system, (x, y) = small(), batch(size=1)
    beta = 0.3
    (w1, w2), (b1, b2) = (
        [np.asarray(p) for p in leaves] for leaves in (system.weights, system.biases)
    )
    rho = np.tanh

    def slope(u):
        return 1 - np.tanh(u) ** 2

    def force(h, o):
        drive = x[0] @ w1 + w2 @ rho(o) + b1
        return slope(h) * drive, slope(o) * (rho(h) @ w2 + b2)

    start = [leaf[0] for leaf in ep.relax(system, x, SETTLE).state]
    path = numpy_path(system, x[0], np.asarray(y[0]), start, beta, force)
    for rule in ("rates", "potentials"):
        gradient = stdp(beta, rule=rule)(system, COST, x, y).grads
        expected = [0.0, 0.0, 0.0, 0.0]
        for (h, o), (h2, o2) in itertools.pairwise(path):
            rh, ro = 0.5 * (rho(h) + rho(h2)), 0.5 * (rho(o) + rho(o2))
            dh, do = h2 - h, o2 - o
            if rule == "rates":  # ρ′ is the slope of the secant, exact for Δρ
                dh, do = dh * (rho(h2) - rho(h)) / dh, do * (rho(o2) - rho(o)) / do
            terms = (np.outer(x[0], dh), np.outer(rh, do) + np.outer(dh, ro), dh, do)
            expected = [e - t / beta for e, t in zip(expected, terms, strict=True)]
        for found, wanted in zip(
            (*gradient.weights, *gradient.biases), expected, strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=IDENTITY)
    problem = (system, COST, x, y)
    assert off(stdp(beta, rule="potentials")(*problem), stdp(beta)(*problem)) > 0.05


def test_both_rules_agree_for_linear_units():
    """ρ′ = 1: a hard sigmoid strictly inside its bounds."""
    net = hopfield((3, 4, 2), ep.hard_sigmoid, scale=0.2)
    net = eqx.tree_at(lambda n: n.biases, net, tuple(b + 0.5 for b in net.biases))
    problem = (net, COST, *batch(size=3))
    found = [stdp(0.1, rule=rule)(*problem) for rule in ("rates", "potentials")]
    assert all(((s > 0) & (s < 1)).all() for s in found[0].equilibrium.state)
    assert off(*found) < IDENTITY


def test_leaky_integrators_learn_by_paper_cs_rule():
    """dW ∝ ρ(s_j) ds_i along the path; as β → 0 the vector-field rule."""
    system, (x, y) = leaky(), batch(size=1)
    (w1, w2), (b1, b2) = (
        [np.asarray(p) for p in leaves] for leaves in (system.weights, system.biases)
    )
    back = np.asarray(system.backward[0])

    def force(h, o):
        return x[0] @ w1 + back @ np.tanh(o) + b1, np.tanh(h) @ w2 + b2

    start = [leaf[0] for leaf in ep.relax(system, x, SETTLE).state]
    path = numpy_path(system, x[0], np.asarray(y[0]), start, 0.3, force)
    forward = feedback = 0.0
    for (h, o), (h2, o2) in itertools.pairwise(path):
        forward -= np.outer(0.5 * (np.tanh(h) + np.tanh(h2)), o2 - o) / 0.3
        feedback -= np.outer(h2 - h, 0.5 * (np.tanh(o) + np.tanh(o2))) / 0.3
    problem = (system, COST, x, y)
    grads = stdp(0.3)(*problem).grads
    np.testing.assert_allclose(grads.weights[1], forward, atol=IDENTITY)
    np.testing.assert_allclose(grads.backward[0], feedback, atol=IDENTITY)
    errors = []
    for beta in (1e-2, 1e-3):
        rule = ep.VectorFieldEquilibriumPropagation(SETTLE, PATH, beta, "one-sided")
        errors.append(off(stdp(beta)(*problem), rule(*problem)))
    assert np.log10(errors[0] / errors[1]) == pytest.approx(1, rel=SLOPE)


# Vector fields


def test_the_vector_field_rule_of_an_energy_has_the_same_limit():
    """−(∂velocity/∂θ(s⁰))ᵀ (s^β − s⁰)/β; at finite β it is not EP's contrast."""
    problem = (system, cost, x, y) = (small(), COST, *batch(size=3))
    exact = ep.ImplicitDifferentiation(SETTLE)(*problem)
    vf = ep.VectorFieldEquilibriumPropagation(SETTLE, SETTLE, 0.5, "one-sided")
    found = vf(*problem)
    start = found.equilibrium.state
    nudged = ep.relax(system, x, SETTLE, state=start, cost=cost, y=y, beta=0.5).state
    drift = jax.tree.map(lambda a, b: -(a - b) / (0.5 * len(x)), nudged, start)
    _, pull = eqx.filter_vjp(lambda n: jax.vmap(n.velocity)(x, start), system)
    np.testing.assert_allclose(flat(found.grads), flat(pull(drift)[0]), atol=1e-9)
    small_nudge = ep.VectorFieldEquilibriumPropagation(SETTLE, SETTLE, 1e-4)
    assert off(small_nudge(*problem), exact) < 1e-6


def test_kolen_pollack_shares_the_update_and_forgets():
    """W − B shrinks by 1 − η decay; the others learn by the vector-field rule."""
    system = leaky()
    problem = (system, COST, *batch(size=3))
    rule = ep.KolenPollackEquilibriumPropagation(SETTLE, PATH, 0.1, decay=0.25)
    grads = rule(*problem).grads
    plain = ep.VectorFieldEquilibriumPropagation(SETTLE, PATH, 0.1)(*problem).grads
    shared = 0.5 * (plain.weights[1] + plain.backward[0])
    np.testing.assert_allclose(
        grads.weights[1], shared + 0.25 * system.weights[1], atol=IDENTITY
    )
    others = lambda g: (g.weights[0], g.biases)  # noqa: E731
    np.testing.assert_allclose(flat(others(grads)), flat(others(plain)), atol=IDENTITY)
    moved = jax.tree.map(
        lambda p, g: p - 0.2 * g, eqx.filter(system, eqx.is_array), grads
    )
    np.testing.assert_allclose(
        moved.weights[1] - moved.backward[0],
        (1 - 0.2 * 0.25) * (system.weights[1] - system.backward[0]),
        atol=IDENTITY,
    )


def test_backward_weights_learn_at_the_rate_of_their_partners():
    """Both ends of a synapse have one rate, so that Kolen and Pollack's pairs meet."""
    net = ep.LeakyIntegrator((3, 4, 4, 2), key=jax.random.key(0), angle=None)
    rates = (0.3, 0.2, 0.1)
    params = (eqx.filter(net, eqx.is_inexact_array), None)
    ones = jax.tree.map(jnp.ones_like, params)
    sgd = ep.Optimizer("sgd", rates).build(params, 1)
    moved = sgd.update(ones, sgd.init(params), params)[0]
    sizes = jax.tree.map(lambda leaf: -float(leaf.ravel()[0]), moved[0])
    assert sizes.weights == sizes.biases == pytest.approx(rates)
    assert sizes.backward == pytest.approx(rates[1:])

    path = {"free": SETTLE, "nudged": ep.Euler(0.1, 1), "beta": 0.1}
    x, y = batch(size=3)
    problem = (net, COST, x, y)
    continual = ep.ContinualEquilibriumPropagation(**path, learning_rate=rates)
    continual.check_optimizer(sgd, params)
    pairs = ep.KolenPollackEquilibriumPropagation(**path, decay=0.25)(*problem).grads
    moved = sgd.update((pairs, None), sgd.init(params), params)[0][0]
    for n, rate in enumerate(rates[1:]):
        before = net.weights[n + 1] - net.backward[n]
        after = before + moved.weights[n + 1] - moved.backward[n]
        np.testing.assert_allclose(after, (1 - 0.25 * rate) * before, atol=IDENTITY)


def test_pairs_are_parameters():
    """A product of one is none that a rate or a decay could be for."""

    class Turned(ep.LeakyIntegrator):
        def reciprocal(self):
            return [w.T for w in self.weights[1:]], self.backward

    net = Turned((2, 4, 1), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"Turned.reciprocal\(\) must return two"):
        ep.Optimizer("sgd", (0.1, 0.2)).build((net, None), 1)


# What they share


class Scaled(ep.HopfieldEnergy):
    """An energy whose synapses are not the ones it declares."""

    def energy(self, x, s):
        return super().energy(x, s) - self.synapses(x, s)


class Odd(ep.LeakyIntegrator):
    """Pairs that do not match."""

    def reciprocal(self):
        return self.weights, self.backward


def test_combinations_that_make_no_sense_are_refused():
    """With the reason."""
    x, y = batch(size=2)
    for arguments, message in (
        ({"nudging": "centered"}, "two paths cannot both move the parameters"),
        ({"eta": 0.0}, "learning_rate is 0.0; it must be positive"),
        ({"eta": (0.1, -1.0)}, r"learning_rate is \(0.1, -1.0\)"),
        ({"eta": ()}, r"learning_rate is \(\)"),
        ({"nudged": ep.Euler(0.2, 0)}, "nudged.steps is 0; the rule learns along"),
        ({"beta": 0}, "beta is 0; it must be finite and not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            continual(**arguments)
    with pytest.raises(ValueError, match="learning_rate has 3 values; give one for al"):
        continual(eta=(0.1, 0.1, 0.1))(small(), COST, x, y)
    with pytest.raises(ValueError, match="rule is 'spikes'; choose 'rates'"):
        stdp(rule="spikes")
    for system, message in (
        (leaky(), "has no potential: the factor"),
        (dict_energy(), r"declares no rates\(s\) and synapses\(x, rates\)"),
    ):
        with pytest.raises(ValueError, match=message):
            stdp(rule="potentials")(system, COST, x, y)
    wrong = Scaled((3, 4, 2), key=jax.random.key(0), activation=ep.tanh)
    with pytest.raises(ValueError, match=r"Scaled: ∂potential/∂θ is not −∂synapses"):
        stdp()(wrong, COST, x, y)
    pairs = ep.KolenPollackEquilibriumPropagation(SETTLE, PATH)
    with pytest.raises(ValueError, match="declares no pairs of forward and backward"):
        pairs(small(), COST, x, y)
    with pytest.raises(ValueError, match="and both sequences must match"):
        pairs(Odd((3, 4, 2), key=jax.random.key(0)), COST, x, y)
    with pytest.raises(ValueError, match="decay is -1; it must be finite and not neg"):
        ep.KolenPollackEquilibriumPropagation(SETTLE, PATH, decay=-1)
    for rule in (continual(), pairs):
        with pytest.raises(ValueError, match="gives no gradient of the loss above"):
            ep.settle(small(), x, adjoint=rule)


class Leaps(ep.Euler):
    """A relaxation with a way of its own."""

    def settle(self, dynamics, s, key):
        return super().settle(dynamics, s, key)


def test_a_relaxation_without_steps_has_no_path():
    with pytest.raises(ValueError, match="settles in a way of its own"):
        stdp(nudged=Leaps())


RULES = {
    "cep": lambda p: ep.ContinualEquilibriumPropagation(p, p, 0.5, learning_rate=0.2),
    "stdp": lambda p: ep.SpikeTimingDependentPlasticity(p, p, 0.1),
    "vf": lambda p: ep.VectorFieldEquilibriumPropagation(p, p, 0.1),
    "kp": lambda p: ep.KolenPollackEquilibriumPropagation(p, p, 0.1),
}


@pytest.mark.parametrize("word", RULES)
def test_a_rule_is_chosen_by_its_word_and_kept(word):
    """Phases of the recipe's rule; a run's configuration gives it back."""
    config = ep.recipe("digits").config
    rule = named_estimator(word, config.estimator)
    assert type(rule) is ESTIMATORS[word]
    assert (rule.free, rule.nudged) == (config.estimator.free, config.estimator.nudged)
    config = dataclasses.replace(config, estimator=rule)
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize("nudging", ["one-sided", "random-sign", "centered"])
def test_a_rule_that_is_chosen_nudges_as_the_one_before(nudging):
    """Fails if a word changes more than the rule; C-EP has no centered nudge."""
    phases = (ep.Euler(0.5, 99), ep.Euler(0.5, 7))
    like = ep.EquilibriumPropagation(*phases, 0.1, nudging)
    around = ep.JacobianHomeostasis(like, 0.1)
    assert named_estimator("ep", around) == like
    for word in ("ep", "vf", "kp", "cep"):
        for rule in (like, around):
            found = named_estimator(word, rule)
            assert (found.free, found.nudged, found.beta) == (*phases, 0.1)
            same = word != "cep" or nudging != "centered"
            assert found.nudging == (nudging if same else "one-sided")
