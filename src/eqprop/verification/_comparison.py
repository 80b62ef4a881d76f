"""EP's processes laid over RBP's and BPTT's, at every step and many β."""

from typing import Any, cast, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._exactness import projector, scaling
from ._metrics import (
    common_order,
    named_leaves,
    order_in_beta,
    process_rmse,
    relative_error,
)
from ._process import Process
from ._processes import _bptt, _ep, _rbp, nudges
from ._verification import Curve, LayerError, Sweep

MOVES = tuple(float(b) for b in 10.0 ** np.linspace(-1, -6, 16))
ORDERS = {"one-sided": 1.0, "centered": 2.0}
FEW = 4
"""neurons or synapses drawn of each layer"""


def reference_processes(problem: Any, place: Any) -> tuple[Process, Process, float]:
    """RBP's and BPTT's processes, and the largest relative error between them.

    Here and below `problem` is (system, cost, x, y), and `place` (state, dt, steps).
    """
    rbp, bptt = _rbp(*problem, *place), _bptt(*problem, *place)
    off = relative_error((bptt.grads, bptt.cost_grads), (rbp.grads, rbp.cost_grads))
    return rbp, bptt, max(off, relative_error(bptt.states, rbp.states))


def sweep_beta(
    problem: Any, place: Any, response: float, scale: Any, moved: float
) -> tuple[Sweep, ...]:
    """EP's process against S times RBP's for many β, each example on its own.

    `scale` is the diagonal S of `Exactness`, `None` for S = M; `moved` how far β = 1
    moves the state.

    A unit that meets its bound at some β would hide the order of all the others.
    The β move the states by 1e-6 to 0.1 where these respond by `response`.
    """
    betas = tuple(move / response for move in MOVES)
    pairs = jnp.concatenate(
        [jax.vmap(lambda b, n=n: nudges(b, n))(jnp.asarray(betas)) for n in ORDERS]
    )
    system, cost, x, y = problem
    state, dt, steps = place
    found = _errors(system, cost, x, y, state, scale, dt, steps, pairs)
    errors = np.asarray(found)
    errors = errors.reshape(len(errors), len(ORDERS), len(betas), 2)
    sweeps = []
    for k, (nudging, expected) in enumerate(ORDERS.items()):
        for column, quantity in enumerate(("states", "gradients")):
            values = errors[:, k, :, column]
            orders = [order_in_beta(betas, row, expected, moved) for row in values]
            sweeps.append(
                Sweep(
                    nudging,
                    cast(Literal["states", "gradients"], quantity),
                    betas,
                    tuple(tuple(float(v) for v in row) for row in values),
                    common_order(orders),
                )
            )
    return tuple(sweeps)


@eqx.filter_jit
def _errors(system, cost, x, y, state, scale, dt, steps, pairs) -> Array:
    """Errors of states and gradients, `[examples, pairs, 2]`, one example at a time."""

    def of_example(example):
        x, y, s, scale = jax.tree.map(lambda leaf: leaf[None], example)
        problem = (system, cost, x, y, s, dt, steps)
        rbp = as_nudged(_rbp(*problem), system, x, s, dt, scale)

        def of_pair(betas):
            ep = _ep(*problem, betas)
            gradients = _off((ep.grads, ep.cost_grads), (rbp.grads, rbp.cost_grads))
            return jnp.stack([_off(ep.states, rbp.states), gradients])

        return jax.lax.map(of_pair, pairs)

    return jax.lax.map(of_example, (x, y, state, scale))


def _off(found: Any, reference: Any) -> Array:
    """The largest error relative to the largest entry, over all t and leaves."""
    off, size = jnp.zeros(()), jnp.zeros(())
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
    for a, b in leaves:
        off = jnp.maximum(off, jnp.max(jnp.abs(a - b), initial=0))
        size = jnp.maximum(size, jnp.max(jnp.abs(b), initial=0))
    return off / jnp.where(size == 0, 1, size)


def compare_layers(
    problem: Any, place: Any, beta: float, rbp: Process, bptt: Process, scale: Any
) -> tuple[tuple[Curve, ...], tuple[LayerError, ...]]:
    """A few curves and the RMSE of each leaf of the states and of the parameters."""
    (system, cost, x, y), (state, dt, steps) = problem, place
    betas = nudges(beta, "centered")
    ep = _ep(system, cost, x, y, state, dt, steps, betas)
    rbp, bptt = (as_nudged(p, system, x, state, dt, scale) for p in (rbp, bptt))
    curves, layers = [], []
    kinds: tuple[tuple[Literal["neurons", "synapses"], str, str], ...] = (
        ("neurons", "s", "states"),
        ("synapses", "", "grads"),
        ("synapses", "cost.", "cost_grads"),
    )
    for kind, prefix, field in kinds:
        names = [name for name, _ in named_leaves(getattr(ep, field), prefix)]
        parts = [jax.tree.leaves(getattr(p, field)) for p in (ep, rbp, bptt)]
        for name, *values in zip(names, *parts, strict=True):
            a, r, b = map(np.asarray, values)
            rmse = process_rmse(a, b)
            layers.append(
                LayerError(kind, name, float(np.mean(rmse)), float(np.std(rmse)))
            )
            # Of the neurons those of the first example.
            drawn = [u[:, 0] if kind == "neurons" else u for u in (a, r, b)]
            drawn = [u.reshape(len(u), -1) for u in drawn]
            some = _some(drawn[1])
            curves.append(
                Curve(kind, name, np.asarray(ep.times), *(u[:, some] for u in drawn))
            )
    return tuple(curves), tuple(layers)


@eqx.filter_jit
def as_nudged(process: Process, system, x, state, dt, scale) -> Process:
    """The process as a nudge shows it: S, then ∂project/∂s applied to its states."""

    def one(x, s, diagonal, errors):
        free = projector(system, x, s, dt)
        scaled = scaling(system, x, s, diagonal)
        return jax.vmap(lambda error: free(scaled(error)))(errors)

    states = jax.vmap(one, in_axes=(0, 0, 0, 1), out_axes=1)(
        x, state, scale, process.states
    )
    return eqx.tree_at(lambda p: p.states, process, states)


def _some(values: np.ndarray) -> np.ndarray:
    """A few columns, spread over those that move most."""
    order = np.argsort(-np.max(np.abs(values), 0), kind="stable")
    moving = order[: max(len(order) // 4, FEW)]
    return moving[np.linspace(0, len(moving) - 1, min(FEW, len(moving))).astype(int)]
