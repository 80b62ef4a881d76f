"""The HTML page of a report: one file, no network, readable on a narrow screen."""

import io
from datetime import datetime, UTC
from typing import Any

from ._curves import curves
from ._examples import confusion_section, mistakes_section, settling_section
from ._html import render
from ._plots import SHOWN, weights_figure
from ._provenance import provenance_section
from ._record import count, Group, grouped, Record, settings
from ._table import BY_KEY, described, rows
from ._verification import verification_section


def write_page(records: list[Record]) -> str:
    """The page of these runs, as text.

    Parts that no run has data for are left out, and named at the end of the page.
    """
    groups = grouped(records)
    sections = [
        ("Results", "results", _results(groups)),
        ("Curves", "curves", _curves(groups)),
        ("Settling", "settling", settling_section(groups)),
        ("First-layer weights", "weights", _weights(groups)),
        ("Confusion matrix", "confusion", confusion_section(groups)),
        ("Misclassified examples", "mistakes", mistakes_section(groups)),
        ("Gradient check", "verification", verification_section(records)),
        ("Configuration", "configuration", _configuration(groups)),
        ("How to reproduce", "reproduce", provenance_section(records)),
        ("What this page does not hold", "missing", _missing(records)),
    ]
    return render(
        "page.html",
        subject=_subject(groups),
        summary=_summary(groups),
        tiles=_tiles(groups),
        sections=[section for section in sections if section[2]],
        footer=_footer(records),
    )


def _subject(groups: list[Group]) -> str:
    """`digits, Hopfield, EquilibriumPropagation`, or how many are compared."""
    if len(groups) > 1:
        return f"{len(groups)} configurations compared"
    return described(groups[0])


def _summary(groups: list[Group]) -> str:
    """How many runs of how many configurations, and whether they are whole."""
    runs = [run for group in groups for run in group.runs]
    done = [run.last.get("epoch", 0) for run in runs]
    planned = [run.config.get("epochs") for run in runs]
    text = count(len(runs), "run")
    if len(groups) > 1:
        text += f" of {count(len(groups), 'configuration')}"
    text += f", {min(done)}"
    text += f" to {max(done)} epochs" if min(done) != max(done) else " epochs each"
    if len(runs) == 1:
        text = f"One run of {done[0]} epochs"
    if done != planned:
        short = sum(d != p for d, p in zip(done, planned, strict=True))
        text += f"; {count(short, 'run')} not at the planned end"
    text += ". Errors are those of the last epoch"
    if any(len(group.runs) > 1 for group in groups):
        text += ", mean ± sample standard deviation over the seeds"
    return f"{text}."


def _tiles(groups: list[Group]) -> list[tuple[str, str]]:
    """The numbers that one looks for first, of one configuration."""
    if len(groups) > 1:
        return []
    tiles = []
    for key in ("test_error", "train_error", "settled", "training_seconds"):
        column = BY_KEY[key]
        text = column.cell(column.values(groups[0]))
        unit = f" {column.unit}" if column.unit and text != "–" else ""
        tiles.append((column.heading, text + unit))
    return tiles


def _results(groups: list[Group]) -> dict[str, Any]:
    heads, cells = rows(groups)
    if len(groups) == 1:  # the page's title names the configuration
        heads, cells = heads[1:], [row[1:] for row in cells]
    notes = []
    if any("cold" in head for head in heads):
        notes.append(
            "States persist from epoch to epoch: the test error is that of the "
            "persistent states, the cold one that of a network that starts anew."
        )
    for group in groups:
        used = [str(run.seed) for run in group.runs]
        if len(set(used)) < len(used):
            notes.append(
                f"{described(group)}: a seed occurs more than once, so the deviation "
                "is not one over independent runs."
            )
    notes.append(
        "Steps are those of the free phase, a mean over the training examples of the "
        "last epoch; settled and residual are means over one batch in 16, or over all "
        "where a tolerance is given; residuals are velocities, of sweeps velocities / "
        "curvatures."
    )
    return {"heads": heads, "rows": cells, "notes": notes}


def _curves(groups: list[Group]) -> dict[str, Any]:
    panels = list(curves(groups).values())
    several = any(len(group.runs) > 1 for group in groups)
    return {"panels": panels, "several": several} if panels else {}


def _weights(groups: list[Group]) -> list[tuple[str, bytes, str]]:
    """Description, picture and caption of each configuration's weights."""
    found = []
    for group in groups:
        run = next((r for r in group.runs if r.weights is not None), None)
        if run is None or run.weights is None:
            continue
        file = io.BytesIO()
        weights_figure(run.weights).savefig(file, dpi=120, metadata={"Software": None})
        units, height, width = run.weights.shape
        alt = (
            f"Incoming weights of first-layer units as images of {height} by {width} "
            f"pixels"
        )
        caption = (
            f"{min(SHOWN, units)} of {units} first-layer units or kernels, largest "
            "norm first. Blue is negative, red positive, each on its own scale."
        )
        if len(groups) > 1:
            caption += f" {described(group)}."
        if len(group.runs) > 1:
            caption += f" Of the run with seed {run.seed}."
        found.append((alt, file.getvalue(), caption))
    return found


def _configuration(groups: list[Group]) -> dict[str, Any]:
    """Every setting by its name on the command line; those that differ are marked."""
    each = [settings(group.runs[0]) for group in groups]
    names = list(dict.fromkeys(name for one in each for name in one))
    values = {name: [one.get(name, "–") for one in each] for name in names}
    return {
        "heads": [
            "setting",
            *(g.label if len(groups) > 1 else "value" for g in groups),
        ],
        "rows": [(name, row, len(set(row)) > 1) for name, row in values.items()],
        "marked": any(group.differs for group in groups),
    }


def _missing(records: list[Record]) -> list[str]:
    """Parts that could not be made, with the reason, once for all runs it holds for."""
    reasons: dict[str, list[str]] = {}
    for record in records:
        for reason in record.missing:
            reasons.setdefault(reason, []).append(record.path)
    if len(records) == 1:
        return list(reasons)
    return [f"{reason} ({', '.join(paths)})" for reason, paths in reasons.items()]


def _footer(records: list[Record]) -> str:
    versions = {
        str(packages.get("eqprop"))
        for record in records
        if isinstance(packages := record.environment.get("packages"), dict)
    }
    made = datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", " UTC")
    text = f"Made by eqprop report on {made.replace('T', ' at ')}."
    if versions:
        text += f" Trained with eqprop {', '.join(sorted(versions))}."
    return text
