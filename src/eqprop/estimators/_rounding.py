"""Estimate how much of a gradient is rounding, and warn if it is most of it.

A rule contrasts two states that differ by O(β).  Rounding leaves an error of about ε|s|
in a state s, and of ε|s|/dt after Euler steps: a step dt·velocity below ε|s| does not
change s.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Scalar

from ..systems._base import AbstractSystem, State
from ..systems._norm import norm

LIMIT = 0.1
"""relative error of a gradient by rounding above which its user is warned"""
GOOD = 0.01
"""the error that a proposed β leaves"""
LARGEST_BETA = 0.5
"""of what is proposed: a larger nudge is another problem"""


class RoundedGradient(UserWarning):
    """A gradient is mostly the rounding of the states that it contrasts."""


def rounding(system: AbstractSystem, relaxation: Any, a: State, b: State) -> Scalar:
    """Estimate the relative rounding error of a contrast of two batched states.

    The estimate is ε‖a‖/‖a − b‖ over the units that no bound holds, divided by dt for
    Euler steps with dt < 1, and at most 1.  It is usually right to a factor of 3, and
    to a factor of 10 if a few units decide, as under weak feedback.  It is too large
    for dynamics that are much faster than 1.

    Training measures some batches only (`AbstractRelaxation.exact`); the estimate of
    any other batch is 0.
    """

    if relaxation.steps == 0:  # without a nudged step there is no contrast to round
        return jnp.zeros((), float)

    def estimate() -> Scalar:
        return _rounding(system, relaxation.dt, a, b)

    if relaxation.exact is True:
        return estimate()
    return jax.lax.cond(relaxation.exact, estimate, lambda: jnp.zeros((), float))


def _rounding(system: AbstractSystem, dt: Any, a: State, b: State) -> Scalar:
    def held(scale):
        moved = jax.tree.map(lambda u: u * scale, a)
        return jax.tree.map(jnp.equal, jax.vmap(system.project)(moved), a)

    def free(u, *held):
        return jnp.where(jnp.logical_or(*held), 0, u)

    # `project` returns a unit at a bound to the bound, so that it has no rounding.
    known = jax.tree.map(free, a, held(0.99), held(1.01))
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(a))).eps
    noise, size = eps * norm(known), norm(jax.tree.map(jnp.subtract, a, b))
    dt = jnp.minimum(jnp.asarray(1.0 if dt is None else dt, float), 1)
    error = noise / jnp.where(size > 0, size, jnp.where(noise > 0, noise, 1))
    return jnp.where(noise > 0, jnp.minimum(error / dt, 1), 0).astype(float)


def rounding_message(error: float, beta: float | None, dtype: Any) -> str | None:
    """Say that a gradient is rounded and which β would do; `None` where it is not.

    **Arguments:**

    - `error`: the estimated relative error, `gradient.stats["rounding"]`.
    - `beta`: the nudge of the rule; `None` for a rule without one.
    - `dtype`: of the states.
    """
    if not error > LIMIT:
        return None
    cure = "compute in float64: jax.config.update('jax_enable_x64', True)"
    if np.finfo(dtype).bits >= 64:
        cure = "let the phases settle further, or rescale the states"
    if beta is not None and abs(beta) * error / GOOD <= LARGEST_BETA:
        needed = float(f"{abs(beta) * error / GOOD:.1g}")
        more = " or more" if error >= 1 else ""
        cure = f"use a beta of about {needed:g}{more}, or {cure}"
    share = "all" if error >= 1 else f"about {100 * error:.0f} %"
    nudge = "" if beta is None else f"beta is {beta:g}: "
    return (
        f"{nudge}the contrasted states differ by so little that {share} of the "
        f"gradient is {np.dtype(dtype)} rounding; {cure}"
    )


_told: set[Any] = set()
"""rules whose rounding was told, by class and β"""


def warn_rounded(rule: Any, error: float, dtype: Any) -> None:
    """Warn once of a rule whose gradient is rounded."""
    while hasattr(rule, "estimator"):
        rule = rule.estimator
    beta = getattr(rule, "beta", None)
    beta = None if beta is None or isinstance(beta, Tracer) else float(beta)
    message = rounding_message(error, beta, dtype)
    if message is not None and (type(rule), beta) not in _told:
        _told.add((type(rule), beta))
        warnings.warn(f"{type(rule).__name__}: {message}", RoundedGradient, 4)
