"""Measure how a coarser arithmetic changes a learning rule's gradient."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .._precision import rounded
from ..estimators import AbstractEstimator
from ..estimators._rounding import LIMIT
from ._metrics import Agreement, agreement, both
from ._problem import double, Problem, single
from ._records import Row
from ._text import number
from ._verification import Verification

DRAWN = 1e-6
"""difference of two gradients above which the rule draws random numbers"""


def precision_cost(
    estimator: AbstractEstimator,
    system: Any,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    precision: str,
) -> Agreement | None:
    """Compare a rule's gradient in `precision` with the same rule's in float64.

    Both start from `init_state`, with the phases as configured and, for random signs,
    a positive β.  `None` for a rule that draws noise, which differs between dtypes.
    """
    if getattr(estimator, "nudging", None) == "random-sign":
        estimator = dataclasses.replace(estimator, nudging="one-sided")  # type: ignore[call-arg]
    problem = Problem(system, cost, x, y)
    # Keys are made in either dtype: under x64 a key draws other numbers.
    with jax.enable_x64(True):
        rule, wide = jax.tree.map(double, (estimator, problem))
        keys = jax.random.key(0), jax.random.key(1)
        exact, other = (_gradient(rule, wide, key, "float32") for key in keys)
        if agreement(other, exact).error > DRAWN:
            return None
    with jax.enable_x64(False):
        rule, narrow = jax.tree.map(single, (estimator, problem))
        found = _gradient(rule, narrow, jax.random.key(0), precision)
    return agreement(found, exact)


def with_precision(
    result: Verification, precision: str, found: Agreement | None
) -> Verification:
    """Add what `precision_cost` found for the configured rule to a verification.

    It is only reported: no theorem bounds how much rounding turns a gradient.
    """
    facts = result.facts | {"precision": {"precision": precision, **record(found)}}
    name = f"in {precision}, against itself in float64"
    rows = () if found is None else (Row(name, "all", found),)
    return dataclasses.replace(
        result,
        rows=(*result.rows, *rows),
        findings=(*result.findings, words(precision, found)),
        facts=facts,
    )


def record(found: Agreement | None) -> dict[str, float | None]:
    """Return the fields of `Agreement` for JSON; null if not measured."""
    fields = (field.name for field in dataclasses.fields(Agreement))
    return {name: getattr(found, name, None) for name in fields}


def words(precision: str, found: Agreement | None) -> str:
    """Say in one sentence what was found."""
    if found is None:
        return f"{precision}: not measured, since the rule draws random numbers."
    text = (
        f"{precision}: the rule's gradient is {number(found.angle)}° off the same "
        f"rule's in float64 (relative error {number(found.error)})."
    )
    if found.error > LIMIT:
        text += (
            " That is rounding: use a larger beta (the error is inverse to it), or "
            "float64."
        )
    return text


@eqx.filter_jit
def _gradient(estimator, problem, key, precision):
    """Run the rule in the arithmetic of `precision`."""
    params, static = eqx.partition(problem.model, eqx.is_inexact_array)

    def gradient(params, x, y):
        return both(estimator(*eqx.combine(params, static), x, y, key=key))

    return rounded(gradient, precision)(params, problem.x, problem.y)
