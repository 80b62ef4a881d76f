"""The claims: quick versions hold, a defect turns the verdict."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.papers import Claim, ITEMS
from eqprop.papers import _common, beyond, continual
from eqprop.papers import c as _learning
from eqprop.papers.d import _convolution, _figures, _interleaved, _steps

FAST = ("A.stdp", "C-EP.steps", "D.fig2")
CLAIMS = [item.name for item in ITEMS.values() if isinstance(item, Claim)]


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in CLAIMS
    ],
)
def test_quick_versions_hold(name):
    """Every claim is measured on a small version and found true."""
    item = ITEMS[name]
    assert isinstance(item, Claim)
    found = item.find(**item.quick)
    assert found.holds, [str(n) for n in found.numbers if not n.holds]
    assert item.sentence.format(**found.fields)
    assert found.panels


@pytest.mark.slow
def test_without_period_2_there_is_nothing_to_show(monkeypatch, fresh):
    """Damped steps couple the two networks: every example settles."""
    damped = functools.partial(ep.Euler, 0.5)
    monkeypatch.setattr(_interleaved, "steps", damped)
    monkeypatch.setattr(_interleaved, "trained", lambda x, y: untrained())
    few = _common.flat_digits(20)
    monkeypatch.setattr(_interleaved, "flat_digits", lambda count: few)
    with pytest.raises(RuntimeError, match="every example settled"):
        _interleaved.interleaved.find()


def untrained():
    sizes, kind = _interleaved.SIZES, ep.PrototypicalNetwork
    return _common.network(sizes, ep.shifted_sigmoid, kind=kind)


def test_a_step_too_late_turns_the_verdict(monkeypatch, fresh):
    """EP's states taken one step late are no gradients: figure 2 must not hold."""
    honest = ep.ep_process

    def late(*args, **options):
        process = honest(*args, **options)
        states = jax.tree.map(lambda s: np.roll(s, -1, axis=0), process.states)
        return dataclasses.replace(process, states=states)

    monkeypatch.setattr(ep, "ep_process", late)
    found = _figures.toy.find()
    assert not found.holds
    values = {number.name: number.value for number in found.numbers}
    assert values["RMSE, s0"] > 5 * _figures.EXACT
    assert values["RMSE, W0,x"] < _figures.EXACT  # the synapses are untouched


def test_relative_rmse_is_paper_d_s():
    """√(Σ(∇ + Δ)²/max(Σ∇², ΣΔ²)) of each unit; nothing counts before it can arrive."""
    found = np.array([[9.0, 0], [3, 0], [4, 0]])
    bptt = np.array([[0.0, 0], [3, 1], [0, 0]])
    units = _steps.Units("s1", lambda process: process.states, silent=1)
    layer = _steps.measure(units, found[:, None], bptt[:, None])
    first = 4 / 5  # of (0, 3, 4) and (0, 3, 0)
    assert layer.rmse == pytest.approx((first + 1) / 2)
    assert layer.spread == pytest.approx((1 - first) / 2)
    assert layer.moving == pytest.approx(first)
    assert np.abs(layer.ep).max() == 4


def test_layers_are_counted_from_the_output():
    """Paper D's names: s0 is the prediction, W0,1 its weights; i steps of silence."""
    check = _steps.Check("EB-2h", (4, 3, 3, 2), dt=0.1, beta=0.1, T=10, K=5)
    layers = _steps.units(check.network(), check)
    names = ["s0", "s1", "s2", "W0,1", "W1,2", "W2,3"]
    assert [layer.name for layer in layers] == names
    assert [layer.silent for layer in layers] == [0, 1, 2, 1, 2, 3]


@pytest.mark.slow
def test_updates_are_followed_from_the_start():
    """At 180° feedback is minus the transpose, and the input weights go uphill."""
    data = _common.images(60)
    opposite = _learning.trained("vf-1h", 180.0, data, 1)
    tied = _learning.trained("vf-1h", 0.0, data, 1)
    for run in (opposite, tied):
        assert len(run.angle) == len(run.hidden) == len(run.trace) == 2
    assert opposite.trace[0] == pytest.approx(-tied.trace[0], rel=1e-6)
    assert opposite.trace[1] > opposite.trace[0]
    assert tied.hidden[0] < 30 < 150 < opposite.hidden[0]
    held = _learning.trained("vf-1h", 180.0, data, 1, held=True)
    model = dataclasses.replace(ep.recipe("vf-1h").config.model, angle=180.0)
    before = model.build((784,), 10, jax.random.key(0))[0].backward[0]
    assert abs(opposite.system.backward[0] - before).max() > 1e-4
    assert (held.system.backward[0] == before).all()
    assert held.trace[0] == opposite.trace[0]


def test_kolen_pollack_aligns_the_weights():
    """A short training: the angle falls, and W − B shrinks as it should."""
    found = _learning.kolen_pollack.find(epochs=4, examples=200, decay=1.0)
    values = {number.name: number.value for number in found.numbers}
    assert values["relative error of ‖W − B‖ to (1 − η decay)^updates"] < 0.01
    kp, vf = (values[f"angle at last (°), {name}"] for name in ("KP-VF", "VF"))
    assert kp < 60 < vf


def test_continual_updates_are_turned_by_what_moves():
    """Plain EP's are those of held weights; C-EP's are further off, below 90°."""
    data = _common.images(20)
    plain, moved = (continual.first_angles(n, data, 0) for n in ("p-1h", "c-ep-1h"))
    assert plain[0] == pytest.approx(plain[1], abs=1e-3)
    assert moved[1] + 5 < moved[0] < 90


def test_relative_rmse_of_updates():
    """Over t, relative to the larger of the two; weights that stand still are out."""
    one = np.array([[0.0] * 4, [3.0, 4.0, 1.0, 0.0]])
    other = np.array([[0.0] * 4, [3.0, 1.0, 4.0, 0.0]])
    assert continual.rmse(one, other) == pytest.approx((0 + 3 / 4 + 3 / 4) / 3)


@pytest.mark.usefixtures("x64")
def test_ep_follows_bptt_in_the_convolutional_network():
    """The first half of D.convolution, on two digits."""
    for layer in _convolution.prototypical(*_common.digits(2)):
        assert np.nanmax(layer.angle) < 45
        assert layer.rmse < 0.7
        assert np.abs(layer.bptt[-1]).max() > 1e-3


@pytest.mark.parametrize("there", [True, False])
def test_images_need_no_download(there, monkeypatch):
    """Digits replace MNIST where its files are not, and their name says so."""
    if there and _common.data.find("mnist") is None:
        pytest.skip("MNIST is not here")
    if not there:
        monkeypatch.setattr(_common.data, "find", lambda name: None)
    data = _common.images(3)
    assert data.x.shape == (3, 28, 28)
    assert data.flat.shape == (3, 784)
    assert ("MNIST is not here" in data.name) != there
    assert 0 <= data.x.min() < data.x.max() <= 1
    np.testing.assert_array_equal(np.sum(data.y, axis=1), 1)


def test_comparisons_are_those_of_closed_forms():
    """Powers, orders and relative errors of numbers that are known."""
    betas = np.array([0.4, 0.2, 0.1, 0.05])
    assert _common.slope(betas, 3 * betas**2) == pytest.approx(2)
    assert _common.order(betas, [1.0, 1.0, 0.1, 0.05]) == pytest.approx(1)
    assert _common.apart([1.0, 2.0], [1.0, 4.0]) == 0.5
    tree = {"a": np.ones((2, 3)), "b": np.zeros((2, 1, 2))}
    assert _common.flat(tree).shape == (2, 5)


def test_a_chip_without_defects_predicts_as_its_model():
    """The chip's loss is the cost of the settled model."""
    with jax.enable_x64(True):
        x, y = beyond.teacher_task()
        model = beyond.network(beyond.SIZES, seed=2)
        out = ep.relax(model, x, ep.Euler(beyond.DT, beyond.STEPS)).state[-1]
        expected = float(jnp.mean(0.5 * jnp.sum((out - y) ** 2, axis=1)))
        assert beyond.Chip().loss(model, x, y) == pytest.approx(expected, rel=1e-12)
