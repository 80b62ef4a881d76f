"""Sections on single examples: how they settled, and what they were taken for."""

import numpy as np

from ._curves import residuals
from ._html import Element, image, pixels, scrolling, table, tag
from ._record import Group, Outcome, Record, STATUSES
from ._table import described

SHOWN = 24
LARGEST_TABLE = 40


def settling_section(groups: list[Group]) -> list[Element]:
    """Steps, residual and status of every example of the measured split."""
    content = []
    for group in groups:
        outcomes = [run.outcome for run in group.runs if run.outcome]
        if not outcomes:
            continue
        text = f"{len(outcomes[0].steps)} {_split_name(outcomes[0])}, each settled anew"
        if len(outcomes) > 1:
            text += f", by each of {len(outcomes)} runs"
        content.append(tag("h3", _group_title(group, groups, text)))
        joined = {
            name: np.concatenate([getattr(outcome, name) for outcome in outcomes])
            for name in ("status", "steps", "residual")
        }
        heads = ["ended", "examples", "share", "mean steps", "median residual"]
        rows = _settling_rows(**joined)
        content.append(table([*heads, "largest"], rows, label="How examples settled"))
        picture = residuals(joined["residual"], joined["status"])
        if picture is not None:
            alt = f"Histogram of the residuals of these {len(joined['steps'])} examples"
            content.append(tag("figure", image(picture, alt), class_="histogram"))
    if content:
        text = (
            "Settled: the residual at the final state, ‖velocity‖∞ (of sweeps "
            "‖velocity / curvature‖∞), is below the tolerance of the free phase (the "
            "square root of the precision where none is set). Oscillating: unsettled, "
            "and the last two steps all but cancel. Diverged: not finite."
        )
        content.append(tag("p", text, class_="note"))
    return content


def _settling_rows(
    status: np.ndarray, steps: np.ndarray, residual: np.ndarray
) -> list[list["str | Element"]]:
    rows: list[list[str | Element]] = []
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


def confusion_section(groups: list[Group]) -> list[Element]:
    """True classes against predicted ones, summed over a configuration's runs."""
    content = []
    for group in groups:
        outcomes = [outcome for _, outcome in _classified(group)]
        if not outcomes:
            continue
        counts = sum(outcome.confusion() for outcome in outcomes)
        assert isinstance(counts, np.ndarray)
        total, right = int(counts.sum()), int(np.trace(counts))
        text = f"{right} of {total} {_split_name(outcomes[0])} right"
        if len(outcomes) > 1:
            text += f", summed over {len(outcomes)} runs"
        content.append(tag("h3", _group_title(group, groups, text)))
        if len(counts) > LARGEST_TABLE:
            content.append(_worst_pairs(counts))
        else:
            content.append(_confusion_table(counts))
    if content:
        text = "Rows are true classes, columns what the network took them for."
        content.append(tag("p", text, class_="note"))
    return content


def _confusion_table(counts: np.ndarray) -> Element:
    """Right ones in blue and mistakes in orange, the darker the more of the row."""
    size = len(counts)
    corner = tag("th", "true", class_="corner", scope="col")
    head = tag("tr", corner, *(tag("th", str(k), scope="col") for k in range(size)))
    body = tag("tbody")
    for true, row in enumerate(counts):
        whole = max(int(row.sum()), 1)
        cells = []
        for taken, count in enumerate(row):
            share = count / whole
            color = "10, 86, 148" if taken == true else "213, 94, 0"
            strength = 0.35 * share if taken == true else min(0.6, 0.12 + 3 * share)
            style = f"background: rgba({color}, {strength:.2f})" if count else None
            cells.append(tag("td", str(count) if count else "·", style=style))
        body.append(tag("tr", tag("th", str(true), scope="row"), *cells))
    whole = tag("table", tag("thead", head), body, class_="confusion")
    return scrolling(whole, "Confusion matrix")


def _worst_pairs(counts: np.ndarray) -> Element:
    """Of very many classes, the pairs that are confused most often."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    rows: list[list[str | Element]] = [
        [f"{true} taken for {taken}", str(wrong[true, taken])]
        for true, taken in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true, taken]
    ]
    return table(["classes", "examples"], rows, label="Most confused classes")


def mistakes_section(groups: list[Group]) -> list[Element]:
    """Images of what was taken for something else: by most runs, most surely."""
    content = []
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
        content.append(tag("h3", _group_title(group, groups, text)))
        items = [_mistake(first, k, votes[k], len(outcomes)) for k in order[:SHOWN]]
        content.append(tag("ul", *items, class_="examples"))
    if content:
        text = (
            "true class → class it was taken for; # is the example's number. Examples "
            "that most runs mistake come first, then those with the largest margin."
        )
        content.append(tag("p", text, class_="note"))
    return content


def _mistake(outcome: Outcome, k: int, votes: int, runs: int) -> Element:
    assert outcome.labels is not None
    assert outcome.images is not None
    true, taken = outcome.labels[k], outcome.predicted[k]
    status = STATUSES[int(outcome.status[k])]
    alt = f"Example {k}: a {true}, taken for a {taken}"
    lines = [f"#{k}"]
    if runs > 1:
        lines.append(f"{votes} of {runs} runs")
    if status != "settled":
        lines.append(status)
    words = [tag("span", line) for line in lines]
    caption = tag("figcaption", tag("strong", f"{true} → {taken}"), *words)
    picture = image(pixels(outcome.images[k]), alt)
    return tag("li", tag("figure", picture, caption))


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
