"""Load the model that `FILE.py:NAME` names: execute the file, call the function.

No other module executes a user's file.  Runs and `eqprop bench` use what the function
returns: a system, a cost and batched examples x and y.
"""

import difflib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from ..systems import AbstractSystem, _check, has_total_energy


def split_path(path: str) -> tuple[Path, str]:
    """FILE.py and NAME of `FILE.py:NAME`."""
    file, colon, name = path.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(
            f"{path!r} names no model; write FILE.py:NAME, NAME a function of no "
            "arguments that returns (system, cost, x, y)"
        )
    return Path(file), name


def load_user_model(path: str) -> tuple:
    """Call the function that `FILE.py:NAME` names; return (system, cost, x, y).

    Modules next to the file are importable.
    """
    source, name = split_path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"there is no file {source}; a model is named FILE.py:NAME"
        )
    module = _execute(source)
    function = getattr(module, name, None)
    if not callable(function):
        known = [
            n
            for n, v in vars(module).items()
            if inspect.isfunction(v) and v.__module__ == module.__name__ and n[0] != "_"
        ]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"it defines {', '.join(known[:8]) or 'none'}"
        if near:
            hint = f"did you mean {near[0]}?"
        if hasattr(module, name):
            hint = f"{name} is a {type(getattr(module, name)).__name__}; {hint}"
        raise ValueError(f"{source} has no function {name}; {hint}")
    try:
        problem = function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a program may raise, SystemExit too
        raise ValueError(_user_error(source, f"{name}() failed", error)) from error
    if not isinstance(problem, tuple) or len(problem) != 4:
        found = type(problem).__name__
        if isinstance(problem, tuple):
            found = f"a tuple of {len(problem)}"
        raise ValueError(
            f"{name}() in {source} returned {found}; it must return "
            "(system, cost, x, y) with x and y batched"
        )
    system, cost, x, y = problem
    if not isinstance(system, AbstractSystem):
        raise ValueError(
            f"{name}() in {source} returned {_kind(system)} as its system; it must be "
            "an instance of a subclass of ep.AbstractEnergy, ep.AbstractPrimitive, "
            "ep.AbstractMap or ep.AbstractVectorField"
        )
    own = cost is None and has_total_energy(system)
    if not own and (not callable(cost) or isinstance(cost, type)):
        raise ValueError(
            f"{name}() in {source} returned {_kind(cost)} as its cost; it must be a "
            "function (prediction, y) -> scalar, e.g. ep.SquaredError()"
        )
    _check_examples(x, y, f"{name}() in {source}")
    return problem


def _kind(value: Any) -> str:
    """`the class Quadratic` for a class that was not called, `a str` for a string."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"


def _execute(source: Path) -> Any:
    folder = source.parent
    name = f"eqprop_user_{source.stem}"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(folder.resolve()))
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a program may raise, SystemExit too
        raise ValueError(_user_error(source, "the file failed", error)) from error
    finally:
        sys.path.remove(str(folder.resolve()))
    return module


def _user_error(source: Path, what: str, error: BaseException) -> str:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == source or frame.filename.endswith(source.name)
    ]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    line = line or (lines[-1] if lines else None)
    place = f"{source}, line {line}" if line else str(source)
    return f"{place}: {what}: {type(error).__name__}: {error}"


def _check_examples(x: PyTree, y: PyTree, where: str) -> None:
    """The same errors for arrays of a user's function as for those of a file."""
    try:
        _check.batch_size(x=x, y=y)
        _check.check_finite(x=x, y=y)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
