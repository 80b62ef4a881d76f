"""`ep.verify` holds a configured rule to its promise, and catches it broken."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from zoo import batch, dict_energy, field, tanh_map

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
