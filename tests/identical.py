"""Runs that must be the same, bit by bit."""

import json

import equinox as eqx
import jax
import numpy as np

TIMES = {"seconds", "training_seconds", "examples_per_second"}


def without_times(record):
    return {name: value for name, value in record.items() if name not in TIMES}


def metrics(path):
    """The lines of metrics.jsonl, none of which may be cut short."""
    text = (path / "metrics.jsonl").read_text(encoding="utf-8")
    return [without_times(json.loads(line)) for line in text.splitlines()]


def assert_identical(run, other):
    """All arrays (parameters, optimizer, states), the records and the metrics file."""
    for own, its in (
        (map(without_times, run.history), map(without_times, other.history)),
        (metrics(run.path), metrics(other.path)),
    ):
        assert list(own) == list(its)
    leaves, others = (
        jax.tree.leaves(eqx.filter(r.state, eqx.is_array)) for r in (run, other)
    )
    assert len(leaves) == len(others)
    for leaf, its in zip(leaves, others, strict=True):
        assert leaf.dtype == its.dtype
        np.testing.assert_array_equal(leaf, its)
