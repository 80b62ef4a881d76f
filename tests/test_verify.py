"""`verify`: what theory promises is found to hold, and what is broken is found out."""

import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import (
    batch,
    box,
    box_hopfield,
    dict_energy,
    field,
    primitive,
    quadratic,
    SoftmaxReadout,
    tanh_map,
)

import eqprop as ep
from eqprop.estimators import _equilibrium_propagation, _recurrent_backpropagation
from eqprop.relaxations import _euler
from eqprop.theory import _comparison, _processes
from eqprop.theory._metrics import agreement, order_in_beta, process_rmse

COST = ep.SquaredError()
SLOW = pytest.mark.slow
SCALES = ("small", "large", "slow", "learned")


def rows_of(result, estimator):
    return [row for row in result.rows if row.estimator == estimator]


def outcomes(result):
    return {check.name: check.outcome for check in result.checks}


@pytest.mark.parametrize("make", [box_hopfield, pytest.param(primitive, marks=SLOW)])
def test_holds_for_systems_with_a_potential(make):
    """Energies with dict states and three-body couplings, boxes, primitives."""
    result = ep.verify(make(), COST, *batch(size=4))
    assert result.holds, str(result)
    assert set(outcomes(result).values()) == {"holds"}
    for sweep in result.sweeps:
        expected = {"one-sided": 1, "centered": 2}[sweep.nudging]
        assert sweep.order.exact or sweep.order.measured >= 0.95 * expected
        assert len(sweep.errors) == 4
    assert {row.estimator for row in result.rows} == {
        *("implicit", "RBP", "BPTT", "EP one-sided", "EP centered")
    }
    for row in result.rows:
        assert row.agreement.error < 0.01
    assert "exact gradient" in result.verdict


def test_a_symmetric_field_is_exact_and_an_asymmetric_one_explained(tmp_path):
    """Paper C: the bias is that of eq 18, and goes with the asymmetry."""
    x, y = batch(size=4)
    exact = ep.verify(box(0.0), COST, x, y)
    assert exact.holds, str(exact)
    assert "EP centered, gradients: order in β" in outcomes(exact)
    angles = []
    for asymmetry in (0.4, 0.1):
        result = ep.verify(field(asymmetry), COST, x, y)
        assert result.holds, str(result)
        checks = {check.name: check for check in result.checks}
        assert checks["EP's bias against theory's (paper C, eq 18)"].outcome == "holds"
        angles.append(checks["EP's angle to the exact gradient, degrees"].measured)
        assert "not symmetric" in " ".join(result.findings)
    assert angles[0] > 2 * angles[1] > 1
    figures = result.plot(tmp_path / "figures")
    for name in ("processes", "layers", "beta"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 10_000
        assert name in figures


def test_a_map_is_declared_approximate():
    """Paper D's prototypical setting: RMSE, angle, signs, and failure at 90°."""
    result = ep.verify(tanh_map(), COST, *batch(size=4))
    assert result.holds, str(result)
    assert "approximate by declaration" in result.verdict
    rmse = {layer.name: layer.mean for layer in result.layers}
    assert rmse["M"] > 1e-3
    backward = eqx.tree_at(lambda m: m.M, tanh_map(), -tanh_map().M.T @ _rotation(6))
    wrong = ep.verify(backward, COST, *batch(size=4))
    angle = next(c for c in wrong.checks if "angle" in c.name)
    assert (angle.outcome == "fails") == (angle.measured >= 90)
    assert wrong.holds == (angle.measured < 90)


def _rotation(n):
    """A rotation far from symmetric: the map's Jacobian and its transpose differ."""
    return jnp.roll(jnp.eye(n), 1, axis=0)


class Reversed(ep.AbstractMap):
    """F moves along ∂Φ/∂θ's opposite: EP's gradient points the wrong way."""

    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def map(self, x, s):
        return jnp.tanh(0.3 * s + self.w @ x)

    def primitive(self, x, s):
        return 0.15 * s @ s - s @ (self.w @ x)

    def readout(self, s):
        return s


def test_a_map_at_ninety_degrees_or_more_fails():
    """Learning by that Φ would climb the cost."""
    result = ep.verify(Reversed(0.3 * jnp.ones((2, 3))), COST, *batch(size=4))
    assert not result.holds
    assert "90°" in result.verdict
    assert {"RBP", "BPTT"} <= {row.estimator for row in result.rows}


def test_cost_with_parameters_frozen_constants_and_the_recipe_estimator():
    """A softmax readout has rows of its own; estimators of the caller too."""
    x, _ = batch(size=4)
    y = jax.nn.one_hot(jnp.array([0, 2, 1, 2]), 3)
    cost = SoftmaxReadout(jax.random.normal(jax.random.key(1), (3, 2)))
    euler = ep.Euler(0.3, 30)
    own = {"mine": ep.EquilibriumPropagation(euler, euler, 0.2)}
    own["short"] = ep.EquilibriumPropagation(ep.Euler(0.1, 2), ep.Euler(0.1, 2), 2.0)
    result = ep.verify(quadratic(), cost, x, y, estimators=own)
    assert result.holds, str(result)
    # HOLDS is not printed beside a gradient that is far off without saying so.
    assert rows_of(result, "short")[-1].agreement.angle > 5
    assert "But short, the gradient is" in result.verdict
    assert "mine" not in result.verdict
    assert "eqprop tune" in " ".join(result.findings)
    rows = {(row.estimator, row.parameter): row.agreement for row in result.rows}
    assert rows["RBP", "cost.weight"].error < 1e-10
    assert 1e-3 < rows["mine", "all"].error < 0.5
    record = json.loads(json.dumps(result.to_dict()))
    assert record["holds"] is True
    assert record["rows"][0]["agreement"]["error"] == 0
    text = str(result)
    assert "HOLDS" in text
    assert "cost.weight" in result.table()


class Stale(ep.AbstractEnergy):
    """Someone speeds the velocity up by hand and forgets a term."""

    W: jax.Array
    b: jax.Array

    def init_state(self, x):
        return jnp.zeros(4)

    def energy(self, x, s):
        return 0.5 * s @ s - 0.1 * s @ (self.W + self.W.T) @ s - s @ (self.b * x[0])

    def velocity(self, x, s):
        return 0.2 * (self.W + self.W.T) @ s + 2 * self.b * x[0] - s

    def readout(self, s):
        return s[:2]


class Skewed(Stale):
    """…or writes W where the energy has W + Wᵀ."""

    def velocity(self, x, s):
        return 0.4 * self.W @ s + self.b * x[0] - s


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Stale, "does not generate the velocity"),
        pytest.param(Skewed, "is not symmetric", marks=SLOW),
    ],
)
def test_a_potential_that_does_not_fit_is_refused(kind, reason):
    """With the reason, the number, and what to do."""
    keys = jax.random.split(jax.random.key(0))
    system = kind(jax.random.normal(keys[0], (4, 4)), jax.random.normal(keys[1], (4,)))
    result = ep.verify(system, COST, *batch(size=4))
    assert not result.holds
    words = " ".join([result.verdict, *result.findings])
    assert "refused" in words
    assert reason in words
    assert "AbstractVectorField" in words


def test_a_free_phase_that_has_not_settled():
    """How far it is, and how many more steps it needs: with those it holds."""
    problem = (dict_energy(), COST, *batch(size=4))
    short = ep.verify(*problem, free=ep.Euler(0.2, 10))
    assert not short.holds
    assert "has not settled" in short.verdict
    enough = int(short.verdict.rpartition("steps=")[2].rstrip("."))
    assert 20 < enough < 500
    assert ep.verify(*problem, free=ep.Euler(0.2, enough)).holds
    less = ep.verify(*problem, free=ep.Euler(0.2, enough - 10))
    assert "has not settled" in less.verdict


def test_a_step_that_is_too_large():
    """Oscillating or diverging: the dt that settles is named."""
    result = ep.verify(quadratic(), COST, *batch(size=4), free=ep.Euler(1.0, 500))
    assert not result.holds
    words = " ".join([result.verdict, *result.findings])
    assert "has not settled" in words
    assert "with dt=1" in words
    assert "use dt=0.5" in words


class Spiral(ep.AbstractVectorField):
    """A limit cycle: no fixed point attracts."""

    w: jax.Array

    def init_state(self, x):
        return jnp.array([1.0, 0.0])

    def velocity(self, x, s):
        turned = jnp.array([-s[1], s[0]])
        return s * (1 - s @ s) + turned + 0 * self.w * x[0]

    def readout(self, s):
        return s


class FlatEnergy(ep.AbstractEnergy):
    """Nothing pulls the second unit back."""

    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def energy(self, x, s):
        return 0.5 * s[0] ** 2 - s[0] * (self.w @ x)

    def readout(self, s):
        return s


def test_dynamics_without_a_fixed_point_or_a_gradient():
    """A limit cycle, and a direction without restoring force."""
    cycle = ep.verify(Spiral(jnp.ones(())), COST, *batch(size=2))
    assert not cycle.holds
    assert "there is no stable fixed point" in cycle.verdict
    flat = ep.verify(FlatEnergy(jnp.ones(3)), COST, *batch(size=2))
    assert not flat.holds
    words = " ".join([flat.verdict, *flat.findings])
    assert "spectral radius" in words
    assert "restoring force" in words


@pytest.mark.parametrize(
    ("beta", "reason"), [(2.0, "β is too large"), (1e-14, "β is lost in rounding")]
)
def test_a_beta_that_does_not_fit(beta, reason):
    """With the range of β that does."""
    result = ep.verify(dict_energy(), COST, *batch(size=3), beta=beta)
    assert not result.holds
    words = " ".join([result.verdict, *result.findings])
    assert reason in words


class TwoWells(ep.AbstractEnergy):
    """E = ¼(s² − 1)² − ws: two minima."""

    w: jax.Array

    def init_state(self, x):
        return jnp.full(2, 0.1)

    def energy(self, x, s):
        return 0.25 * jnp.sum((s**2 - 1) ** 2) - 0.05 * s @ (self.w @ x)

    def readout(self, s):
        return s


@pytest.mark.slow
def test_several_fixed_points_are_told():
    """Nothing is wrong, but the user should know."""
    result = ep.verify(TwoWells(jnp.ones((2, 3))), COST, *batch(size=6))
    assert result.holds, str(result)
    assert "several fixed points" in " ".join(result.findings)


class Quartic(ep.AbstractEnergy):
    """E = ½‖s‖² + 0.1 Σs⁴ − tanh(s)·Wx − s·Ux, `U` frozen and `k` unused."""

    W: jax.Array
    U: jax.Array
    k: jax.Array
    scale: float = eqx.field(static=True, default=1.0)

    def init_state(self, x):
        return jnp.zeros(3)

    def energy(self, x, s):
        frozen = jax.lax.stop_gradient(self.U) @ x
        pull = 0.5 * s @ s + 0.1 * jnp.sum(s**4)
        return self.scale * (pull - jnp.tanh(s) @ (self.W @ x) - s @ frozen)

    def readout(self, s):
        return s


def quartic(scale=1.0):
    keys = jax.random.split(jax.random.key(4))
    w, u = (jax.random.normal(k, (3, 3)) for k in keys)
    return Quartic(w, u, jnp.ones(()), scale)


@pytest.mark.parametrize(
    "case",
    ["frozen", *(pytest.param(c, marks=SLOW) for c in SCALES)],
)
def test_no_scale_is_taken_for_a_mistake(case):
    """Frozen and unused parameters; huge targets, tiny costs, slow, learned systems."""
    x, _ = batch(inputs=3, size=4)
    y = np.random.default_rng(0).normal(size=(4, 3))
    system, cost, options = quartic(), COST, {}
    if case == "large":
        y = 1e4 * y
    elif case == "small":
        cost = _tiny_cost
    elif case == "slow":
        system, options = quartic(1e-4), {"dt": 3000.0}
    elif case == "learned":
        state = ep.relax(system, x, ep.Euler(0.3, 800)).state
        y = np.where(np.arange(4)[:, None] < 3, np.asarray(state), y)
    result = ep.verify(system, cost, x, y, **options)
    assert result.holds, str(result)
    if case == "frozen":
        assert "frozen, unused" in " ".join(result.findings)


def _tiny_cost(prediction, y):
    return 1e-8 * jnp.sum((prediction - y) ** 2)


class Valley(ep.AbstractEnergy):
    """Curvatures 1 and 1e-5: Euler's steps need millions, Newton's a few."""

    W: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def energy(self, x, s):
        return 0.5 * (s[0] ** 2 + 1e-5 * s[1] ** 2) - 1e-5 * s @ (self.W @ x)

    def readout(self, s):
        return s[1:]


class Hill(Valley):
    """A maximum at the initial state."""

    def energy(self, x, s):
        return jnp.sum(s**4) / 4 - 0.5 * s @ s + 0 * jnp.sum(self.W)


@pytest.mark.slow
def test_flat_valleys_and_saddles():
    """What is slow is settled by Newton's method; what is unstable is named so."""
    x, y = batch(size=3)
    w = jax.random.normal(jax.random.key(0), (2, 3))
    slow = ep.verify(Valley(w), COST, x, y[:, :1])
    assert slow.holds, str(slow)
    unstable = ep.verify(Hill(w), COST, x, y[:, :1])
    assert not unstable.holds
    assert "unstable" in unstable.verdict


def _broken_contrast(original):
    def contrast(*arguments):
        return jax.tree.map(lambda g: 0.5 * g, original(*arguments))

    return contrast


def _unprojected(self, dynamics, s, key):
    moved = jax.tree.map(lambda u, v: u + self.dt * v, s, dynamics.velocity(s))
    return moved, jnp.zeros(())


def _leaking(original):
    """The states are not held fixed in the contrast: ∂s/∂θ of one step leaks in."""

    def contrast(system, cost, x, y, start, *more):
        grads = original(system, cost, x, y, start, *more)

        def value(model):
            moved = jax.vmap(model.velocity)(x, start)
            return 1e-3 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(moved))

        leaked = eqx.filter_grad(value)(system)
        return jax.tree.map(jnp.add, grads[0], leaked), grads[1]

    return contrast


@pytest.mark.parametrize(
    "breaking", [_broken_contrast, pytest.param(_leaking, marks=SLOW)]
)
def test_a_broken_contrast_is_caught(breaking, monkeypatch, fresh):
    """A dropped factor, states not detached: no β makes up for it."""
    broken = breaking(_equilibrium_propagation._contrast)
    monkeypatch.setattr(_equilibrium_propagation, "_contrast", broken)
    monkeypatch.setattr(_processes, "_contrast", broken)
    result = ep.verify(dict_energy(), COST, *batch(size=3))
    assert not result.holds
    assert outcomes(result)["EP centered, gradients: order in β"] == "fails"
    assert outcomes(result)["BPTT's process against RBP's"] == "holds"


def test_a_forgotten_projection_is_caught(monkeypatch, fresh):
    """Euler's step without it leaves the box."""
    monkeypatch.setattr(_euler.Euler, "step", _unprojected)
    result = ep.verify(box(0.0), COST, *batch(size=4))
    assert not result.holds
    words = " ".join([result.verdict, *result.findings])
    assert "projection" in words or "settle" in words


@pytest.mark.slow
def test_a_reference_without_projection_is_caught(monkeypatch, fresh):
    """RBP that differentiates another step than the one that settled."""

    def step_map(system, x, dt):
        return lambda s: jax.tree.map(lambda u, v: u + dt * v, s, system.velocity(x, s))

    monkeypatch.setattr(_recurrent_backpropagation, "step_map", step_map)
    result = ep.verify(box(0.0), COST, *batch(size=4))
    assert not result.holds
    assert any("RBP" in c.name and c.outcome == "fails" for c in result.checks)


def test_swapped_sign_in_nudges_is_caught(monkeypatch, fresh):
    """β of the second phase forgotten: centered is one-sided by half."""
    original = _processes.nudges

    def wrong(beta, nudging):
        return (
            original(beta, "one-sided")
            if nudging == "centered"
            else original(beta, nudging)
        )

    monkeypatch.setattr(_comparison, "nudges", wrong)
    result = ep.verify(dict_energy(), COST, *batch(size=3))
    assert not result.holds
    assert "theory expects β^2" in " ".join([result.verdict, *result.findings])


@pytest.mark.slow
def test_an_estimator_that_is_not_its_process_is_caught(monkeypatch, fresh):
    """centered nudging that nudges one side only."""

    def one_sided(self, key):
        beta = jnp.asarray(self.beta)
        return jnp.stack([beta, 0 * beta])

    monkeypatch.setattr(ep.EquilibriumPropagation, "_betas", one_sided)
    result = ep.verify(dict_energy(), COST, *batch(size=3))
    assert not result.holds
    assert outcomes(result)["EP centered, the estimator: order in β"] == "fails"


class NoParameters(Spiral):
    """A system with nothing to learn."""

    w: float = 0.0


class NotFinite(FlatEnergy):
    def energy(self, x, s):
        return jnp.sum(jnp.log(s)) + 0.5 * s @ s


def test_errors():
    """Requests that make no sense are errors, not verdicts."""
    system, (x, y) = quadratic(), batch()
    cases = [
        (dict(beta=0), "beta is 0; it must be finite and not 0"),
        (dict(beta=math.nan), "beta is nan"),
        (dict(dt=-1.0), "dt is -1.0; it must be positive"),
        (dict(steps=0), "steps is 0; it must be a whole number ≥ 1"),
        (dict(examples=1.5), "examples is 1.5"),
        (dict(free=3), "free is 3; give a relaxation"),
        (dict(estimators={"a": 3}), r"estimators\['a'\] is 3; give an estimator"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            ep.verify(system, COST, x, y, **options)
    with pytest.raises(ValueError, match="leading batch axes differ"):
        ep.verify(system, COST, x, y[:2])
    with pytest.raises(ValueError, match="NaN"):
        ep.verify(system, COST, x * np.nan, y)
    with pytest.raises(ValueError, match=r"x has dtype uint8 .*/ 255"):
        ep.verify(system, COST, np.asarray(x).astype(np.uint8), y)
    with pytest.raises(ValueError, match=r"prediction has shape \(2,\).*\(1,\)"):
        ep.verify(system, COST, x, y[:, :1])
    with pytest.raises(ValueError, match="hold no floating-point array"):
        ep.verify(NoParameters(), COST, x, y)
    with pytest.raises(ValueError, match="parameter W holds NaN or infinity"):
        ep.verify(eqx.tree_at(lambda s: s.W, system, system.W * np.nan), COST, x, y)
    with pytest.raises(ValueError, match="the cost of one example has dtype"):
        ep.verify(system, lambda p, y: jnp.sum(p > y), x, y)
    with pytest.raises(ValueError, match="is not finite at its initial"):
        ep.verify(NotFinite(jnp.ones(3)), COST, x, y)


def test_metrics():
    """Angle, signs, RMSE and order on numbers known by hand."""
    found = agreement([np.array([1.0, 1.0])], [np.array([1.0, 0.0])])
    assert found.angle == pytest.approx(45)
    assert found.error == pytest.approx(1)
    assert found.signs == 0.5
    assert agreement([np.ones(3)], [-np.ones(3)]).angle == pytest.approx(180)
    assert agreement([np.ones(3)], [np.ones(3) * (1 + 1e-9)]).angle < 1e-6
    # √(Σ(a−b)²/max(Σa², Σb²)) over t, by hand; 0 where both stay zero (paper D).
    a, b = np.array([[3.0, 0], [4, 0]]), np.array([[0.0, 0], [4, 0]])
    np.testing.assert_allclose(process_rmse(a, b), [0.6, 0])
    betas = 10.0 ** np.arange(-1, -6.5, -0.5)
    clean = order_in_beta(betas, 3 * betas**2 + 1e-15 / betas, 2)
    assert clean.measured == pytest.approx(2, rel=1e-3)
    floor = order_in_beta(betas, 3 * betas**2 + 1e-3, 2)
    assert not floor.holds() or floor.smallest > 1e-4
    constant = order_in_beta(betas, 0 * betas + 0.5, 2)
    assert math.isnan(constant.measured)
    assert not constant.holds()
    assert order_in_beta(betas, 1e-16 / betas, 2).exact
