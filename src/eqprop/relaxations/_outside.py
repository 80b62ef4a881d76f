"""Relaxations that call a user's program, and the exceptions of that program."""

import logging
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jax.experimental import io_callback

from ._base import AbstractRelaxation

raised: list[BaseException] = []
"""exceptions of such programs since `hear` was called"""


def uses_outside(*trees: Any) -> bool:
    """Return whether any relaxation in these trees calls a user's program."""
    leaves = jax.tree.leaves(trees, is_leaf=_is_outside)
    return any(map(_is_outside, leaves))


def _is_outside(value: Any) -> bool:
    return isinstance(value, AbstractRelaxation) and value.outside


def hear(function: Callable, *arguments: Any) -> Any:
    """Return `function(*arguments)`; re-raise an exception of the user's program.

    JAX alone would print the exception and raise its own, only when the result is used.
    """
    if not uses_outside(arguments):
        return function(*arguments)
    raised.clear()
    logger = logging.getLogger(io_callback.__module__)
    silent, logger.disabled = logger.disabled, True
    try:
        found = function(*arguments)
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found)):
            jax.block_until_ready(found)
        return found
    except jax.errors.JaxRuntimeError:
        if not raised:
            raise
        error = raised[0]
    finally:
        logger.disabled = silent
    raise error from None
