"""`eqprop eval`, `predict`, `recipes` and `info`."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import data, recipes as _recipes, runs
from ..training import errors_of
from ._console import (
    parse,
    percent,
    print_json,
    prints_aside,
    table,
)
from ._options import EvalOptions, InfoOptions, PredictOptions, RecipesOptions
from ._platform import cache_folder, start


def evaluate(argv: list[str]) -> int:
    """`eqprop eval RUN`."""
    options = parse(EvalOptions, "eval", argv)
    start(options)
    with prints_aside():
        run = runs.load(options.run, best=options.best, system=options.system)
        if options.data is None:
            found = runs.evaluate(run)
        else:
            x, y = data.read_examples(options.data)
            if y is None:
                raise ValueError(
                    f"{options.data} holds no array y to compare with; save one "
                    "with np.savez(path, x=x, y=y), or use eqprop predict"
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
    start(options)
    with prints_aside():
        run = runs.load(options.run, best=options.best, system=options.system)
        x, y = data.read_examples(options.data)
        name = f"{options.data.stem}-predictions.npz"
        out = options.out or options.data.with_name(name)
        _check_out(out, options.data)
        if y is not None:
            y = runs.read_targets(run.config, run.problem, y)
        outputs = runs.predict(run, x)
    arrays: dict[str, Any] = {"prediction": outputs}
    dataset = run.problem.dataset
    error = None
    if dataset is not None and dataset.classes:
        arrays["label"] = outputs.argmax(-1)
        if y is not None:
            error = float(np.mean(errors_of(jnp.asarray(outputs), y)))
            error = None if np.isnan(error) else error
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
    """Refuse, before the work, a file that cannot be written or must not be."""
    if out.suffix != ".npz":
        raise ValueError(f"--out is {out}; give a file name that ends in .npz")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {out.parent} for {out.name}; make it, or choose "
            "another with --out"
        )
    if out.is_dir() or (out.exists() and source.exists() and out.samefile(source)):
        what = "a folder" if out.is_dir() else "the file to predict"
        raise ValueError(f"--out {out} is {what}; choose another file")


def recipes(argv: list[str]) -> int:
    """`eqprop recipes [WORD…]`."""
    options = parse(RecipesOptions, "recipes", argv)
    chosen = [r for r in _recipes.RECIPES.values() if _matches(r, options.words)]
    if not chosen:
        raise ValueError(
            f"no recipe contains {' and '.join(map(repr, options.words))} in its name, "
            "description or paper. To list all recipes: eqprop recipes"
        )
    if options.json:
        fields = ("name", "summary", "paper", "expected", "group")
        print_json({"recipes": [{f: getattr(r, f) for f in fields} for r in chosen]})
        return 0
    for group in _recipes.GROUPS:
        rows = [
            (r.name, r.summary, r.paper, r.expected.removeprefix("test error "))
            for r in chosen
            if r.group == group
        ]
        columns = ["recipe", "what", "paper", "test error expected"]
        if all(paper.startswith("none") for _, _, paper, _ in rows):
            columns.remove("paper")
            rows = [(name, what, expected) for name, what, _, expected in rows]
        if rows:
            table(group, columns, rows)
    print("to train one: eqprop train RECIPE; to filter the list: eqprop recipes mnist")
    return 0


def _matches(recipe: _recipes.Recipe, words: tuple[str, ...]) -> bool:
    """Whether the line of a recipe contains every word."""
    text = f"{recipe.name} {recipe.summary} {recipe.paper}".lower()
    return all(word.lower() in text for word in words)


def info(argv: list[str]) -> int:
    """`eqprop info`."""
    options = parse(InfoOptions, "info", argv)
    found = runs.environment()
    del found["command"], found["time"]
    bundled = [name for name in data.DATA_SETS if name not in data.PUBLISHED]
    folders: dict[str, str | None] = dict.fromkeys(bundled, "bundled")
    for name in data.PUBLISHED:
        try:
            folder = data.find(name)
            folders[name] = None if folder is None else str(folder)
        except ValueError as wrong:  # a wrong EQPROP_DATA is shown in the table
            folders[name] = str(wrong)
    found["data"] = folders
    found["compilation_cache"] = str(cache_folder())
    if options.json:
        print_json(found)
        return 0
    rows = []
    for name, value in found.items():
        if isinstance(value, dict) and "commit" in value:
            value = value["commit"]
        if isinstance(value, dict):
            missing = "not found: downloaded on first use" if name == "data" else "–"
            rows += [(f"{name}: {k}", str(v or missing)) for k, v in value.items()]
        else:
            listed = ", ".join(value) if isinstance(value, list) else str(value)
            rows.append((name.replace("_", " "), listed))
    table("", ("what", "found"), rows)
    return 0
