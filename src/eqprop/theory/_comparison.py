"""EP's processes against RBP's and BPTT's, at every step and for many β."""

from typing import Any

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
from ._problem import Place, Problem
from ._processes import _bptt, _ep, _rbp, nudges, Process
from ._records import BetaErrors, Curve, Layer, LayerError, Quantity

MOVES = tuple(float(b) for b in 10.0 ** np.linspace(-1, -6, 16))
ORDERS = {"one-sided": 1.0, "centered": 2.0}
QUANTITIES: tuple[Quantity, ...] = ("states", "gradients")
FEW = 4
"""neurons or synapses drawn of each layer"""


def reference_processes(
    problem: Problem, place: Place
) -> tuple[Process, Process, float]:
    """Return RBP's and BPTT's processes, and their largest relative difference."""
    rbp, bptt = _rbp(problem, place), _bptt(problem, place)
    off = relative_error((bptt.grads, bptt.cost_grads), (rbp.grads, rbp.cost_grads))
    return rbp, bptt, max(off, relative_error(bptt.states, rbp.states))


def sweep_beta(
    problem: Problem, place: Place, scale: Any, response: float, moved: float
) -> tuple[BetaErrors, ...]:
    """Compare EP's process with S times RBP's for many β, each example on its own.

    `scale` is the diagonal S of `Exactness` (`None`: S = M); `moved` is how far β = 1
    moves the state.  With `response`, its response to β = 1, the β are chosen to move
    it by 1e-6 to 0.1.  Over a whole batch, one unit that meets its bound at some β
    would hide the order of all others.
    """
    betas = tuple(move / response for move in MOVES)
    pairs = jnp.concatenate(
        [jax.vmap(lambda b, n=n: nudges(b, n))(jnp.asarray(betas)) for n in ORDERS]
    )
    errors = np.asarray(_errors(problem, place, scale, pairs))
    errors = errors.reshape(len(errors), len(ORDERS), len(betas), len(QUANTITIES))
    found = []
    for k, (nudging, expected) in enumerate(ORDERS.items()):
        for column, quantity in enumerate(QUANTITIES):
            rows = errors[:, k, :, column]
            orders = [order_in_beta(betas, row, expected, moved) for row in rows]
            values = tuple(map(tuple, rows.tolist()))
            order = common_order(orders)
            found.append(BetaErrors(nudging, quantity, betas, values, order))
    return tuple(found)


@eqx.filter_jit
def _errors(problem: Problem, place: Place, scale: Any, pairs: Array) -> Array:
    """Errors of states and gradients, `[examples, pairs, 2]`, one example at a time."""
    system, cost, x, y = problem

    def of_example(example):
        x, y, s, scale = jax.tree.map(lambda leaf: leaf[None], example)
        one, here = Problem(system, cost, x, y), place._replace(state=s)
        rbp = as_nudged(_rbp(one, here), one, here, scale)

        def of_pair(betas):
            ep = _ep(one, here, betas)
            gradients = _off((ep.grads, ep.cost_grads), (rbp.grads, rbp.cost_grads))
            return jnp.stack([_off(ep.states, rbp.states), gradients])

        return jax.lax.map(of_pair, pairs)

    return jax.lax.map(of_example, (x, y, place.state, scale))


def _off(found: Any, reference: Any) -> Array:
    """Return the largest error over the largest entry, over all t and leaves."""
    off, size = jnp.zeros(()), jnp.zeros(())
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
    for a, b in leaves:
        off = jnp.maximum(off, jnp.max(jnp.abs(a - b), initial=0))
        size = jnp.maximum(size, jnp.max(jnp.abs(b), initial=0))
    return off / jnp.where(size == 0, 1, size)


def compare_layers(
    problem: Problem,
    place: Place,
    beta: float,
    references: tuple[Process, Process],
    scale: Any,
) -> tuple[tuple[Curve, ...], tuple[LayerError, ...]]:
    """Return a few curves, and the RMSE of each leaf of states and parameters.

    `references` are RBP's and BPTT's processes; EP is centered at `beta`.
    """
    ep = _ep(problem, place, nudges(beta, "centered"))
    others = [as_nudged(process, problem, place, scale) for process in references]
    curves, layers = [], []
    kinds: tuple[tuple[Layer, str, str], ...] = (
        ("neurons", "s", "states"),
        ("synapses", "", "grads"),
        ("synapses", "cost.", "cost_grads"),
    )
    for kind, prefix, field in kinds:
        names = [name for name, _ in named_leaves(getattr(ep, field), prefix)]
        parts = [jax.tree.leaves(getattr(p, field)) for p in (ep, *others)]
        for name, *values in zip(names, *parts, strict=True):
            a, r, b = map(np.asarray, values)
            rmse = process_rmse(a, b)
            mean, std = float(np.mean(rmse)), float(np.std(rmse))
            layers.append(LayerError(kind, name, mean, std))
            # The curves of neurons are those of the first example.
            drawn = [u[:, 0] if kind == "neurons" else u for u in (a, r, b)]
            drawn = [u.reshape(len(u), -1) for u in drawn]
            some = _some(drawn[1])
            lines = [u[:, some] for u in drawn]
            curves.append(Curve(kind, name, np.asarray(ep.times), *lines))
    return tuple(curves), tuple(layers)


@eqx.filter_jit
def as_nudged(process: Process, problem: Problem, place: Place, scale: Any) -> Process:
    """Apply S, then ∂project/∂s, to the states of a process: so a nudge shows them."""

    def one(x, s, diagonal, errors):
        free = projector(problem.system, x, s, place.dt)
        scaled = scaling(problem.system, x, s, diagonal)
        return jax.vmap(lambda error: free(scaled(error)))(errors)

    states = jax.vmap(one, in_axes=(0, 0, 0, 1), out_axes=1)(
        problem.x, place.state, scale, process.states
    )
    return eqx.tree_at(lambda p: p.states, process, states)


def _some(values: np.ndarray) -> np.ndarray:
    """Choose a few columns, spread over those that move most."""
    order = np.argsort(-np.max(np.abs(values), 0), kind="stable")
    moving = order[: max(len(order) // 4, FEW)]
    return moving[np.linspace(0, len(moving) - 1, min(FEW, len(moving))).astype(int)]
