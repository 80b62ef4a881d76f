"""Print the result of `eqprop train --seeds N`."""

import sys
from typing import Any

from ..runs import Seeds
from ._console import percent, print_json, table
from ._progress import print_lines

COLUMNS = ("train_error", "val_error", "test_error")


def finish_seeds(found: Seeds, json: bool, lines: list[str]) -> int:
    """Print the data, every seed, and mean ± std; return 1 if a seed diverged."""
    failed = [record for record in found.records if record["failure"]]
    for record in failed:
        print(f"seed {record['seed']} diverged: {record['failure']}", file=sys.stderr)
    summary = found.summary
    if json:
        print_json(
            {"run": str(found.path), "records": found.records, "summary": summary}
        )
        return 1 if failed else 0
    print_lines(lines)
    rows = [
        (str(record["seed"]), *(percent(record[name]) for name in COLUMNS))
        for record in found.records
    ]
    rows.append(("mean ± std", *(_spread(summary[name]) for name in COLUMNS)))
    table("", ("seed", "train error", "validation error", "test error"), rows)
    kept = summary["training_seconds"]
    if kept["mean"] is not None:
        print(f"{kept['mean']:.1f} s of training per seed; std of a sample (n − 1)")

    print(f"runs: {found.path}/seed…, seeds.json")
    return 1 if failed else 0


def _spread(found: dict[str, Any]) -> str:
    if found["std"] is None:
        return percent(found["mean"])
    return f"{100 * found['mean']:.2f} ± {100 * found['std']:.2f} %"
