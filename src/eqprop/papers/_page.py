"""The page of a folder of records: published and measured numbers, item by item."""

from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_whole
from ._item import Item
from ._items import ITEMS, PAPERS
from ._record import ClaimRecord, read_records, Record, versions
from ._train import TOLERANCE, Training
from ._verdict import ERRORS, SEEDS

TABLE = "README.md"
EPSILON = float(np.finfo(np.float32).eps ** 0.5)
"""below which a residual counts as settled if no tolerance is given"""
HEAD = ("item", "what it shows", "published", "measured", "seeds", "time", "verdict")
LEGEND = (Path(__file__).parent / "page.md").read_text(encoding="utf-8")
TITLE = LEGEND.partition("\n")[0]


def check_page(folder: Path) -> None:
    """Raise `ValueError` if the folder has a `README.md` that eqprop did not write."""
    page = folder / TABLE
    if page.exists() and not page.read_text("utf-8", "replace").startswith(TITLE):
        raise ValueError(
            f"{page} was not made by eqprop reproduce and would be lost; choose "
            "another folder with --out DIR"
        )


def write_page(folder: Path) -> Path:
    """Write `README.md` of the folder: a table and the details of every item.

    **Raises:** `ValueError` if there is a `README.md` that eqprop did not write.
    """
    check_page(folder)
    records = read_records(folder)
    limits = {"SEEDS": SEEDS, "ERRORS": ERRORS, "TOLERANCE": TOLERANCE}
    lines = [LEGEND.format(**limits, EPSILON=EPSILON)]
    for paper in PAPERS:
        items = [item for item in ITEMS.values() if item.paper == paper.key]
        if items:
            table = [HEAD, ("---",) * len(HEAD)]
            table += [row for item in items for row in item_rows(item, records)]
            lines += [f"## {paper.heading}", ""]
            lines += [f"| {' | '.join(row)} |" for row in table]
            lines += [""]
        if paper.not_run:
            lines += [f"*Published, but not an item here:* {paper.not_run}", ""]
    for quick in (False, True):
        found = [
            (i, n) for i in ITEMS.values() for n in versions(i.name, records, quick)
        ]
        if found and quick:
            lines += ["## Quick versions", ""]
            lines += [
                "Few examples, epochs or steps: not comparable to the papers.",
                "",
            ]
        for item, name in found:
            lines += details(item, records[name], name)
    return write_whole(folder / TABLE, "\n".join(lines).rstrip() + "\n")


def item_rows(item: Item, records: dict[str, Record]) -> list[tuple[str, ...]]:
    """The rows of an item and of its versions."""
    names = versions(item.name, records, quick=False)
    found = [] if item.name in names else [missing_row(item)]
    return found + [row for name in names for row in rows(item, records[name], name)]


def missing_row(item: Item) -> tuple[str, ...]:
    published = "; ".join(each.quantity for each in item.published) or unknown(item)
    expected = f"≈ {duration(60 * item.minutes)}{took(item)}"
    return item.name, item.shows, published, "–", "–", expected, "not run"


def rows(item: Item, record: Any, name: str) -> list[tuple[str, ...]]:
    """A row for each published number, at least one."""
    link, time = f"[{name}](#{anchor(name)})", duration(record.seconds) + took(item)
    if isinstance(record, ClaimRecord) or not isinstance(item, Training):
        verdict = item.verdict(record)
        verdict = verdict if record.holds else f"**{verdict}**"
        return [(link, item.shows, "–", "see below", "–", time, verdict)]
    count, ended = len(record.seeds), len(record.ended)
    seeds = str(ended) if ended == count else f"{ended} of {count}"
    found = []
    for published, ours, mark in item.marks(record):
        first = ("", "") if found else (link, item.shows)
        shown = unknown(item) if published is None else published.quantity
        found.append((*first, shown, ours, seeds, time, mark))
    return found


def details(item: Item, record: Record, name: str) -> list[str]:
    """What the paper shows, what was found, the command, the machine, the figure."""
    shows = f"{item.shows[0].upper()}{item.shows[1:]}."
    parts = {
        "In the paper": item.in_paper,
        "Our settings": item.settings,
        "Measured": item.result(record),
        "Explanation": item.settled_reason if record.version.settled else item.reason,
    }
    table: list[str] = []
    if isinstance(record, ClaimRecord):
        shows = f"{record.claim} ({record.source})."
        parts["Measured"] = record.sentence
        table = ["| number | value | required |", "| --- | --- | --- |"]
        for each in record.findings:
            number = each.name.replace("|", "\\|")
            table += [f"| {number} | {each.value:.3g} | {each.required} |"]
        table += [""]
    lines = [f"### {name}", "", shows, ""]
    for title, text in parts.items():
        lines += [f"**{title}:** {text}", ""] if text else []
        lines += table if title == "Measured" else []
    took = duration(record.seconds)
    lines += [f"`{item.command(record)}`, {took}{machines(record)}"]
    return [*lines, "", f"![{name}]({name}.png)", ""]


def unknown(item: Item) -> str:
    """What the table shows instead of a number that is not known or not there."""
    is_printed = isinstance(item, Training) and item.paper != "beyond"
    return "not known" if is_printed else "–"


def took(item: Item) -> str:
    known = isinstance(item, Training) and item.took
    return f" (paper {known})" if known else ""


def duration(time: float | None) -> str:
    """`40 s`, `12 min`, `8.5 h`, `150 h`."""
    if time is None:
        return "–"
    if time < 100:
        return f"{time:.0f} s"
    hours = time / 3600
    return f"{time / 60:.0f} min" if time < 6000 else f"{hours:.{int(hours < 10)}f} h"


def machines(record: Record) -> str:
    """The machines, versions and commits that made a record."""
    texts = dict.fromkeys(map(machine_text, record.environments))
    return "".join(f"; {text}" for text in texts if text)


def machine_text(environment: dict[str, Any]) -> str:
    if not environment.get("processor"):
        return ""
    place = f"{environment['cores']}-core {environment['processor']}"
    if environment.get("backend") != "cpu":
        place = ", ".join(environment["devices"])
    packages = environment.get("packages") or {}
    source = environment.get("source") or environment.get("git") or {}
    commit = source.get("commit") or ""
    names = [f"{n} {packages[n]}" for n in ("eqprop", "jax") if packages.get(n)]
    return ", ".join([place, *names, *([f"commit {commit[:9]}"] if commit else [])])


def anchor(name: str) -> str:
    """GitHub's anchor of a heading."""
    return "".join(c for c in name.lower() if c.isalnum() or c in "-_")
