"""Sections on single examples: how they settled, and what they were taken for."""

from typing import Any

import numpy as np

from ._curves import residuals
from ._html import pixels
from ._record import Group, Outcome, Record, STATUSES
from ._table import described

SHOWN = 24
LARGEST_TABLE = 40


def settling_section(groups: list[Group]) -> list[dict[str, Any]]:
    """Steps, residual and status of every example of the measured split."""
    found = []
    for group in groups:
        outcomes = [run.outcome for run in group.runs if run.outcome]
        if not outcomes:
            continue
        text = f"{len(outcomes[0].steps)} {_split_name(outcomes[0])}, each settled anew"
        if len(outcomes) > 1:
            text += f", by each of {len(outcomes)} runs"
        joined = {
            name: np.concatenate([getattr(outcome, name) for outcome in outcomes])
            for name in ("status", "steps", "residual")
        }
        found.append(
            {
                "title": _group_title(group, groups, text),
                "rows": _settling_rows(**joined),
                "picture": residuals(joined["residual"], joined["status"]),
                "alt": "Histogram of the residuals of these "
                f"{len(joined['steps'])} examples",
            }
        )
    return found


def _settling_rows(
    status: np.ndarray, steps: np.ndarray, residual: np.ndarray
) -> list[list[str]]:
    rows = []
    total = len(status)
    for k, name in [*enumerate(STATUSES), (-1, "all")]:
        chosen = status == k if k >= 0 else np.ones(total, bool)
        count = int(chosen.sum())
        finite = residual[chosen & np.isfinite(residual)]
        rows.append(
            [
                name,
                str(count),
                f"{100 * count / total:.1f} %",
                f"{steps[chosen].mean():.1f}" if count else "–",
                f"{np.median(finite):.2g}" if len(finite) else "–",
                f"{finite.max():.2g}" if len(finite) else "–",
            ]
        )
    return rows


def confusion_section(groups: list[Group]) -> list[dict[str, Any]]:
    """True classes against predicted ones, summed over a configuration's runs.

    `cells` holds a row for each class; `pairs`, of very many classes, the pairs that
    are confused most often.
    """
    found = []
    for group in groups:
        outcomes = [outcome for _, outcome in _classified(group)]
        if not outcomes:
            continue
        counts = np.sum([outcome.confusion() for outcome in outcomes], axis=0)
        total, right = int(counts.sum()), int(np.trace(counts))
        text = f"{right} of {total} {_split_name(outcomes[0])} right"
        if len(outcomes) > 1:
            text += f", summed over {len(outcomes)} runs"
        many = len(counts) > LARGEST_TABLE
        found.append(
            {
                "title": _group_title(group, groups, text),
                "cells": [] if many else _colored(counts),
                "pairs": _worst_pairs(counts) if many else [],
            }
        )
    return found


def _colored(counts: np.ndarray) -> list[list[tuple[int, str]]]:
    """Counts and their colors: right ones blue, mistakes orange, the darker the more.

    A color is `R, G, B, opacity`; that of no example is empty.
    """
    found = []
    for true, row in enumerate(counts):
        whole, cells = max(int(row.sum()), 1), []
        for taken, number in enumerate(map(int, row)):
            share = number / whole
            color = f"213, 94, 0, {min(0.6, 0.12 + 3 * share):.2f}"
            if taken == true:
                color = f"10, 86, 148, {0.35 * share:.2f}"
            cells.append((number, color if number else ""))
        found.append(cells)
    return found


def _worst_pairs(counts: np.ndarray) -> list[list[str]]:
    """The pairs of classes that are confused most often."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    return [
        [f"{true} taken for {taken}", str(wrong[true, taken])]
        for true, taken in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true, taken]
    ]


def mistakes_section(groups: list[Group]) -> list[dict[str, Any]]:
    """Images of what was taken for something else: by most runs, most surely."""
    found = []
    for group in groups:
        held = [(r, o) for r, o in _classified(group) if o.images is not None]
        if not held or not held[0][1].wrong.any():
            continue
        run, first = held[0]
        same = first.labels
        assert same is not None
        outcomes = [
            o
            for _, o in held
            if o.labels is not None and np.array_equal(o.labels, same)
        ]
        votes = np.sum([o.wrong for o in outcomes], axis=0)
        order = np.lexsort((-_margin(first), -votes))
        order = order[first.wrong[order]]
        text = f"{min(SHOWN, len(order))} of {len(order)} misclassified"
        text += f" {_split_name(first)}"
        if len(outcomes) > 1:
            text += f" of the run with seed {run.seed}"
        examples = [_mistake(first, k, votes[k], len(outcomes)) for k in order[:SHOWN]]
        title = _group_title(group, groups, text)
        found.append({"title": title, "examples": examples})
    return found


def _mistake(outcome: Outcome, k: int, votes: int, runs: int) -> dict[str, Any]:
    assert outcome.labels is not None
    assert outcome.images is not None
    true, taken = outcome.labels[k], outcome.predicted[k]
    status = STATUSES[int(outcome.status[k])]
    lines = [f"#{k}"]
    if runs > 1:
        lines.append(f"{votes} of {runs} runs")
    if status != "settled":
        lines.append(status)
    return {
        "picture": pixels(outcome.images[k]),
        "alt": f"Example {k}: a {true}, taken for a {taken}",
        "classes": f"{true} → {taken}",
        "lines": lines,
    }


def _margin(outcome: Outcome) -> np.ndarray:
    """How far the chosen output lies above that of the true class."""
    rows = np.arange(len(outcome.outputs))
    chosen = outcome.outputs[rows, outcome.predicted]
    return np.nan_to_num(chosen - outcome.outputs[rows, outcome.labels])


def _classified(group: Group) -> list[tuple[Record, Outcome]]:
    """The runs whose examples have classes."""
    return [
        (run, run.outcome)
        for run in group.runs
        if run.outcome is not None and run.outcome.labels is not None
    ]


def _split_name(outcome: Outcome) -> str:
    return {"train": "training"}.get(outcome.split, outcome.split) + " examples"


def _group_title(group: Group, groups: list[Group], text: str) -> str:
    return f"{described(group)}: {text}" if len(groups) > 1 else text
