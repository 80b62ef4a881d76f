"""Runs: training into a directory that stands alone, and what is done with it.

Last stage before the command line: config → problem → loop → directory → report.
"""

from ._compare import compare as compare, Comparison as Comparison
from ._checkpoints import RunWarning as RunWarning
from ._directory import RunDirectory as RunDirectory
from ._environment import environment as environment
from ._problem import load_user_model as load_user_model, Problem as Problem
from ._run import evaluate as evaluate, load as load, predict as predict, Run as Run
from ._train import (
    default_path as default_path,
    resume as resume,
    train as train,
    TrainingInterrupted as TrainingInterrupted,
)
