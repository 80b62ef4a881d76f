"""`eqprop reproduce`: measure the papers' figures, tables and claims again."""

from typing import Any

from ..papers import (
    check_page,
    ClaimRecord,
    Context,
    duration,
    Item,
    ITEMS,
    KEPT,
    PAPERS,
    place,
    read_records,
    Record,
    to_json,
    Training,
    TrainingRecord,
    unknown,
    Version,
    versions,
    write_page,
    write_record,
)
from ._console import parse, print_json, prints_aside, suggest, table, working
from ._options import ReproduceOptions
from ._platform import start
from ._progress import each_run

FAILED = ("does not hold", "differs", "diverged")


def main(argv: list[str]) -> int:
    """`eqprop reproduce D.table1.P-1h`."""
    options = parse(ReproduceOptions, "reproduce", argv)
    if options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; give a whole number ≥ 1, e.g. 3")
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(
            f"--epochs is {options.epochs}; give a whole number ≥ 1, e.g. 10"
        )
    chosen = chosen_items(options.items)
    check_effects(options, chosen)
    if not chosen:
        return show_list(options)
    check_page(options.out)
    # A claim's programs run once: only those of trainings are worth optimizing.
    start(options, quickly=not any(isinstance(item, Training) for item in chosen))
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    failed = False
    for item in chosen:
        record = measure(item, options)
        # A quick training is not judged; a quick claim is.
        is_small = record.version.quick and isinstance(record, TrainingRecord)
        verdict = "quick" if is_small else item.verdict(record)
        diverged = any(seed.failure for seed in record.seeds)
        failed = failed or diverged or verdict in FAILED
        found[item.name] = {**to_json(record), "verdict": verdict}
        if not options.json:
            took = duration(record.seconds)
            shown = verdict.upper() if verdict in FAILED else verdict
            print(f"{item.name} ({took}) {shown}: {item.result(record)}", flush=True)
    if options.json:
        print_json({"out": str(options.out), "items": found})
    else:
        print(f"{options.out}: README.md, and a .png and a .json of each item")
    return int(failed)


def check_effects(options: ReproduceOptions, chosen: list[Item]) -> None:
    """Refuse options that no chosen item would use."""
    trainings = [item for item in chosen if isinstance(item, Training)]
    words = {
        "--settled": options.settled and all(item.settles for item in trainings),
        "--epochs": options.epochs is not None and not trainings,
        "--seeds": options.seeds > 1 and not trainings,
        "--quick": options.quick and not chosen,
    }
    without = ", ".join(word for word, idle in words.items() if idle)
    if without:
        reason = "no item is given"
        if chosen:
            reason = "it changes none of these items"
        raise ValueError(f"{without} would do nothing: {reason}; leave it out")


def measure(item: Item, options: ReproduceOptions) -> Record:
    """Measure an item; write its record, its figure and the page."""
    drawn = options.out / f".{item.name}.png"
    # A training shows its own progress bar.
    is_training = isinstance(item, Training)
    sign = prints_aside() if is_training else working(f"measuring {item.name}")
    version = version_of(item, options)
    kept = read_records(options.out).get(f"{item.name}{version}")
    with prints_aside(), sign, each_run() as watch:
        context = Context(
            figure=drawn,
            runs=options.runs,
            seeds=options.seeds,
            version=version,
            observer=watch,
            kept=kept,
        )
        record = item.measure(context)
        known = kept.seeds if kept else ()
        same = [seed for seed in record.seeds if seed in known]
        if same:
            numbers = ", ".join(str(seed.seed) for seed in same)
            print(f"{item.name}: seeds of the record in {options.out}: {numbers}")
    drawn.replace(place(options.out, item.name, version, ".png"))
    record = write_record(options.out, item.name, record)
    write_page(options.out)
    return record


def version_of(item: Item, options: ReproduceOptions) -> Version:
    """Return the version that the options ask for; a claim has only a quick one."""
    if not isinstance(item, Training):
        return Version(quick=options.quick)
    given = options.epochs
    shorter = given if given is not None and given < item.whole.epochs else None
    return Version(options.quick, options.settled and not item.settles, shorter)


def show_list(options: ReproduceOptions) -> int:
    """List every item with the published numbers and the results so far."""
    here = read_records(options.out)
    if here:  # the page may list other items, or an older eqprop may have written it
        write_page(options.out)
    records = read_records(KEPT) | here
    listed = {
        paper.title: {
            name: list_row(item, records.get(name))
            for item in ITEMS.values()
            if item.paper == paper.key
            for name in dict.fromkeys([item.name, *versions(item.name, records, False)])
        }
        for paper in PAPERS
    }
    if options.json:
        rows = {name: row for each in listed.values() for name, row in each.items()}
        print_json({"items": rows})
        return 0
    columns = ("item", "what it shows", "published", "time", "ours", "verdict")
    for title, rows in listed.items():
        if rows:
            table(title, columns, [(name, *row.values()) for name, row in rows.items()])
    print("measure: eqprop reproduce ITEM…, a paper (A) or table (D.table1), or all")
    return 0


def list_row(item: Item, record: Record | None) -> dict[str, str]:
    """Return the cells of an item in the list."""
    published = ", ".join(each.quantity for each in item.published) or unknown(item)
    row = {
        "shows": item.shows,
        "published": published,
        "time": f"≈ {duration(60 * item.minutes)}",
        "ours": "–",
        "verdict": "not run",
    }
    if record is not None:
        ours = "measured" if isinstance(record, ClaimRecord) else item.result(record)
        verdict = item.verdict(record)
        row |= {"time": duration(record.seconds), "ours": ours, "verdict": verdict}
    return row


def chosen_items(words: tuple[str, ...]) -> list[Item]:
    """Return the items that the words name, each once, in the order of the list."""
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
