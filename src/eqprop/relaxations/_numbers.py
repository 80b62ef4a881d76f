"""Hyper-parameters as arguments of a compiled program, so that a sweep compiles once.

A Python number in a rule or a relaxation is a constant of the program, and another β
is another program.  The public functions call `traced` first; training does not, as
one run has one β, and constants are faster there.
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
    """`rule` with its real numbers as arrays of one number, of weak type.

    Inside another compiled program, where an argument is a tracer already, they stay
    constants.  So they do in a user's own class, whose code may branch on them.
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
