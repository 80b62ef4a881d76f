"""The measurements of training: errors, settled examples, changes of the weights.

The compiled loop adds up sums over an epoch; `metrics` turns them into the means of a
record.
"""

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
    """Return the names of the parameters whose relative change ‖ΔW‖/‖W‖ is recorded."""
    params = eqx.filter((system, cost), eqx.is_inexact_array)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [parameter_name(path) for path, leaf in leaves if _is_weight(leaf, params)]


def measure_change(step, params, moved) -> dict[str, Array]:
    """Return ‖ΔW‖/‖W‖ of every weight, measured at every CHANGE_EVERY-th step."""
    pairs = [
        (old, new)
        for old, new in zip(
            jax.tree.leaves(params), jax.tree.leaves(moved), strict=True
        )
        if _is_weight(old, params)
    ]

    def measure():
        norms = [(norm(new - old), norm(old)) for old, new in pairs]
        # The relative change of weights that are all zero counts as 0.
        ratios = [jnp.where(old > 0, change / old, 0) for change, old in norms]
        return {"change": jnp.stack(ratios).astype(float), "changes": jnp.ones(())}

    return jax.lax.cond(step % CHANGE_EVERY == 0, measure, lambda: no_change(params))


def no_change(params) -> dict[str, Array]:
    """Return the sums of a step at which no change is measured."""
    weights = sum(_is_weight(leaf, params) for leaf in jax.tree.leaves(params))
    return {"change": jnp.zeros(weights), "changes": jnp.zeros(())}


RESIDUAL_SUMS = ("settled", "oscillating", "residual")
"""sums over the measured examples (their residual is evaluated at the equilibrium)"""
STATE_SUMS = ("loss", "errors", "steps", *RESIDUAL_SUMS)


def zero_sums(weights: int) -> dict[str, Array]:
    """Return the sums of an epoch before its first step."""
    names = ("examples", "used", "measured", "rounding", "changes", *STATE_SUMS)
    return {name: jnp.zeros(()) for name in names} | {"change": jnp.zeros(weights)}


def metrics(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means over the epoch so far, as fields of a record."""
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
    """Return the mean of `stats["rounding"]` over the measured examples so far."""
    total, count = (float(np.asarray(sums[name])) for name in ("rounding", "measured"))
    return total / max(count, 1)


def measure_step(model, gradient, y, kept, used, measured) -> dict[str, Array]:
    """Return what one step adds to the sums of the epoch.

    - `kept`: places of the batch that hold an example.
    - `used`: examples in the gradient; the loss is theirs.
    - `measured`: examples whose residual was evaluated at the equilibrium.
    """
    # A masked example that diverged has no numbers to add; it counts as an error.
    diverged = kept & (gradient.equilibrium.status == Status.diverged)
    states = measure_states(model, gradient.equilibrium, y, kept & ~diverged)
    exact = measure_equilibria(gradient.equilibrium, measured & ~diverged)
    count, exactly = jnp.sum(used), jnp.sum(measured)
    return {
        **states,
        **exact,
        "measured": exactly,
        "errors": states["errors"] + jnp.sum(diverged),
        "examples": jnp.sum(kept),
        "used": count,
        "loss": gradient.loss * count,
        "rounding": gradient.stats.values.get("rounding", 0.0) * exactly,
    }


def measure_states(model, equilibrium, y, kept) -> dict[str, Array]:
    """Return sums over the kept examples of a batch of equilibria."""
    system, cost = model
    prediction = jax.vmap(system.readout)(equilibrium.state)
    sums = {
        "errors": errors_of(jax.vmap(partial(outputs_of, cost))(prediction), y),
        "steps": equilibrium.steps,
    }
    sums = {name: jnp.sum(jnp.where(kept, v, 0)) for name, v in sums.items()}
    return sums | measure_equilibria(equilibrium, kept)


def measure_equilibria(equilibrium, kept) -> dict[str, Array]:
    """Return RESIDUAL_SUMS over the kept examples."""
    values = (
        equilibrium.status == Status.settled,
        equilibrium.status == Status.oscillating,
        equilibrium.residual,
    )
    sums = (jnp.sum(jnp.where(kept, value, 0)) for value in values)
    return dict(zip(RESIDUAL_SUMS, sums, strict=True))


def errors_of(prediction: Array, y: Any) -> Float[Array, " batch"]:
    """Return 1 if the largest output is not that of the label, 0 if it is.

    Labels are integers `[batch]` or one-hot rows `[batch, classes]`.  For other targets
    the error is NaN, so that the mean error of the examples is reported as `None`.
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


def alignment(system: AbstractSystem) -> dict[str, Any]:
    """Return tr(W Bᵀ) and the angle (degrees) for each pair of counterparts W and B.

    The result is empty if the system does not declare `reciprocal()` (paper C, fig. 3).
    """
    declared = system.reciprocal()
    if declared is None:
        return {}
    forward, backward = (
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(members)]
        for members in declared
    )
    if [w.size for w in forward] != [b.size for b in backward]:
        return {}  # not in pairs; a rule that needs pairs refuses the system
    traces, angles = [], []
    for w, b in zip(forward, backward, strict=True):
        cosine = w @ b / max(np.linalg.norm(w) * np.linalg.norm(b), 1e-30)
        traces.append(float(w @ b))
        angles.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return {"alignment_trace": traces, "alignment_angle": angles}


def _is_weight(leaf: Array, params: PyTree) -> bool:
    """Return whether a leaf is a matrix or kernel, or the model has no such leaf."""
    return leaf.ndim >= 2 or all(p.ndim < 2 for p in jax.tree.leaves(params))


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Return whether all numbers are finite, from sums over the last axis.

    The sums are written as matrix products, which XLA computes three times faster on a
    CPU.
    """
    leaves = [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(tree)]
    sums = [
        jnp.matmul(leaf, jnp.ones(leaf.shape[-1], leaf.dtype), precision="highest")
        for leaf in leaves
    ]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(s)) for s in sums]))
