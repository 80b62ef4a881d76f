"""What a run's arithmetic costs: the angle of its first gradient to the float64 one."""

import json
from pathlib import Path
from typing import Any

import jax

from ..training import Config
from ..theory._precision import precision_cost, record
from ._problem import Problem

FILE = "precision.json"


def measure_precision(config: Config, problem: Problem) -> dict[str, Any]:
    """Measure the rule on the first batch at the initial weights.

    **Returns:** what `precision.json` holds: `precision`, `examples`, and `error`,
    `angle` (degrees) and `signs` against the same rule in float64: null for a rule
    that draws noise.
    """
    x, y = jax.tree.map(lambda leaf: leaf[: config.batch_size], problem.train)
    rule, system, cost = config.estimator, problem.system, problem.cost
    found = precision_cost(rule, system, cost, x, y, config.precision)
    examples = len(jax.tree.leaves(x)[0])
    return {"precision": config.precision, "examples": examples, **record(found)}


def read_precision(run: Path) -> dict[str, Any] | None:
    """What is kept of it in a run; `None` for a run in float32."""
    file = run / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
