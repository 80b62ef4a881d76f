"""`eqprop train`."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from .. import recipes, runs
from ..estimators import ESTIMATORS, named_estimator
from ..training import Config, UserModel
from ._console import (
    Flag,
    parse,
    percent,
    print_json,
    prints_aside,
    split_words,
    table,
)
from ._machines import Machines, watcher
from ._platform import start
from ._progress import each_run, print_lines, rounding_in_words
from ._seeds import finish_seeds

ALMOST_ALL = 0.99
SOME_OSCILLATE = 0.001  # even a few matter: their contrast is many times larger
T = TypeVar("T")
Rule = Literal[*ESTIMATORS]  # type: ignore[valid-type]
_FLAT = tyro.conf.arg(name="")
_HERE = Machines()
_NAMED = tyro.conf.arg(name="estimator")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Train a recipe, your data (--data FILE.npz) or your model (--system)."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    rule: Annotated[Rule | None, _NAMED] = None  # type: ignore[valid-type]
    """learning rule (default: the recipe's); keeps the recipe's phases if it has any"""
    system: str | None = None
    """your model: FILE.py:NAME, a function that returns (system, cost, x, y)"""
    run: Path | None = None
    """directory of the run (default: runs/RECIPE-TIME)"""
    seeds: int = 1
    """number of runs, with the seeds SEED, SEED + 1, … (in RUN/seed0, …)"""
    resume: Path | None = None
    """directory of a run to resume; takes only --epochs, --system, --writers, --json
    and the options of platform, devices and processes"""
    writers: str = ""
    """tensorboard, wandb, trackio, joined by commas; each gets every epoch's record"""
    machines: Annotated[Machines, _FLAT] = _HERE
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class ResumeOptions:
    """Resume a run from its newest checkpoint."""

    resume: Path
    """directory of the run"""
    epochs: int | None = None
    """total number of epochs (default: the run's)"""
    system: str | None = None
    """FILE.py:NAME of the run's own model, which is executed only if named here"""
    writers: str = ""
    """tensorboard, wandb, trackio, joined by commas; each gets every epoch's record"""
    machines: Annotated[Machines, _FLAT] = _HERE
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


def planned(argv: list[str]) -> tuple[str, Config, str | None, list[str]]:
    """Return recipe, its configuration with --system and --estimator, model, options.

    The model and the rule decide which other options there are, so that they are read
    before the full parse.
    """
    name, rest = recipe_name(argv)
    config = recipes.recipe(name).config
    model = value_of(rest, "--system")
    if model is not None:
        config = dataclasses.replace(config, model=UserModel(model))
    rule = value_of(rest, "--estimator")
    if rule is not None:
        estimator = named_estimator(rule, config.estimator)
        config = dataclasses.replace(config, estimator=estimator)
    return name, config, model, rest


def train_options(argv: list[str]) -> tuple[str, TrainOptions]:
    """Return the name of the training, and its options with the recipe as default."""
    name, config, model, rest = planned(argv)
    if model is not None and value_of(rest, "--data") is None:
        config = dataclasses.replace(config, data=None)
    options = parse(
        TrainOptions, "train [RECIPE]", rest, TrainOptions(config, system=model)
    )
    if options.config.data is None and options.system is None:
        raise ValueError(
            f"recipe {name} has no model and no data of its own; give "
            "--system FILE.py:NAME or --data FILE.npz"
        )
    if options.system is not None:
        name = options.system.rpartition(":")[2]
    return name, options


def main(argv: list[str]) -> int:
    """`eqprop train RECIPE`."""
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return _resume(argv)
    name, options = train_options(argv)
    lines: list[str] = []
    with options.machines.joined() as first:
        start(options.machines)
        request = {
            "run": options.run,
            "name": name,
            "writers": split_words(options.writers),
            "devices": options.machines.devices,
        }
        if options.seeds != 1:
            with _training(each_run(lines)) as watch:
                found = runs.train_seeds(
                    options.config, options.seeds, observer=watch, **request
                )
            return finish_seeds(found, options.json, lines)
        with _training(watcher(first, lines)) as observer:
            run = runs.train(options.config, observer=observer, **request)
        return _finish(run, options.json, lines) if first else 0


def _resume(argv: list[str]) -> int:
    try:
        options = parse(ResumeOptions, "train", argv)
    except SystemExit as stop:
        if stop.code:
            print(
                "error: a resumed run keeps its options; with --resume DIR you may "
                "give only --epochs, --system, --writers, --json and the options of "
                "platform, devices and processes",
                file=sys.stderr,
            )
        raise
    lines: list[str] = []
    with options.machines.joined() as first:
        start(options.machines)
        shared = {
            "system": options.system,
            "writers": split_words(options.writers),
            "devices": options.machines.devices,
        }
        if runs.holds_seeds(options.resume):
            if options.epochs is not None:
                raise ValueError(
                    f"--epochs {options.epochs}: {options.resume} holds several seeds, "
                    "which all train for the planned number of epochs; leave --epochs "
                    "out, or resume one seed's directory"
                )
            with _training(each_run(lines)) as watch:
                found = runs.resume_seeds(options.resume, observer=watch, **shared)
            return finish_seeds(found, options.json, lines)
        with _training(watcher(first, lines)) as observer:
            run = runs.resume(
                options.resume, epochs=options.epochs, observer=observer, **shared
            )
        return _finish(run, options.json, lines) if first else 0


@contextlib.contextmanager
def _training(progress: AbstractContextManager[T]) -> Iterator[T]:
    """Show progress; say of a Ctrl-C before the run began that nothing was saved."""
    try:
        with prints_aside(), progress as observer:
            yield observer
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            str(stop)
            or "stopped before anything was trained; nothing was saved. Start again"
        ) from None


def recipe_name(argv: list[str]) -> tuple[str, list[str]]:
    """Return the recipe, which is the first word, and the options after it."""
    if argv and not argv[0].startswith("-"):
        for ending, option in ((".npz", "--data"), (".py", "--system")):
            if argv[0].partition(":")[0].endswith(ending):
                raise ValueError(
                    f"{argv[0]!r} is a file, not a recipe; write {option} {argv[0]}"
                )
        return argv[0], argv[1:]
    return ("custom" if value_of(argv, "--system") is not None else "digits"), argv


def value_of(argv: list[str], name: str) -> str | None:
    """Return the value of `--name VALUE` or `--name=VALUE` without a full parse."""
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == name:
            return following
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return None


def _finish(run: runs.Run, json: bool, lines: list[str]) -> int:
    if not run.history:
        raise ValueError(
            f"{run.path} is trained to its end, but its metrics.jsonl is missing; "
            f"measure the run with: eqprop eval {run.path}"
        )
    last = run.history[-1]
    rounding = runs.read_precision(run.path)
    if json:
        more = {} if rounding is None else {"precision": rounding}
        print_json({"run": str(run.path), **last, **more})
        return 0
    print_lines(lines)
    rows = [
        ("train", percent(last["train_error"]), f"{last['loss']:.4g}"),
        ("validation", percent(last["val_error"]), _number(last["val_loss"])),
        ("test", percent(last["test_error"]), _number(last["test_loss"])),
    ]
    if "test_error_cold" in last:
        rows.append(("test, from a cold start", percent(last["test_error_cold"]), "–"))
    table("", ("examples", "error", "loss"), rows)
    print(
        f"{last['epoch']} epochs in {last['training_seconds']:.1f} s of training; "
        f"{100 * last['settled']:.1f} % of the examples settled, after "
        f"{last['steps']:.1f} steps on average"
    )
    if last["masked"]:
        print(
            f"note: {last['masked']} examples of the last epoch did not settle and "
            "were left out of the gradient"
        )
    if last["oscillating"] > SOME_OSCILLATE:
        print(
            f"note: {percent(last['oscillating'])} of the examples oscillate with "
            "period 2: the steps are too large, or the examples move between two fixed "
            "points (eqprop reproduce D.interleaved). Use a smaller "
            "--estimator.free.dt, --dt auto, or Sweep, which does not oscillate"
        )
    elif last["settled"] < ALMOST_ALL:
        print(
            "note: examples that do not settle (mean residual "
            f"{last['residual']:.2g}) make the gradient less exact. If the error is "
            "good enough, change nothing. Otherwise use more --estimator.free.steps or "
            f"--persistent. To measure the gradient: eqprop tune {run.path}"
        )
    if rounding is not None:
        print(rounding_in_words(rounding))
    print(f"run: {run.path}  (curves.png, metrics.jsonl, checkpoints)")
    return 0


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
