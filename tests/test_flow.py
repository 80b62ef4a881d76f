"""Paper B in continuous time: theorems 1 and 3, and the limit of small steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm
from tolerances import FINITE_DIFFERENCE, FIXED_POINT, SLOPE
from zoo import batch, dict_energy, field, hopfield, Quadratic, quadratic

import eqprop as ep
from eqprop import (
    ep_flow,
    flow,
    flow_figure,
    projected_cost,
    rbp_flow,
    truncation,
)

pytestmark = pytest.mark.usefixtures("x64")

TIMES = np.array([0.0, 0.2, 0.7, 1.5, 3.0, 6.0])
COST = ep.SquaredError()


def settled(system, x):
    equilibrium = ep.relax(system, x, ep.Euler(0.2, 20000, 1e-13))
    assert (equilibrium.status == 0).all()
    return equilibrium.state


def quadratic_error(system, x, y):
    """s⁰ and ∂C/∂s there, from linear algebra."""
    s = np.linalg.solve(system.A, (x @ system.W.T + system.b).T).T
    error = np.zeros_like(s)
    error[:, -2:] = s[:, -2:] - y
    return s, error


def distance(a, b):
    """The largest difference of two pytrees, for each t."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    gaps = [np.abs(np.asarray(u - v)).reshape(len(u), -1).max(1) for u, v in pairs]
    return np.max(gaps, axis=0)


def test_rbp_of_a_quadratic_energy_has_a_closed_form():
    """S̄_t = e^{−At} ∂C/∂s and Θ̄_t = (∂v/∂θ)ᵀ A⁻¹ (1 − e^{−At}) ∂C/∂s (eqs 8–11)."""
    system = quadratic()
    x, y = batch()
    s, error = quadratic_error(system, x, y)
    process = rbp_flow(system, COST, x, y, state=jnp.asarray(s), times=TIMES)
    propagators = [expm(-system.A * t) for t in TIMES]
    expected = np.stack([error @ p.T for p in propagators])
    np.testing.assert_allclose(process.states, expected, atol=FIXED_POINT)
    for k, p in enumerate(propagators):
        q = np.linalg.solve(system.A, (error - error @ p.T).T).T
        outer = q.T @ s / len(x)
        grads = jax.tree.map(lambda g, k=k: g[k], process.grads)
        np.testing.assert_allclose(grads.b, q.mean(0), atol=FIXED_POINT)
        np.testing.assert_allclose(grads.W, q.T @ x / len(x), atol=FIXED_POINT)
        np.testing.assert_allclose(grads.A, -(outer + outer.T) / 2, atol=FIXED_POINT)
    np.testing.assert_allclose(process.times, TIMES)


@pytest.mark.parametrize(
    "make", [lambda: field(0.0), pytest.param(dict_energy, marks=pytest.mark.slow)]
)
def test_the_nudged_phase_is_recurrent_backpropagation(make):
    """S̃_t = S̄_t and Θ̃_t = Θ̄_t for every t (theorem 3, eqs 20–21)."""
    system = make()
    x, y = batch()
    data = {"state": settled(system, x), "times": TIMES}
    rbp = rbp_flow(system, COST, x, y, **data)
    nudged = ep_flow(system, COST, x, y, beta=1e-4, **data)
    assert distance(nudged.states, rbp.states).max() < FINITE_DIFFERENCE
    assert distance(nudged.grads, rbp.grads).max() < FINITE_DIFFERENCE
    # It is not the identity of two constants.
    moved = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), rbp)
    assert distance(rbp.states, moved.states)[1:].min() > 0.1


def test_an_asymmetric_jacobian_breaks_the_identity():
    """With ∂μ/∂s ≠ (∂μ/∂s)ᵀ the two processes part for t > 0 (paper C)."""
    system = field(0.3)
    x, y = batch()
    data = {"state": settled(system, x), "times": TIMES}
    rbp = rbp_flow(system, COST, x, y, **data)
    nudged = ep_flow(system, COST, x, y, beta=1e-4, **data)
    apart = distance(nudged.states, rbp.states)
    assert apart[0] < FINITE_DIFFERENCE
    assert apart[3] > 0.1


@pytest.mark.parametrize(("nudging", "order"), [("one-sided", 1), ("centered", 2)])
def test_the_bias_falls_with_the_nudge(nudging, order):
    """S̃ − S̄ is O(β) one-sided and O(β²) centered."""
    system = quadratic()
    x, y = batch()
    data = {"state": settled(system, x), "times": TIMES}
    rbp = rbp_flow(system, COST, x, y, **data)
    betas = np.array([0.04, 0.02, 0.01])
    gaps = [
        distance(
            ep_flow(system, COST, x, y, beta=b, nudging=nudging, **data).states,
            rbp.states,
        ).max()
        for b in betas
    ]
    slope = np.polyfit(np.log(betas), np.log(gaps), 1)[0]
    assert abs(slope - order) < SLOPE


def test_euler_processes_tend_to_the_flow():
    """S̄_{t+1} = (∂F/∂s)ᵀ S̄_t of F = s + dt·velocity is off by O(dt) at t = 1."""
    system = field(0.3)
    x, y = batch()
    state = settled(system, x)
    exact = rbp_flow(system, COST, x, y, state=state, times=[0.0, 1.0]).states

    @jax.jit
    def euler(dt, steps):
        def last(x, s, error):
            pull = jax.vjp(lambda u: u + dt * system.velocity(x, u), s)[1]
            return jax.lax.fori_loop(0, steps, lambda _, e: pull(e)[0], error)

        return jax.vmap(last)(x, state, exact[0])

    steps = np.array([0.1, 0.05, 0.025, 0.0125])
    errors = [np.abs(euler(dt, round(1 / dt)) - exact[1]).max() for dt in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - 1) < SLOPE


def test_projected_cost_has_the_error_processes_as_gradients():
    """∂L/∂s(s⁰, t) = S̄_t and ∂L/∂θ(s⁰, t) = Θ̄_t (eqs 6–7), also for long t.

    At s⁰ the state does not move: a solver that watches it alone takes steps in which
    the derivative is wrong.
    """
    system = quadratic()
    x, y = batch()
    state = settled(system, x)
    process = rbp_flow(system, COST, x, y, state=state, times=TIMES)

    def loss(model, t):
        return projected_cost(model[0], COST, x, y, model[1], t)

    for k, t in ((2, 0.7), (4, 3.0)):
        grads, states = eqx.filter_grad(loss)((system, state), float(t))
        np.testing.assert_allclose(len(x) * states, process.states[k], atol=1e-8)
        np.testing.assert_allclose(grads.W, process.grads.W[k], atol=1e-8)


@pytest.mark.slow
def test_the_projected_cost_gradient_tends_to_the_exact_one():
    """∂L/∂θ(s, t) → ∂J/∂θ as t → ∞, from a state that is not s⁰ (eq 5)."""
    system = quadratic()
    x, y = batch()
    start = jax.random.normal(jax.random.key(7), (len(x), 5))

    def objective(system):
        a = (system.A + system.A.T) / 2
        s = jnp.linalg.solve(a, (x @ system.W.T + system.b).T).T
        return 0.5 * jnp.mean(jnp.sum((s[:, -2:] - y) ** 2, axis=1))

    def gap(t):
        found = jax.grad(lambda m: projected_cost(m, COST, x, y, start, t))(system)
        return max(np.abs(getattr(found, n) - getattr(exact, n)).max() for n in "AWb")

    exact = jax.grad(objective)(system)
    near, far = gap(4.0), gap(40.0)
    assert near > 1e-4
    assert far < FIXED_POINT


def test_flow_and_nudged_flow_of_a_quadratic_energy():
    """s(t) = s^β + e^{−(A + βRᵀR)t} (s(0) − s^β) (eqs 1, 14–15)."""
    system = quadratic()
    x, y = batch()
    read = np.eye(5)[-2:]
    for beta in (0.0, 0.4):
        a = np.asarray(system.A) + beta * read.T @ read
        rest = np.linalg.solve(a, (x @ system.W.T + system.b + beta * y @ read).T).T
        nudge = {"cost": COST, "y": y, "beta": beta} if beta else {}
        states = flow(system, x, jnp.zeros((len(x), 5)), TIMES, **nudge)
        expected = np.stack([rest - rest @ expm(-a * t).T for t in TIMES])
        np.testing.assert_allclose(states, expected, atol=FIXED_POINT)


@pytest.mark.slow
def test_units_held_at_a_bound():
    """D S̄_t = S̃_t for a hard-sigmoid network with units at its bounds."""
    system = hopfield((3, 8, 6, 2), activation=ep.hard_sigmoid)
    x, y = batch()
    state = settled(system, x)
    held = [(s == 0) | (s == 1) for s in state]
    assert 0.2 < np.mean(np.concatenate(held, 1)) < 0.8
    rbp = rbp_flow(system, COST, x, y, state=state, times=TIMES)
    nudged = ep_flow(system, COST, x, y, state=state, times=TIMES, beta=1e-4)
    errors = tuple(jnp.where(h, 0, e) for h, e in zip(held, rbp.states, strict=True))
    assert distance(nudged.states, errors).max() < FINITE_DIFFERENCE
    assert distance(nudged.grads, rbp.grads).max() < FINITE_DIFFERENCE


def test_truncation_is_the_angle_to_the_exact_gradient():
    """Undefined at t = 0, where Θ̄ = 0; then from the closed form to 0."""
    system = quadratic()
    x, y = batch()
    s, error = quadratic_error(system, x, y)
    times = [0.0, 0.5, 40.0]
    process = rbp_flow(system, COST, x, y, state=jnp.asarray(s), times=times)

    def theta(q):
        outer = q.T @ s / len(x)
        return [-(outer + outer.T) / 2, q.T @ x / len(x), q.mean(0)]

    full = np.linalg.solve(system.A, error.T).T
    part = np.linalg.solve(system.A, (error - error @ expm(-system.A / 2).T).T).T
    a, b = (np.concatenate([np.ravel(g) for g in theta(q)]) for q in (part, full))
    exact = jax.tree.unflatten(jax.tree.structure(process.grads), theta(full))
    angles = truncation(process, exact)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert np.isnan(angles[0])
    np.testing.assert_allclose(angles[1], np.degrees(np.arccos(cosine)), rtol=1e-6)
    assert angles[1] > 1
    assert angles[2] < 1e-6
    with pytest.raises(ValueError, match="same system's and cost's"):
        truncation(process, exact.W)


class Walled(Quadratic):
    """A quadratic energy whose states are kept in [−0.1, 0.1]."""

    def project(self, s):
        return jnp.clip(s, -0.1, 0.1)


def test_a_flow_has_no_projection():
    """Refused on any trajectory that leaves the bounds, even if it comes back."""
    free = quadratic()
    system = Walled(free.A, free.W, free.b)
    x, _ = batch()
    s = jnp.zeros((len(x), 5))
    with pytest.raises(ValueError, match=r"Walled.project would move.*rbp_process"):
        flow(system, x, s, TIMES)
    system = eqx.tree_at(lambda m: m.b, system, -0.1 * jnp.ones(5))
    inside = flow(system, 0 * x, s, 0.1 * TIMES)
    assert (np.abs(inside) < 0.1).all()


def test_refusals_name_the_value():
    system = quadratic()
    x, y = batch()
    s = jnp.zeros((len(x), 5))
    for times in (-1.0, [0.0, 2.0, 1.0], [1.0, 1.0], [], [np.inf]):
        with pytest.raises(ValueError, match="increasing"):
            rbp_flow(system, COST, x, y, state=s, times=times)
    with pytest.raises(ValueError, match="increasing"):
        projected_cost(system, COST, x, y, s, -0.5)
    with pytest.raises(ValueError, match="beta is 0"):
        ep_flow(system, COST, x, y, state=s, times=TIMES, beta=0.0)
    with pytest.raises(ValueError, match="'both'"):
        ep_flow(system, COST, x, y, state=s, times=TIMES, nudging="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tol is 0\.0"):
        rbp_flow(system, COST, x, y, state=s, times=TIMES, tol=0.0)
    with pytest.raises(ValueError, match="both cost and y"):
        flow(system, x, s, TIMES, cost=COST)
    with pytest.raises(ValueError, match="no effect without cost and y"):
        flow(system, x, s, TIMES, beta=0.1)
    with pytest.raises(ValueError, match="chains=0"):
        flow_figure(
            system, COST, x, y, state=s, times=TIMES, chains=0, key=jax.random.key(0)
        )
    explosive = eqx.tree_at(lambda m: m.A, system, -system.A)
    with pytest.raises(ValueError, match="did not reach"):
        flow(explosive, x, s, 1000 * TIMES)


def test_the_figure_is_drawn(tmp_path):
    system = hopfield((3, 8, 6, 2), activation=ep.hard_sigmoid)
    x, y = batch()
    file = tmp_path / "flow.png"
    figure = flow_figure(
        system,
        COST,
        x,
        y,
        state=settled(system, x),
        times=TIMES,
        key=jax.random.key(0),
        chains=8,
        path=file,
    )
    assert file.stat().st_size > 10_000
    assert len(figure.axes) == 3
    for axis in figure.axes:
        assert axis.get_xlabel() == "time (neuron time constants)"
        for line in axis.lines:
            assert np.isfinite(line.get_ydata()[1:]).all()


@pytest.mark.slow
def test_the_error_stays_accurate_at_long_times():
    """At s⁰ nothing moves; the solver must not step over the error for that."""
    system, (x, y) = quadratic(), batch(size=2)
    s = settled(system, x)
    end = np.array([0.0, 5.0, 8.0])
    process = rbp_flow(system, COST, x, y, state=s, times=end)
    start = np.asarray(process.states[0])
    for k, t in enumerate(end):
        expected = start @ np.asarray(expm(-t * system.A)).T
        np.testing.assert_allclose(process.states[k], expected, atol=1e-10)
    slope = jax.grad(lambda s: projected_cost(system, COST, x, y, s, 40.0))(s)
    # e^{−40} of the error is left: nothing but the solver's own error may show.
    assert np.abs(slope).max() < 1e-9
