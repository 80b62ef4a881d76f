"""`eqprop eval`, `predict`, `report`, `recipes` and `info`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from .. import data, recipes as _recipes, report as _report, runs
from ._console import (
    cache_folder,
    Flag,
    parse,
    percent,
    print_json,
    prints_aside,
    table,
    use_compilation_cache,
)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Measure a run's error on its test set, or on a file."""

    run: tyro.conf.Positional[Path]
    """run directory"""
    data: Path | None = None
    """FILE.npz with arrays x and y (default: the run's own test set)"""
    best: Flag = False
    """the parameters of the best epoch (by validation, else training error), not the
    last"""
    system: str | None = None
    """FILE.py:NAME of the run's own model, which is executed only if named here"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Write a run's predictions for the inputs x of a file."""

    run: tyro.conf.Positional[Path]
    """run directory"""
    data: tyro.conf.Positional[Path]
    """FILE.npz with an array x"""
    out: Path | None = None
    """FILE.npz to write (default: the input's name with -predictions)"""
    best: Flag = False
    """the parameters of the best epoch (by validation, else training error), not the
    last"""
    system: str | None = None
    """FILE.py:NAME of the run's own model, which is executed only if named here"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Keep the results of runs as small text files, and make the table of them."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run directories to add"""
    out: Path = Path("results")
    """folder of the kept results"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Print a list."""

    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


def evaluate(argv: list[str]) -> int:
    """`eqprop eval RUN`."""
    options = parse(EvalOptions, "eval", argv)
    use_compilation_cache()
    with prints_aside():
        run = runs.load(options.run, best=options.best, system=options.system)
        if options.data is None:
            found = runs.evaluate(run)
        else:
            x, y = data.read_inputs(options.data, flatten=run.config.flatten)
            if y is None:
                raise ValueError(
                    f"{options.data} holds no array y to compare with; save one with "
                    "np.savez(path, x=x, y=y), or use eqprop predict"
                )
            found = runs.evaluate(run, x, y)
    if options.json:
        print_json({"run": str(run.path), **found})
        return 0
    row = (
        str(options.data or found["split"]),
        str(found["examples"]),
        percent(found["error"]),
        f"{found['loss']:.4g}",
        f"{found['steps']:.1f}",
        percent(found["settled"]),
    )
    table("", ("data", "examples", "error", "loss", "steps", "settled"), [row])
    if "error_cold" in found:
        print(f"error from a cold start: {percent(found['error_cold'])}")
    return 0


def predict(argv: list[str]) -> int:
    """`eqprop predict RUN data.npz`."""
    options = parse(PredictOptions, "predict", argv)
    use_compilation_cache()
    with prints_aside():
        run = runs.load(options.run, best=options.best, system=options.system)
        x, y = data.read_inputs(options.data, flatten=run.config.flatten)
        name = f"{options.data.stem}-predictions.npz"
        out = options.out or options.data.with_name(name)
        _check_out(out, options.data)
        outputs = runs.predict(run, x)
    arrays: dict[str, Any] = {"prediction": outputs}
    dataset = run.problem.dataset
    error = None
    if dataset is not None and dataset.classes:
        arrays["label"] = outputs.argmax(-1)
        if y is not None and y.ndim == 1:
            dataset.targets(y)  # labels the run does not know are an error
            error = float(np.mean(arrays["label"] != y))
    try:
        np.savez(out, **arrays)
    except OSError as failure:
        failure.filename = f"cannot write {out}"
        raise
    if options.json:
        shape = list(outputs.shape)
        print_json(
            {"out": str(out), "shape": shape, "arrays": [*arrays], "error": error}
        )
        return 0
    held = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    print(f"wrote {out}: {held}")
    if error is not None:
        print(f"error against the file's y: {percent(error)}")
    return 0


def _check_out(out: Path, source: Path) -> None:
    """Refuse before the work what would fail, or overwrite the data, after it."""
    if out.suffix != ".npz":
        raise ValueError(f"--out is {out}; the name of the file must end in .npz")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {out.parent} to write {out.name} into; make it, or "
            "choose another with --out"
        )
    if out.is_dir() or (out.exists() and source.exists() and out.samefile(source)):
        what = "a folder" if out.is_dir() else "the file to predict"
        raise ValueError(f"--out {out} is {what}; choose another file")


def _check_results(folder: Path, added: tuple[Path, ...]) -> None:
    """Refuse a folder whose files are not ours, and a table of nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; choose a folder")
    kept = sorted(folder.glob("*.json"))
    if not kept and not added:
        raise ValueError(f"{folder} holds no results yet; give run directories to add")
    for file in (*kept, folder / "README.md"):
        text = file.read_text(encoding="utf-8") if file.exists() else "# Results"
        if '"history"' not in text and not text.startswith("# Results"):
            raise ValueError(
                f"{file} was not made by eqprop report and would be lost or in the "
                "way; choose another folder with --out"
            )


def report(argv: list[str]) -> int:
    """`eqprop report RUN… --out results`."""
    options = parse(ReportOptions, "report", argv)
    for path in options.runs:
        run = runs.RunDirectory(path)
        run.config()
        if not run.history():
            raise ValueError(f"{path} holds no finished epoch to report")
    _check_results(options.out, options.runs)
    files = [str(_report.keep(path, options.out)) for path in options.runs]
    table_file = str(_report.write_table(options.out))
    if options.json:
        print_json({"files": files, "table": table_file})
    else:
        print("\n".join([*(f"kept {file}" for file in files), f"table {table_file}"]))
    return 0


def recipes(argv: list[str]) -> int:
    """`eqprop recipes`."""
    options = parse(ListOptions, "recipes", argv)
    fields = ("name", "summary", "paper", "expected")
    rows = [[getattr(r, f) for f in fields] for r in _recipes.RECIPES.values()]
    if options.json:
        print_json({"recipes": [dict(zip(fields, row, strict=True)) for row in rows]})
    else:
        table("", ("recipe", "what", "paper", "expected"), rows)
    return 0


def info(argv: list[str]) -> int:
    """`eqprop info`."""
    options = parse(ListOptions, "info", argv)
    found = runs.environment()
    del found["command"], found["time"]
    folders: dict[str, str | None] = {"digits": "embedded in scikit-learn"}
    for name in ("mnist", "fashion-mnist"):
        try:
            folder = data.find(name)
            folders[name] = None if folder is None else str(folder)
        except ValueError as wrong:  # of EQPROP_DATA: to be shown, not to stop here
            folders[name] = str(wrong)
    found["data"] = folders
    found["compilation_cache"] = str(cache_folder())
    if options.json:
        print_json(found)
        return 0
    rows = []
    for name, value in found.items():
        if isinstance(value, dict):
            missing = "not found: downloaded on first use" if name == "data" else "–"
            rows += [(f"{name}: {k}", str(v or missing)) for k, v in value.items()]
        else:
            listed = ", ".join(value) if isinstance(value, list) else str(value)
            rows.append((name.replace("_", " "), listed))
    table("", ("what", "found"), rows)
    return 0
