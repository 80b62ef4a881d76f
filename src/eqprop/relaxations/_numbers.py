"""Hyper-parameters as arguments of a compiled program: one program serves every β.

A Python number in a rule or a relaxation is a constant of the program; each β would
need its own.  The public functions therefore call `traced` first.  Training does not:
a run has one β, and constants are faster.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

LIBRARY = __name__.partition(".")[0] + "."


def traced(rule: PyTree, *arguments: Any) -> PyTree:
    """Return `rule` with its real numbers as arrays of one number, of weak type.

    They remain constants inside another compiled program (if an argument is a tracer),
    and in a user's own class, whose code may branch on them.
    """
    leaves = jax.tree.leaves(arguments)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return rule

    def array(leaf):
        number = isinstance(leaf, float | np.floating)
        return jnp.asarray(float(leaf)) if number else leaf

    return jax.tree.map(array, rule, is_leaf=_is_users)


def _is_users(node: Any) -> bool:
    return isinstance(node, eqx.Module) and not type(node).__module__.startswith(
        LIBRARY
    )
