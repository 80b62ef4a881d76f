"""`relax`, the public function that settles a batch of examples.

It checks its arguments once; relaxations and estimators behind it trust them.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..systems import _check
from ..systems._base import AbstractSystem, State
from ..systems._total_energy import check_total_energy, has_total_energy
from ._base import AbstractRelaxation, Equilibrium
from ._keys import example_keys
from ._numbers import traced
from ._outside import hear


def relax(
    system: AbstractSystem,
    x: PyTree[Array],
    relaxation: AbstractRelaxation,
    *,
    state: State | None = None,
    cost: Any = None,
    y: PyTree[Array] | None = None,
    beta: float | Array = 0.0,
    key: PRNGKeyArray | None = None,
) -> Equilibrium:
    """Settle a batch of examples, freely or nudged by β.

    Each step moves s to project(s + dt (velocity − β ∂C/∂s)) (paper A, eq 43; paper
    D, with dt = 1).

    **Arguments:**

    - `x`, `y`: inputs and targets with a leading batch axis.
    - `state`: batched initial state; `system.init_state(x)` if `None`.
    - `cost`, `y`, `beta`: the nudge; `beta` is one number or one per example
      (dimensionless), and needs the other two.  A total energy needs y and `beta`.
    - `key`: for relaxations that draw random numbers; it is split over the batch.

    **Returns:** an `Equilibrium`.  A state that did not settle is not an error.

    **Raises:** `ValueError` if shapes do not agree, if a nudge is incomplete, or if
        (outside `jax.jit`) the curvature that `Sweep` divides by is not positive.
    """
    check_nudge(system, cost, y, beta)
    if not isinstance(beta, Tracer) and not np.isfinite(beta).all():
        raise ValueError(f"beta is {beta}; it must be finite")
    x, *rest = _check.batch(x=x, **({} if y is None else {"y": y}))
    y = None if y is None else rest[0]
    state, batch = _check.as_arrays("state", state), _check.batch_size(x=x)
    if jnp.ndim(beta) > 1 or (jnp.ndim(beta) == 1 and len(beta) != batch):  # type: ignore[arg-type]
        raise ValueError(
            f"beta has shape {jnp.shape(beta)}; give one number or one per example, "
            f"shape ({batch},)"
        )
    relaxation = traced(relaxation, system, x, state, cost, y, beta)
    problem = (system, x, relaxation, state, cost, y, jnp.asarray(beta), key)
    found = hear(_relax, *problem)
    if not isinstance(found.residual, Tracer):
        relaxation.refuse(system, x, state, found, (cost, y, beta))
    if y is not None:
        check_total_energy(system, cost, x, y, found.state)
    return found


def check_nudge(system: AbstractSystem, cost: Any, y: Any, beta: Any) -> None:
    """Raise `ValueError` for an incomplete nudge; a total energy contains its cost."""
    if cost is None and y is not None and has_total_energy(system):
        return
    if (cost is None) != (y is None):
        raise ValueError("a nudge needs both cost and y; give both or neither")
    if cost is None and not (isinstance(beta, int | float) and beta == 0):
        raise ValueError(f"beta={beta} has no effect without cost and y; give both")


@eqx.filter_jit
def _relax(system, x, relaxation, state, cost, y, beta, key) -> Equilibrium:
    state = initial_state(system, x, state)
    if y is not None:
        _check.check_cost(system, cost, *_check.example((x, y, state)))
    keys = None if key is None else example_keys(key, _check.batch_size(x=x))
    return relaxation.settle_batch(system, x, y, state, cost, beta, keys)


def initial_state(system: AbstractSystem, x: Any, state: State | None) -> State:
    """Return the checked batched start state, in the widest dtype of the system."""
    one = _check.example(x)
    # In holomorphic EP the system is complex, but init_state may return jnp.zeros(n).
    complex_ = [
        jax.ShapeDtypeStruct((), leaf.dtype)
        for leaf in jax.tree.leaves(eqx.filter((system, x), eqx.is_inexact_array))
        if jnp.iscomplexobj(leaf)
    ]

    def start(x):
        return jax.tree.map(
            lambda s: jnp.asarray(s, jnp.result_type(s, *complex_)),
            system.init_state(x),
        )

    _check.initial_state(system, one)
    expected = jax.eval_shape(start, one)
    _check.check_system(system, one, expected)
    if state is None:
        state = jax.vmap(start)(x)
    else:
        _check.batch_size(x=x, state=state)
        _check.check_given_state(system, expected, _check.example(state))
    # A float32 init_state must not round the states of a float64 system.
    real = [
        leaf.dtype
        for leaf in jax.tree.leaves(eqx.filter((system, x), eqx.is_inexact_array))
        if not jnp.iscomplexobj(leaf)
    ]
    velocity = jax.eval_shape(jax.vmap(system.velocity), x, state)
    return jax.tree.map(
        lambda u, v: jnp.asarray(u, jnp.result_type(u, v, *real)), state, velocity
    )
