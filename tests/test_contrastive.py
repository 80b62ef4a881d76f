"""CHL, coupled learning and Xie & Seung's network, by closed forms and oracles."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from tolerances import FINITE_DIFFERENCE, FIXED_POINT, IDENTITY, SLOPE
from zoo import (
    flat,
    batch,
    box_hopfield,
    dict_energy,
    DictEnergy,
    field,
    hopfield,
    primitive,
    quadratic,
    SoftmaxReadout,
)

import eqprop as ep
from eqprop.papers.a._contrastive import feed_forward, two_modes, TwoModes
from eqprop.estimators import named_estimator
from eqprop.kernels._correlation import Prepared
from eqprop.training import config_from_json, config_to_json

pytestmark = pytest.mark.usefixtures("x64")

SETTLE = ep.Euler(0.2, 2500, 1e-13)
SWEEP = ep.Sweep(300, 1e-13)
COST = ep.SquaredError()
CHL = ep.ContrastiveHebbianLearning
COUPLED = ep.CoupledLearning


def off(a, b):
    return float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b)))


class Selecting(DictEnergy):
    """The dict energy, reading two units of a matrix."""

    def readout(self, s):
        return s["b"][0]


def selecting():
    inner = dict_energy()
    return Selecting(inner.w, inner.t, inner.power)


# Each with the places of its outputs in the flattened state.
SYSTEMS = {
    "hopfield": (lambda: hopfield((3, 5, 2)), (-2, -1)),
    "dict": (selecting, (4, 5)),
    "primitive": (primitive, (0, 1)),
}


@eqx.filter_jit
def lowest(system, x, start, held, targets):
    """min E over the units that are not held, by plain gradient descent."""

    def one(x, s, target):
        flat_s, unflatten = ravel_pytree(s)
        moving = jnp.ones_like(flat_s)
        if target is not None:
            flat_s = flat_s.at[held].set(target)
            moving = moving.at[held].set(0.0)

        def energy(u):
            leak = 0.5 * u @ u if isinstance(system, ep.AbstractPrimitive) else 0.0
            return leak + system.potential(x, unflatten(u))

        force = jax.grad(energy)
        return energy(
            jax.lax.fori_loop(0, 2500, lambda _, u: u - 0.2 * moving * force(u), flat_s)
        )

    return jax.vmap(one)(x, start, targets)


def differences(system, x, state, held, betas, targets, directions, delta=1e-4):
    """Central differences in θ of the mean contrast, the clamped values held fixed."""
    params, static = eqx.partition(system, eqx.is_inexact_array)
    theta, unflatten = ravel_pytree(params)
    width = betas[0] - betas[1]

    def contrast(theta):
        moved = eqx.combine(unflatten(theta), static)
        energies = [
            lowest(moved, x, state, jnp.array(held), None if b == 0 else target)
            for b, target in zip(betas, targets, strict=True)
        ]
        return jnp.mean(energies[0] - energies[1]) / width

    return [
        (contrast(theta + delta * d) - contrast(theta - delta * d)) / (2 * delta)
        for d in directions
    ]


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradient_is_that_of_the_rules_own_contrast(name):
    """Finite differences of separately relaxed energies, for CHL and P-, N-, C-CpL."""
    make, held = SYSTEMS[name]
    system, (x, y) = make(), batch(size=3)
    count = flat(eqx.filter(system, eqx.is_inexact_array)).size
    directions = jax.random.normal(jax.random.key(0), (2, count)) / count**0.5
    rules = {
        (1.0, 0.0): CHL(SETTLE, SETTLE),
        (0.4, 0.0): COUPLED(SETTLE, SETTLE, jnp.asarray(0.4), "one-sided"),
        (-0.4, 0.0): COUPLED(SETTLE, SETTLE, jnp.asarray(-0.4), "one-sided"),
        (0.4, -0.4): COUPLED(SETTLE, SETTLE, 0.4),
    }
    if name != "hopfield":
        rules = {betas: rules[betas] for betas in [(1.0, 0.0)]}
    for betas, rule in rules.items():
        found = rule(system, COST, x, y)
        state = found.equilibrium.state
        o = jax.vmap(system.readout)(state)
        targets = [(1 - b) * o + b * y for b in betas]
        expected = differences(system, x, state, held, betas, targets, directions)
        np.testing.assert_allclose(
            [flat(found.grads) @ d for d in directions],
            expected,
            rtol=FINITE_DIFFERENCE,
            atol=1e-8,
        )
        loss = 0.5 * jnp.sum((o - y) ** 2, axis=1)
        np.testing.assert_allclose(found.loss, jnp.mean(loss), rtol=IDENTITY)
        assert found.stats["clamped_status"].shape == (1 + (betas[1] != 0), 3)
        assert (found.stats["clamped_status"] == ep.Status.settled).all()


def schur(a):
    """K, A_ho and A_hh⁻¹ of a quadratic energy whose last two units are outputs."""
    hidden, outputs = slice(0, -2), slice(-2, None)
    inverse = np.linalg.inv(a[hidden, hidden])
    k = a[outputs, outputs] - a[outputs, hidden] @ inverse @ a[hidden, outputs]
    return k, a[hidden, outputs], inverse


def test_closed_form_of_a_quadratic_energy():
    """CHL's objective is ½ (y − o)ᵀK(y − o), its gradient written out in NumPy."""
    system, (x, y) = quadratic(), batch(size=4)
    found = CHL(SETTLE, SETTLE)(system, COST, x, y)
    a, w, b, xs, ys = map(np.asarray, (system.A, system.W, system.b, x, y))
    k, across, inverse = schur(a)
    force = xs @ w.T + b
    free = np.linalg.solve(a, force.T).T
    hidden = (force[:, :-2] - ys @ across.T) @ inverse
    clamped = np.concatenate([hidden, ys], axis=1)
    away = ys - free[:, -2:]
    contrast = 0.5 * np.einsum("bi,ij,bj->b", away, k, away)
    np.testing.assert_allclose(found.stats["contrast"], contrast, rtol=FIXED_POINT)
    assert (contrast > 0).all()
    np.testing.assert_allclose(
        found.grads.b, -(clamped - free).mean(0), atol=FIXED_POINT
    )
    outer = np.einsum("bi,bj->ij", clamped - free, xs) / len(xs)
    np.testing.assert_allclose(found.grads.W, -outer, atol=FIXED_POINT)
    moment = np.einsum("bi,bj->ij", clamped, clamped)
    moment -= np.einsum("bi,bj->ij", free, free)
    np.testing.assert_allclose(found.grads.A, 0.5 * moment / 4, atol=FIXED_POINT)


class Metric(eqx.Module):
    """½ (ŷ − y)ᵀK(ŷ − y) with a K that does not learn."""

    k: Array

    def __call__(self, prediction, y):
        return 0.5 * (prediction - y) @ jax.lax.stop_gradient(self.k) @ (prediction - y)


def test_small_beta_is_the_gradient_in_the_metric_of_the_outputs_stiffness():
    """Two outputs: K's metric, not EP's direction; one output: EP's direction."""
    system, (x, y) = quadratic(), batch(size=4)
    coupled = COUPLED(SETTLE, SETTLE, 1e-3)(system, COST, x, y).grads
    exact = ep.ImplicitDifferentiation(SETTLE)
    k, *_ = schur(np.asarray(system.A))
    in_metric = exact(system, Metric(jnp.asarray(k)), x, y).grads
    assert off(coupled, in_metric) < 1e-8
    assert off(coupled, exact(system, COST, x, y).grads) > 0.1

    one = hopfield((3, 4, 1), output=ep.identity)
    coupled = flat(COUPLED(SWEEP, SWEEP, 1e-3)(one, COST, x[:1], y[:1, :1]).grads)
    nudged = ep.EquilibriumPropagation(SWEEP, SWEEP, 1e-3)
    ep_grads = flat(nudged(one, COST, x[:1], y[:1, :1]).grads)
    scale = jnp.linalg.norm
    assert scale(coupled / scale(coupled) - ep_grads / scale(ep_grads)) < 1e-5


def test_sweep_and_euler_agree_and_hold_the_outputs():
    """Within the bounds of the units and beyond them."""
    system, (x, y) = box_hopfield(), batch(size=4)
    system = eqx.tree_at(
        lambda n: n.activations, system, (ep.hard_sigmoid,) * len(system.activations)
    )
    found = [
        COUPLED(phase, phase, -0.7, "one-sided")(system, COST, x, y)
        for phase in (SETTLE, SWEEP)
    ]
    assert off(found[1].grads, found[0].grads) < FIXED_POINT
    target = jnp.array([-0.5, 1.7])
    clamped = ep.Clamped(system, target)
    held = ep.relax(clamped, x, SWEEP)
    assert (held.status == ep.Status.settled).all()
    assert (held.state[-1] == target).all()
    assert all((layer.min() >= 0) & (layer.max() <= 1) for layer in held.state[:-1])
    assert ep.Clamped(field(), target).potential is None


class OneUnit(ep.AbstractEnergy):
    """Six units, of which `read` returns some; E = ½‖s − w‖²."""

    w: Array
    order: Array
    read: str = eqx.field(static=True)

    def init_state(self, x):
        return {"u": jnp.zeros(4), "v": jnp.zeros(2)}

    def energy(self, x, s):
        return 0.5 * jnp.sum((flat(s) - self.w) ** 2)

    def readout(self, s):
        u, v = s["u"], s["v"]
        return {
            "picked": lambda: jnp.stack([v[1], u[0]]),
            "mixed": lambda: jnp.stack([u[0] + u[1], v[0]]),
            "scaled": lambda: 0.5 * v,
            "clipped": lambda: jnp.clip(v, 0, 1),
            "wide": lambda: jnp.clip(v, -1, 1),
            "shrunk": lambda: jnp.where(jnp.abs(v) > 1, v, 0),
            "shifted": lambda: v + 1,
            "largest": lambda: jnp.stack([jnp.max(u), v[0]]),
            "twice": lambda: jnp.stack([v[0], v[0]]),
            "weighted": lambda: self.w[:2] * v,
            "biased": lambda: v + self.w[:2],
            "ordered": lambda: v[self.order],
        }[self.read]()


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        ("mixed", "mixes or changes units"),
        ("scaled", "mixes or changes units"),
        ("clipped", "mixes or changes units"),
        ("wide", "mixes or changes units"),
        ("shrunk", "mixes or changes units"),
        ("shifted", "mixes or changes units"),
        ("largest", "mixes or changes units"),
        ("twice", "reads a unit twice"),
        ("weighted", "uses parameters, which would not learn"),
        ("biased", "uses parameters, which would not learn"),
        ("ordered", "reads through arrays of the system"),
    ],
)
def test_readouts_that_are_no_selection_are_refused(read, reason):
    """In words, under jit as well, before anything is compiled."""
    system = OneUnit(jnp.arange(6.0), jnp.array([1, 0]), read)
    x, y = batch()
    rule = CHL(ep.Euler(0.5, 1), ep.Euler(0.5, 1))
    with pytest.raises(ValueError, match=rf"OneUnit.readout {reason}.*Equilibrium"):
        eqx.filter_jit(rule)(system, COST, x, y)


def test_any_selection_is_held():
    """Units of two leaves in another order: E(s^∞) − E(s⁰) = ½‖y − w‖² there."""
    system, (x, y) = OneUnit(jnp.arange(6.0), jnp.array([1, 0]), "picked"), batch()
    found = CHL(SETTLE, SETTLE)(system, COST, x, y)
    away = y - jnp.array([5.0, 0.0])
    np.testing.assert_allclose(
        found.stats["contrast"], 0.5 * jnp.sum(away**2, axis=1), rtol=FIXED_POINT
    )
    expected = jnp.zeros(6).at[jnp.array([5, 0])].set(-away.mean(0))
    np.testing.assert_allclose(found.grads.w, expected, atol=FIXED_POINT)


def test_combinations_that_make_no_sense_are_refused():
    """With the reason."""
    (x, y), euler = batch(), ep.Euler(0.5, 1)
    rule, net = CHL(euler, euler), hopfield((3, 6, 2))
    with pytest.raises(ValueError, match="contrasts an energy, and Field has no"):
        rule(field(), COST, x, y)
    with pytest.raises(ValueError, match="SoftmaxReadout has parameters, which would"):
        rule(net, SoftmaxReadout(jnp.ones((2, 2))), x, y)
    with pytest.raises(ValueError, match=r"shape \(2,\) and its target \(\)"):
        rule(net, lambda p, y: p[y], x, jnp.zeros(6, int))
    with pytest.raises(ValueError, match="holds outputs at targets; a layer has none"):
        ep.settle(net, x, adjoint=rule)
    with pytest.raises(ValueError, match="beta is 0; it must be finite and not 0"):
        COUPLED(euler, euler, 0)
    with pytest.raises(ValueError, match="nudging is 'random-sign'; choose"):
        COUPLED(euler, euler, 0.1, "random-sign")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="clamped is 3; give a relaxation"):
        CHL(euler, 3)  # type: ignore[arg-type]
    for gamma in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"gamma is .*; it must be in \(0, 1\]"):
            ep.XieSeungEnergy((2, 1), gamma=gamma, key=jax.random.key(0))


def test_words_choose_the_rules():
    """Clamped and nudged phases stand for each other; a record makes them again."""
    nudged = ep.EquilibriumPropagation(ep.Sweep(9), ep.Sweep(3), 0.1)
    chl = named_estimator("chl", nudged)
    assert chl == CHL(ep.Sweep(9), ep.Sweep(3))
    assert named_estimator("coupled", nudged) == COUPLED(ep.Sweep(9), ep.Sweep(3), 0.1)
    assert named_estimator("ep", chl) == ep.EquilibriumPropagation(
        ep.Sweep(9), ep.Sweep(3), 0.25
    )
    config = dataclasses.replace(ep.recipe("digits").config, estimator=chl)
    assert config_from_json(config_to_json(config)) == config


def test_two_modes():
    """Movellan: J_CHL < 0 in closed form where EP's objective is the cost."""
    system = TwoModes(jnp.array(1.0), jnp.array(0.0))
    wells = np.sort(np.roots([1, 0, -1, 0.2]).real)
    left, right = (0.25 * (h**2 - 1) ** 2 + 0.2 * h for h in wells[[0, 2]])
    x, y = jnp.zeros((1, 1)), jnp.full((1, 1), wells[0])
    found = CHL(SETTLE, SETTLE)(system, COST, x, y)
    np.testing.assert_allclose(found.stats["contrast"], left - right, rtol=FIXED_POINT)
    assert left < right
    np.testing.assert_allclose(
        found.loss, 0.5 * (wells[2] - wells[0]) ** 2, rtol=FIXED_POINT
    )
    np.testing.assert_allclose(flat(found.grads), 0, atol=FIXED_POINT)
    trained = two_modes(steps=15)
    assert (trained["objective"] < 0).all()
    assert trained["EP"][-1] < 0.2 * trained["EP"][0]


def network(gamma, activation, sizes=(3, 5, 4, 2)):
    return ep.XieSeungEnergy(
        sizes,
        gamma=gamma,
        key=jax.random.key(4),
        activation=activation,
        output=ep.identity,
        initializer=ep.fan_in_uniform,
    )


def test_xie_seung_velocity_and_contrast():
    """The fixed point hears γ · feedback; CHL is the Hebbian rule at rates γ^{k−L}."""
    gamma, (x, y) = 0.3, batch(size=4)
    net = network(gamma, ep.tanh)
    s = tuple(jax.random.normal(jax.random.key(1), (n,)) for n in (5, 4, 2))
    w, b, r = net.weights, net.biases, (x[0], *net.rates(s))
    for k, (rho, u, v) in enumerate(
        zip(net.activations, s, net.velocity(x[0], s), strict=True)
    ):
        drive = r[k] @ w[k] + b[k]
        if k < 2:
            drive = drive + gamma * w[k + 1] @ r[k + 2]
        slope = jax.vmap(jax.grad(rho))(u)
        np.testing.assert_allclose(
            v, gamma ** (k - 2) * (slope * drive - u), rtol=IDENTITY
        )
    one = CHL(SWEEP, SWEEP)(net, COST, x[:1], y[:1])
    free = one.equilibrium.state
    target = ep.Clamped(net, y[0])
    clamped = ep.relax(target, x[:1], SWEEP, state=free).state
    rates = [(x[0], *(u[0] for u in net.rates(s))) for s in (clamped, free)]
    for k, grad in enumerate(one.grads.weights):
        hebb = jnp.outer(rates[0][k], rates[0][k + 1]) - jnp.outer(
            rates[1][k], rates[1][k + 1]
        )
        np.testing.assert_allclose(grad, -(gamma ** (k - 2)) * hebb, atol=FIXED_POINT)


def test_xie_seung_relaxes_as_its_blocks_say():
    """Euler's short steps end where sweeps do; γ = 1 is the Hopfield energy."""
    x, y = batch(size=3)
    net = network(0.3, ep.tanh, (3, 4, 2))
    short = ep.Euler(0.05, 8000, 1e-12)
    slow = CHL(short, short)(net, COST, x, y).grads
    assert off(CHL(SWEEP, SWEEP)(net, COST, x, y).grads, slow) < FIXED_POINT
    ends = [
        flat(
            ep.relax(make((3, 5, 2), key=jax.random.key(4), **options), x, SWEEP).state
        )
        for make, options in (
            (ep.XieSeungEnergy, {"gamma": 1.0}),
            (ep.HopfieldEnergy, {}),
        )
    ]
    np.testing.assert_allclose(*ends, rtol=IDENTITY)


def test_a_sweep_never_raises_the_energy():
    """The declared curvatures bound the true ones, also where ρ bends."""
    x, _ = batch(size=1)
    net = network(0.2, ep.shifted_sigmoid)
    s = tuple(3 * jax.random.normal(jax.random.key(7), (1, n)) for n in (5, 4, 2))
    energies = []
    for _ in range(8):
        energies.append(float(net.energy(x[0], jax.tree.map(lambda u: u[0], s))))
        s = ep.relax(net, x, ep.Sweep(1), state=s).state
    assert (np.diff(energies) <= 1e-12).all()
    assert energies[-1] < energies[0]


def test_xie_seung_tends_to_backpropagation():
    """Linear units: the error against the feed-forward net's jax.grad is O(γ)."""
    (x, y), errors, gammas = batch(size=3), [], (0.01, 0.005)
    for gamma in gammas:
        net = network(gamma, ep.identity)
        found = CHL(SWEEP, SWEEP)(net, COST, x, y).grads
        exact = jax.grad(feed_forward, argnums=(0, 1))(
            net.weights, net.biases, "identity", x, y
        )
        errors.append(off((found.weights, found.biases), exact))
    slope = np.diff(np.log(errors)) / np.diff(np.log(gammas))
    assert slope == pytest.approx(1, abs=SLOPE)


def test_with_weak_feedback_a_sweep_is_a_pass():
    """Forward free, backward nudged: one sweep each is backprop through three layers.

    Where odd and even layers move in turn it would not reach the first of them.
    """
    (x, y), gamma = batch(size=3), 1e-4
    net = network(gamma, ep.identity)
    rule = ep.EquilibriumPropagation(ep.Sweep(1), ep.Sweep(1, backward=True), 1e-3)
    found = rule(net, COST, x, y).grads
    exact = jax.grad(feed_forward, argnums=(0, 1))(
        net.weights, net.biases, "identity", x, y
    )
    for one, other in zip((*found.weights, *found.biases), sum(exact, ()), strict=True):
        assert float(jnp.linalg.norm(other)) > 0.1
        np.testing.assert_allclose(one, other, rtol=0, atol=gamma)


def check_descent(net, x):
    """velocity = −∂E/∂s at a random state."""
    keys = jax.random.split(jax.random.key(1), len(net.shapes))
    s = tuple(
        jax.random.uniform(k, shape)
        for k, shape in zip(keys[1:], net.shapes[1:], strict=True)
    )
    force, velocity = eqx.filter_jit(
        lambda net, x, s: (jax.grad(lambda s: net.energy(x, s))(s), net.velocity(x, s))
    )(net, x, s)
    for v, f in zip(velocity, force, strict=True):
        np.testing.assert_allclose(v, -f, rtol=IDENTITY, atol=IDENTITY)


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        *((ep.HopfieldEnergy, name) for name in ("energy", "synapses", "terms")),
        *((ep.XieSeungEnergy, name) for name in ("energy", "synapses", "terms")),
        (ep.XieSeungEnergy, "scaled"),
    ],
)
def test_a_subclass_descends_its_own_energy(base, changed):
    """Whatever it changes, also what the closed form of the velocity is made of."""
    own = getattr(base, changed)

    def twice(self, *arguments):
        return jax.tree.map(lambda v: 2 * v, own(self, *arguments))

    options = {"gamma": 0.3} if base is ep.XieSeungEnergy else {}
    net = type("Other", (base,), {changed: twice})(
        (3, 5, 4, 2), key=jax.random.key(4), activation=ep.tanh, **options
    )
    check_descent(net, batch(size=1)[0][0])


@pytest.mark.parametrize("pool", [None, "max"])
def test_xie_seung_velocity_of_convolutions(pool):
    """Feedback through a pooling, and through prepared kernels, is weakened too."""
    sizes = ((16, 16, 1), ep.Convolution(16, 3, pool=pool), ep.Convolution(3, 3), 4)
    net = ep.XieSeungEnergy(sizes, gamma=0.3, key=jax.random.key(4))
    x = jax.random.uniform(jax.random.key(2), (16, 16, 1))
    check_descent(net, x)
    single = jax.tree.map(lambda p: p.astype("float32"), net)
    kept = single.prepared()
    assert isinstance(kept.prepared_weights[1], Prepared)
    s = tuple(jnp.full(shape, 0.5, "float32") for shape in net.shapes[1:])
    move = eqx.filter_jit(lambda net, x, s: net.velocity(x, s))
    for one, other in zip(move(kept, x, s), move(net, x, s), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * float(abs(other).max()))


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("bfloat16", "float32")])
@pytest.mark.parametrize("base", [ep.HopfieldEnergy, ep.XieSeungEnergy])
def test_examples_may_be_wider_than_the_network(base, dtypes):
    """Data of another precision than the weights relax, as they do by autodiff."""
    options = {"gamma": 0.3} if base is ep.XieSeungEnergy else {}
    net = base((3, 5, 2), key=jax.random.key(4), activation=ep.tanh, **options)
    net = jax.tree.map(lambda p: p.astype(dtypes[0]), net)
    x = batch(size=2)[0].astype(dtypes[1])
    found = ep.relax(net, x, ep.Sweep(300))
    exact = ep.relax(
        jax.tree.map(lambda p: p.astype("float64"), net), x.astype("float64"), SWEEP
    )
    tolerance = 1e-5 if dtypes[0] == "float32" else 0.05
    np.testing.assert_allclose(
        flat(found.state).astype(float), flat(exact.state), atol=tolerance
    )
