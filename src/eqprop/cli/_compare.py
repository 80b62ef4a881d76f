"""`eqprop compare`: learning rules side by side on one recipe."""

import sys
from typing import Any

from .. import runs
from ._console import (
    parse,
    percent,
    print_json,
    prints_aside,
    split_words,
    table,
)
from ._options import CompareOptions
from ._platform import start
from ._progress import print_lines, Progress


def main(argv: list[str]) -> int:
    """`eqprop compare RECIPE --estimators ep,bptt`."""
    options = parse(CompareOptions, "compare", argv)
    start(options)
    words = split_words(options.estimators)
    overrides = {} if options.epochs is None else {"epochs": options.epochs}
    lines: list[str] = []
    with prints_aside(), Progress(lines) as progress:
        found = runs.compare(
            options.recipe,
            words,
            run=options.run,
            learning_rate=options.learning_rate,
            observer=progress,
            seed=options.seed,
            **overrides,
        )
    failed = [record for record in found.records if record["failure"]]
    if options.json:
        print_json({"run": str(found.path), "records": found.records})
        return 1 if failed else 0
    print_lines(lines)
    rows = [_row(record) for record in found.records]
    columns = ("rule", "test error", "train error", "angle to exact, °", "seconds")
    table("", (*columns, "MiB", "settled", "optimizer"), rows)
    print(
        "angle: to the exact gradient of the settled cost, from a cold start, at the "
        "first and the last epoch\nseconds: training time with compilation; MiB: "
        f"temporaries of one gradient\n{found.path}: comparison.png, comparison.json"
    )
    for record in failed:
        print(f"{record['estimator']} diverged: {record['failure']}", file=sys.stderr)
    return 1 if failed else 0


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    """Return the line of a rule; a diverged rule has dashes instead of results."""
    angles = [_degrees(row["angle"]) for row in record["angles"]]
    last, seconds = {}, "–"
    if record["failure"] is None:
        last, seconds = record["history"][-1], f"{record['seconds']:.1f}"
    elif angles:
        angles.append("diverged")
    return (
        record["estimator"],
        percent(last.get("test_error")),
        percent(last.get("train_error")),
        f"{angles[0]} → {angles[-1]}" if angles else "–",
        seconds,
        f"{record['memory'] / 2**20:.1f}",
        percent(last.get("settled")),
        record["optimizer"],
    )


def _degrees(angle: float | None) -> str:
    return "–" if angle is None else f"{angle:.1f}"
