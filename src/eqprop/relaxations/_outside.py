"""What a program outside of JAX raises in a callback, in its own words."""

import logging
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer
from jax.experimental import io_callback


class Outside(eqx.Module):
    """Marks a relaxation that calls a program of the user's."""


raised: list[BaseException] = []
"""what such programs have raised since `hear` began to listen"""


def uses_outside(*trees: Any) -> bool:
    """Whether any relaxation in these calls a program of the user's."""
    leaves = jax.tree.leaves(trees, is_leaf=_is_outside)
    return any(map(_is_outside, leaves))


def _is_outside(value: Any) -> bool:
    return isinstance(value, Outside)


def hear(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)`, raising what a program of the user's raised in it.

    JAX would say it in an error of its own, after printing it, and only when the
    result is used.
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
