"""The page of a folder of records: ours beside theirs, item by item."""

from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_whole
from ._item import Item
from ._items import ITEMS, PAPERS, REST
from ._records import read_records, Version, versions
from ._trained import TOLERANCE, Trained
from ._verdict import ERRORS, Published, SEEDS

TABLE = "README.md"
EPSILON = float(np.finfo(np.float32).eps ** 0.5)
"""below which a residual counts as settled where no tolerance is given"""
TITLE = "# The papers, item by item"
HEAD = (
    ("item", "what it shows", "published", "ours", "seeds", "time a seed", "mark"),
    ("---",) * 7,
)
LEGEND = f"""\
Errors are those of the last epoch, mean ± standard deviation (n − 1) over the seeds.
*agrees*: at least {SEEDS} seeds, and no further than {ERRORS:g} standard errors from
the published number, whose spread counts in full because the number of runs behind it
is not known; "about" stands for half a percent each way (0.2 where read off a figure),
a printed number for half of its last digit. *better*, *differs*: further below or
above. *one seed*: fewer than {SEEDS}. *no reference*: the paper's number is not known
to us, or there is no paper. *diverged*: no seed came to its end; where some
did not, the seeds are "3 of 4". *holds*: a claim that was measured and found true. A
training's time is that of its updates, without the evaluations in between, mean over
the seeds on a machine that may have had other work beside it; times of what was not run
are expectations for two cores. *theirs*: the paper's training in full, on a GPU that we
do not know.

*settled*, after an item's name: a free phase ends once no unit moves faster than
{TOLERANCE:g}, by sweeps, over-relaxed where layers have an energy or a Φ, T of them at
most; the nudged phase and all else are as without it. This mostly takes a fraction of
the time of T steps. *Nepochs*: a training planned for N epochs; it is not compared.

Of a last epoch's free phases *settled* are those whose last step was slower than their
tolerance, or than {EPSILON:.1e} where their number of steps is given; *swung*: those
that did not, and came back to where they were two steps before. Few fixed sweeps may
leave all of them above it.

Where a published number comes from: [P] the paper's text, [C] the authors' code or its
comments, [L] a log or a poster of theirs, [S] a secondary source that quotes the paper
(of paper D: arXiv 2508.11659, table 1), [F] read off a figure, within a few tenths.
"""


def check_page(folder: Path) -> None:
    """A `ValueError` for a folder whose `README.md` is somebody else's."""
    page = folder / TABLE
    if page.exists() and not page.read_text("utf-8", "replace").startswith(TITLE):
        raise ValueError(
            f"{page} was not made by eqprop reproduce and would be lost; choose "
            "another folder with --out DIR"
        )


def write_page(folder: Path) -> Path:
    """`README.md` of the folder: a table and the details of every item.

    **Raises:** `ValueError` for one that is there and is no such page.
    """
    check_page(folder)
    records = read_records(folder)
    lines = [TITLE, "", LEGEND]
    lines += [
        "Made by `eqprop reproduce`, which lists all items, from the files beside"
    ]
    lines += ["this page: one record and one figure an item.", ""]
    groups = {
        paper: [i for i in ITEMS.values() if i.paper == paper] for paper in PAPERS
    }
    for paper, items in groups.items():
        if items:
            lines += [f"## {_title(paper)}", ""]
            lines += _rows([row for item in items for row in _of(item, records)])
            lines += [""]
        if paper in REST:
            lines += [f"*Not run, and no item:* {REST[paper]}", ""]
    whole, quick = (
        [(i, name) for i in ITEMS.values() for name in versions(i.name, records, small)]
        for small in (False, True)
    )
    for item, name in whole:
        lines += details(item, records[name], name)
    if quick:
        lines += ["## Quick versions", ""]
        lines += ["Few examples, epochs or steps: not comparable with the papers.", ""]
    for item, name in quick:
        lines += details(item, records[name], name)
    return write_whole(folder / TABLE, "\n".join(lines).rstrip() + "\n")


def _of(item: Item, records: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of an item, and of those versions of it that there are."""
    names = versions(item.name, records, quick=False)
    missing = [] if item.name in names else rows(item, None)
    return missing + [row for name in names for row in rows(item, records[name])]


def rows(item: Item, record: dict[str, Any] | None) -> list[tuple[str, ...]]:
    """A row of the table for each published quantity, one where there is none."""
    if record is None:
        published = "; ".join(map(quantity, item.published)) or unknown(item)
        expected = f"≈ {duration(60 * item.minutes)}"
        if isinstance(item, Trained):
            expected += _theirs(item)
        return [(item.name, item.shows, published, "–", "–", expected, "not run")]
    whole = f"{item.name}{Version.of(record)}"
    name = f"[{whole}](#{_anchor(whole)})"
    took = duration(seconds(record))
    if not isinstance(item, Trained):
        mark = item.verdict(record)
        mark = mark if record["holds"] else f"**{mark}**"
        return [(name, item.shows, "–", "see below", "–", took, mark)]
    seeds, ended = record["seeds"], sum(not s["failure"] for s in record["seeds"])
    count = str(ended) if ended == len(seeds) else f"{ended} of {len(seeds)}"
    took += _theirs(item)
    return [
        (
            name if number == 0 else "",
            item.shows if number == 0 else "",
            unknown(item) if theirs is None else quantity(theirs),
            ours,
            *(count, took, mark),
        )
        for number, (theirs, ours, mark) in enumerate(item.marks(record))
    ]


def details(item: Item, record: dict[str, Any], name: str) -> list[str]:
    """Theirs in words, ours, the command, the machine, the figure."""
    lines = [f"### {name}", ""]
    if "claim" in record:
        claim = record["claim"].rstrip(".")
        lines += [f"{claim[0].upper()}{claim[1:]} ({record['source']}).", ""]
    else:
        lines += [f"{item.shows[0].upper()}{item.shows[1:]}.", ""]
    if item.theirs:
        lines += [f"**Theirs:** {item.theirs}", ""]
    if item.settings:
        lines += [f"**Settings of ours:** {item.settings}", ""]
    lines += [f"**Ours:** {item.result(record)}", ""]
    why = item.settled_reason if record.get("settled") else item.reason
    if why:
        lines += [f"**Why:** {why[0].upper()}{why[1:]}", ""]
    lines += [f"`{item.command(record)}`, {duration(seconds(record))}{_where(record)}"]
    return [*lines, "", f"![{name}]({name}.png)", ""]


def unknown(item: Item) -> str:
    """What stands for a number that is not known to us; – where there is none."""
    is_printed = isinstance(item, Trained) and item.paper != "beyond"
    return "not known" if is_printed else "–"


def _theirs(item: Trained) -> str:
    return f" (theirs {item.took})" if item.took else ""


def seconds(record: dict[str, Any]) -> float | None:
    """Of the measurement, or the mean training time of a seed."""
    if "seeds" not in record:
        return record.get("seconds")
    found = [s["seconds"] for s in record["seeds"] if s["seconds"] is not None]
    return sum(found) / len(found) if found else None


def duration(time: float | None) -> str:
    """`40 s`, `12 min`, `8.5 h`, `150 h`."""
    if time is None:
        return "–"
    if time < 100:
        return f"{time:.0f} s"
    hours = time / 3600
    return f"{time / 60:.0f} min" if time < 6000 else f"{hours:.{int(hours < 10)}f} h"


def quantity(published: Published) -> str:
    """`test 1.95 ± 0.10 % [S]`."""
    return f"{published.key.removesuffix('_error')} {published}"


def _where(record: dict[str, Any]) -> str:
    """On which machines, with which versions and commits."""
    each = [seed["environment"] for seed in record.get("seeds", ())]
    each = each or [record.get("environment") or {}]
    machines = dict.fromkeys(_machine(environment) for environment in each)
    return "".join(f"; {text}" for text in machines if text)


def _machine(environment: dict[str, Any]) -> str:
    if not environment.get("processor"):
        return ""
    place = f"{environment['cores']}-core {environment['processor']}"
    if environment.get("backend") != "cpu":
        place = ", ".join(environment["devices"])
    packages = environment.get("packages") or {}
    source = environment.get("source") or environment.get("git") or {}
    commit = source.get("commit") or ""
    versions = [f"{n} {packages[n]}" for n in ("eqprop", "jax") if packages.get(n)]
    return ", ".join([place, *versions, *([f"commit {commit[:9]}"] if commit else [])])


def _title(paper: str) -> str:
    title = PAPERS[paper]
    return title[0].upper() + title[1:] if paper == "beyond" else f"{paper}: {title}"


def _rows(rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (*HEAD, *rows)]


def _anchor(name: str) -> str:
    """GitHub's anchor of a heading."""
    return "".join(c for c in name.lower() if c.isalnum() or c in "-_")
