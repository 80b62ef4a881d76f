"""The options of the commands as dataclasses; they import no JAX, so that help is fast.

`train` and `bench` take the options of a recipe, whose classes need JAX.  `SHORT` holds
their short help; `--help-all` shows every option.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from ._console import Flag
from ._platform import Computing


@dataclasses.dataclass(frozen=True)
class EvalOptions(Computing):
    """Measure a run's error on its test set, or on a file."""

    run: tyro.conf.Positional[Path]
    """run directory"""
    data: Path | None = None
    """FILE.npz with arrays x and y (default: the run's own test set)"""
    best: Flag = False
    """use the parameters of the best epoch (by validation, else training error), not
    the last"""
    system: str | None = None
    """FILE.py:NAME of the run's own model, which is executed only if named here"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class PredictOptions(Computing):
    """Write a run's predictions for the inputs x of a file."""

    run: tyro.conf.Positional[Path]
    """run directory"""
    data: tyro.conf.Positional[Path]
    """FILE.npz with an array x"""
    out: Path | None = None
    """FILE.npz to write (default: the input's name with -predictions)"""
    best: Flag = False
    """use the parameters of the best epoch (by validation, else training error), not
    the last"""
    system: str | None = None
    """FILE.py:NAME of the run's own model, which is executed only if named here"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class VerifyOptions(Computing):
    """Check whether EP's gradient is right for a system, in float64.

    The exit status is 0 only if everything holds that theory promises for this kind of
    system and for the learning rule.
    """

    target: tyro.conf.Positional[str]
    """a recipe, a run directory, or FILE.py:NAME"""
    beta: float | None = None
    """strength of the nudge in the table and the curves, dimensionless (default:
    chosen for the system)"""
    dt: float | None = None
    """step size in neuron time constants (default: the largest that settles)"""
    steps: int | None = None
    """number of steps of the step-by-step comparison (default: until the error has
    decayed)"""
    examples: int = 8
    """number of training examples"""
    system: str | None = None
    """FILE.py:NAME of a run's own model, which is executed only if named here"""
    estimator: str | None = None
    """learning rule to check, as in eqprop train (default: the configured one)"""
    precision: Literal["float32", "tf32", "bf16"] | None = None
    """arithmetic whose effect on the gradient is measured too (default: none)"""
    flow: Flag = False
    """draw flow.png too: both phases in continuous time, with and without noise"""
    out: Path | None = None
    """folder for figures and numbers (default: RUN/verify, or runs/verify-FILE-NAME)"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class TuneOptions(Computing):
    """Propose T, K, dt and β that bring EP's gradient near the exact one.

    The exit status is 0 only if the proposal, measured in float32, reaches the angle.
    """

    target: tyro.conf.Positional[str]
    """a recipe, a run directory, or FILE.py:NAME"""
    angle: float = 5.0
    """largest angle to the exact gradient (degrees)"""
    nudging: Literal["centered", "one-sided", "random-sign"] | None = None
    """kind of nudge (default: as configured, else centered)"""
    examples: int = 16
    """examples in a batch: one batch to propose on, up to 8 more to certify"""
    system: str | None = None
    """FILE.py:NAME of a run's own model, which is executed only if named here"""
    out: Path | None = None
    """folder for figure and numbers (default: RUN/tune, or runs/tune-FILE-NAME)"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class CompareOptions(Computing):
    """Train a recipe by several learning rules from the same weights."""

    recipe: tyro.conf.Positional[str] = "digits"
    """recipe whose network, data, optimizer and phases all rules share"""
    estimators: str = "ep,cep,chl,rbp,bptt,vf"
    """learning rules as in eqprop train --estimator, joined by commas"""
    epochs: int | None = None
    """passes over the training examples (default: the recipe's)"""
    seed: int = 0
    """seed of the initial weights and the order of the examples, for all rules"""
    learning_rate: float = 0.003
    """learning rate of rules that move the parameters themselves (cep), by SGD"""
    run: Path | None = None
    """directory with one run for each rule (default: runs/compare-RECIPE-TIME);
    finished runs in it are not trained again"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Search the options of eqprop train for the lowest validation error.

    All other options of eqprop train may be given too; they hold for every trial.
    """

    vary: tuple[str, ...]
    """options of eqprop train to vary, each OPTION=LOW:HIGH, OPTION=LOW:HIGH:log or
    OPTION=A,B,C, e.g. estimator.beta=0.05:1:log batch-size=10,20,50"""
    trials: int = 20
    """number of trials, including those that the study already holds"""
    run: Path | None = None
    """directory of the study and its runs (default: runs/search-RECIPE-TIME); an
    existing study is resumed"""
    storage: str | None = None
    """storage URL of Optuna, to share the study between machines (default: SQLite in
    the directory)"""
    study: str = "eqprop"
    """name of the study in the storage"""
    prune: tyro.conf.FlagCreatePairsOff[bool] = True
    """stop trials that are worse than the median of the others"""
    search_seed: int = 0
    """seed of the proposals; --seed is the seed of every run"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class ReproduceOptions(Computing):
    """Measure the papers' figures, tables and claims again, and judge each.

    Without items, list all items and write the page in --out again. The exit status is
    0 only if every claim holds, no error differs from the published one and no seed
    diverges.
    """

    items: tyro.conf.Positional[tuple[str, ...]] = ()
    """items to measure; A or D.table1 means all items that begin so; all means all"""
    quick: Flag = False
    """measure a small version in minutes, with few examples, epochs or steps; its
    errors cannot be compared with the paper's"""
    settled: Flag = False
    """trainings only: end a free phase when it has settled, not after the paper's T
    steps; much faster, kept as ITEM.settled"""
    epochs: int | None = None
    """trainings only: maximum number of epochs; kept as ITEM.Nepochs and not compared
    with the paper"""
    seeds: int = 1
    """trainings only: number of seeds, from 0 on; a comparison needs 3. A seed that the
    record in --out holds with the same configuration is not trained again"""
    runs: Path = Path("runs/reproduce")
    """folder for the training runs, ITEM/seed0, …; finished runs are used again"""
    out: Path = Path("runs/reproduce")
    """folder for the figures, the records and their page"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class ReportOptions(Computing):
    """Make a page or a table of runs, with mean ± std over seeds.

    The page is one HTML file that loads no other file.  Runs that differ only in their
    seed are summarized together.  With --out FOLDER, the results are kept in the folder
    as small text files, with a table of all its results.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """run directories"""
    format: Literal["html", "md", "csv", "latex"] | None = None
    """html for the page, others for the table only (default: by the ending of --out,
    else html)"""
    out: Path | None = None
    """file to write, or a folder in which results are kept (default: RUN/report.html,
    or report.html for several runs; a table is printed)"""
    no_examples: Flag = False
    """do not settle the test examples: faster, but the page has no confusion matrix"""
    system: str | None = None
    """FILE.py:NAME of the runs' own model, which is executed only if named here"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class ExportOptions(Computing):
    """Write a run's network as safetensors and JSON, for programs without eqprop."""

    run: tyro.conf.Positional[Path]
    """run directory"""
    out: Path | None = None
    """folder for model.safetensors and model.json (default: RUN/export)"""
    system: str | None = None
    """FILE.py:NAME of the run's own model, which is executed only if named here"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class RecipesOptions:
    """List the recipes that eqprop train can train by name."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """show only recipes whose line contains all of these words, e.g. mnist"""
    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


@dataclasses.dataclass(frozen=True)
class InfoOptions:
    """Show versions, devices and the data sets found on this machine."""

    json: Flag = False
    """print one JSON object on standard output, and nothing else"""


OPTIONS = {
    "eval": EvalOptions,
    "predict": PredictOptions,
    "verify": VerifyOptions,
    "tune": TuneOptions,
    "compare": CompareOptions,
    "search": SearchOptions,
    "reproduce": ReproduceOptions,
    "report": ReportOptions,
    "export": ExportOptions,
    "recipes": RecipesOptions,
    "info": InfoOptions,
}

SHORT = {
    "train": """\
usage: eqprop train [RECIPE] [options]

Train a recipe (default: digits; list: eqprop recipes), your data or your model.
Options replace the values of the recipe.

what to train
  --data FILE.npz           your data, arrays x and y; or digits, mnist, fashion-mnist
  --system FILE.py:NAME     your model: a function that returns (system, cost, x, y)
  --model.hidden N …        units of each hidden layer, from the input side on
  --task WORD               classification or regression, if y could be either

how to train
  --estimator RULE          learning rule: ep, bptt, rbp, implicit, vf, chl, …
  --estimator.beta BETA     strength of the nudge (dimensionless, not 0)
  --estimator.free.steps T  steps of the free phase; more if examples do not settle
  --estimator.nudged.steps K  steps of the nudged phase
  --optimizer.lr RATE …     learning rate: one, or one for each layer
  --epochs N                passes over the training examples
  --batch-size N            examples per update
  --validation N            training examples held out: a number, or a fraction < 1
  --persistent              start each free phase from the example's last equilibrium
  --seed N                  seed of weights and order (default: 0)
  --seeds N                 number of runs, with seeds SEED, SEED + 1, … (default: 1)

where
  --run DIR                 directory of the run (default: runs/RECIPE-TIME)
  --resume DIR              resume the run in this directory; takes few other options
  --platform WORD           where to compute: auto, cpu, gpu or tpu (default: auto)
  --devices N               devices that share each batch (default: 1)
  --writers LIST            loggers: tensorboard, wandb, trackio, joined by commas
  --json                    print one JSON object on standard output, and nothing else

eqprop train RECIPE --help-all shows every option with the default of that recipe.""",
    "bench": """\
usage: eqprop bench [RECIPE] [options]

Measure what a recipe (default: digits) or your model costs on this machine.  The
examples of named data sets are random: nothing is downloaded.

  --system FILE.py:NAME     your model: a function that returns (system, cost, x, y)
  --estimator RULE          learning rule, as in eqprop train
  --batch-size N            examples per update
  --model.hidden N …        units of each hidden layer, from the input side on
  --persistent              start each free phase from the example's last equilibrium
  --rounds N                measurements of each number (default: 7)
  --platform WORD           where to compute: auto, cpu, gpu or tpu (default: auto)
  --json                    print one JSON object on standard output, and nothing else

eqprop bench RECIPE --help-all shows every option with the default of that recipe.""",
}
