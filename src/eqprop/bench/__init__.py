"""Bench: measure what a step of a system costs on a machine, and the machine's limit.

It takes a system and a batch of examples, and returns times and bytes.  It stands below
runs: it writes no run directory.
"""

from ._bench import (
    bench as bench,
    bench_problem as bench_problem,
    ROUNDS as ROUNDS,
)
