"""Measure what a run's precision does to its first gradient, against float64."""

import json
from pathlib import Path
from typing import Any

import jax

from ..training import Config
from ..theory._precision import precision_cost, record
from ._problem import Problem

FILE = "precision.json"


def measure_precision(config: Config, problem: Problem) -> dict[str, Any]:
    """Measure the rule on the first batch with the initial weights.

    **Returns:** the content of `precision.json`: `precision`, `examples`, and
    `error`, `angle` (degrees) and `signs` against the same rule in float64.  These
    are null for a rule that draws noise.
    """
    x, y = jax.tree.map(lambda leaf: leaf[: config.batch_size], problem.train)
    rule, system, cost = config.estimator, problem.system, problem.cost
    found = precision_cost(rule, system, cost, x, y, config.precision)
    examples = len(jax.tree.leaves(x)[0])
    return {"precision": config.precision, "examples": examples, **record(found)}


def read_precision(run: Path) -> dict[str, Any] | None:
    """Return the content of a run's `precision.json`; `None` for a float32 run."""
    file = run / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
