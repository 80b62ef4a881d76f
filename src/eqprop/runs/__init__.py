"""Runs: train into a run directory, resume, load, search, compare and export runs.

A configuration becomes a problem (system, cost, data), which the training loop trains;
the run directory holds everything that is needed to use or resume the run later.  The
papers and the command line build on this package.
"""

from ._compare import compare as compare, Comparison as Comparison
from ..training import RunWarning as RunWarning
from ._directory import plain as plain, RunDirectory as RunDirectory
from ._environment import (
    environment as environment,
    read_environment as read_environment,
)
from ._export import export as export
from ._inputs import read_targets as read_targets
from ._precision import read_precision as read_precision
from ._problem import Problem as Problem
from ._record import record_of as record_of
from ._load import load as load
from ._run import evaluate as evaluate, predict as predict, Run as Run
from ._search import search as search, Search as Search, Varied as Varied
from ._seeds import (
    complete as complete,
    holds_seeds as holds_seeds,
    resume_seeds as resume_seeds,
    Seeds as Seeds,
    train_seeds as train_seeds,
)
from ._train import (
    default_path as default_path,
    resume as resume,
    train as train,
    TrainingInterrupted as TrainingInterrupted,
)
