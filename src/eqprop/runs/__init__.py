"""Runs: training into a directory that stands alone, and what is done with it.

Last stage before the command line: config → problem → loop → directory → report.
"""

from ._compare import compare as compare, Comparison as Comparison
from ..training import RunWarning as RunWarning
from ._directory import RunDirectory as RunDirectory
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
