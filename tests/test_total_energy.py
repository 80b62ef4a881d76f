"""Total energies F(x, y, s, β): the standard way where affine, and beyond it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from tolerances import FINITE_DIFFERENCE, SLOPE
from zoo import flat, batch, field, quadratic

import eqprop as ep

pytestmark = pytest.mark.usefixtures("x64")

COST = ep.SquaredError()
SETTLE = ep.Euler(0.2, 4000, 1e-13)
SOME = ep.Euler(0.2, 60)


class Total(ep.AbstractTotalEnergy):
    """F = E + g(β) C + β λ ½‖θ‖² of a network, all in `total_energy`."""

    net: ep.AbstractEnergy
    strength: Array
    decay: float = 0.0
    curved: bool = eqx.field(default=False, static=True)

    def init_state(self, x):
        return self.net.init_state(x)

    def readout(self, s):
        return self.net.readout(s)

    def total_energy(self, x, y, s, beta):
        weights = jax.tree.leaves(eqx.filter(self.net, eqx.is_inexact_array))
        penalty = self.decay * sum(0.5 * jnp.sum(w**2) for w in weights)
        nudge = jnp.sinh(3 * beta) / 3 if self.curved else beta
        cost = self.strength * COST(self.readout(s), y)
        return self.net.energy(x, s) + nudge * (cost + penalty)


class Scaled(ep.AbstractTotalEnergy):
    """β scales the couplings: F = ½‖s‖² + ¼‖s‖⁴ − e^{β·y} tanh(s)·W x."""

    W: Array

    def init_state(self, x):
        return jnp.zeros_like(self.W[:, 0])

    def readout(self, s):
        return s[:2]

    def total_energy(self, x, y, s, beta):
        leak = 0.5 * jnp.sum(s**2) + 0.25 * jnp.sum(s**4)
        return leak - jnp.exp(beta * jnp.sum(y)) * jnp.tanh(s) @ (self.W @ x)


class Weighted(eqx.Module):
    """½ k ‖ŷ − y‖²: the standard way to write the same cost."""

    strength: Array

    def __call__(self, prediction, y):
        return self.strength * COST(prediction, y)


class ByHand(ep.AbstractSystem):
    """The same F on a system that only happens to have a `total_energy`."""

    inner: Total

    def init_state(self, x):
        return self.inner.init_state(x)

    def readout(self, s):
        return self.inner.readout(s)

    def velocity(self, x, s):
        return self.inner.net.velocity(x, s)

    def potential(self, x, s):
        return self.inner.net.energy(x, s)

    def total_energy(self, x, y, s, beta):
        return self.inner.total_energy(x, y, s, beta)


class TotalField(ep.AbstractVectorField):
    """A vector field nudged by F = βC: no energy, and the cost still its own."""

    inner: ep.AbstractVectorField

    def init_state(self, x):
        return self.inner.init_state(x)

    def readout(self, s):
        return self.inner.readout(s)

    def velocity(self, x, s):
        return self.inner.velocity(x, s)

    def total_energy(self, x, y, s, beta):
        return beta * COST(self.readout(s), y)


def assert_equal(found, expected, tolerance=1e-12):
    scale = np.abs(flat(expected)).max()
    np.testing.assert_allclose(flat(found), flat(expected), atol=tolerance * scale)


def total(net=None, **options):
    net = quadratic() if net is None else net
    return Total(net, jnp.array(1.5), **options)


RULES = {
    "centered": ep.EquilibriumPropagation(SOME, SOME, 0.1),
    "one-sided": ep.EquilibriumPropagation(SOME, SOME, 0.1, "one-sided"),
    "random-sign": ep.EquilibriumPropagation(SOME, SOME, 0.1, "random-sign"),
    "asymmetric": ep.AsymmetricEquilibriumPropagation(SOME, SOME, 0.1),
    "dyadic": ep.DyadicEquilibriumPropagation(SOME, 0.2, 30),
    "holomorphic": ep.HolomorphicEquilibriumPropagation(SOME, SOME, 0.1, 4),
    "rbp": ep.RecurrentBackpropagation(SOME, 0.2, 30),
    "bptt": ep.BackpropagationThroughTime(SOME, 0.2, 30),
    "implicit": ep.ImplicitDifferentiation(SOME),
}


FAST = ("centered", "asymmetric", "holomorphic", "rbp")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in RULES
    ],
)
def test_an_affine_total_energy_is_the_standard_way(name):
    """F = E + βC: the same loss, states and gradients, the cost's own included."""
    (x, y), system, key = batch(size=4), total(), jax.random.key(1)
    rule = RULES[name]
    expected = rule(system.net, Weighted(system.strength), x, y, key=key)
    found = rule(system, None, x, y, key=key)
    assert_equal(found.equilibrium.state, expected.equilibrium.state)
    assert_equal(found.loss, expected.loss)
    assert_equal(found.grads.net, expected.grads)
    assert_equal(found.grads.strength, expected.cost_grads.strength)
    assert not jax.tree.leaves(found.cost_grads)


def test_a_method_is_enough():
    """Duck typing, and the cost given as well: both of them agree."""
    (x, y), system = batch(size=4), total()
    cost = eqx.tree_at(lambda c: c.strength, Weighted(0.0), 1.5)  # no parameter
    rule = RULES["centered"]
    expected = rule(system.net, cost, x, y).grads
    assert_equal(rule(ByHand(system), cost, x, y).grads.inner.net, expected)


def test_the_vector_field_rule_follows_it():
    """Without a potential F is the nudge alone."""
    (x, y), inner = batch(size=4), field(0.3)
    expected = RULES["centered"](inner, COST, x, y)
    found = RULES["centered"](TotalField(inner), None, x, y)
    assert_equal(found.grads.inner, expected.grads)
    assert_equal(found.loss, expected.loss)


def test_nudged_states_flow_and_processes_follow_it():
    """`relax` per example, the flow, EP's process and the projected cost."""
    (x, y), system = batch(size=4), total()
    pairs = ((system, None), (system.net, Weighted(system.strength)))
    beta = jnp.array([0.1, -0.2, 0.3, 0.0])
    found, expected = (
        ep.relax(s, x, SOME, cost=c, y=y, beta=beta).state for s, c in pairs
    )
    assert_equal(found, expected)
    found, expected = (
        ep.ep_process(s, c, x, y, free=SOME, dt=0.2, steps=5, beta=0.1)
        for s, c in pairs
    )
    assert_equal(found.states, expected.states, 1e-11)
    assert_equal(found.grads.net, expected.grads)


@pytest.mark.slow
def test_the_flow_follows_it():
    """Nudged, and the projected cost at its end."""
    (x, y), system = batch(size=2), total(quadratic())
    pairs = ((system, None), (system.net, Weighted(system.strength)))
    times = [0.0, 1.0]
    start = ep.relax(system.net, x, SETTLE).state
    found, expected = (
        ep.flow(s, x, start, times, cost=c, y=y, beta=0.2) for s, c in pairs
    )
    assert_equal(found, expected, 1e-9)
    found, expected = (ep.projected_cost(s, c, x, y, start, 1.0) for s, c in pairs)
    assert_equal(found, expected, 1e-9)


def test_settle_is_free_of_it():
    """As a layer of a program the free energy is all that counts."""
    (x, _), system = batch(size=4), total()

    def loss(system):
        state = ep.settle(system, x, adjoint=RULES["rbp"])
        return jnp.sum(flat(state) ** 2)

    slope = eqx.filter_jit(eqx.filter_grad(loss))
    found, expected = slope(system), slope(system.net)
    assert_equal(found.net, expected)
    assert found.strength == 0


def settled_cost(system, x, y):
    """∂F/∂β at β = 0 by a difference of F itself, at states settled anew."""
    return float(_settled_cost(system, x, y))


@eqx.filter_jit
def _settled_cost(system, x, y):
    state = ep.relax(system, x, SETTLE).state

    def one(x, y, s):
        up, down = (system.total_energy(x, y, s, h) for h in (1e-4, -1e-4))
        return (up - down) / 2e-4

    return jnp.mean(jax.vmap(one)(x, y, state))


@pytest.mark.parametrize("rule", ["centered", "implicit"])
def test_a_weight_penalty_inside_the_cost(rule):
    """The gradient is that of C(s⁰) + λΩ, by finite differences of J."""
    (x, y), system = batch(size=4), total(decay=0.3)
    exact = ep.ImplicitDifferentiation(SETTLE)
    estimator = {
        "centered": ep.EquilibriumPropagation(SETTLE, SETTLE, 1e-4),
        "implicit": exact,
    }[rule]
    found = estimator(system, None, x, y)
    for k, where in enumerate((lambda t: t.net.W, lambda t: t.net.b)):
        direction = jax.random.normal(jax.random.key(k), where(system).shape)

        def moved(h, where=where, direction=direction):
            return eqx.tree_at(where, system, where(system) + h * direction)

        slope = settled_cost(moved(1e-5), x, y) - settled_cost(moved(-1e-5), x, y)
        expected = float(jnp.sum(where(found.grads) * direction))
        assert expected == pytest.approx(slope / 2e-5, rel=FINITE_DIFFERENCE)
    # The penalty is no small part of it.
    plain = exact(total(), None, x, y)
    added = found.grads.net.W - plain.grads.net.W
    assert_equal(added, 0.3 * system.net.W, 1e-6)


CURVED = {
    "sinh": lambda: total(curved=True),
    "coupling": lambda: Scaled(jax.random.normal(jax.random.key(0), (4, 3))),
}


@pytest.mark.parametrize("name", CURVED)
def test_centered_ep_of_a_curved_total_energy_has_an_error_of_order_two(name):
    """J = ∂F/∂β(s⁰): EP's error falls as β², and the exact gradient is J's own."""
    (x, y), system = batch(size=4), CURVED[name]()
    exact = ep.ImplicitDifferentiation(SETTLE)(system, None, x, y)
    assert float(exact.loss) == pytest.approx(settled_cost(system, x, y), rel=1e-6)
    params, static = eqx.partition(system, eqx.is_inexact_array)
    vector, unflatten = jax.flatten_util.ravel_pytree(params)
    direction = jax.random.normal(jax.random.key(3), vector.shape)
    up, down = (
        settled_cost(eqx.combine(unflatten(vector + h * direction), static), x, y)
        for h in (1e-5, -1e-5)
    )
    slope = float(flat(exact.grads) @ direction)
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-5)
    errors = []
    for beta in (0.02, 0.01):
        rule = ep.EquilibriumPropagation(SETTLE, SETTLE, jnp.asarray(beta))
        off = flat(rule(system, None, x, y).grads) - flat(exact.grads)
        errors.append(float(np.linalg.norm(off)))
    assert errors[0] > 1e-6
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, rel=SLOPE)


def test_holomorphic_ep_of_a_curved_total_energy():
    """F holomorphic in β: N = 4 points leave an error of order β⁴."""
    (x, y), system = batch(size=3), CURVED["coupling"]()
    exact = ep.ImplicitDifferentiation(SETTLE)(system, None, x, y)
    errors = []
    for beta in (0.1, 0.05):
        rule = ep.HolomorphicEquilibriumPropagation(SETTLE, SETTLE, beta, 4)
        off = flat(rule(system, None, x, y).grads) - flat(exact.grads)
        errors.append(float(np.linalg.norm(off)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, rel=SLOPE)


def test_verify_holds_for_a_curved_total_energy():
    """Every theorem, on F itself."""
    found = ep.verify(CURVED["coupling"](), None, *batch(size=3))
    assert found.holds, found
    assert found.kind == "total energy"
    order = next(c for c in found.checks if c.name == "EP centered, states: order in β")
    assert order.measured == pytest.approx(2, abs=0.1)


def test_discrete_energy_keeps_it():
    """Φ of an energy with an F of its own: the same steps and ε times the contrast."""
    (x, y), system = batch(size=4), total(curved=True)
    steps = ep.Euler(1.0, 60)
    continuous = RULES["centered"](system, None, x, y)
    discrete = ep.EquilibriumPropagation(steps, steps, 0.02)(
        ep.DiscreteEnergy(system, 0.2), None, x, y
    )
    assert_equal(discrete.equilibrium.state, continuous.equilibrium.state)
    assert_equal(discrete.grads.system, continuous.grads, 1e-10)


@pytest.mark.slow
def test_training_follows_it():
    """`ep.fit` without a cost: the loss is ∂F/∂β, and it falls."""
    x, y = batch(size=12)
    found = ep.fit(
        *(total(decay=1e-3), None, x, 0.3 * y),
        estimator=ep.EquilibriumPropagation(SOME, SOME, 0.1),
        optimizer=ep.Optimizer("sgd", (0.1,)),
        epochs=20,
        batch_size=4,
        validation=(x, 0.3 * y),
    )
    first, last = found.history[0], found.history[-1]
    assert last["loss"] < 0.9 * first["loss"]
    rule = RULES["implicit"]
    loss = float(rule(found.system, None, x, 0.3 * y).loss)
    assert last["val_loss"] == pytest.approx(loss, rel=1e-6)


class Mistaken(Total):
    """At β = 0 F still depends on y."""

    def total_energy(self, x, y, s, beta):
        right = super().total_energy(x, y, s, beta)
        return right + 0.1 * jnp.sum(y) * jnp.sum(jax.tree.leaves(s)[-1])


class Labels(Total):
    """y is an integer label: no zeros of the prediction's shape will do."""

    def total_energy(self, x, y, s, beta):
        if not jnp.issubdtype(jnp.asarray(y).dtype, jnp.integer):
            raise TypeError("labels are integers")
        return super().total_energy(x, jax.nn.one_hot(y, 2), s, beta)


class LabelsToo(Labels):
    """With `energy` written out it works."""

    def energy(self, x, s):
        return self.net.energy(x, s)


def test_labels_need_an_energy_of_their_own():
    """What is said where y is not like the prediction, and that it helps."""
    x, _ = batch(size=4)
    labels = jnp.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"define energy\(x, s\) too: F at beta = 0"):
        RULES["centered"](Labels(quadratic(), jnp.array(1.5)), None, x, labels)
    system = LabelsToo(quadratic(), jnp.array(1.5))
    found = RULES["centered"](system, None, x, labels)
    one_hot = jax.nn.one_hot(labels, 2)
    assert_equal(found.grads, RULES["centered"](total(), None, x, one_hot).grads)


def test_contradictions_are_refused():
    """Both numbers are told; nothing is ignored."""
    (x, y), rule, system = batch(size=4), RULES["centered"], total(decay=0.3)
    own = rule(system, None, x[:1], y[:1]).loss
    given = rule(system.net, Weighted(1.5), x[:1], y[:1]).loss
    for call in (
        lambda: rule(system, Weighted(1.5), x, y),
        lambda: ep.relax(system, x, SETTLE, cost=Weighted(1.5), y=y, beta=0.1),
        lambda: ep.verify(system, Weighted(1.5), x, y),
        lambda: ep.fit(system, Weighted(1.5), x, y, estimator=rule),
        lambda: ep.ep_process(
            *(system, Weighted(1.5), x, y), free=SOME, dt=0.2, steps=2, beta=0.1
        ),
    ):
        with pytest.raises(ValueError, match=r"the cost of example 0 is .*give cost="):
            call()
    with pytest.raises(
        ValueError, match=f"{given:.6g}, but .* at beta = 0 is {own:.6g}"
    ):
        rule(system, Weighted(1.5), x, y)
    with pytest.raises(ValueError, match=r"the cost has parameters, but Total\."):
        rule(system, Weighted(jnp.array(1.5)), x, y)
    with pytest.raises(ValueError, match="cost is None, and Quadratic has no tot"):
        rule(system.net, None, x, y)
    mistaken = Mistaken(system.net, jnp.array(1.5))
    for call in (
        lambda: rule(mistaken, None, x, y),
        lambda: ep.verify(mistaken, None, x, y),
        lambda: ep.fit(mistaken, None, x, y, estimator=rule),
    ):
        with pytest.raises(ValueError, match="at beta = 0 is not the free energy"):
            call()
    sweep = ep.EquilibriumPropagation(SOME, ep.Sweep(3))
    block = ep.Block(lambda s: s)
    with_blocks = type("WithBlocks", (Total,), {"blocks": lambda self: (block,)})
    with pytest.raises(ValueError, match="Sweep does not know the curvature of With"):
        sweep(with_blocks(quadratic(), jnp.array(1.0)), None, x, y)


def test_a_model_file_may_leave_the_cost_out(tmp_path):
    """FILE.py:NAME returns (system, None, x, y)."""
    file = tmp_path / "own.py"
    file.write_text(
        """
import jax, jax.numpy as jnp, numpy as np, eqprop as ep

class Own(ep.AbstractTotalEnergy):
    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def readout(self, s):
        return s

    def total_energy(self, x, y, s, beta):
        pull = 0.5 * jnp.sum(s**2) - s @ (self.w @ x)
        return pull + beta * 0.5 * jnp.sum((s - y) ** 2)

def model():
    x = np.random.default_rng(0).normal(size=(12, 3))
    return Own(jnp.zeros((2, 3))), None, x, x[:, :2]

def wrong():
    x = np.zeros((4, 3))
    return ep.HopfieldEnergy((3, 2), key=jax.random.key(0)), None, x, x[:, :2]
"""
    )
    euler = ep.Euler(0.5, 20)
    config = ep.Config(
        estimator=ep.EquilibriumPropagation(euler, euler, 0.1),
        optimizer=ep.Optimizer("sgd", (0.3,)),
        model=ep.training.UserModel(f"{file}:model"),
        data=None,
        epochs=30,
    )
    with jax.enable_x64(False):
        run = ep.train(config, run=tmp_path / "run")
        assert run.history[-1]["loss"] < 0.2 * run.history[0]["loss"]
        loaded = ep.load(tmp_path / "run", system=f"{file}:model")
        assert ep.evaluate(loaded)["loss"] < 0.1
        model = ep.training.UserModel(f"{file}:wrong")
        with pytest.raises(ValueError, match="returned a NoneType as its cost"):
            ep.train(config, model=model)
