"""`eqprop reproduce`: the papers' figures, tables and claims, each measured anew."""

import json
from typing import Any

from ..papers import (
    check_page,
    Context,
    duration,
    Item,
    ITEMS,
    KEPT,
    PAPERS,
    place,
    quantity,
    read_records,
    seconds,
    Trained,
    unknown,
    Version,
    versions,
    write_page,
    write_record,
)
from ._console import parse, print_json, prints_aside, suggest, table
from ._options import ReproduceOptions
from ._platform import start
from ._progress import each_run
from ._verify import plain, working

FAILED = ("does not hold", "differs", "diverged")


def main(argv: list[str]) -> int:
    """`eqprop reproduce D.table1.P-1h`."""
    options = parse(ReproduceOptions, "reproduce", argv)
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: give a whole number ≥ 1, e.g. 3")
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"--epochs {options.epochs}: give a whole number ≥ 1, e.g. 10")
    if not options.items:
        _check_effects(options, [])
        return _list(options)
    chosen = _chosen(options.items)
    _check_effects(options, chosen)
    check_page(options.out)
    # Claims run once, trainings for long: only the latter are worth optimizing.
    start(options, quickly=not any(isinstance(item, Trained) for item in chosen))
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for item in chosen:
        record = _measure(item, options)
        verdict = "quick" if _is_small(item, record) else item.verdict(record)
        found[item.name] = {**record, "verdict": verdict}
        if not options.json:
            took = duration(seconds(record))
            shown = verdict.upper() if verdict in FAILED else verdict
            print(f"{item.name} ({took}) {shown}: {item.result(record)}", flush=True)
    if options.json:
        print_json({"out": str(options.out), "items": found})
    else:
        print(f"{options.out}: README.md, and a .png and a .json of each item")
    return 1 if any(map(_has_failed, found.values())) else 0


def _check_effects(options: ReproduceOptions, chosen: list[Item]) -> None:
    """Refuse options of which no chosen item takes any notice."""
    trainings = [item for item in chosen if isinstance(item, Trained)]
    words = {
        "--settled": options.settled and all(item.settles for item in trainings),
        "--epochs": options.epochs is not None and not trainings,
        "--seeds": options.seeds > 1 and not trainings,
        "--quick": options.quick and not chosen,
    }
    without = ", ".join(word for word, idle in words.items() if idle)
    if without:
        what = "no item is given"
        if chosen:
            what = "no training that it would change is among the items"
        raise ValueError(f"{without} would do nothing: {what}; leave it out")


def _measure(item: Item, options: ReproduceOptions) -> dict[str, Any]:
    """Measure, and write record, figure and page."""
    drawn = options.out / f".{item.name}.png"
    sign = working(f"measuring {item.name}")
    if isinstance(item, Trained):  # its progress bar is sign enough
        sign = prints_aside()
    version = _version(item, options)
    kept = read_records(options.out).get(f"{item.name}{version}")
    with prints_aside(), sign, each_run() as watch:
        context = Context(
            *(drawn, options.runs, options.seeds, version), observer=watch, kept=kept
        )
        record = json.loads(json.dumps(plain(item.measure(context))))
        same = [s for s in record.get("seeds", ()) if kept and s in kept["seeds"]]
        if same:
            numbers = ", ".join(str(seed["seed"]) for seed in same)
            print(f"{item.name}: seeds as found in {options.out}: {numbers}")
    drawn.replace(place(options.out, item.name, Version.of(record), ".png"))
    write_record(options.out, item.name, record)
    write_page(options.out)
    return record


def _version(item: Item, options: ReproduceOptions) -> Version:
    """What the options make of this item: a claim knows only --quick."""
    if not isinstance(item, Trained):
        return Version(quick=options.quick)
    given = options.epochs
    shorter = given if given is not None and given < item.epochs else None
    return Version(options.quick, options.settled and not item.settles, shorter)


def _is_small(item: Item, record: dict[str, Any]) -> bool:
    """A small training is not judged; a small demonstration still is."""
    return record["quick"] and isinstance(item, Trained)


def _has_failed(record: dict[str, Any]) -> bool:
    diverged = any(seed["failure"] for seed in record.get("seeds", ()))
    return diverged or record["verdict"] in FAILED


def _list(options: ReproduceOptions) -> int:
    """Every item, what is published, and what was found so far."""
    here = read_records(options.out)
    if here:  # its page may be of other items, or of another version
        write_page(options.out)
    records = read_records(KEPT) | here
    rows, of = {}, {}
    for item in ITEMS.values():
        kept = versions(item.name, records, quick=False)
        for name in dict.fromkeys([item.name, *kept]):
            rows[name], of[name] = _row(item, records.get(name)), item.paper
    if options.json:
        print_json({"items": rows})
        return 0
    for paper, title in PAPERS.items():
        shown = [(n, *r.values()) for n, r in rows.items() if of[n] == paper]
        if shown:
            columns = ("item", "what it shows", "published", "time", "ours", "verdict")
            table(title, columns, shown)
    print("measure: eqprop reproduce ITEM…, a paper (A) or table (D.table1), or all")
    return 0


def _row(item: Item, record: dict[str, Any] | None) -> dict[str, str]:
    published = ", ".join(map(quantity, item.published)) or unknown(item)
    row = {
        "shows": item.shows,
        "published": published,
        "time": f"≈ {duration(60 * item.minutes)}",
        "ours": "–",
        "verdict": "not run",
    }
    if record is not None:
        ours = item.result(record) if isinstance(item, Trained) else "measured"
        took, verdict = duration(seconds(record)), item.verdict(record)
        row |= {"time": took, "ours": ours, "verdict": verdict}
    return row


def _chosen(words: tuple[str, ...]) -> list[Item]:
    """The items that the words name, each once, in the order of the list."""
    chosen = set()
    for word in words:
        found = [
            name
            for name, item in ITEMS.items()
            if word in ("all", name, item.paper) or name.startswith(f"{word}.")
        ]
        if not found:
            raise ValueError(f"there is no item {word!r}; {suggest(word, ITEMS)}")
        chosen.update(found)
    return [item for name, item in ITEMS.items() if name in chosen]
