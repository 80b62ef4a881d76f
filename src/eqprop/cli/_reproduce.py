"""`eqprop reproduce`: each learning rule's claim, measured anew."""

import dataclasses
import json
import time
from pathlib import Path

import tyro

from ..demonstrations import DEMONSTRATIONS, write_page
from ._console import (
    Flag,
    parse,
    print_json,
    prints_aside,
    suggest,
    table,
)
from ._platform import Computing, start
from ._verify import plain, working


@dataclasses.dataclass(frozen=True)
class ReproduceOptions(Computing):
    """Measure the papers' claims again: numbers, a figure and a verdict for each.

    Without items: the list of them.  Exit status 0 only if all hold.
    """

    items: tyro.conf.Positional[tuple[str, ...]] = ()
    """items, papers (A, B, C, D, …: all items that begin so), or all"""
    out: Path = Path("runs/reproduce")
    """folder of the figures, the numbers and a page of both"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


def main(argv: list[str]) -> int:
    """`eqprop reproduce A.chl`."""
    options = parse(ReproduceOptions, "reproduce", argv)
    if not options.items:
        return _list(options.json)
    chosen = _chosen(options.items)
    start(options, quickly=True)
    options.out.mkdir(parents=True, exist_ok=True)
    records = {}
    for name in chosen:
        began = time.perf_counter()
        with prints_aside(), working(f"measuring {name}"):
            found = DEMONSTRATIONS[name]()
            found.plot(options.out / f"{name}.png")
        seconds = round(time.perf_counter() - began, 1)
        records[name] = plain({**found.record(), "seconds": seconds})
        text = json.dumps(records[name], indent=1, ensure_ascii=False)
        (options.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        write_page(options.out)
        if not options.json:
            verdict = "holds" if found.holds else "DOES NOT HOLD"
            print(f"{name} ({seconds:.0f} s) {verdict}: {found.words}", flush=True)
    if options.json:
        print_json({"out": str(options.out), "items": records})
    else:
        print(f"{options.out}: README.md, and a .png and a .json of each item")
    return 0 if all(record["holds"] for record in records.values()) else 1


def _list(as_json: bool) -> int:
    rows = [
        (name, (function.__doc__ or "").strip().splitlines()[0])
        for name, function in sorted(DEMONSTRATIONS.items())
    ]
    if as_json:
        print_json({"items": dict(rows)})
    else:
        table("", ("item", "what is measured"), rows)
        print("measure: eqprop reproduce ITEM…, or a paper (A), or all")
    return 0


def _chosen(words: tuple[str, ...]) -> list[str]:
    """The items that the words name, each once, in the order of the list."""
    known = sorted(DEMONSTRATIONS)
    chosen = set()
    for word in words:
        found = [n for n in known if word in ("all", n) or n.startswith(f"{word}.")]
        if not found:
            raise ValueError(f"there is no item {word!r}; {suggest(word, known)}")
        chosen.update(found)
    return [name for name in known if name in chosen]
