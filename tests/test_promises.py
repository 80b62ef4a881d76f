"""`ep.verify` holds a configured rule to its promise, and catches it broken."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from zoo import batch, dict_energy, field, quadratic, tanh_map

import eqprop as ep
from eqprop.estimators import _asymmetric, _spike_timing

COST = ep.SquaredError()
ROUGH = ep.Euler(dt=0.3, steps=12)
RULES = {
    "asym": ep.AsymmetricEquilibriumPropagation(ROUGH, ROUGH, 0.5),
    "dyadic": ep.DyadicEquilibriumPropagation(ROUGH, dt=0.3, steps=5),
    "stdp": ep.SpikeTimingDependentPlasticity(ROUGH, ROUGH, 0.5),
    "vf": ep.VectorFieldEquilibriumPropagation(ROUGH, ROUGH, 0.5),
    "holomorphic": ep.HolomorphicEquilibriumPropagation(ROUGH, ROUGH, 0.2),
    "cep": ep.ContinualEquilibriumPropagation(ROUGH, ROUGH, 0.5, learning_rate=1e-3),
}


def outcome(result, rule):
    (found,) = [c for c in result.checks if c.name.startswith(f"{rule}, settled")]
    return found.outcome


def test_rules_as_rough_as_can_be_keep_their_promise_at_rest():
    """Few steps and a strong nudge are a choice; the rule itself is right."""
    chosen = {name: RULES[name] for name in ("stdp", "holomorphic", "cep")}
    result = ep.verify(dict_energy(), COST, *batch(size=3), estimators=chosen)
    assert result.holds, str(result)
    assert {outcome(result, name) for name in chosen} == {"holds"}


@pytest.mark.parametrize(
    "system", [tanh_map, pytest.param(field, marks=pytest.mark.slow)]
)
def test_without_symmetry_the_exact_rules_are_exact(system):
    """And the vector-field rule of a map, which has another limit, is not judged."""
    chosen = {name: RULES[name] for name in ("asym", "vf")}
    result = ep.verify(system(), COST, *batch(size=3), estimators=chosen)
    assert result.holds, str(result)
    assert outcome(result, "asym") == "holds"
    judged = [check.name for check in result.checks if check.name.startswith("vf")]
    assert len(judged) == (system is field)
    assert any("is the exact gradient to" in note for note in result.findings)


def _uncorrected(self, x, s):
    return self.system.velocity(x[0], s)


def _doubled(original):
    def change(self, system):
        slope = original(self, system)
        return lambda *arguments: 2 * slope(*arguments)

    return change


def test_a_broken_rule_is_caught(monkeypatch, fresh):
    """AsymEP without its correction, and STDP twice as large as it must be."""
    monkeypatch.setattr(_asymmetric.Symmetrized, "velocity", _uncorrected)
    kind = _spike_timing.SpikeTimingDependentPlasticity
    monkeypatch.setattr(kind, "_change", _doubled(kind._change))
    chosen = {name: RULES[name] for name in ("asym", "stdp", "dyadic")}
    result = ep.verify(field(0.4), COST, *batch(size=3), estimators=chosen)
    assert not result.holds
    assert outcome(result, "asym") == outcome(result, "stdp") == "fails"
    assert outcome(result, "dyadic") == "holds"
    assert "the rule is wrong" in " ".join([result.verdict, *result.findings])


def test_a_wrong_sign_is_named(monkeypatch, fresh):
    original = _asymmetric.DyadicEquilibriumPropagation.at

    def turned(self, *arguments):
        found = original(self, *arguments)
        grads = jax.tree.map(jnp.negative, (found.grads, found.cost_grads))
        return eqx.tree_at(lambda g: (g.grads, g.cost_grads), found, grads)

    monkeypatch.setattr(_asymmetric.DyadicEquilibriumPropagation, "at", turned)
    chosen = {"dyadic": RULES["dyadic"]}
    result = ep.verify(field(0.4), COST, *batch(size=3), estimators=chosen)
    assert not result.holds
    assert "a sign is wrong" in " ".join([result.verdict, *result.findings])


class Own(ep.AbstractEstimator):
    """A user's two-phase rule; `wrong` changes one thing of it."""

    free: ep.AbstractRelaxation
    beta: float = 0.3
    wrong: str = eqx.field(static=True, default="")

    def at(self, system, cost, x, y, free, keys, weight):
        strength = {"nudged thrice": 3.0}.get(self.wrong, 1.0)
        nudge = {"cost": cost, "y": y, "beta": strength * self.beta}
        nudged = ep.relax(system, x, self.free, state=free.state, **nudge)
        places = free.state, nudged.state
        if self.wrong == "mixed states":
            places = jax.tree.map(lambda a: jnp.flip(a, 0), places[0]), places[1]

        @eqx.filter_grad
        def contrast(model):
            def one(x, y, before, after):
                gap = model.potential(x, after) - model.potential(x, before)
                return gap / self.beta + cost(model.readout(after), y)

            return ep.weighted_mean(jax.vmap(one)(x, y, *places), weight)

        grads = contrast(system)
        if self.wrong == "summed":
            grads = jax.tree.map(lambda g: len(y) * g, grads)
        if self.wrong == "one parameter":
            grads = eqx.tree_at(lambda m: m.b, grads, -0.5 * grads.b)
        loss = jnp.mean(jax.vmap(lambda s, y: cost(system.readout(s), y))(places[0], y))
        cost_grads = eqx.filter(cost, eqx.is_inexact_array)
        return ep.Gradient(loss, grads, cost_grads, free, ep.Stats("own", {}))


class Declared(Own):
    approximate: ClassVar[str] = "a demonstration of three nudges"


def test_own_rules_are_judged_and_their_scale_told_from_their_direction():
    """With few steps and a strong nudge of their own, which are not to blame."""
    wrongs = ("", "nudged thrice", "summed", "mixed states", "one parameter")
    rules = {wrong or "right": Own(ROUGH, wrong=wrong) for wrong in wrongs}
    declared = {"declared": Declared(ROUGH, wrong="nudged thrice")}
    result = ep.verify(quadratic(), COST, *batch(size=4), estimators=rules | declared)
    assert not result.holds
    found = {
        name: [c.outcome for c in result.checks if c.name.startswith(f"{name}, ")]
        for name in [*rules, "declared"]
    }
    assert found.pop("right") == ["holds"]
    assert found.pop("declared") == []
    assert all(outcomes == ["fails"] for outcomes in found.values())
    text = {
        name: next(s for s in (result.verdict, *result.findings) if f"{name}, set" in s)
        for name in found
    }
    for name, norm in (("nudged thrice", "2.99"), ("summed", "4")):
        assert "direction is right" in text[name]
        assert f"norm is {norm} times" in text[name]
    assert "sum over the batch" in text["summed"]
    assert "no constant factor" in text["mixed states"]
    assert "b × 0.5" in text["one parameter"] or "b 180°" in text["one parameter"]
    assert "a demonstration of three nudges" in " ".join(result.findings)


class Frozen(Own):
    """A rule whose constructor takes no other phases."""

    def __init__(self, wrong=""):
        self.free, self.beta, self.wrong = ep.Euler(0.2, 300), 1e-4, wrong


def test_a_rule_that_takes_no_other_phases_is_judged_as_it_is():
    """Its own phases settle and its β is small, so the exact gradient is due."""
    rules = {"right": Frozen(), "summed": Frozen("summed")}
    result = ep.verify(quadratic(), COST, *batch(size=3), estimators=rules)
    found = [(c.name, c.outcome) for c in result.checks if "as configured" in c.name]
    assert [outcome for _, outcome in found] == ["holds", "fails"]


class Shapeless(Own):
    def at(self, *arguments):
        found = super().at(*arguments)
        return eqx.tree_at(lambda g: g.grads, found, found.grads.W)


def test_a_gradient_unlike_the_parameters_is_an_error():
    rules = {"mine": Shapeless(ROUGH)}
    with pytest.raises(ValueError, match=r"estimators\['mine'\] returned grads"):
        ep.verify(quadratic(), COST, *batch(size=3), estimators=rules)
