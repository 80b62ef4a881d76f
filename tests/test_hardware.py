"""What a device is told, what it may answer, and the precision of its contrast."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import IDENTITY
from zoo import batch, hopfield

import eqprop as ep
from eqprop.papers import beyond

COST = ep.SquaredError()
NET = (3, 5, 2)


class Simulator:
    """The demonstration's chip in float64, which keeps what it was told."""

    def __init__(self, noise=0.0, status=None):
        self.chip, self.noise, self.status = beyond.Chip(), noise, status
        self.calls = []

    def settle(self, params, x, y, beta, state, key, phase):
        self.calls.append(types.SimpleNamespace(key=key, phase=phase, beta=beta))
        lists = [
            list(map(np.float64, part)) for part in (params.weights, params.biases)
        ]
        doubles = types.SimpleNamespace(weights=lists[0], biases=lists[1])
        x, state = np.float64(x), tuple(map(np.float64, state))
        found = self.chip.settle(doubles, x, y, beta, state)
        random = np.random.default_rng(key)
        found = tuple(u + self.noise * random.normal(size=u.shape) for u in found)
        if self.status is None:
            return found
        status = self.status(phase, len(x))
        for leaf in found:
            leaf[status == ep.Status.diverged] = np.nan
        return found, status

    def batched(self, params, x, y, beta, state, key, phase):
        """All phases at once, each as the device above."""
        self.calls.append(types.SimpleNamespace(key=key, phase=phase, beta=beta))
        alone, rows = Simulator(self.noise, self.status), range(len(beta))
        found = [
            alone.settle(params, x, y, beta[k], [s[k] for s in state], key[k], phase)
            for k in rows
        ]
        if self.status is None:
            return tuple(map(np.stack, zip(*found, strict=True)))
        states, statuses = zip(*found, strict=True)
        return tuple(map(np.stack, zip(*states, strict=True))), np.stack(statuses)


def device(simulator, batched=False):
    settle = simulator.batched if batched else simulator.settle
    return ep.HardwareInTheLoop(settle, batched=batched)


def gradient(simulator, nudging="centered", *, batched=False, beta=0.1, **options):
    phase = device(simulator, batched)
    rule = ep.EquilibriumPropagation(phase, phase, beta, nudging, **options)
    return rule(hopfield(NET), COST, *batch(size=4), key=jax.random.key(2))


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def off(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def exact():
    """The gradient of the float32 network, in float64."""
    numbers, data = jax.tree.map(np.float64, (hopfield(NET).weights, batch(size=4)))
    biases = jax.tree.map(np.float64, hopfield(NET).biases)
    with jax.enable_x64(True):
        net = hopfield(NET)
        leaves = jax.tree.map(jnp.asarray, (*numbers, *biases))
        net = jax.tree.unflatten(jax.tree.structure(net), leaves)
        assert all(a is b for a, b in zip(net.weights, leaves, strict=False))
        implicit = ep.ImplicitDifferentiation(ep.Euler(0.3, 400))
        return flat(implicit(net, COST, *data).grads)


@pytest.mark.parametrize("nudging", ["centered", "one-sided"])
@pytest.mark.parametrize("rule", ["ep", "field"])
@pytest.mark.parametrize("batched", [False, True])
def test_small_nudges_keep_their_digits(rule, nudging, batched, exact, monkeypatch):
    """float32 all around, β = 1e-5: only the bias of β and float32's rounding."""
    monkeypatch.setattr(beyond, "STEPS", 400)
    kinds = {
        "ep": ep.EquilibriumPropagation,
        "field": ep.VectorFieldEquilibriumPropagation,
    }
    phase = device(Simulator(), batched)
    learning = kinds[rule](phase, phase, 1e-5, nudging)
    found = learning(hopfield(NET), COST, *batch(size=4), key=jax.random.key(0))
    grads = flat(found.grads)
    assert grads.dtype == np.float32
    assert off(grads, exact) < (1e-6 if nudging == "centered" else 1e-4)
    assert found.equilibrium.state[0].dtype == jnp.float32


def test_a_device_that_returns_float32_is_as_before():
    """Its own rounding cannot be undone: the remainder is 0."""

    def rounds(params, x, y, beta, state):
        return tuple(np.float32(u) + np.float32(0.1) for u in state)

    found = ep.relax(hopfield(NET), batch(size=4)[0], ep.HardwareInTheLoop(rounds))
    assert not flat(found.remainder).any()


@pytest.mark.usefixtures("x64")
def test_a_float64_model_has_no_remainder():
    x = batch(size=4)[0]
    assert ep.relax(hopfield(NET), x, device(Simulator())).remainder is None


# Keys and phases


@pytest.mark.parametrize("nudging", ["centered", "one-sided"])
@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize("batched", [False, True])
def test_which_phases_share_their_noise(nudging, common, batched):
    """All of a batch, the free one too; or none."""
    simulator = Simulator(noise=0.1)
    gradient(simulator, nudging, batched=batched, common_noise=common)
    phases = 3 if nudging == "centered" else 2
    assert [call.phase for call in simulator.calls] == ["free"] + ["nudged"] * (
        1 if batched else phases - 1
    )
    keys = np.concatenate([call.key.reshape(-1, 2) for call in simulator.calls])
    assert len(keys) == phases
    assert len({tuple(key) for key in keys}) == (1 if common else phases)


def test_noise_comes_back_with_the_key():
    """Twice the same run; another seed gives other noise."""

    def trained(seed):
        phase = device(Simulator(noise=0.01))
        rule = ep.EquilibriumPropagation(phase, phase, 0.1)
        data = batch(size=4)
        settings = {"epochs": 1, "batch_size": 2, "seed": seed, "shuffle": False}
        return flat(
            ep.fit(hopfield(NET), COST, *data, estimator=rule, **settings).system
        )

    first = trained(0)
    np.testing.assert_array_equal(first, trained(0))
    assert (first != trained(1)).any()


def test_common_noise_cancels():
    """One draw added to all phases drops out of a contrast that is linear in them."""
    noisy = flat(gradient(Simulator(noise=1e-3), beta=1e-2).grads)
    quiet = flat(gradient(Simulator(), beta=1e-2).grads)
    fresh = flat(gradient(Simulator(noise=1e-3), beta=1e-2, common_noise=False).grads)
    assert off(noisy, quiet) < 0.02
    assert off(fresh, quiet) > 5 * off(noisy, quiet)


def test_langevin_phases_follow_the_same_rule():
    """Ends of equal chains with common noise differ by the nudge, of order β."""
    net, (x, y) = hopfield(NET), batch(size=4)
    free = ep.Langevin(dt=0.2, steps=60, temperature=1e-2, adjusted=False)

    def grads(common):
        rule = ep.EquilibriumPropagation(
            *(free, free, 1e-2, "one-sided"), common_noise=common
        )
        return flat(rule(net, COST, x, y, key=jax.random.key(1)).grads)

    euler = ep.Euler(0.2, 60)
    quiet = ep.EquilibriumPropagation(euler, euler, 1e-2, "one-sided")
    quiet = flat(quiet(net, COST, x, y).grads)
    assert off(grads(True), quiet) < 1
    assert off(grads(False), quiet) > 5


def test_options_without_effect_are_refused():
    euler = ep.Euler(0.3, 5)
    with pytest.raises(ValueError, match=r"neither ep\.Euler nor ep\.Sweep draws"):
        ep.EquilibriumPropagation(euler, ep.Sweep(3), 0.1, common_noise=False)
    with pytest.raises(ValueError, match="learns along one nudged path"):
        ep.ContinualEquilibriumPropagation(euler, euler, 0.1, common_noise=False)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nudging", ["centered", "one-sided"])
def test_both_phases_in_one_call(nudging):
    """The same gradient as from single calls, with one call for all nudged phases."""
    one, many = Simulator(noise=0.01), Simulator(noise=0.01)
    together = gradient(one, nudging, batched=True, common_noise=False)
    alone = gradient(many, nudging, common_noise=False)
    np.testing.assert_allclose(flat(together.grads), flat(alone.grads), atol=IDENTITY)
    assert [np.shape(call.beta) for call in one.calls] == [
        (1,),
        (2,) if nudging == "centered" else (1,),
    ]
    assert len(many.calls) == (3 if nudging == "centered" else 2)


# Status


def failing(phase, example, how):
    def status(now, size):
        found = np.zeros(size, int)
        found[example] = how if now == phase else 0
        return found

    return status


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("phase", ["free", "nudged"])
def test_a_failed_example_is_left_out(phase, batched):
    """One of four: loss and gradient are those of the three others, as masked."""
    simulator = Simulator(status=failing(phase, 1, ep.Status.diverged))
    hardware = device(simulator, batched)
    rule = ep.EquilibriumPropagation(hardware, hardware, 0.1)
    net, (x, y) = hopfield(NET), batch(size=4)
    settings = {
        "optimizer": ep.Optimizer("sgd", (0.5,)),
        **{"epochs": 1, "batch_size": 4, "shuffle": False},
    }
    found = ep.fit(*(net, COST, x, y), estimator=rule, on_unsettled="mask", **settings)
    others = [0, 2, 3]
    quiet = device(Simulator())
    plain = ep.EquilibriumPropagation(quiet, quiet, 0.1)
    kept = (x[np.array(others)], y[np.array(others)])
    expected = ep.fit(net, COST, *kept, estimator=plain, **settings)
    np.testing.assert_allclose(flat(found.system), flat(expected.system), atol=1e-6)
    assert found.history[0]["masked"] == 1
    assert found.history[0]["loss"] == pytest.approx(
        expected.history[0]["loss"], rel=1e-5
    )


def test_unsettled_examples_are_counted_or_stop_the_run():
    """As on a computed phase: counted by default, the end of the run on request."""
    hardware = device(Simulator(status=failing("free", 2, ep.Status.unsettled)))
    rule = ep.EquilibriumPropagation(hardware, hardware, 0.1)
    problem = (hopfield(NET), COST, *batch(size=4))
    settings = {"estimator": rule, "epochs": 1, "batch_size": 4}
    found = ep.fit(*problem, **settings).history[0]
    assert found["settled"] == 0.75
    assert found["masked"] == 0
    with pytest.raises(ep.TrainingDiverged, match="settle"):
        ep.fit(*problem, **settings, on_unsettled="error")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (np.zeros(3, int), r"status array\(\[0, 0, 0\]\); .* shape \(4,\)"),
        (np.zeros(4), "must contain numbers of ep.Status, 0 to 3"),
        (np.full(4, 9), "0 to 3"),
        ("settled", "the status array"),
    ],
)
def test_a_status_that_is_none(status, message):
    def settle(params, x, y, beta, state):
        return state, status

    with pytest.raises(ValueError, match=message):
        ep.relax(hopfield(NET), batch(size=4)[0], ep.HardwareInTheLoop(settle))


def test_only_a_diverged_example_may_be_nan():
    def settle(params, x, y, beta, state):
        state[0][2] = np.nan
        return state, np.full(4, ep.Status.unsettled)

    with pytest.raises(ValueError, match=r"example 2 of the batch.*Status\.diverged"):
        ep.relax(hopfield(NET), batch(size=4)[0], ep.HardwareInTheLoop(settle))
