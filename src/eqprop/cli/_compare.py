"""`eqprop compare`: learning rules side by side on one recipe."""

import dataclasses
from pathlib import Path

import tyro

from .. import runs
from ._console import (
    Flag,
    parse,
    percent,
    print_json,
    prints_aside,
    table,
    use_compilation_cache,
)
from ._progress import Progress

DEFAULT = "ep,cep,chl,rbp,bptt,vf"


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Train a recipe by several learning rules from the same weights."""

    recipe: tyro.conf.Positional[str] = "digits"
    """the recipe whose network, data, optimizer and phases all rules share"""
    estimators: str = DEFAULT
    """words of eqprop train --estimator, joined by commas"""
    epochs: int | None = None
    """passes over the training examples (default: those of the recipe)"""
    seed: int = 0
    """seed of the initial weights and the order, the same for all"""
    learning_rate: float = 0.05
    """of the rules that move the parameters themselves (cep): plain SGD"""
    run: Path | None = None
    """directory, one run in it a rule (default: runs/compare-RECIPE-TIME); what is
    finished there is not trained again"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


def main(argv: list[str]) -> int:
    """`eqprop compare RECIPE --estimators ep,bptt`."""
    options = parse(CompareOptions, "compare", argv)
    use_compilation_cache()
    words = [word.strip() for word in options.estimators.split(",") if word.strip()]
    overrides = {} if options.epochs is None else {"epochs": options.epochs}
    with prints_aside(), Progress() as progress:
        found = runs.compare(
            options.recipe,
            words,
            run=options.run,
            learning_rate=options.learning_rate,
            observer=progress,
            seed=options.seed,
            **overrides,
        )
    if options.json:
        print_json({"run": str(found.path), "records": found.records})
        return 0
    rows = []
    for record in found.records:
        last = record["history"][-1]
        angles = [_degrees(row["angle"]) for row in record["angles"]]
        rows.append(
            (
                record["estimator"],
                percent(last["test_error"]),
                percent(last["train_error"]),
                f"{angles[0]} → {angles[-1]}" if angles else "–",
                f"{record['seconds']:.1f}",
                f"{record['memory'] / 2**20:.1f}",
                percent(last["settled"]),
                record["optimizer"],
            )
        )
    columns = ("rule", "test error", "train error", "angle to exact, °", "seconds")
    table("", (*columns, "MiB", "settled", "optimizer"), rows)
    print(
        "angle: to the exact gradient of the settled cost, from a cold start, at the "
        "first and the last epoch\nseconds: of training, compilation included; MiB: "
        f"temporaries of one gradient\n{found.path}: comparison.png, comparison.json"
    )
    return 0


def _degrees(angle: float | None) -> str:
    return "–" if angle is None else f"{angle:.1f}"
