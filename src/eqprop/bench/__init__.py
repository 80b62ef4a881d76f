"""Bench: what a step of a system costs on this machine, and the machine's own limit.

Beside the recipes and below runs: a system and a batch of examples come in, times and
bytes come out.  Nothing is trained to its end and no run directory is touched.
"""

from ._bench import (
    bench as bench,
    bench_problem as bench_problem,
    ROUNDS as ROUNDS,
)
