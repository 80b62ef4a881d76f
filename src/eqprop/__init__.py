"""eqprop: learning in systems that settle to a fixed point.

The flow: system → relaxation → estimator → optimizer → loop → report.

A name is imported when it is first used (PEP 562): `eqprop --help` does not wait for
JAX.  `__init__.pyi` lists the public names for this module and for type checkers.
"""

import ast
from importlib import import_module, util
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _public_names() -> dict[str, str]:
    """The package of each name that `__init__.pyi` re-exports."""
    stub = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = (
        node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)
    )
    return {name.name: f".{node.module}" for node in imports for name in node.names}


_NAMES = _public_names()
__all__ = [*_NAMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name], __name__), name)
    elif not name.startswith("_") and util.find_spec(f"{__name__}.{name}"):
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
