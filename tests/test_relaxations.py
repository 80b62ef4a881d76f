"""Relaxations: closed forms, Lyapunov functions and the status of each example."""

from collections.abc import Callable
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tolerances import FIXED_POINT, FLOAT32, IDENTITY
from zoo import batch, dict_energy, field, hopfield, quadratic, SoftmaxReadout

import eqprop as ep

ACTIVATIONS = [ep.hard_sigmoid, ep.tanh, ep.shifted_sigmoid]


@eqx.filter_jit
def _potential(system, x, state, cost, y, beta):
    def one(x, s, y):
        return system.potential(x, s) + beta * cost(system.readout(s), y)

    return jax.vmap(one)(x, state, y)


def _trajectory(system, x, relaxation, steps, **nudge):
    """States after 1, 2, … steps; `relaxation` makes one step."""
    state = nudge.pop("state", None)
    for _ in range(steps):
        state = ep.relax(system, x, relaxation, state=state, **nudge).state
        yield state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [ep.Euler(0.3, 400), ep.Euler(0.3, 4000, 1e-13)])
def test_quadratic_energy_settles_to_its_closed_form(relaxation):
    """s⁰ = A⁻¹(W x + b), and nudged (A + βRᵀR)s = W x + b + βRᵀy."""
    system = quadratic()
    x, y = batch()
    drive = x @ system.W.T + system.b
    free = ep.relax(system, x, relaxation)
    np.testing.assert_allclose(
        free.state, np.linalg.solve(system.A, drive.T).T, atol=FIXED_POINT
    )
    assert (np.asarray(free.status) == ep.Status.settled).all()
    read = jnp.zeros((2, 5)).at[0, 3].set(1).at[1, 4].set(1)
    for beta in (0.4, -0.2):
        nudged = ep.relax(
            system, x, relaxation, cost=ep.SquaredError(), y=y, beta=beta
        ).state
        matrix = system.A + beta * read.T @ read
        expected = np.linalg.solve(matrix, (drive + beta * y @ read).T).T
        np.testing.assert_allclose(nudged, expected, atol=FIXED_POINT)


@pytest.mark.usefixtures("x64")
@given(seed=st.integers(0, 1000), beta=st.sampled_from([0.0, 0.5, -0.5]))
@settings(max_examples=8, deadline=None)
def test_energy_never_rises_along_euler(seed, beta):
    """dF/dt = −‖ds/dt‖² ≤ 0 (paper A, eq 5), for a small step."""
    net = hopfield(activation=ep.tanh, seed=seed)
    x, y = batch(seed=seed + 1)
    cost = ep.SquaredError()
    state = tuple(
        jax.random.normal(jax.random.key(k), (len(x), len(b)))
        for k, b in enumerate(net.biases)
    )
    before = _potential(net, x, state, cost, y, jnp.array(beta))
    path = _trajectory(
        net, x, ep.Euler(0.1, 1), 30, cost=cost, y=y, beta=beta, state=state
    )
    for state in path:
        after = _potential(net, x, state, cost, y, jnp.array(beta))
        assert (after <= before + 1e-12).all()
        before = after


@pytest.mark.usefixtures("x64")
@given(
    seed=st.integers(0, 1000),
    beta=st.sampled_from([0.0, 0.7, -0.7]),
    activation=st.sampled_from(ACTIVATIONS),
    output=st.sampled_from([None, ep.identity]),
    cost=st.sampled_from([ep.SquaredError(), ep.CrossEntropy()]),
)
@settings(max_examples=20, deadline=None)
def test_energy_never_rises_along_sweeps(seed, beta, activation, output, cost):
    """Each block is minimised, exactly or under an upper bound of its curvature."""
    net = hopfield(activation=activation, output=output, seed=seed, scale=3.0)
    x, _ = batch(seed=seed + 1)
    y = jax.nn.one_hot(jnp.arange(len(x)) % 2, 2)
    state = net.project(
        tuple(
            2 * jax.random.normal(jax.random.key(k), (len(x), len(b)))
            for k, b in enumerate(net.biases)
        )
    )
    before = _potential(net, x, state, cost, y, jnp.array(beta))
    path = _trajectory(net, x, ep.Sweep(1), 15, cost=cost, y=y, beta=beta, state=state)
    for state in path:
        after = _potential(net, x, state, cost, y, jnp.array(beta))
        assert (after <= before + 1e-11 * (1 + abs(before))).all()
        before = after


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", [None, ep.identity])
@pytest.mark.parametrize("beta", [0.0, 0.5, -0.3])
def test_sweep_and_euler_settle_to_the_same_state(activation, output, beta):
    """Both find the fixed point of the same dynamics, nudged or free."""
    net = hopfield(activation=activation, output=output)
    x, y = batch()
    nudge = {"cost": ep.SquaredError(), "y": y, "beta": beta}
    euler = ep.relax(net, x, ep.Euler(0.3, 5000, 1e-13), **nudge)
    sweep = ep.relax(net, x, ep.Sweep(3000, 1e-13), **nudge)
    for a, b in zip(euler.state, sweep.state, strict=True):
        np.testing.assert_allclose(a, b, atol=FIXED_POINT)
    assert int(sweep.steps.max()) < int(euler.steps.max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backward", [False, True])
def test_one_sweep_solves_each_layer_exactly(backward):
    """h ← clip(W₁x + W₂o + b₁), then o ← (W₂h + b₂ + βy)/(1 + β) for linear outputs.

    Backward, o comes first, and h hears the new one.
    """
    net = hopfield((3, 6, 2), activation=ep.hard_sigmoid, output=ep.identity)
    x, y = batch()
    o = jax.random.normal(jax.random.key(0), (len(x), 2))
    state = (jnp.zeros((len(x), 6)), o)
    beta = 0.4
    nudge = {"state": state, "cost": ep.SquaredError(), "y": y, "beta": beta}
    swept = ep.relax(net, x, ep.Sweep(1, backward=backward), **nudge).state
    h, out = state
    for layer in (1, 0) if backward else (0, 1):
        if layer:
            out = (h @ net.weights[1] + net.biases[1] + beta * y) / (1 + beta)
        else:
            drive = x @ net.weights[0] + out @ net.weights[1].T + net.biases[0]
            h = np.clip(drive, 0, 1)
    np.testing.assert_allclose(swept[0], h, atol=IDENTITY)
    np.testing.assert_allclose(swept[1], out, atol=IDENTITY)


@pytest.mark.usefixtures("x64")
def test_sweep_with_a_readout_that_mixes_units_still_settles():
    """A cost behind a matrix is bounded from above, so the step stays safe."""
    net = hopfield((3, 6, 4), activation=ep.tanh, output=ep.identity)
    weight = 2 * jax.random.normal(jax.random.key(4), (3, 4))
    x, _ = batch()
    y = jax.nn.one_hot(jnp.arange(len(x)) % 3, 3)
    nudge = {"cost": SoftmaxReadout(weight), "y": y, "beta": 2.0}
    sweep = ep.relax(net, x, ep.Sweep(3000, 1e-12), **nudge)
    euler = ep.relax(net, x, ep.Euler(0.05, 9000, 1e-12), **nudge)
    for a, b in zip(euler.state, sweep.state, strict=True):
        np.testing.assert_allclose(a, b, atol=FIXED_POINT)


def test_nudging_lowers_the_cost():
    """d/dβ C(s^β) ≤ 0 at β = 0 (paper A, proposition 2)."""
    with jax.enable_x64(True):
        net = hopfield(activation=ep.tanh)
        x, y = batch()
        cost = ep.SquaredError()

        def costs(beta):
            state = ep.relax(
                net, x, ep.Euler(0.3, 3000, 1e-13), cost=cost, y=y, beta=beta
            ).state
            return jax.vmap(cost)(jax.vmap(net.readout)(state), y)

        ladder = [costs(beta) for beta in (-0.2, -0.1, 0.0, 0.1, 0.2)]
        for lower, higher in pairwise(ladder):
            assert (higher < lower).all()


class Spring(ep.AbstractEnergy):
    """E = ½ k s²; the input is its stiffness, so each example has its own fate."""

    scale: jax.Array

    def init_state(self, x):
        return jnp.ones(1)

    def energy(self, x, s):
        return 0.5 * jnp.sum(self.scale * x * s**2)

    def readout(self, s):
        return s


def test_each_example_has_its_own_status():
    """Euler at dt = 1 multiplies s by 1 − k: one of each kind in one batch."""
    stiffness = jnp.array([[0.9], [0.01], [2.0], [1.97], [400.0]])
    found = ep.relax(Spring(jnp.array(1.0)), stiffness, ep.Euler(1.0, 40))
    statuses = [ep.Status(int(s)).name for s in found.status]
    assert statuses == [
        "settled",
        "unsettled",
        "oscillating",
        "oscillating",
        "diverged",
    ]


def test_status_of_a_run_with_tolerance_is_the_same():
    """The loop that stops early and the one that does not agree on every example."""
    stiffness = jnp.array([[0.9], [0.01], [2.0], [1.97], [400.0]])
    fixed = ep.relax(Spring(jnp.array(1.0)), stiffness, ep.Euler(1.0, 40))
    tol = float(jnp.finfo(jnp.float32).eps) ** 0.5
    stopping = ep.relax(Spring(jnp.array(1.0)), stiffness, ep.Euler(1.0, 40, tol))
    np.testing.assert_array_equal(fixed.status, stopping.status)
    assert list(stopping.steps[1:4]) == [40, 40, 40]
    assert int(stopping.steps[0]) < 10
    assert int(stopping.steps[4]) < 40


def test_settled_examples_stop_moving_and_the_others_do_not_notice():
    """Per-example freezing: each ends where it would have ended alone."""
    net = hopfield(activation=ep.tanh)
    x, _ = batch(size=16)
    euler = ep.Euler(0.2, 200, 1e-4)
    together = ep.relax(net, x, euler)
    assert len(set(together.steps.tolist())) > 1
    assert (together.residual < 1e-4).all()
    for i in range(0, 16, 5):
        alone = ep.relax(net, x[i : i + 1], euler)
        assert int(alone.steps[0]) == int(together.steps[i])
        for a, b in zip(alone.state, together.state, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=FLOAT32)


@pytest.mark.usefixtures("x64")
def test_residual_is_the_projected_velocity_at_the_returned_state():
    """‖(project(s + dt·velocity) − s)/dt‖∞: what a further step moves, not velocity."""
    net = hopfield(activation=ep.hard_sigmoid, scale=3.0)
    x, _ = batch()
    before = ep.relax(net, x, ep.Euler(0.5, 4))
    after = ep.relax(net, x, ep.Euler(0.5, 5))
    moved = [
        np.abs(np.asarray(a - b)).max(1) / 0.5
        for a, b in zip(after.state, before.state, strict=True)
    ]
    np.testing.assert_allclose(before.residual, np.max(moved, axis=0), atol=IDENTITY)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_steps_add_up(steps):
    """n steps at once equal n single steps: the measured tail is no other dynamics."""
    system = field()
    x, _ = batch()
    at_once = ep.relax(system, x, ep.Euler(0.2, steps))
    one_by_one = list(_trajectory(system, x, ep.Euler(0.2, 1), steps))[-1]
    np.testing.assert_allclose(at_once.state, one_by_one, atol=IDENTITY)
    assert (at_once.steps == steps).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("steps", "backward"), [(1, False), (2, True), (3, False), (6, True)]
)
def test_sweeps_add_up(steps, backward):
    """So do sweeps, whose loop begins in the middle of one; and what they report."""
    image = ((6, 6, 1), ep.Convolution(3, 3, pool="max"), ep.Convolution(2, 2), 4)
    net = ep.HopfieldEnergy(image, key=jax.random.key(0), output=ep.identity)
    x = jax.random.normal(jax.random.key(1), (5, 6, 6, 1), float)
    problem = dict(cost=ep.SquaredError(), y=jnp.ones((5, 4)), beta=0.5)
    at_once = ep.relax(net, x, ep.Sweep(steps, backward=backward), **problem)
    state = None
    for _ in range(steps):
        one = ep.relax(net, x, ep.Sweep(1, backward=backward), state=state, **problem)
        state = one.state
    stopping = ep.relax(net, x, ep.Sweep(steps, 1e-300, backward), **problem)
    for other in (one, stopping):
        for a, b in zip(at_once.state, other.state, strict=True):
            np.testing.assert_allclose(a, b, atol=IDENTITY)
        np.testing.assert_allclose(at_once.residual, other.residual, atol=IDENTITY)
    assert (at_once.steps == steps).all()
    settled = np.asarray(at_once.residual) < np.finfo(float).eps ** 0.5
    np.testing.assert_array_equal(at_once.status == ep.Status.settled, settled)


def test_zero_steps_leave_the_state_and_measure_it():
    """steps=0 returns the state it was given with its residual."""
    net = hopfield(activation=ep.tanh)
    x, _ = batch()
    settled = ep.relax(net, x, ep.Euler(0.3, 300))
    same = ep.relax(net, x, ep.Euler(0.3, 0), state=settled.state)
    for a, b in zip(same.state, settled.state, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(same.status) == ep.Status.settled).all()
    assert (same.steps == 0).all()


@pytest.mark.usefixtures("x64")
def test_beta_per_example():
    """A vector β nudges each example by its own amount."""
    system = quadratic()
    x, y = batch()
    betas = jnp.linspace(-0.3, 0.3, len(x))
    nudge = {"cost": ep.SquaredError(), "y": y}
    euler = ep.Euler(0.3, 50)
    together = ep.relax(system, x, euler, beta=betas, **nudge).state
    for i, beta in enumerate(betas):
        one = {"cost": nudge["cost"], "y": y[i : i + 1]}
        alone = ep.relax(system, x[i : i + 1], euler, beta=float(beta), **one)
        np.testing.assert_allclose(alone.state[0], together[i], atol=IDENTITY)


def test_a_dict_state_settles():
    """A state may be any pytree."""
    x, _ = batch()
    found = ep.relax(dict_energy(), x, ep.Euler(0.2, 2000, 1e-4))
    assert set(found.state) == {"a", "b"}
    assert found.state["b"].shape == (6, 2, 2)
    assert (np.asarray(found.status) == ep.Status.settled).all()


@pytest.mark.usefixtures("x64")
def test_a_float32_initial_state_is_promoted():
    """A user's float32 init_state does not round a float64 system."""

    class Single(type(quadratic())):
        def init_state(self, x):
            return jnp.zeros(5, jnp.float32)

    system = quadratic()
    single = Single(system.A, system.W, system.b)
    x, _ = batch()
    found = ep.relax(single, x, ep.Euler(0.3, 400)).state
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(
        found, ep.relax(system, x, ep.Euler(0.3, 400)).state, atol=IDENTITY
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep.Euler(dt=0), "dt is 0"),
        (lambda: ep.Euler(dt=-0.5), "dt is -0.5"),
        (lambda: ep.Euler(dt=float("nan")), "dt is nan"),
        (lambda: ep.Euler(dt=float("inf")), "dt is inf"),
        (lambda: ep.Euler(steps=-1), "steps is -1"),
        (lambda: ep.Euler(steps=2.5), "steps is 2.5"),
        (lambda: ep.Euler(tol=0), "tol is 0"),
        (lambda: ep.Euler(tol=float("inf")), "tol is inf"),
        (lambda: ep.Sweep(steps=-1), "steps is -1"),
        (lambda: ep.Sweep(tol=-1e-3), "tol is -0.001"),
    ],
)
def test_bad_hyperparameters(make, message):
    """The error names the value."""
    with pytest.raises(ValueError, match=message):
        make()


class Blocked(type(dict_energy())):
    """The dict energy with blocks that a test chooses."""

    where: tuple = eqx.field(static=True, default=())

    def blocks(self):
        return tuple(ep.Block(w, 3.0) for w in self.where)


def test_sweep_needs_blocks_that_cover_the_state():
    """A system without blocks, or with a leaf in two or none, is refused."""
    x, _ = batch()
    system = dict_energy()
    with pytest.raises(ValueError, match="no blocks"):
        ep.relax(system, x, ep.Sweep())
    parts = (system.w, system.t, system.power)
    with pytest.raises(ValueError, match=r"state\['b'\] in no "):
        ep.relax(Blocked(*parts, where=(lambda s: s["a"],)), x, ep.Sweep())
    twice = (lambda s: s["a"], lambda s: (s["a"], s["b"]))
    with pytest.raises(ValueError, match="exactly one block"):
        ep.relax(Blocked(*parts, where=twice), x, ep.Sweep())


class Chosen(type(dict_energy())):
    """The dict energy with anything for its blocks."""

    chosen: Callable = eqx.field(static=True, default=tuple)

    def blocks(self):
        return self.chosen()


def chosen(blocks):
    system = dict_energy()
    return Chosen(system.w, system.t, system.power, lambda: blocks)


def whole(s):
    return s["a"], s["b"]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (ep.Block(whole), r"returned a Block; return a sequence"),
        (3, r"returned a int; return a sequence"),
        ((whole,), r"blocks\(\)\[0\] is .*; it must be an ep\.Block"),
        ((ep.Block(lambda s: s["a"][:2]),), r"\[0\]\.where failed .*whole leaves"),
        ((ep.Block(lambda s: s["c"]),), r"\[0\]\.where failed \(KeyError"),
        ((ep.Block(whole), ep.Block(lambda s: 2)), r"\[1\]\.where returned 2"),
        ((ep.Block(lambda s: ()),), r"\[0\]\.where returned no leaf"),
        ((ep.Block(whole, (2.0,)),), r"'a'\], state\['b'\] has the shapes \[\(\)\]"),
        ((ep.Block(whole, (np.ones(4), np.ones(5))),), r"\(5,\).*but these leaves"),
        ((ep.Block(whole, lambda x, s: s["c"]),), r"failed on one example.*KeyError"),
    ],
)
def test_a_mistake_in_blocks_names_the_block(blocks, message):
    """With what is wrong and what is expected, whatever the mistake."""
    with pytest.raises(ValueError, match=message):
        ep.relax(chosen(blocks), batch()[0], ep.Sweep())


@pytest.mark.usefixtures("x64")
def test_a_scalar_array_is_the_curvature_of_all_leaves():
    """A NumPy scalar counts as a number."""
    x, _ = batch()
    ends = [
        ep.relax(chosen((ep.Block(whole, size),)), x, ep.Sweep(5)).state["a"]
        for size in (3.0, np.float32(3))
    ]
    np.testing.assert_array_equal(*ends)


@pytest.mark.usefixtures("x64")
def test_sweep_of_a_users_blocks_finds_the_same_state():
    """A user's own energy sweeps once it says its blocks and a curvature bound."""
    system = dict_energy()
    parts = (system.w, system.t, system.power)
    blocked = Blocked(*parts, where=(lambda s: s["b"], lambda s: s["a"]))
    x, y = batch()
    nudge = {"cost": ep.SquaredError(), "y": y, "beta": 0.3}
    sweep = ep.relax(blocked, x, ep.Sweep(2000, 1e-12), **nudge).state
    euler = ep.relax(system, x, ep.Euler(0.2, 4000, 1e-12), **nudge).state
    for name in ("a", "b"):
        np.testing.assert_allclose(sweep[name], euler[name], atol=FIXED_POINT)


def test_incomplete_nudges_are_refused():
    """Nothing is silently ignored."""
    system = hopfield()
    x, y = batch()
    with pytest.raises(ValueError, match="both cost and y"):
        ep.relax(system, x, ep.Euler(), cost=ep.SquaredError())
    with pytest.raises(ValueError, match="no effect without cost"):
        ep.relax(system, x, ep.Euler(), beta=0.3)
    with pytest.raises(ValueError, match="beta has shape"):
        ep.relax(system, x, ep.Euler(), cost=ep.SquaredError(), y=y, beta=jnp.zeros(3))
    with pytest.raises(ValueError, match="batch axes differ"):
        ep.relax(system, x, ep.Euler(), cost=ep.SquaredError(), y=y[:2], beta=0.3)
    with pytest.raises(ValueError, match="state has the structure"):
        ep.relax(system, x, ep.Euler(), state=jnp.zeros((6, 3)))


@pytest.mark.parametrize("omega", [0.5, 1.7])
def test_over_relaxation_descends_to_the_same_fixed_point(omega, x64):
    system = ep.HopfieldEnergy((6, 12, 12, 3), key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (5, 6), float)
    cost, y, beta = ep.SquaredError(), jnp.eye(3)[jnp.arange(5) % 3], 0.3
    nudge = {"cost": cost, "y": y, "beta": beta}
    plain = ep.relax(system, x, ep.Sweep(5000, 1e-10), **nudge)
    relaxation = ep.Sweep(5000, 1e-10, omega=omega)
    found = ep.relax(system, x, relaxation, **nudge)
    assert jnp.all(found.status == ep.Status.settled)
    for a, b in zip(found.state, plain.state, strict=True):
        assert jnp.max(jnp.abs(a - b)) < 1e-8

    @jax.jit
    def energy(s):
        total = jax.vmap(lambda x, s, y: system.energy(x, s) + beta * cost(s[-1], y))
        return total(x, s, y)

    state, before = None, energy(jax.vmap(system.init_state)(x))
    for _ in range(20):
        one = ep.Sweep(1, omega=omega)
        state = ep.relax(system, x, one, state=state, **nudge).state
        after = energy(state)
        assert jnp.all(after <= before + 1e-12)
        before = after


def test_over_relaxation_tames_depth(x64):
    system = ep.HopfieldEnergy((8, *[24] * 4, 3), key=jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (16, 8), float)
    plain, faster = (
        ep.relax(system, x, ep.Sweep(3000, 1e-6, omega=omega)) for omega in (1.0, 1.6)
    )
    assert jnp.mean(faster.steps) < 0.6 * jnp.mean(plain.steps)


@pytest.mark.parametrize(
    ("beta", "omega"), [(-0.95, 1.0), (-1.0, 1.7), (-1.5, 1.0), (-4.0, 1.7)]
)
def test_a_negative_nudge_that_outweighs_the_leak_descends_to_a_bound(beta, omega, x64):
    """Outputs on a hilltop, between bounds: as Euler finds, and downwards all the way.

    Fails if a step divides by 1 + β ≤ 0, which climbs.
    """
    net, (x, _) = hopfield((3, 8, 5, 3), ep.hard_sigmoid, seed=4), batch(size=5)
    y = jax.nn.one_hot(jnp.arange(5) % 3, 3)
    nudge = {"cost": ep.SquaredError(), "y": y, "beta": beta}
    free = ep.relax(net, x, ep.Sweep(50)).state
    euler = ep.relax(net, x, ep.Euler(0.02, 20000, 1e-9), state=free, **nudge)
    swept = ep.relax(net, x, ep.Sweep(3000, 1e-9, omega=omega), state=free, **nudge)
    for found in (euler, swept):
        assert (found.status == ep.Status.settled).all()
    np.testing.assert_allclose(swept.state[-1], euler.state[-1], atol=1e-7)
    if beta < -1:
        assert set(np.unique(swept.state[-1])) <= {0.0, 1.0}

    @jax.jit
    def height(state):
        costs = jax.vmap(ep.SquaredError())(jax.vmap(net.readout)(state), y)
        return jax.vmap(net.energy)(x, state) + beta * costs

    state, before = free, height(free)
    for _ in range(30):
        state = ep.relax(net, x, ep.Sweep(1, omega=omega), state=state, **nudge).state
        assert (height(state) <= before + IDENTITY).all()
        before = height(state)


@pytest.mark.parametrize("omega", [0, -1, 2, 2.5, float("nan")])
def test_sweep_refuses_an_omega_that_does_not_descend(omega):
    with pytest.raises(ValueError, match="omega"):
        ep.Sweep(omega=omega)
