"""The theorem figures: quick versions hold, a defect turns the verdict."""

import dataclasses
import functools
import inspect

import jax
import numpy as np
import pytest

from eqprop.demonstrations import (
    _continual,
    _images,
    _interleaved,
    _learning,
    _paper_d,
    _steps,
    Curve,
    DEMONSTRATIONS,
    Demonstration,
    Panel,
)

SLOW = (
    *(
        "A.phases",
        "D.interleaved",
        "B.theorem3",
        "B.truncation",
        "B.projected-cost",
        "C.symmetry",
    ),
    *("C.learning", "C-EP.angles", "D.fig3", "D.fig4", "Laborieux2021.bias"),
)


@pytest.mark.parametrize(
    "name",
    [
        "D.fig2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_quick_versions_hold(name, tmp_path):
    """Every item measures its claim on a small version and finds it true."""
    found = DEMONSTRATIONS[name](quick=True)
    assert found.holds, found.words
    found.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.slow
def test_without_period_2_there_is_nothing_to_show(monkeypatch, fresh):
    """Damped steps couple the two networks: every example settles."""
    damped = functools.partial(_interleaved.Euler, dt=0.5)
    monkeypatch.setattr(_interleaved, "Euler", lambda dt, steps: damped(steps=steps))
    with pytest.raises(RuntimeError, match="every example settled"):
        _interleaved.interleaved(quick=True)


def test_every_item_has_a_quick_version():
    for name, function in DEMONSTRATIONS.items():
        quick = inspect.signature(function).parameters["quick"]
        assert quick.default is False, name
        assert quick.kind is quick.KEYWORD_ONLY, name


def test_a_step_too_late_turns_the_verdict(monkeypatch, fresh):
    """EP's states taken one step late are no gradients: figure 2 must not hold."""
    honest = _steps.ep_process

    def late(*args, **options):
        process = honest(*args, **options)
        states = jax.tree.map(lambda s: np.roll(s, -1, axis=0), process.states)
        return dataclasses.replace(process, states=states)

    monkeypatch.setattr(_steps, "ep_process", late)
    found = _paper_d.toy()
    assert not found.holds
    assert found.findings["rmse s0"] > 5 * _paper_d.EXACT
    assert found.findings["rmse W0,x"] < _paper_d.EXACT  # the synapses are untouched


def test_relative_rmse_is_paper_d_s():
    """√(Σ(∇ + Δ)²/max(Σ∇², ΣΔ²)) of each unit; nothing counts before it can arrive."""
    ep = np.array([[9.0, 0], [3, 0], [4, 0]])
    bptt = np.array([[0.0, 0], [3, 1], [0, 0]])
    group = _steps.Group("s1", lambda process: process.states, silent=1)
    layer = _steps._measured(group, ep[:, None], bptt[:, None])
    first = 4 / 5  # of (0, 3, 4) and (0, 3, 0)
    assert layer.rmse == pytest.approx((first + 1) / 2)
    assert layer.spread == pytest.approx((1 - first) / 2)
    assert layer.moving == pytest.approx(first)
    assert np.abs(layer.ep).max() == 4


def test_layers_are_counted_from_the_output():
    """Paper D's names: s0 is the prediction, W0,1 its weights; i steps of silence."""
    check = _steps.Check("EB-2h", (4, 3, 3, 2), dt=0.1, beta=0.1, T=10, K=5)
    groups = _steps._groups(check.network(), check)
    names = ["s0", "s1", "s2", "W0,1", "W1,2", "W2,3"]
    assert [group.name for group in groups] == names
    assert [group.silent for group in groups] == [0, 1, 2, 1, 2, 3]


@pytest.mark.slow
def test_updates_are_watched_from_the_start():
    """At 180° feedback is minus the transpose, and the input weights go uphill."""
    data = _images.images(60)
    opposite, found = _learning.trained(_learning.EP, 180.0, data, 1)
    tied, _ = _learning.trained(_learning.EP, 0.0, data, 1)
    assert len(found.history) == 1
    for watch in (opposite, tied):
        assert len(watch.angle) == len(watch.hidden) == len(watch.trace) == 2
    assert opposite.trace[0] == pytest.approx(-tied.trace[0], rel=1e-6)
    assert opposite.trace[1] > opposite.trace[0]
    assert tied.hidden[0] < 30 < 150 < opposite.hidden[0]
    held, found_held = _learning.trained(_learning.EP, 180.0, data, 1, held=True)
    model = dataclasses.replace(_learning.EP.model, angle=180.0)
    before = model.build((784,), 10, jax.random.key(0))[0].backward[0]
    assert abs(found.system.backward[0] - before).max() > 1e-4
    assert (found_held.system.backward[0] == before).all()
    assert held.trace[0] == opposite.trace[0]


def test_continual_updates_are_turned_by_what_moves():
    """Plain EP's are those of held weights; C-EP's are further off, below 90°."""
    data = _images.images(20)
    plain, continual = (
        _continual._angles(name, data, 0) for name in ("p-1h", "c-ep-1h")
    )
    assert plain[0] == pytest.approx(plain[1], abs=1e-3)
    assert continual[1] + 5 < continual[0] < 90


def test_relative_rmse_of_updates():
    """Over t, relative to the larger of the two; weights that stand still are out."""
    one = np.array([[0.0] * 4, [3.0, 4.0, 1.0, 0.0]])
    other = np.array([[0.0] * 4, [3.0, 1.0, 4.0, 0.0]])
    assert _continual._rmse(one, other) == pytest.approx((0 + 3 / 4 + 3 / 4) / 3)


@pytest.mark.parametrize("there", [True, False])
def test_images_need_no_download(there, monkeypatch):
    """Digits stand for MNIST where its files are not, and their name says so."""
    if there and _images.find("mnist") is None:
        pytest.skip("MNIST is not here")
    if not there:
        monkeypatch.setattr(_images, "find", lambda name: None)
    data = _images.images(3)
    assert data.x.shape == (3, 28, 28)
    assert data.flat.shape == (3, 784)
    assert ("MNIST is not here" in data.name) != there
    assert 0 <= data.x.min() < data.x.max() <= 1
    np.testing.assert_array_equal(np.sum(data.y, axis=1), 1)


def test_bars_and_rows_are_drawn():
    """Bars have groups, spreads do not reach below zero, spare axes are off."""
    bars = Panel(
        "layer", "RMSE", (Curve("a", (0, 1), (1, 2), spread=(3, 1)),), bars=("s0", "s1")
    )
    lines = Panel("t", "s", (Curve("", (0, 1), (1, 2), "dashed", 3),), title="net")
    figure = Demonstration("c", "s", (bars, lines, lines), {}, True, "w", 2).plot()
    axes = figure.axes
    assert len(axes) == 4
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["s0", "s1"]
    assert axes[0].get_ylim()[0] == 0
    assert axes[1].get_legend() is None
    assert not axes[3].axison
    with pytest.raises(ValueError, match="a: 2 x and 1 spread"):
        Curve("a", (0, 1), (1, 2), spread=(3,))
