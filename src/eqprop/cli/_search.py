"""`eqprop search`: hyper-parameters by Optuna."""

from typing import Any

import tyro

from .. import runs
from ._console import percent, print_json, prints_aside, split_words, table
from ._numbers import NUMBERS
from ._options import SearchOptions
from ._platform import start
from ._progress import print_lines, Progress
from ._train import train_options, TrainOptions

SHOWN = 10
HELD_OUT = "0.2"


def main(argv: list[str]) -> int:
    """`eqprop search digits --vary estimator.beta=0.05:1:log --trials 20`."""
    recipe = argv[:1] if argv and not argv[0].startswith("-") else []
    options, rest = tyro.cli(
        SearchOptions,
        prog="eqprop search",
        args=argv[len(recipe) :],
        config=(tyro.conf.AvoidSubcommands,),
        registry=NUMBERS,
        return_unknown_args=True,
    )
    if options.trials < 1 or options.search_seed < 0:
        raise ValueError(
            f"--trials is {options.trials} and --search-seed {options.search_seed}; "
            "give --trials ≥ 1 and --search-seed ≥ 0"
        )
    space = [runs.Varied.parse(text) for text in options.vary]
    if not space or len({varied.option for varied in space}) < len(space):
        raise ValueError(
            f"--vary is {' '.join(options.vary) or 'empty'}; name at least one option, "
            "and each of them once"
        )
    fixed = [*recipe, *rest]
    name, planned = train_options(fixed)
    _check(planned)
    if not planned.config.validation:
        fixed += ["--validation", HELD_OUT]

    def configure(values: dict[str, str]):
        words = [word for option, v in values.items() for word in (f"--{option}", v)]
        return train_options([*fixed, *words])[1].config

    for varied in space:
        _check_effect(configure, varied)
    lines: list[str] = []
    with planned.machines.joined():
        start(planned.machines)
        path = options.run or runs.default_path(f"search-{name}")
        with prints_aside(), Progress(lines) as progress:
            found = runs.search(
                configure,
                space,
                path=path,
                trials=options.trials,
                storage=options.storage,
                study=options.study,
                request={"options": fixed, "vary": sorted(options.vary)},
                prune=options.prune,
                seed=options.search_seed,
                observer=progress,
                writers=split_words(planned.writers),
                devices=planned.machines.devices,
            )
    if options.json:
        print_json({"run": str(found.path), "trials": found.records})
        return 0
    print_lines(lines)
    _show(found, [varied.option for varied in space])
    return 0


def _check_effect(configure: Any, varied: runs.Varied) -> None:
    """Refuse to vary an option that does not change the training, e.g. --run."""
    first, last = varied.ends()
    found = [configure({varied.option: value}) for value in (first, last)]
    if first != last and found[0] == found[1]:
        raise ValueError(
            f"--vary {varied.option}: {first} and {last} give the same training; vary "
            "an option of the model, the rule, the optimizer or the data"
        )


def _check(planned: TrainOptions) -> None:
    """Refuse the options of train that a search cannot use."""
    machines = planned.machines
    for name, given in (
        ("--seeds", planned.seeds != 1),
        ("--resume", planned.resume is not None),
        ("--coordinator", machines.coordinator is not None),
        ("--cluster", machines.cluster is not None),
    ):
        if given:
            raise ValueError(
                f"{name} cannot be used with eqprop search: a trial is a run of one "
                "seed in one process. To search on several machines, start the same "
                "command on each, with the same --storage"
            )


def _show(found: runs.Search, options: list[str]) -> None:
    def row(record: dict[str, Any]) -> tuple[str, ...]:
        value = record["value"]
        chosen = [f"{_short(record['options'][name])}" for name in options]
        error = "–" if value is None else percent(value) if value <= 1 else f"{value:g}"
        return str(record["trial"]), record["state"], error, *chosen

    columns = ("trial", "state", "validation error", *options)
    table("", columns, [row(record) for record in found.records[:SHOWN]])
    states = [record["state"] for record in found.records]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))
    )
    print(f"{len(states)} trials: {counts}")
    print(f"{found.path}: search.png, search.json, and a run for each trial")


def _short(word: str) -> str:
    try:
        return f"{float(word):.4g}"
    except ValueError:
        return word
