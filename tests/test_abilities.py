"""Optional members of systems, costs and relaxations: declared, delegated, checked."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.costs import outputs_of
from eqprop.estimators._settle import _Layer

pytestmark = pytest.mark.usefixtures("x64")

RATES = np.array([0.5, 2.0, 1.5])
X, S, F = (np.random.default_rng(k).normal(size=3) for k in range(3))
EPSILON = 0.2


class Timed(ep.AbstractEnergy):
    """E = ½ Σ w s² − x·s with time constants D: ds/dt = D (x − w s + force), w ≥ 0."""

    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(3)

    def energy(self, x, s):
        return 0.5 * jnp.sum(self.w * s**2) - jnp.sum(x * s)

    def velocity(self, x, s):
        return RATES * super().velocity(x, s)

    def forced_velocity(self, x, s, force):
        return self.velocity(x, s) + RATES * force

    def readout(self, s):
        return s[1:]

    def project_parameters(self):
        return Timed(jnp.maximum(self.w, 0))

    def blocks(self):
        return (ep.Block(lambda s: s, lambda x, s: (RATES * self.w,)),)

    def reciprocal(self):
        return (self.w,), (self.w,)

    def prepared(self):
        return Timed(self.w + 1)


def timed(w=(1.0, 0.7, 1.3)):
    return Timed(jnp.array(w))


class Plain(ep.AbstractVectorField):
    """ds/dt = w x − s, without any optional member."""

    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(3)

    def velocity(self, x, s):
        return self.w * x - s

    def readout(self, s):
        return s


def test_optional_members_have_defaults():
    """A system that defines none of them has them all, and they do nothing."""
    system = Plain(jnp.ones(3))
    for name in ("potential", "learning_field", "total_energy", "rates", "synapses"):
        assert getattr(system, name) is None
    assert system.blocks() is None
    assert system.reciprocal() is None
    assert system.prepared() is system
    assert system.project_parameters() is system
    assert system.tangent(S) is S


def test_a_method_or_a_property_replaces_a_default():
    """Of `potential = None`: a bound method, or a property that decides."""

    class Method(Plain):
        def potential(self, x, s):
            return jnp.sum(self.w * x * s)

    class Property(Plain):
        @property
        def potential(self):
            return None if self.w.ndim else lambda x, s: self.w

    assert Method(jnp.full(3, 2.0)).potential(X, S) == pytest.approx(2 * float(X @ S))
    assert Property(jnp.ones(3)).potential is None
    assert Property(jnp.array(4.0)).potential(X, S) == 4
    assert Plain(jnp.ones(3)).potential is None


def test_a_field_may_have_the_name_of_an_optional_member():
    """It is required like any field; one that hides a method is refused by name."""

    class Named(Plain):
        rates: jax.Array
        gain: jax.Array

    with pytest.raises(TypeError, match="rates"):
        Named(w=jnp.ones(3), gain=jnp.ones(()))
    system = Named(jnp.ones(3), rates=RATES, gain=jnp.ones(()))
    found = ep.relax(system, X[None], ep.Euler(1.0, 3))
    np.testing.assert_allclose(found.state[0], X)

    class Hidden(Plain):
        blocks: list

    with pytest.raises(ValueError, match=r"Hidden\.blocks is a list"):
        ep.relax(Hidden(jnp.ones(3), [1]), X[None], ep.Euler(1.0, 3))


def test_a_relaxation_of_the_user_may_require_dt():
    """The declared default of `dt` is no default of the user's field."""

    class Own(ep.AbstractRelaxation):
        dt: float
        steps: int
        tol: float | None = None

        def step(self, dynamics, s, key):
            moved = s + self.dt * dynamics.velocity(s)
            return moved, jnp.max(jnp.abs(moved - s))

    with pytest.raises(TypeError, match="dt"):
        Own(steps=3)
    own = Own(0.5, 4)
    assert own.dt == 0.5
    assert (own.blockwise, own.draws_noise, own.outside) == (False, False, False)
    found = ep.relax(Plain(jnp.ones(3)), X[None], own)
    np.testing.assert_allclose(found.state[0], X * (1 - 0.5**4), rtol=1e-6)


WRAPPERS = {
    "clamped": lambda system: ep.Clamped(system, jnp.zeros(2)),
    "layer": lambda system: _Layer(system, X[None]),
    "discrete": lambda system: ep.DiscreteEnergy(system, EPSILON),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_delegate(name):
    """Velocity with and without a force, bounds, blocks, pairs, preparation."""
    system = timed()
    wrapped = WRAPPERS[name](system)
    x = 0 if name == "layer" else X
    scale = EPSILON if name == "discrete" else 1.0
    field = scale * RATES * (X - system.w * S)
    np.testing.assert_allclose(wrapped.velocity(x, S), field, rtol=1e-12)
    forced = wrapped.forced_velocity(x, S, F)
    np.testing.assert_allclose(forced, field + RATES * F, rtol=1e-12)
    (block,) = wrapped.blocks()
    (curvature,) = block.curvature(x, S)
    np.testing.assert_allclose(curvature, scale * RATES * system.w, rtol=1e-12)
    assert wrapped.reciprocal() == system.reciprocal()
    np.testing.assert_array_equal(wrapped.prepared().system.w, system.w + 1)
    outside = WRAPPERS[name](timed((1.0, -2.0, 3.0))).project_parameters()
    assert type(outside) is type(wrapped)
    np.testing.assert_array_equal(outside.system.w, [1, 0, 3])


def test_discrete_energy_takes_eulers_steps_with_time_constants():
    """Free and nudged, Euler's and a sweep's, as on the energy itself."""
    system, y, beta = timed(), jnp.ones((1, 2)), 0.3
    discrete = ep.DiscreteEnergy(system, EPSILON)
    nudge = {"cost": ep.SquaredError(), "y": y}
    for one, other in (
        (ep.Euler(1.0, 7), ep.Euler(EPSILON, 7)),
        (ep.Sweep(3), ep.Sweep(3)),
    ):
        a = ep.relax(discrete, X[None], one, **nudge, beta=EPSILON * beta).state
        b = ep.relax(system, X[None], other, **nudge, beta=beta).state
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_costs_that_are_functions_or_own_classes():
    """A function has the defaults; a class's own members replace them."""

    def half_square(prediction, y):
        return 0.5 * jnp.sum((prediction - y) ** 2)

    class Steep(eqx.Module):
        curvature: float = 9.0

        def __call__(self, prediction, y):
            return 4.5 * jnp.sum((prediction - y) ** 2)

        def outputs(self, prediction):
            return 2 * prediction

    np.testing.assert_array_equal(outputs_of(half_square, S), S)
    np.testing.assert_array_equal(outputs_of(None, S), S)
    np.testing.assert_array_equal(outputs_of(Steep(), S), 2 * S)
    system, y, beta = timed(), jnp.ones((1, 2)), 0.5
    # One sweep of a quadratic energy with the exact curvature ends at its minimum.
    target = jnp.concatenate([jnp.zeros(1), jnp.ones(2)])
    for cost, c in ((half_square, 1.0), (Steep(), 9.0)):
        mask = jnp.array([0.0, c, c])
        exact = (X + beta * mask * target) / (system.w + beta * mask)
        sweep = ep.relax(plain(system), X[None], ep.Sweep(1), cost=cost, y=y, beta=beta)
        np.testing.assert_allclose(sweep.state[0], exact, rtol=1e-10)


class Unscaled(ep.AbstractEnergy):
    """The energy of `Timed`, all time constants 1."""

    w: jax.Array

    def init_state(self, x):
        return jnp.zeros(3)

    def energy(self, x, s):
        return 0.5 * jnp.sum(self.w * s**2) - jnp.sum(x * s)

    def readout(self, s):
        return s[1:]

    def blocks(self):
        return (ep.Block(lambda s: s, lambda x, s: (self.w,)),)


def plain(system):
    return Unscaled(system.w)
