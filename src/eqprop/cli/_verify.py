"""`eqprop verify` and `eqprop tune` of a recipe, a saved run, or the user's model."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax

from .. import recipes, runs
from .._files import write_whole
from ..estimators import (
    AbstractEstimator,
    EquilibriumPropagation,
    named_estimator,
)
from ..training import load_user_model
from ..theory import (
    flow_figure,
    tune as _tune,
    Verification,
    verify as _verify,
)
from ..theory._causes import FAR
from ..theory._metrics import Agreement
from ..theory._precision import precision_cost, with_precision
from ._console import (
    parse,
    print_json,
    prints_aside,
    working,
)
from ._options import TuneOptions, VerifyOptions
from ._platform import start


@dataclasses.dataclass(frozen=True)
class Target:
    """A system to verify, with its examples and the rule that trains it."""

    name: str
    system: Any
    cost: Any
    x: Any
    y: Any
    estimator: AbstractEstimator | None
    folder: Path

    def first(self, count: int) -> tuple[Any, Any]:
        """Return the first examples x, y."""
        return jax.tree.map(lambda leaf: leaf[:count], (self.x, self.y))


def verify(argv: list[str]) -> int:
    """`eqprop verify TARGET`."""
    options = parse(VerifyOptions, "verify", argv)
    start(options, quickly=True)
    with prints_aside(), working(f"verifying {options.target}"):
        target = find_target(options.target, "verify", options.system)
        configured, name = target.estimator, "as configured"
        if options.estimator is not None:
            like = configured or recipes.recipe("custom").config.estimator
            configured, name = named_estimator(options.estimator, like), "the rule"
        cost_of_rounding = None
        if options.precision is not None:
            cost_of_rounding = _rounding(options, target, configured)
        result = _verify(
            target.system,
            target.cost,
            target.x,
            target.y,
            estimators={} if configured is None else {name: configured},
            beta=options.beta,
            dt=options.dt,
            steps=options.steps,
            examples=options.examples,
        )
        if options.precision is not None:
            result = with_precision(result, options.precision, cost_of_rounding)
        folder = options.out or target.folder
        figures = sorted(result.plot(folder))
        if options.flow:
            x, y = target.first(options.examples)
            flow_figure(target.system, target.cost, x, y, path=folder / "flow.png")
            figures.append("flow")
        record = {"target": options.target, **result.to_dict()}
        record = _write(folder / "verification.json", record)
    if options.json:
        print_json({**record, "folder": str(folder)})
    else:
        files = ", ".join([*(f"{name}.png" for name in figures), "verification.json"])
        print(f"{result}\n\n{folder}: {files}")
        if result.holds and _is_far(result, name):
            print(f"next: eqprop tune {options.target}")
    return 0 if result.holds else 1


def _is_far(result: Verification, name: str) -> bool:
    """Whether the rule's gradient is so far off that the user needs a next step."""
    angles = [row.agreement.angle for row in result.rows if row.estimator == name]
    return bool(angles) and not angles[-1] <= FAR


def _rounding(options: VerifyOptions, target: Target, rule) -> Agreement | None:
    """Compare the rule's gradient in that precision with its own in float64."""
    if rule is None:
        raise ValueError(
            f"--precision {options.precision} needs a learning rule, and "
            f"{options.target} has none; name one, e.g. --estimator ep"
        )
    assert options.precision is not None
    x, y = target.first(options.examples)
    return precision_cost(rule, target.system, target.cost, x, y, options.precision)


def tune(argv: list[str]) -> int:
    """`eqprop tune TARGET`."""
    options = parse(TuneOptions, "tune", argv)
    start(options, quickly=True)
    with prints_aside(), working(f"tuning {options.target}"):
        target = find_target(options.target, "tune", options.system)
        rule = target.estimator
        if not isinstance(rule, EquilibriumPropagation):
            rule = None
        elif options.nudging is not None:
            rule = dataclasses.replace(rule, nudging=options.nudging)
        result = _tune(
            target.system,
            target.cost,
            target.x,
            target.y,
            target=options.angle,
            estimator=rule,
            examples=options.examples,
            nudging=options.nudging or "centered",
        )
        folder = options.out or target.folder
        folder.mkdir(parents=True, exist_ok=True)
        result.plot(folder / "tune.png")
        record = {"system": options.target, **result.to_dict()}
        record = _write(folder / "tune.json", record)
    if options.json:
        print_json({**record, "folder": str(folder)})
        return 0 if result.reached else 1
    print(f"{result}\n\n{folder}: tune.png, tune.json")
    if result.reached:
        print(_use(options.target, target, result.flags()))
    return 0 if result.reached else 1


def _use(text: str, target: Target, flags: str) -> str:
    """Return how to train with the proposal; add the rule if the target's is not EP."""
    if not isinstance(target.estimator, EquilibriumPropagation | None):
        flags = f"--estimator ep {flags}"
    if _is_run(text):
        return f"use it: train the run's recipe with {flags}"
    return (
        f"use it: eqprop train {'--system ' if _is_model(text) else ''}{text} {flags}"
    )


def _is_run(text: str) -> bool:
    return (Path(text) / "config.json").exists()


def _is_model(text: str) -> bool:
    return ".py" in text and not _is_run(text)


def _write(file: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write a record as JSON; return it with NaN and infinity as null."""
    record = runs.plain(record)
    write_whole(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def find_target(text: str, job: str, model: str | None = None) -> Target:
    """Load a recipe by name, a run by directory, or a model by FILE.py:NAME."""
    if _is_model(text) and model is None:
        system, cost, x, y = load_user_model(text)
        name = text.rpartition(":")[2]
        file = Path(text.rpartition(":")[0]).stem
        folder = Path("runs") / f"{job}-{file}-{name}"
        return Target(name, system, cost, x, y, None, folder)
    if _is_run(text):
        run = runs.load(text, system=model)
        x, y = run.problem.train
        rule, folder = run.config.estimator, run.path / job
        return Target(run.path.name, run.system, run.cost, x, y, rule, folder)
    if model is not None:
        raise ValueError(
            f"--system names the model of a run, and {text} is not a run; give the "
            "model itself as the target: FILE.py:NAME"
        )
    if Path(text).exists():
        raise ValueError(
            f"{text} is not a run directory (it has no config.json); give a recipe, "
            "a run directory or FILE.py:NAME"
        )
    config = recipes.recipe(text).config
    if config.data is None:
        raise ValueError(
            f"recipe {text} has no model of its own; give FILE.py:NAME instead"
        )
    problem = runs.Problem.build(config)
    x, y = problem.train
    folder = Path("runs") / f"{job}-{re.sub('[^A-Za-z0-9-]', '-', text)}"
    return Target(text, problem.system, problem.cost, x, y, config.estimator, folder)
