"""The residual at the returned state, against float64 NumPy, and what it decides."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.estimators._base import Gradient
from eqprop.relaxations._projected import projected

SETTLED, UNSETTLED, DIVERGED = (
    ep.Status.settled,
    ep.Status.unsettled,
    ep.Status.diverged,
)


class Pull(ep.AbstractEnergy):
    """E = ½ Σ k (s − target)², the input being the target."""

    k: jax.Array
    start: float = eqx.field(static=True, default=0.0)

    def init_state(self, x):
        return jnp.full(x.shape, self.start, x.dtype)

    def energy(self, x, s):
        return 0.5 * jnp.sum(self.k * (s - x) ** 2)

    def readout(self, s):
        return s


def test_a_unit_that_rounding_stops_is_unsettled():
    """On its way to 3e4 in steps of 1e-4 a float32 unit stops: its force is left over.

    Oracle: velocity = target − s, in float64.
    """
    x = jnp.array([[3e4], [1e-3]])
    for tol in (None, 1e-3):
        found = ep.relax(Pull(jnp.ones(1)), x, ep.Euler(1e-4, 150_000, tol))
        left = np.abs(np.asarray(x, float) - np.asarray(found.state, float))[:, 0]
        assert left[0] > 1  # it stopped far away
        np.testing.assert_allclose(found.residual, left, rtol=1e-6, atol=1e-9)
        assert [int(status) for status in found.status] == [UNSETTLED, SETTLED]


@pytest.mark.filterwarnings("ignore::eqprop.estimators.RoundedGradient")
def test_a_nudged_phase_that_rounding_stops_is_unsettled():
    """s = 1 stays where it is under a nudge β·0.3 with dt·β·0.3 < ½ ulp(1).

    A float64 phase of the same length moves by β·0.3·(1 − e^{−0.1}).
    """
    beta, dt = 2e-3, 5e-5
    rule = ep.EquilibriumPropagation(
        ep.Euler(0.5, 60), ep.Euler(dt, 2000, 1e-5), beta, "one-sided"
    )
    problem = (ep.SquaredError(), jnp.ones((1, 2)), jnp.full((1, 2), 1.3))
    gradient = rule(Pull(jnp.ones(2)), *problem)
    assert int(gradient.equilibrium.status[0]) == SETTLED
    assert gradient.stats["nudged_status"].tolist() == [[UNSETTLED]]
    np.testing.assert_allclose(gradient.stats["nudged_residual"], beta * 0.3, rtol=1e-5)


class Rounded(ep.AbstractRelaxation):
    """A user's own relaxation, which judges itself by the rounded step."""

    dt: float = 1e-4
    steps: int = 500
    tol: float | None = None

    def step(self, dynamics, s, key):
        moved = jax.tree.map(lambda u, v: u + self.dt * v, s, dynamics.velocity(s))
        size = jnp.max(jnp.abs(moved - s)) / self.dt
        return dynamics.system.project(moved), size


@pytest.mark.parametrize("tol", [None, 1e-4])
def test_a_relaxation_of_ones_own_is_judged_at_its_state(tol):
    """It says 0, as nothing moves; ‖velocity‖∞ = 1e-3 is what is left."""
    x = jnp.array([[20.001]])
    found = ep.relax(Pull(jnp.ones(1), start=20.0), x, Rounded(tol=tol))
    left = np.asarray(x, float) - np.asarray(found.state, float)
    np.testing.assert_allclose(found.residual, left[:, 0], rtol=1e-5)
    assert found.status.tolist() == [UNSETTLED]


def test_a_tolerance_loop_ends_at_a_state_that_has_settled():
    """A spiral: ‖·‖∞ of a turning vector dips, and a stop in a dip is none."""

    class Spiral(ep.AbstractVectorField):
        turn: jax.Array

        def init_state(self, x):
            return x

        def velocity(self, x, s):
            return self.turn @ s

        def readout(self, s):
            return s

    turn = jnp.array([[-0.05, 1.0], [-1.0, -0.05]])
    x = jnp.stack([jnp.cos(jnp.arange(8.0)), jnp.sin(jnp.arange(8.0))], 1)
    found = ep.relax(Spiral(turn), x, ep.Euler(0.02, 100_000, 1e-3))
    velocity = np.asarray(found.state) @ np.asarray(turn).T
    np.testing.assert_allclose(
        found.residual, np.abs(velocity).max(1), rtol=1e-4, atol=1e-8
    )
    assert (np.asarray(found.residual) < 1e-3).all()
    assert (np.asarray(found.status) == SETTLED).all()
    assert int(found.steps.max()) < 20_000


def _clip(s):
    return s.clip(0, 1)


def _mean(s):
    return s - s.mean() + 0.3


def _ball(s):
    norm = (s**2).sum() ** 0.5
    return s / jnp.where(norm > 1, norm, 1)


@pytest.mark.parametrize("dt", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize(
    ("project", "rtol", "atol"),
    [(_clip, 1e-4, 0), (_mean, 0.05, 0.25), (_ball, 0.05, 0.25)],
)
def test_projected_velocity_is_that_of_float64(project, rtol, atol, dt):
    """Of 500 random states and velocities of all sizes; `atol` in ulp(1)/dt.

    Bounds of single units are exact; where `project` joins units its own rounding, an
    ulp of the state over dt, is left.
    """
    random = np.random.default_rng(0)
    s = random.normal(size=(500, 5)).astype(np.float32)
    s = np.asarray(jax.vmap(lambda u: project(project(u)))(s))
    v = random.normal(size=s.shape) * 10.0 ** random.uniform(-7, 1, s.shape)
    step = np.float32(dt) * v.astype(np.float32)
    kept = jax.jit(jax.vmap(lambda s, d: projected(project, s, d)))(s, step)
    found = np.abs(np.asarray(kept)).max(1) / dt
    with jax.enable_x64(True):
        wide = jax.vmap(project)
        start, moved = s.astype(float), s.astype(float) + step.astype(float)
        # s lies on the set only to float32: from its own image in float64.
        true = np.asarray(wide(moved)) - np.asarray(wide(start))
    true = np.abs(true).max(1) / dt
    ulp = float(np.finfo(np.float32).eps)
    error = np.abs(found - true) - rtol * true
    assert np.quantile(error, 0.99) <= max(atol, 1e-6) * 64 * ulp / dt


def test_projected_velocity_at_a_bound_beside_a_huge_unit():
    """Held units keep 0, whatever their force; a free one all, beside 1e9."""
    s = {"held": jnp.array([1.0, 1.0, 0.0, 1.0]), "huge": jnp.array([1e9])}
    d = {"held": jnp.array([1e-12, jnp.inf, -1e20, -1e-11]), "huge": jnp.zeros(1)}

    def project(u):
        return {"held": u["held"].clip(0, 1), "huge": u["huge"]}

    kept = projected(project, s, d)
    np.testing.assert_allclose(kept["held"], [0, 0, 0, -1e-11], rtol=1e-6)
    lost = projected(project, s, d | {"huge": jnp.array([jnp.nan])})
    assert np.isnan(lost["huge"]).all()
    complex_ = jnp.array([1 + 1j, 1e-9j])
    np.testing.assert_allclose(
        projected(lambda u: u * 1, complex_, 1e-9 * complex_), 1e-9 * complex_
    )


@pytest.mark.parametrize("seed", range(3))
def test_residuals_of_random_systems_equal_numpy(seed):
    """v = Ws + Ux − s, clipped: Euler's and Sweep's residual in float64 NumPy."""
    random = np.random.default_rng(seed)
    weight, drive = random.normal(size=(2, 6, 6)) / 2
    a = random.uniform(1.0, 3.0, 6)

    class Clipped(ep.AbstractVectorField):
        W: jax.Array
        U: jax.Array
        a: jax.Array

        def init_state(self, x):
            return jnp.zeros(6)

        def velocity(self, x, s):
            return self.W @ s + self.U @ x - s

        def readout(self, s):
            return s[:2]

        def project(self, s):
            return s.clip(0, 1)

        def blocks(self):
            return (ep.Block(lambda s: s, (self.a,)),)

    system = Clipped(*map(jnp.asarray, (weight, drive, a)))
    x = jnp.asarray(random.normal(size=(7, 6)), jnp.float32)
    beta, y = 0.3, jnp.zeros((7, 2))
    nudge = {"cost": ep.SquaredError(), "y": y, "beta": beta}
    for relaxation in (ep.Euler(0.1, 30), ep.Sweep(3), ep.Euler(0.1, 500, 1e-3)):
        found = ep.relax(system, x, relaxation, **nudge)
        s = np.asarray(found.state, float)
        W, U, A = (np.asarray(u, float) for u in (system.W, system.U, system.a))
        v = s @ W.T + np.asarray(x, float) @ U.T - s
        v[:, :2] -= beta * s[:, :2]
        if isinstance(relaxation, ep.Sweep):
            total = A + beta * (np.arange(6) < 2)
            true = np.clip(s + v / total, 0, 1) - s
        else:
            true = (np.clip(s + 0.1 * v, 0, 1) - s) / 0.1
        np.testing.assert_allclose(
            found.residual, np.abs(true).max(1), rtol=1e-4, atol=3e-6
        )


class Block(Pull):
    """Units in [0, 1] with a declared curvature, right or wrong."""

    declared: jax.Array | float = 1.0

    def project(self, s):
        return s.clip(0, 1)

    def blocks(self):
        if isinstance(self.declared, float):
            return (ep.Block(lambda s: s, self.declared),)
        return (ep.Block(lambda s: s, (self.declared,)),)


def pulled(declared, start=0.5):
    return Block(jnp.ones(3), start=start, declared=declared)


X = jnp.array([[0.2, 0.7, 5.0]])


@pytest.mark.parametrize(
    ("declared", "unit"),
    [
        (jnp.array([1.0, -2.0, 1.0]), "[1]"),
        (jnp.array([1.0, 1.0, 0.0]), "[2]"),
        (jnp.array([jnp.inf, 1.0, 1.0]), "[0]"),
        (-1.0, "state"),
    ],
)
def test_a_curvature_that_is_not_positive_is_refused(declared, unit):
    """With block and unit; in a rule and with a tolerance too."""
    message = rf"block 0 of Block has the curvature .*{unit}".replace("[", r"\[")
    rule = ep.EquilibriumPropagation(ep.Sweep(5), ep.Sweep(5), 0.1)
    with pytest.raises(ValueError, match=message):
        ep.relax(pulled(declared), X, ep.Sweep(5))
    with pytest.raises(ValueError, match=message):
        ep.relax(pulled(declared), X, ep.Sweep(5, 1e-3))
    with pytest.raises(ValueError, match=message):
        rule(pulled(declared), ep.SquaredError(), X, X)


@pytest.mark.parametrize("wrong", [-2.0, 0.0, jnp.nan])
@pytest.mark.parametrize("tol", [None, 1e-3])
def test_under_jit_such_a_curvature_never_settles(wrong, tol):
    """Where nothing can be raised, the status says it, wherever the units end."""

    @jax.jit
    def settle(declared):
        return ep.relax(pulled(declared), X, ep.Sweep(20, tol))

    right = settle(jnp.ones(3))
    np.testing.assert_allclose(right.state, X.clip(0, 1), atol=1e-6)
    assert int(right.status[0]) == SETTLED
    assert int(settle(jnp.array([1.0, wrong, 1.0])).status[0]) == DIVERGED


def test_a_cost_that_holds_a_unit_makes_its_curvature_positive():
    """a = 0 under β c > 0 is a step; under −β c nothing is left to divide by."""
    system = eqx.tree_at(lambda s: s.k, pulled(jnp.zeros(3)), jnp.zeros(3))
    nudge = {"cost": ep.SquaredError(), "y": jnp.full((1, 3), 0.25)}
    found = ep.relax(system, X, ep.Sweep(2), beta=0.5, **nudge)
    np.testing.assert_allclose(found.state, 0.25, atol=1e-6)
    assert int(found.status[0]) == SETTLED
    with pytest.raises(ValueError, match="the curvature"):
        ep.relax(system, X, ep.Sweep(2), beta=-0.5, **nudge)


def test_training_names_the_unit_without_curvature():
    """A floating unit is a fault of the model, not of the learning rate."""
    rule = ep.EquilibriumPropagation(ep.Sweep(5), ep.Sweep(5), 0.1)
    system = pulled(jnp.array([1.0, 0.0, 1.0]))
    with pytest.raises(
        ep.TrainingDiverged, match=r"curvature 0 at state\[1\]"
    ) as error:
        ep.fit(system, ep.SquaredError(), X, X, estimator=rule, epochs=1)
    assert "optimizer.lr" not in str(error.value)


def test_what_training_reports_is_measured_at_the_equilibrium():
    """`settled` and `residual` of a few-sweep rule are those of relax at the start.

    An epoch of one step with rate 0; the relaxation's own measure is 10 times as large.
    """

    class Loud(Rounded):
        def step(self, dynamics, s, key):
            moved, size = super().step(dynamics, s, key)
            return moved, 10 * size

    x = jnp.linspace(0.5, 2.0, 6)[:, None]
    system, free = Pull(jnp.ones(1)), Loud(0.5, 3)
    rule = ep.EquilibriumPropagation(free, free, 0.1)
    settings = {
        "epochs": 1,
        "batch_size": 6,
        "optimizer": ep.Optimizer("sgd", (1e-30,)),
    }
    record = ep.fit(
        system, ep.SquaredError(), x, 1 + x, estimator=rule, **settings
    ).history[0]
    there = ep.relax(system, x, free)
    np.testing.assert_allclose(there.residual, x[:, 0] / 8, rtol=1e-5)
    assert record["residual"] == pytest.approx(float(there.residual.mean()), rel=1e-5)
    assert record["settled"] == 0


@pytest.mark.filterwarnings("ignore::eqprop.estimators.RoundedGradient")
def test_stopping_and_masking_judge_every_example_exactly():
    """An example that rounding stops stops a run, and is left out of another."""
    x, y = jnp.array([[3e4], [1.0]]), jnp.ones((2, 1))
    free = ep.Euler(1e-4, 100)
    system = Pull(jnp.ones(1), start=1.0)
    x = jnp.array([[1.001], [1.0]])  # dt·velocity = 1e-7: half an ulp of 1 is 6e-8
    free = ep.Euler(1e-5, 100, 1e-4)
    rule = ep.EquilibriumPropagation(free, ep.Euler(0.5, 5), 0.1)
    problem = (system, ep.SquaredError(), x, y)
    settings = {"estimator": rule, "epochs": 1, "batch_size": 2, "shuffle": False}
    with pytest.raises(ep.TrainingDiverged, match=r"example 0.*rounding.*dt"):
        ep.fit(*problem, on_unsettled="error", **settings)
    masked = ep.fit(*problem, on_unsettled="mask", **settings).history[0]
    assert masked["masked"] == 1
    assert masked["settled"] == 0.5


class Slow(Pull):
    """Time constants D: ds/dt = D (−∂E/∂s + force)."""

    D: jax.Array = eqx.field(default_factory=lambda: jnp.array([1.0, 0.3]))

    def velocity(self, x, s):
        return self.forced_velocity(x, s, jnp.zeros_like(s))

    def forced_velocity(self, x, s, force):
        return self.D * (super().velocity(x, s) + force)


def test_a_nudge_is_felt_as_the_system_says():
    """With its own forced velocity one step of a slow unit moves by D dt force."""
    system, x = Slow(jnp.ones(2), start=1.0), jnp.ones((1, 2))
    nudge = {"cost": ep.SquaredError(), "y": jnp.zeros((1, 2)), "beta": 0.2}
    moved = ep.relax(system, x, ep.Euler(0.5, 1), **nudge).state
    np.testing.assert_allclose(moved[0], 1 - 0.5 * np.array([1, 0.3]) * 0.2, rtol=1e-6)
    settled = ep.relax(system, x, ep.Euler(0.5, 200), **nudge).state
    np.testing.assert_allclose(settled, 1 / 1.2, rtol=1e-5)


def test_a_layer_of_a_program_feels_its_nudge_so_too():
    """∂/∂x of Σ g s through `settle` is g/(1 + 0) for every D: s⁰ = x."""
    rule = ep.EquilibriumPropagation(ep.Euler(0.5, 200), ep.Euler(0.5, 200), 0.1)
    system, x = Slow(jnp.ones(2)), jnp.ones((1, 2))
    found = jax.grad(
        lambda x: ep.settle(system, x, adjoint=rule)[0] @ jnp.array([1.0, 2.0])
    )(x)
    np.testing.assert_allclose(found[0], [1, 2], rtol=1e-3)


def test_rules_of_relaxations_that_are_not_measured_give_the_same_gradient():
    """Monitoring is no part of a rule: exact or not, the gradient is bit for bit."""
    from eqprop.relaxations._base import with_exact

    net = ep.HopfieldEnergy((4, 8, 3), key=jax.random.key(0))
    x, y = jax.random.normal(jax.random.key(1), (5, 4)), jnp.eye(3)[jnp.arange(5) % 3]
    rule = ep.EquilibriumPropagation(ep.Sweep(4), ep.Sweep(2), 0.3)
    found: list[Gradient] = [
        with_exact(rule, exact)(net, ep.SquaredError(), x, y) for exact in (True, False)
    ]
    for a, b in zip(*map(jax.tree.leaves, [g.grads for g in found]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert dataclasses.replace(with_exact(rule, False).free, steps=3).exact is True
