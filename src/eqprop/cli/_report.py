"""`eqprop report` and `export`: write pages, tables, and networks for others."""

import dataclasses
import json
import os
from pathlib import Path

from .. import report as _report, runs
from .._files import write_whole
from ._console import parse, print_json, prints_aside, working
from ._options import ExportOptions, ReportOptions
from ._platform import start

SUFFIXES = {"html": ".html", "md": ".md", "csv": ".csv", "latex": ".tex"}
RESULTS = Path("results")


def report(argv: list[str]) -> int:
    """`eqprop report RUN…`."""
    options = parse(ReportOptions, "report", argv)
    if not options.runs and options.out is None:
        options = dataclasses.replace(options, out=RESULTS)
    if options.out is not None and _is_folder(options.out):
        return _keep(options, options.out)
    if not options.runs:
        raise ValueError(f"--out is {options.out}; add the run directories to report")
    kind = options.format or _kind(options.out)
    if options.out is not None and options.out.suffix != SUFFIXES[kind]:
        raise ValueError(
            f"--out is {options.out}; a file of --format {kind} must end in "
            f"{SUFFIXES[kind]}"
        )
    paths = list({os.path.realpath(path): path for path in options.runs}.values())
    out = options.out
    if out is None and kind == "html":
        out = (paths[0] if len(paths) == 1 else Path()) / "report.html"
    start(options)
    examples = kind == "html" and not options.no_examples
    count = _report.count
    with prints_aside(), working(f"reading {count(len(paths), 'run')}"):
        records = [
            runs.record_of(path, examples=examples, system=options.system)
            for path in paths
        ]
        groups = _report.grouped(records)
        make = _report.TABLES.get(kind)
        text = _report.write_page(records) if make is None else make(groups)
    if out is not None:
        write_whole(out, text)
    missing = {r.path: list(r.missing) for r in records if r.missing}
    if options.json:
        found = {"out": out, "format": kind, "configurations": len(groups)}
        print_json({**found, "runs": [r.path for r in records], "missing": missing})
    elif out is None:
        print(text, end="")
    else:
        held = f"{count(len(records), 'run')}, {count(len(groups), 'configuration')}"
        print(f"wrote {out}: {held}")
        for path, reasons in missing.items() if kind == "html" else ():
            print("\n".join(f"without, of {path}: {reason}" for reason in reasons))
    return 0


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _kind(out: Path | None) -> str:
    """Return the format of a file with this name."""
    if out is None:
        return "html"
    for kind, suffix in SUFFIXES.items():
        if out.suffix == suffix:
            return kind
    raise ValueError(
        f"--out is {out}; give a file that ends in {', '.join(SUFFIXES.values())}, or "
        "a folder in which results are kept"
    )


def _keep(options: ReportOptions, folder: Path) -> int:
    """Add runs to the results in a folder; rewrite the folder's table."""
    if options.format is not None:
        raise ValueError(
            f"--out {folder} is a folder, and --format {options.format} needs a file: "
            f"give a name that ends in {SUFFIXES[options.format]}, or omit --format"
        )
    for path in options.runs:
        run = runs.RunDirectory(path)
        run.config()
        if not run.history():
            raise ValueError(f"{path} holds no finished epoch to report")
    _check_results(folder, options.runs)
    files = [str(_kept(runs.RunDirectory(path), folder)) for path in options.runs]
    table_file = str(_report.write_table(folder))
    if options.json:
        print_json({"files": files, "table": table_file})
    else:
        print("\n".join([*(f"kept {file}" for file in files), f"table {table_file}"]))
    return 0


def _kept(run: runs.RunDirectory, folder: Path) -> Path:
    config = json.loads(run.config_file.read_text(encoding="utf-8"))
    environment = runs.read_environment(run)
    return _report.keep(run.path, folder, config, environment, run.history())


def _check_results(folder: Path, added: tuple[Path, ...]) -> None:
    """Refuse a folder with files of other programs, and one without any result."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; choose a folder")
    kept = sorted(folder.glob("*.json"))
    if not kept and not added:
        raise ValueError(f"{folder} holds no results yet; give run directories to add")
    for file in (*kept, folder / "README.md"):
        text = file.read_text(encoding="utf-8") if file.exists() else "# Results"
        if '"history"' not in text and not text.startswith("# Results"):
            raise ValueError(
                f"{file} was not made by eqprop report, which would overwrite or "
                "misread it; choose another folder with --out"
            )


def export(argv: list[str]) -> int:
    """`eqprop export RUN`."""
    options = parse(ExportOptions, "export", argv)
    start(options)
    with prints_aside():
        folder = options.out or options.run / "export"
        found = runs.export(options.run, folder, system=options.system)
    if options.json:
        print_json({"folder": folder, "parameters": found["parameters"]})
        return 0
    shapes = [
        f"{name} {'×'.join(map(str, facts['shape'])) or 'scalar'}"
        for name, facts in found["parameters"].items()
    ]
    print(f"wrote {folder}: model.safetensors, model.json\n{', '.join(shapes)}")
    return 0
