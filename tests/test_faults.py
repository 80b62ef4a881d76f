"""Examples that do not settle, steps that are too large, numbers not finite."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import IDENTITY

import eqprop as ep
from eqprop.training import make_trainer, Settings
from eqprop.training._diagnosis import _second_phase
from eqprop.training._step_size import auto_dt, fastest_rate


class Line(ep.AbstractEnergy):
    """½ x₂ (s − w x₁)²: the second input of an example is its own stiffness."""

    weight: jax.Array

    def init_state(self, x):
        return jnp.zeros_like(self.weight)

    def energy(self, x, s):
        return 0.5 * x[1] * jnp.sum((s - self.weight * x[0]) ** 2)

    def readout(self, s):
        return s


def line():
    return Line(jnp.array([0.5]))


def examples(*stiffness):
    """Inputs with these stiffnesses, and targets."""
    x = np.stack([np.linspace(1, 2, len(stiffness)), stiffness], axis=1)
    return x.astype(np.float32), 2 * x[:, :1].astype(np.float32)


def rule(dt=0.5, steps=60, free=None):
    nudged = ep.Euler(dt, 10)
    free = free or ep.Euler(dt, steps, tol=1e-3)
    return ep.EquilibriumPropagation(free, nudged, 0.1)


def fit(x, y, estimator=None, **settings):
    settings = {
        "optimizer": optax.sgd(0.1),
        "epochs": 2,
        "batch_size": 3,
        "shuffle": False,
    } | settings
    return ep.fit(
        line(), ep.SquaredError(), x, y, estimator=estimator or rule(), **settings
    )


SETTLES, SLOW, SWINGS, DIVERGES = 1.0, 1e-2, 4.0, 1e8
"""stiffnesses k whose steps 1 − k dt of dt = ½ have these fates"""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bad", [SLOW, SWINGS, DIVERGES])
def test_masked_examples_change_nothing(bad):
    """Fails if an example that did not settle has a share in gradient or loss.

    Without it the mean is over two of three: the same step as from those two alone.
    """
    x, y = examples(SETTLES, bad, SETTLES)
    found = fit(x, y, on_unsettled="mask", epochs=3)
    alone = fit(x[::2], y[::2], epochs=3)
    np.testing.assert_allclose(
        found.system.weight, alone.system.weight, rtol=0, atol=IDENTITY
    )
    for record, its in zip(found.history, alone.history, strict=True):
        assert record["masked"] == 1
        assert record["loss"] == pytest.approx(its["loss"], rel=1e-12)
        assert record["settled"] == pytest.approx(2 / 3)
    assert its["masked"] == 0


def test_masked_states_persist_where_they_are_finite():
    """Fails if a slow example starts anew each epoch, or a NaN is kept for the next."""
    x, y = examples(SETTLES, 0.05, DIVERGES)
    estimator = rule(steps=60)
    settings = {"optimizer": optax.sgd(0.01), "persistent": True, "epochs": 8}
    found = fit(x, y, estimator, on_unsettled="mask", **settings)
    masked = [record["masked"] for record in found.history]
    assert masked[0] == 2  # the slow one settles in the end, the other never
    assert masked[-1] == 1
    assert np.isfinite(found.system.weight).all()


@pytest.mark.parametrize(
    ("bad", "fragments"),
    [
        (SLOW, "still moves.*residual.*free.steps"),
        (
            SWINGS,
            "oscillates with period 2.*fastest rate of the network is 4.*0.5.*0.25",
        ),
        (DIVERGES, "diverged.*oscillates.*fastest rate of the network is 1e"),
    ],
)
def test_the_first_unsettled_example_stops_a_run(bad, fragments):
    """Fails if it goes on, names another example, or gives the wrong advice."""
    x, y = examples(*4 * [SETTLES], bad, SETTLES)
    stop = "epoch 1, step 2" if bad != DIVERGES else "example 4"
    with pytest.raises(ep.TrainingDiverged, match=fragments) as error:
        fit(x, y, on_unsettled="error")
    assert stop in str(error.value)
    assert "example 4" in str(error.value)


def test_a_state_that_nothing_bounds_is_told_from_one_that_swings():
    """Fails if a smaller step is all the advice where no step is small enough."""
    x, y = examples(SETTLES, -9.0)
    with pytest.raises(ep.TrainingDiverged, match=r"example 1.*grows steadily"):
        fit(x, y, rule(steps=200))


def test_a_batch_of_which_nothing_is_left_changes_nothing():
    """Fails if a diverged example that is alone in its batch stops a masked run."""
    x, y = examples(SETTLES, DIVERGES, SETTLES)
    found = fit(x, y, on_unsettled="mask", batch_size=1)
    alone = fit(x[::2], y[::2], batch_size=1)
    np.testing.assert_array_equal(found.system.weight, alone.system.weight)
    nothing = rule()(line(), ep.SquaredError(), x[1:2], y[1:2], weight=jnp.zeros(1))
    assert (nothing.loss, nothing.grads.weight) == (0, 0)


def test_examples_that_diverged_were_not_classified():
    """Fails if the train error counts them among all, and not among the errors."""
    x, _ = examples(SETTLES, DIVERGES, SETTLES, DIVERGES)
    system = Line(jnp.array([0.2, 0.1]))  # the first class, whatever is shown
    found = ep.fit(
        *(system, ep.SquaredError(), x, jnp.eye(2)[jnp.array([1, 0, 0, 0])]),
        estimator=rule(),
        optimizer=optax.sgd(0.0),
        batch_size=4,
        epochs=1,
        on_unsettled="mask",
    )
    assert found.history[0]["masked"] == 2
    assert found.history[0]["train_error"] == 0.75


def test_nudges_that_never_settle_are_an_error():
    """Holomorphic EP leaves such examples out; of nothing at all there is no run."""
    x, y = examples(SETTLES, SETTLES)
    phases = ep.Euler(0.5, 60), ep.Euler(0.5, 2, tol=1e-6)
    estimator = ep.HolomorphicEquilibriumPropagation(*phases)
    lost = estimator(line(), ep.SquaredError(), x, y)
    assert int(lost.stats["left_out"]) == 2
    assert not lost.weight.any()
    with pytest.raises(ep.TrainingDiverged, match="the nudged phases of no example"):
        fit(x, y, estimator)


def test_all_masked_is_an_error():
    """Fails if a run in which nothing was learnt looks like one."""
    x, y = examples(SWINGS, SWINGS)
    with pytest.raises(ep.TrainingDiverged, match="no example settled in epoch 1"):
        fit(x, y, on_unsettled="mask")


def test_held_out_examples_that_diverge_stop_a_run():
    """Fails if a test loss that is NaN is recorded as if it were a result."""
    x, y = examples(SETTLES, SETTLES)
    held = examples(SETTLES, SETTLES, 11.0)  # |1 − k dt|⁶⁰ overflows, on x's scale
    with pytest.raises(ep.TrainingDiverged, match=r"test set after epoch 1.*example 2"):
        fit(x, y, test=held)


def test_parameters_that_leave_the_range_of_floats():
    """Fails if an infinite parameter is kept because its gradient was finite."""
    seen = []

    class Watch(ep.Observer):
        def on_failure(self, state):
            seen.append(state)

    x, y = examples(SETTLES, SETTLES)
    with pytest.raises(ep.TrainingDiverged, match=r"epoch 1, step 1.*infinite"):
        fit(x, y, optimizer=optax.sgd(3e38), observer=Watch())
    assert np.isfinite(seen[0].system.weight).all()


def test_the_nudged_phase_names_its_example():
    """Fails if the example whose nudge diverges is not the one that is named."""
    x, y = examples(SETTLES, SETTLES, 2.5)
    estimator = ep.EquilibriumPropagation(
        ep.Euler(0.5, 60), ep.Euler(1.0, 500), 0.3, "one-sided"
    )
    with pytest.raises(
        ep.TrainingDiverged, match="nudged phase diverged for example 2"
    ):
        fit(x, y, estimator)


def test_advice_names_options_that_the_rule_has():
    """Fails if it speaks of a nudged phase, or a dt, that there is not."""
    euler, sweep = ep.Euler(0.5, 5), ep.Sweep(5)
    rules = {
        ep.EquilibriumPropagation(euler, euler): ["beta", "nudged.dt"],
        ep.EquilibriumPropagation(euler, sweep): ["beta"],
        ep.CoupledLearning(euler, euler): ["beta", "clamped.dt"],
        ep.RecurrentBackpropagation(euler, 0.5, 3): ["dt"],
        ep.ImplicitDifferentiation(euler): [],
    }
    for estimator, options in rules.items():
        phase, found = _second_phase(estimator)
        assert found == [f"estimator.{option}" for option in options]
        assert ("nudged" in phase) == hasattr(estimator, "nudged")
        around = ep.JacobianHomeostasis(estimator, 0.1)
        inner = [f"estimator.estimator.{option}" for option in options]
        assert _second_phase(around) == (phase, inner)


def test_a_singular_adjoint_is_a_run_that_diverged():
    """Implicit differentiation says why, as the error that `fit` promises."""
    x, y = examples(SETTLES, 0.0)  # no stiffness: any state is a fixed point
    estimator = ep.ImplicitDifferentiation(ep.Euler(0.5, 60))
    with pytest.raises(ep.TrainingDiverged, match="in epoch 1, step 1"):
        fit(x, y, estimator, optimizer=optax.sgd(1e-3))


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"on_unsettled": "drop"}, "error, warn, mask"),
        ({"dt": 0.3}, "given, auto"),
    ],
)
def test_unknown_choices(settings, fragment):
    """The user learns what there is to choose from."""
    with pytest.raises(ValueError, match=fragment):
        fit(*examples(1.0), **settings)


def test_choices_that_do_not_go_with_the_rule():
    """Fails if an option has no effect in silence."""
    config = ep.recipe("digits").config
    with pytest.raises(ValueError, match="Euler"):
        dataclasses.replace(config, dt="auto")
    rule_ = ep.BoltzmannLearning(
        ep.Langevin(0.1, 5, 1.0), ep.Langevin(0.1, 5, 1.0), samples=2
    )
    with pytest.raises(ValueError, match="never settle"):
        dataclasses.replace(config, estimator=rule_, on_unsettled="mask")


@pytest.mark.usefixtures("x64")
def test_the_fastest_rate_is_the_largest_eigenvalue():
    """Power iteration against LAPACK, of a symmetric and of an untied network."""
    x = np.random.default_rng(0).normal(size=(3, 4))
    for net in (
        ep.HopfieldEnergy((4, 6, 5, 2), key=jax.random.key(0)),
        ep.LeakyIntegrator((4, 6, 5, 2), key=jax.random.key(1), angle=None),
    ):
        state = jax.vmap(net.init_state)(x)
        state = jax.tree.map(lambda s: s + 0.5, state)
        flat, restore = jax.flatten_util.ravel_pytree(
            jax.tree.map(lambda s: s[0], state)
        )

        def velocity(s, x, net=net, restore=restore):
            return jax.flatten_util.ravel_pytree(net.velocity(x, restore(s)))[0]

        slope = jax.jit(jax.jacobian(velocity))
        exact = max(np.abs(np.linalg.eigvals(slope(flat, one))).max() for one in x)
        assert fastest_rate(net, x, state) == pytest.approx(exact, rel=0.1)


def test_dt_follows_the_network():
    """Fails if the step is not 1/λ, or stays when the network gets faster."""

    class Grows(Line):
        """½ w² (s − x₁)²: the rate is what is learnt."""

        def energy(self, x, s):
            return 0.5 * jnp.sum(self.weight**2 * (s - x[0]) ** 2)

        def readout(self, s):
            return self.weight * s

    x, y = examples(1.0, 1.0)
    assert auto_dt(Grows(jnp.array([2.0])), x, rule()) == pytest.approx(1 / 4)
    found = ep.fit(
        Grows(jnp.array([2.0])),
        ep.SquaredError(),
        x,
        2 * y,
        estimator=rule(dt=50.0),
        optimizer=optax.sgd(0.2),
        epochs=12,
        dt="auto",
    )
    steps = [record["dt"] for record in found.history]
    assert steps[0] == pytest.approx(1 / 4)
    assert steps[-1] < 0.5 * steps[0]  # w comes to 4
    assert found.history[-1]["settled"] == 1


@pytest.mark.slow
def test_auto_dt_goes_on_bit_for_bit(tmp_path, x, y):
    """Fails if a run that was stopped within an epoch measures another step."""
    np.savez("own.npz", x=x, y=y)
    config = dataclasses.replace(
        ep.recipe("digits").config,
        data="own.npz",
        model=ep.Hopfield(hidden=(6,), output="linear"),
        estimator=rule(),
        epochs=3,
        batch_size=8,
        dt="auto",
    )

    class Fails(ep.Observer):
        def on_chunk(self, state, record):
            if (record["epoch"], record["step"]) >= (2, 3):
                raise KeyboardInterrupt

    whole = ep.train(config, run="whole")
    with pytest.raises(KeyboardInterrupt):
        ep.train(config, run="run", observer=Fails())
    run = ep.resume("run")
    for own, its in zip(*map(_arrays, (run, whole)), strict=True):
        np.testing.assert_array_equal(own, its)
    steps = [record["dt"] for record in whole.history]
    assert len(set(steps)) == 3
    assert [record["dt"] for record in run.history] == steps
    last = whole.history[-1]
    assert ep.evaluate(ep.load("run"))["loss"] == pytest.approx(last["test_loss"])


def _arrays(run):
    return jax.tree.leaves(eqx.filter(run.state, eqx.is_array))


def test_a_nudge_that_is_no_number():
    """Fails if NaN comes back as a state that did not settle."""
    x, y = examples(SETTLES)
    for beta in (np.nan, np.inf, jnp.array([np.nan])):
        with pytest.raises(ValueError, match="beta is"):
            ep.relax(line(), x, ep.Euler(), cost=ep.SquaredError(), y=y, beta=beta)


def test_a_trainer_without_faults_is_the_one_before():
    """The defaults add nothing: no mask, no step size of its own."""
    x, y = examples(SETTLES, SETTLES)
    made = make_trainer(
        (line(), ep.SquaredError()),
        {"train": (x, y)},
        Settings(),
        estimator=rule(),
        optimizer=optax.sgd(0.1),
    )
    assert made.estimator == rule()
    assert made.init(line(), ep.SquaredError()).dt is None
