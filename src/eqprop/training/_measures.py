"""What the loop measures of a step: errors, and how much the weights changed."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ..costs import outputs_of
from ..estimators._step import norm
from ..relaxations import Status
from ..systems import AbstractSystem
from ..systems._parameters import parameter_name

CHANGE_EVERY = 16


def weight_names(system: AbstractSystem, cost: Any) -> list[str]:
    """The parameters whose relative change ‖ΔW‖/‖W‖ is recorded."""
    params = eqx.filter((system, cost), eqx.is_inexact_array)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [parameter_name(path) for path, leaf in leaves if _is_weight(leaf, params)]


def measure_change(step, params, moved) -> dict[str, Array]:
    """‖ΔW‖/‖W‖ of every weight, measured at one step in CHANGE_EVERY."""
    pairs = [
        (old, new)
        for old, new in zip(
            jax.tree.leaves(params), jax.tree.leaves(moved), strict=True
        )
        if _is_weight(old, params)
    ]

    def measure():
        norms = [(norm(new - old), norm(old)) for old, new in pairs]
        # Weights that are all zero have no relative change: it counts as 0.
        ratios = [jnp.where(old > 0, change / old, 0) for change, old in norms]
        return {"change": jnp.stack(ratios).astype(float), "changes": jnp.ones(())}

    return jax.lax.cond(step % CHANGE_EVERY == 0, measure, lambda: no_change(params))


def no_change(params) -> dict[str, Array]:
    """What `measure_change` adds where nothing is measured."""
    weights = sum(_is_weight(leaf, params) for leaf in jax.tree.leaves(params))
    return {"change": jnp.zeros(weights), "changes": jnp.zeros(())}


RESIDUAL_SUMS = ("settled", "oscillating", "residual")
"""sums over the examples whose residual was evaluated at their equilibrium"""
STATE_SUMS = ("loss", "errors", "steps", *RESIDUAL_SUMS)


def zero_sums(weights: int) -> dict[str, Array]:
    """The sums of an epoch before its first step."""
    names = ("examples", "used", "measured", "rounding", "changes", *STATE_SUMS)
    return {name: jnp.zeros(()) for name in names} | {"change": jnp.zeros(weights)}


def metrics(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the epoch so far, as plain numbers."""
    sums = {name: np.asarray(value) for name, value in sums.items()}
    examples, changes = (max(float(sums[name]), 1) for name in ("examples", "changes"))
    error = float(sums["errors"]) / examples
    used, measured = (max(float(sums[name]), 1) for name in ("used", "measured"))
    return {
        "loss": float(sums["loss"]) / used,
        "train_error": None if np.isnan(error) else error,
        "steps": float(sums["steps"]) / examples,
        "settled": float(sums["settled"]) / measured,
        "oscillating": float(sums["oscillating"]) / measured,
        "masked": int(sums["examples"] - sums["used"]),
        "residual": float(sums["residual"]) / measured,
        "relative_change": (sums["change"] / changes).tolist(),
    }


def mean_rounding(sums: Mapping[str, Any]) -> float:
    """The mean of the steps' estimates `stats["rounding"]` so far."""
    total, used = (float(np.asarray(sums[name])) for name in ("rounding", "used"))
    return total / max(used, 1)


def measure_step(system, cost, gradient, y, kept, used, measured) -> dict[str, Array]:
    """What one step adds to the epoch's sums.

    The loss is that of the `used` examples; of the `measured` ones the residual was
    evaluated at the equilibrium.
    """
    # A masked example that diverged has no numbers to add, and no right answer.
    diverged = kept & (gradient.equilibrium.status == Status.diverged)
    states = measure_states(system, cost, gradient.equilibrium, y, kept & ~diverged)
    exact = measure_equilibria(gradient.equilibrium, measured & ~diverged)
    count = jnp.sum(used)
    return {
        **states,
        **exact,
        "measured": jnp.sum(measured),
        "errors": states["errors"] + jnp.sum(diverged),
        "examples": jnp.sum(kept),
        "used": count,
        "loss": gradient.loss * count,
        "rounding": gradient.stats.values.get("rounding", 0.0) * count,
    }


def measure_states(system, cost, equilibrium, y, kept) -> dict[str, Array]:
    """Sums over the kept examples of a batch of equilibria."""
    prediction = jax.vmap(system.readout)(equilibrium.state)
    sums = {
        "errors": errors_of(jax.vmap(partial(outputs_of, cost))(prediction), y),
        "steps": equilibrium.steps,
    }
    sums = {name: jnp.sum(jnp.where(kept, v, 0)) for name, v in sums.items()}
    return sums | measure_equilibria(equilibrium, kept)


def measure_equilibria(equilibrium, kept) -> dict[str, Array]:
    """The sums of RESIDUAL_SUMS over the kept examples."""
    values = (
        equilibrium.status == Status.settled,
        equilibrium.status == Status.oscillating,
        equilibrium.residual,
    )
    sums = (jnp.sum(jnp.where(kept, value, 0)) for value in values)
    return dict(zip(RESIDUAL_SUMS, sums, strict=True))


def errors_of(prediction: Array, y: Any) -> Float[Array, " batch"]:
    """1 where the largest output is not the labelled one; NaN for other targets.

    Labels are integers `[batch]` or one-hot rows `[batch, classes]`; a single row
    that is not one-hot makes the mean NaN, which is reported as no error at all.
    """
    batch = prediction.shape[0]
    if prediction.ndim != 2 or not hasattr(y, "dtype"):
        return jnp.full(batch, jnp.nan)
    chosen = jnp.argmax(prediction, axis=-1)
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1:
        return (chosen != y).astype(float)
    if y.shape == prediction.shape and y.shape[1] > 1:
        one_hot = jnp.all((y == 0) | (y == 1), -1) & (jnp.sum(y, -1) == 1)
        return jnp.where(one_hot, chosen != jnp.argmax(y, -1), jnp.nan)
    return jnp.full(batch, jnp.nan)


def alignment(system: AbstractSystem) -> dict[str, list[float]]:
    """tr(W Bᵀ) and the angle between W and B (degrees), of each pair of counterparts.

    Of systems that declare `reciprocal()`; nothing of others (paper C, figure 3).
    """
    declared = system.reciprocal()
    if declared is None:
        return {}
    forward, backward = (
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(members)]
        for members in declared
    )
    if [w.size for w in forward] != [b.size for b in backward]:
        return {}  # no pairs: a rule that needs them refuses the system
    traces, angles = [], []
    for w, b in zip(forward, backward, strict=True):
        cosine = w @ b / max(np.linalg.norm(w) * np.linalg.norm(b), 1e-30)
        traces.append(float(w @ b))
        angles.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return {"alignment_trace": traces, "alignment_angle": angles}


def _is_weight(leaf: Array, params: PyTree) -> bool:
    """Matrices and kernels; every parameter of a model that has none of them."""
    return leaf.ndim >= 2 or all(p.ndim < 2 for p in jax.tree.leaves(params))


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether all numbers are, by their sums over the last axis.

    Those are products of matrices, which XLA computes three times faster on CPUs.
    """
    leaves = [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(tree)]
    sums = [
        jnp.matmul(leaf, jnp.ones(leaf.shape[-1], leaf.dtype), precision="highest")
        for leaf in leaves
    ]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(s)) for s in sums]))
