"""`verify` names the right cause: detached functions, time constants, bounds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import batch

import eqprop as ep
from eqprop.theory._derivatives import slopes
from eqprop.theory._exactness import ep_limit, exactness
from eqprop.theory._fixed_point import find_fixed_point
from eqprop.theory._metrics import agreement, process_rmse
from eqprop.theory._problem import Problem

COST = ep.SquaredError()
stop = jax.lax.stop_gradient


class Chain(ep.AbstractEnergy):
    """E = ½‖h‖² + ‖o‖² − tanh(h)·(W x) − oᵀ V tanh(h), and one mistake by name."""

    W: jax.Array
    V: jax.Array
    top: jax.Array
    mistake: str = eqx.field(static=True, default="")

    def init_state(self, x):
        return {"h": jnp.zeros(4), "o": jnp.zeros(3)}

    def energy(self, x, s):
        h, o = jnp.tanh(s["h"]), s["o"]
        w, v = self.W, self.V
        if self.mistake == "binary weights":
            v = v + stop(jnp.sign(v) - v)
        seen = stop(h) if self.mistake == "half a coupling" else h
        pull = 0.5 * jnp.sum(s["h"] ** 2) + jnp.sum(o**2)
        return pull - h @ (w @ x) - 0.4 * o @ v @ seen

    def project(self, s):
        if self.mistake == "learnable bound":
            return dict(s, h=jnp.minimum(s["h"], self.top))
        if self.mistake == "replaced projection":
            held = jax.tree.map(lambda u: jnp.clip(u, -0.1, 0.1), s)
            return jax.tree.map(lambda u, v: u + stop(v - u), s, held)
        return s

    def readout(self, s):
        if self.mistake == "detached readout":
            return stop(s["o"]) ** 2
        if self.mistake == "rounded readout":
            return jnp.floor(10 * s["o"])
        return s["o"]


def chain(mistake=""):
    keys = jax.random.split(jax.random.key(11))
    w, v = jax.random.normal(keys[0], (4, 3)), jax.random.normal(keys[1], (3, 4))
    return Chain(w, v, jnp.full(4, 0.15), mistake)


def detached_cost(prediction, y):
    return jnp.sum(jnp.abs(stop(prediction) - y) ** 3)


def verified(mistake="", cost=COST):
    return ep.verify(chain(mistake), cost, *batch(outputs=3, size=3))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("detached readout", ["the readout is detached"]),
        ("rounded readout", ["readout does not change with the state", "rounds"]),
        ("half a coupling", ["the energy", "derivative in the state", "stop_gradient"]),
        ("binary weights", ["the energy", "parameter V", "straight-through"]),
        ("replaced projection", ["the project", "derivative in the state"]),
    ],
)
def test_a_derivative_that_is_not_its_functions_is_named(mistake, words):
    """The function and the argument, before anything that follows from it."""
    result = verified(mistake)
    assert not result.holds
    assert all(word in result.verdict for word in words), result.verdict
    assert "edge" not in str(result)


def test_a_detached_cost_is_named():
    result = verified(cost=detached_cost)
    assert not result.holds
    assert "the cost is detached" in result.verdict


@pytest.mark.usefixtures("x64")
def test_slopes_are_those_of_calculus():
    """No derivative differs; those that must be 0 are, and no others."""
    x, y = batch(outputs=3, size=3)
    system, cost, x, y = jax.tree.map(_double, (chain(), COST, x, y))
    state = ep.relax(system, x, ep.Euler(0.3, 200)).state
    found = {
        (s.function, s.argument): s
        for s in slopes(Problem(system, cost, x, y), state, 0.3)
    }
    assert not any(slope.wrong for slope in found.values())
    assert ("velocity", "top") not in found  # unused
    # Neither the cost nor the readout depends on the weights.
    for function in ("cost", "readout"):
        assert found[function, "W"].flat
    for argument in ("s", "W", "V"):
        assert not found["velocity", argument].unused


def test_a_learnable_bound_is_named():
    """RBP and implicit differentiation know the bound, EP's contrast does not."""
    result = verified("learnable bound")
    assert not result.holds
    assert "`project` depends on the parameters top" in result.verdict
    checks = {check.name: check.outcome for check in result.checks}
    assert checks["implicit against finite differences"] == "holds"
    assert "edge" not in str(result)


def _double(leaf):
    return jnp.asarray(leaf, float) if eqx.is_inexact_array(leaf) else leaf


class Timed(ep.AbstractEnergy):
    """velocity = −D ∂E/∂s with E = ½ sᵀ A s − sᵀ W x; the last two units are read."""

    A: jax.Array
    W: jax.Array
    D: tuple = eqx.field(static=True)

    def init_state(self, x):
        return jnp.zeros(5)

    def energy(self, x, s):
        return 0.5 * s @ self.A @ s - s @ (self.W @ x)

    def velocity(self, x, s):
        return jnp.array(self.D) * super().velocity(x, s)

    def readout(self, s):
        return s[-2:]


def timed(seed, nudged):
    """Random time constants on the hidden units, and on the nudged ones if asked."""
    random = np.random.default_rng(seed)
    root = random.normal(size=(5, 5))
    d = np.exp(random.uniform(-1, 1, size=5))
    d[-2:] = d[-2:] if nudged else 1.0
    a = np.eye(5) + 0.2 * root @ root.T
    w = random.normal(size=(5, 3))
    return Timed(jnp.asarray(a), jnp.asarray(w), tuple(d.tolist()))


def timed_error(system, x, y):
    """‖EP's limit − exact‖ / ‖exact‖ from linear algebra.

    EP moves s by −(D A)⁻¹ c per β, c = ∂C/∂s; the exact gradient has −A⁻¹ c.
    """
    a, w, x, y = (np.asarray(v, float) for v in (system.A, system.W, x, y))
    grads = []
    for d in (np.asarray(system.D), np.ones(5)):
        outer, along = 0, 0
        for one, target in zip(x, y, strict=True):
            s = np.linalg.solve(a, w @ one)
            c = np.zeros(5)
            c[-2:] = s[-2:] - target
            q = -np.linalg.solve(d[:, None] * a, c)
            outer = outer + (np.outer(q, s) + np.outer(s, q)) / 2
            along = along - np.outer(q, one)
        grads.append(np.concatenate([np.ravel(outer), np.ravel(along)]))
    return np.linalg.norm(grads[0] - grads[1]) / np.linalg.norm(grads[1])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(6))
def test_random_time_constants_are_judged_by_the_gradient(seed):
    """D on hidden units alone is right, on nudged ones wrong by what algebra says."""
    system = timed(seed, nudged=seed % 2 == 1)
    x, y = jax.tree.map(_double, batch(size=3))
    state = jax.vmap(lambda one: jnp.linalg.solve(system.A, system.W @ one))(x)
    limit, _ = ep_limit(Problem(system, COST, x, y), state, 0.1)
    exact = ep.ImplicitDifferentiation(ep.Euler(0.1, 0))
    exact = exact(system, COST, x, y, state=state)
    error = agreement(limit, (exact.grads, exact.cost_grads)).error
    expected = timed_error(system, x, y)
    np.testing.assert_allclose(error, expected, rtol=1e-6, atol=1e-12)
    probe = exactness(Problem(system, COST, x, y), state, 0.1)
    assert probe.symmetric
    assert probe.generated
    assert probe.placed == (seed % 2 == 0) == (error < 1e-9)
    np.testing.assert_allclose(probe.scale, np.broadcast_to(system.D, (3, 5)))
    used = system.D[-2:]
    np.testing.assert_allclose(probe.touched, (min(used), max(used)))


def test_time_constants_of_hidden_units_hold_and_of_nudged_ones_are_refused():
    """With the temporal derivatives times D, and with the cure."""
    x, y = batch(size=3)
    right = ep.verify(timed(0, nudged=False), COST, x, y)
    assert right.holds, str(right)
    assert "times D" in right.verdict
    orders = {c.name: c.outcome for c in right.checks if "order in β" in c.name}
    assert orders["EP centered, states: order in β"] == "holds"
    wrong = ep.verify(timed(1, nudged=True), COST, x, y)
    assert not wrong.holds
    assert "refused" in wrong.verdict
    assert "forced_velocity" in wrong.verdict
    low, high = sorted(timed(1, nudged=True).D[-2:])
    assert f"D = {low:.3g} to {high:.3g}" in wrong.verdict


class Inside(ep.AbstractSystem):
    """ds/dt = tanh(W s + U x + force) − s with Φ = ½ sᵀ W s + sᵀ U x: S = M = tanh′."""

    W: jax.Array
    U: jax.Array

    def init_state(self, x):
        return jnp.zeros(4)

    def velocity(self, x, s):
        return self.forced_velocity(x, s, jnp.zeros_like(s))

    def forced_velocity(self, x, s, force):
        return jnp.tanh((self.W + self.W.T) @ s / 2 + self.U @ x + force) - s

    def potential(self, x, s):
        return -0.5 * s @ self.W @ s - s @ self.U @ x

    def readout(self, s):
        return s[-2:]


class Outside(Inside):
    """The same, with the nudge added to the velocity."""

    forced_velocity = ep.AbstractSystem.forced_velocity

    def velocity(self, x, s):
        return Inside.forced_velocity(self, x, s, jnp.zeros_like(s))


def inside(cls):
    random = np.random.default_rng(21)
    w = random.normal(size=(4, 4))
    return cls(jnp.asarray(0.3 * (w + w.T)), jnp.asarray(random.normal(size=(4, 3))))


@pytest.mark.usefixtures("x64")
def test_a_nudge_inside_an_activation_is_exact_by_linear_algebra():
    """EP's limit for U is D (I − W D)⁻¹ c xᵀ, D = tanh′(drive) and c = ∂C/∂s."""
    system, (x, y) = inside(Inside), jax.tree.map(_double, batch(size=3))
    w, u = np.asarray(system.W), np.asarray(system.U)
    states, expected = [], 0
    for one, target in zip(np.asarray(x), np.asarray(y), strict=True):
        s = np.zeros(4)
        for _ in range(2000):
            s = 0.5 * s + 0.5 * np.tanh(w @ s + u @ one)
        d, c = np.diag(1 - s**2), np.zeros(4)
        c[-2:] = s[-2:] - target
        error = d @ np.linalg.solve(np.eye(4) - w @ d, c)
        expected = expected + np.outer(error, one) / len(x)
        states.append(s)
    state = jnp.asarray(np.stack(states))
    (limit, _), _ = ep_limit(Problem(system, COST, x, y), state, 0.5)
    np.testing.assert_allclose(limit.U, expected, rtol=1e-9, atol=1e-12)
    probe = exactness(Problem(system, COST, x, y), state, 0.5)
    assert probe.exact
    assert probe.scale is None  # S is M itself, nothing is fitted


def test_a_nudge_inside_an_activation_holds_and_outside_is_refused():
    """S = M: also step by step; outside of tanh the cure is `forced_velocity`."""
    right = ep.verify(inside(Inside), COST, *batch(size=3))
    assert right.holds, str(right)
    orders = {c.name: c.outcome for c in right.checks if "order in β" in c.name}
    assert orders["EP centered, states: order in β"] == "holds"
    wrong = ep.verify(inside(Outside), COST, *batch(size=3))
    assert not wrong.holds
    assert "refused" in wrong.verdict


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [3e4, 2e7, 3e-3, 5e-8])
def test_a_fast_or_slow_system_settles_at_its_own_time_scale(scale):
    """Energy times a constant: same fixed point, dt in proportion, same radius."""
    x, _ = jax.tree.map(_double, batch(size=2))
    a, w = (np.asarray(v) for v in (timed(3, False).A, timed(3, False).W))
    system = Timed(jnp.asarray(scale * a), jnp.asarray(scale * w), (1.0,) * 5)
    point = find_fixed_point(system, x, None, None)
    assert point.settled
    assert point.radius < 0.97
    assert point.dt * scale * np.linalg.norm(a, 2) < 2
    expected = np.linalg.solve(a, w @ np.asarray(x).T).T
    np.testing.assert_allclose(point.state, expected, rtol=1e-8)


def test_gradients_of_any_size_are_compared():
    """The squares of 1e-200 are 0; angle, ratio and error do not mind."""
    g, e = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    for size in (1e-200, 1.0, 1e200):
        found = agreement([2 * size * g], [size * e])
        assert found.ratio == pytest.approx(2)
        assert found.angle == pytest.approx(np.degrees(2 * np.arctan2(1, 7)))
        assert found.error == pytest.approx(np.hypot(2, 5) / 5)
        rmse = process_rmse(size * g[:, None], size * e[:, None])
        np.testing.assert_allclose(rmse, [np.sqrt(2) / 5])
    assert np.isnan(agreement([g], [0 * g]).ratio)
