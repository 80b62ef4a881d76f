"""Measure what a coarser arithmetic does to a learning rule's gradient."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._precision import rounded
from ..estimators import AbstractEstimator
from ..estimators._rounding import LIMIT
from ._fixed_point import double
from ._metrics import Agreement, agreement
from ._verification import number, Row, Verification

DRAWN = 1e-6
"""difference of two gradients that only random numbers explain"""


def precision_cost(
    estimator: AbstractEstimator,
    system: Any,
    cost: Any,
    x: PyTree[Array],
    y: PyTree[Array],
    precision: str,
) -> Agreement | None:
    """A rule's gradient in `precision` against the same rule's in float64.

    Both begin cold, with the phases as configured; a random sign of β is taken to be
    the positive one.  `None` for a rule that draws noise: its numbers differ between
    dtypes for another reason.
    """
    if getattr(estimator, "nudging", None) == "random-sign":
        estimator = dataclasses.replace(estimator, nudging="one-sided")  # type: ignore[call-arg]
    # Made anew in either dtype: under x64 a key draws other numbers.
    with jax.enable_x64(True):
        problem = jax.tree.map(double, (estimator, system, cost, x, y))
        keys = jax.random.key(0), jax.random.key(1)
        exact, other = (_gradient(problem, key, "float32") for key in keys)
        if agreement(other, exact).error > DRAWN:
            return None
    with jax.enable_x64(False):
        problem = jax.tree.map(_single, (estimator, system, cost, x, y))
        found = _gradient(problem, jax.random.key(0), precision)
    return agreement(found, exact)


def with_precision(
    result: Verification, precision: str, found: Agreement | None
) -> Verification:
    """The same verification, with what `precision_cost` found for the configured rule.

    It is reported only: no theorem bounds how much rounding turns a gradient.
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
    """The fields of `Agreement` as a JSON object; null if not measured."""
    fields = (field.name for field in dataclasses.fields(Agreement))
    return {name: getattr(found, name, None) for name in fields}


def words(precision: str, found: Agreement | None) -> str:
    """One sentence for people."""
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
def _gradient(problem, key, precision):
    estimator, system, cost, x, y = problem
    params, static = eqx.partition((system, cost), eqx.is_inexact_array)

    def gradient(params, x, y):
        found = estimator(*eqx.combine(params, static), x, y, key=key)
        return found.grads, found.cost_grads

    return rounded(gradient, precision)(params, x, y)


def _single(leaf: Any) -> Any:
    """Arrays as they are held where float64 is off."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | jax.Array) else leaf
