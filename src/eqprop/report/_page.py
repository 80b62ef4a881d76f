"""The HTML page of a report: one file, no network, readable on a narrow screen."""

import io
from datetime import datetime, UTC

from ._curves import curves
from ._examples import confusion_section, mistakes_section, settling_section
from ._html import Element, image, page, scrolling, table, tag
from ._plots import SHOWN, weights_figure
from ._provenance import provenance_section
from ._record import Group, grouped, Record, settings
from ._style import STYLE
from ._table import BY_KEY, described, rows
from ._verification import verification_section

TITLE = "eqprop report"
UPRIGHT = 3


def write_page(records: list[Record]) -> str:
    """The page of these runs, as text.

    Parts whose data no run has are left out, and named at the end of the page.
    """
    groups = grouped(records)
    subject = _subject(groups)
    sections = [
        ("Results", _results_section(groups)),
        ("Curves", _curves_section(groups)),
        ("Settling", settling_section(groups)),
        ("First-layer weights", _weights_section(groups)),
        ("Confusion matrix", confusion_section(groups)),
        ("Misclassified examples", mistakes_section(groups)),
        ("Gradient check", verification_section(records)),
        ("Configuration", _configuration_section(groups)),
        ("How to reproduce", provenance_section(records)),
        ("What this page does not hold", _missing_section(records)),
    ]
    found = [(title, content) for title, content in sections if content]
    body = [
        tag("header", tag("h1", subject), tag("p", _summary(groups)), _tiles(groups)),
        tag("nav", *_links([title for title, _ in found]), aria_label="Contents"),
    ]
    for title, content in found:
        head = tag("h2", title)
        body.append(tag("section", head, *content, id=_anchor(title)))
    body.append(_footer(records))
    return page(f"{TITLE}: {subject}", STYLE, body)


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
    text = _count(len(runs), "run")
    if len(groups) > 1:
        text += f" of {_count(len(groups), 'configuration')}"
    text += f", {min(done)}"
    text += f" to {max(done)} epochs" if min(done) != max(done) else " epochs each"
    if len(runs) == 1:
        text = f"One run of {done[0]} epochs"
    if done != planned:
        short = sum(d != p for d, p in zip(done, planned, strict=True))
        text += f"; {_count(short, 'run')} not at the planned end"
    text += ". Errors are those of the last epoch"
    if any(len(group.runs) > 1 for group in groups):
        text += ", mean ± sample standard deviation over the seeds"
    return f"{text}."


def _tiles(groups: list[Group]) -> Element | None:
    """The numbers one looks for first, of one configuration."""
    if len(groups) > 1:
        return None
    (group,) = groups

    tiles = []
    for key in ("test_error", "train_error", "settled", "training_seconds"):
        column = BY_KEY[key]
        text = column.cell(column.values(group))
        unit = "" if text == "–" else f" {column.unit}"
        tiles.append((column.heading, text + unit))
    items = [tag("div", tag("dt", name), tag("dd", text)) for name, text in tiles]
    return tag("dl", *items, class_="tiles")


def _results_section(groups: list[Group]) -> list[Element]:
    heads, cells = rows(groups)
    if len(groups) <= UPRIGHT:  # a column a configuration: no scrolling on a phone
        heads, *cells = map(list, zip(heads, *cells, strict=True))
    content = [table(heads, [list(row) for row in cells], label="Results")]
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
        "Settled, steps and residual are means over the training examples of the last "
        "epoch; residuals are velocities, steps are relaxation steps of the free phase."
    )
    return [*content, *(tag("p", note, class_="note") for note in notes)]


def _curves_section(groups: list[Group]) -> list[Element]:
    panels = [
        tag("figure", image(data, words)) for words, data in curves(groups).values()
    ]
    if not panels:
        return []
    content = [tag("div", *panels, class_="panels")]
    if any(len(group.runs) > 1 for group in groups):
        text = "Thin lines are single runs, thick lines their mean."
        content.append(tag("p", text, class_="note"))
    return content


def _weights_section(groups: list[Group]) -> list[Element]:
    content = []
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
        where = f" {described(group)}." if len(groups) > 1 else ""
        if len(group.runs) > 1:
            where += f" Of the run with seed {run.seed}."
        content.append(
            tag(
                "figure",
                image(file.getvalue(), alt, class_="weights"),
                tag("figcaption", caption + where),
            )
        )
    return content


def _configuration_section(groups: list[Group]) -> list[Element]:
    """Every setting by its name on the command line; what differs stands out."""
    each = [settings(group.runs[0]) for group in groups]
    names = list(dict.fromkeys(name for one in each for name in one))
    heads = ["setting", *(g.label if len(groups) > 1 else "value" for g in groups)]
    body = tag("tbody")
    for name in names:
        values = [one.get(name, "–") for one in each]
        differs = "differs" if len(set(values)) > 1 else None
        cells = [tag("td", value) for value in values]
        body.append(tag("tr", tag("th", name, scope="row"), *cells, class_=differs))
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    whole = tag("table", tag("thead", head), body, class_="settings")
    note = "Settings are named as the options of eqprop train."
    if any(g.differs for g in groups):
        note += " Those that differ are marked."
    return [scrolling(whole, "Configuration"), tag("p", note, class_="note")]


def _missing_section(records: list[Record]) -> list[Element]:
    """Parts that could not be made, with the reason, once for all runs it holds for."""
    reasons: dict[str, list[str]] = {}
    for record in records:
        for reason in record.missing:
            reasons.setdefault(reason, []).append(record.path)
    items = []
    for reason, paths in reasons.items():
        where = "" if len(records) == 1 else f" ({', '.join(paths)})"
        items.append(tag("li", f"{reason}{where}"))
    return [tag("ul", *items)] if items else []


def _links(titles: list[str]) -> list[Element]:
    return [tag("a", title, href=f"#{_anchor(title)}") for title in titles]


def _anchor(title: str) -> str:
    return "-".join(title.lower().split())


def _footer(records: list[Record]) -> Element:
    versions = {
        str(packages.get("eqprop"))
        for record in records
        if isinstance(packages := record.environment.get("packages"), dict)
    }
    made = datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", " UTC")
    text = f"Made by eqprop report on {made.replace('T', ' at ')}."
    if versions:
        text += f" Trained with eqprop {', '.join(sorted(versions))}."
    return tag("footer", tag("p", text))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
