"""The one signature of every learning rule, and what it returns."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from ..relaxations import AbstractRelaxation, Equilibrium, relax
from ..relaxations._numbers import traced
from ..relaxations._outside import hear, uses_outside
from ..systems import _check
from ..systems._base import AbstractSystem, State
from ..systems._norm import norm
from ..systems._total_energy import check_total_energy
from ._rounding import warn_rounded


class Stats(eqx.Module):
    """What a rule reports of itself: its name, and arrays by name.

    `stats["rule"]` is the name, `stats["nudged_residual"]` one of the arrays.
    """

    rule: str = eqx.field(static=True)
    values: dict[str, Array]

    def __getitem__(self, name: str) -> Any:
        return self.rule if name == "rule" else self.values[name]

    def keys(self) -> tuple[str, ...]:
        """All names."""
        return ("rule", *self.values)


class Gradient(eqx.Module):
    """Loss and gradient of a batch, both (weighted) means over its examples.

    - `loss`: the cost of the free equilibrium.
    - `grads`: like the system, `None` where a leaf is no floating-point array.
    - `cost_grads`: the same for the cost.
    - `equilibrium`: the free phase, per example.
    - `stats`: the rule's name and its own measurements.
    - `weight`: the weights `[batch]` of those means, 0 where the rule or its caller
      left an example out; `None`: all alike.  Where all are 0, the means are 0.
    """

    loss: Scalar
    grads: PyTree[Array | None]
    cost_grads: PyTree[Array | None]
    equilibrium: Equilibrium
    stats: Stats
    weight: Float[Array, " batch"] | None = None


class AbstractEstimator(eqx.Module):
    """A learning rule: `estimator(system, cost, x, y) -> Gradient`.

    `state` is the batched state from which the free phase starts (`init_state`
    where `None`), `key` the randomness of rules that draw some, and `weight[batch]`
    weights the means: 0 leaves an example out of loss and gradient.
    """

    free: eqx.AbstractVar[AbstractRelaxation]
    no_adjoint: ClassVar[str] = ""
    """what keeps a rule from being the adjoint of `ep.settle`"""
    approximate: ClassVar[str] = ""
    """why the rule does not compute the exact gradient, even at rest as β → 0"""

    def __call__(
        self,
        system: AbstractSystem,
        cost: Any,
        x: PyTree[Array],
        y: PyTree[Array],
        *,
        state: State | None = None,
        key: PRNGKeyArray | None = None,
        weight: Float[Array, " batch"] | None = None,
    ) -> Gradient:
        """Estimate the gradient of the mean cost of the settled state.

        `cost` is `None` for a system whose total energy brings its own; one that is
        given must equal it, which is checked outside of `jax.jit`.
        """
        x, y = _check.batch(x=x, y=y)
        batch = _check.batch_size(x=x)
        state = _check.as_arrays("state", state)
        weight = None if weight is None else jnp.asarray(weight)
        if weight is not None and jnp.shape(weight) != (batch,):
            raise ValueError(
                f"weight has shape {jnp.shape(weight)}; give one weight ≥ 0 per "
                f"example, shape ({batch},)"
            )
        problem = (system, cost, x, y, state, key, weight)
        rule = traced(self, *problem)
        gradient = hear(AbstractEstimator._compiled, rule, *problem)
        if not isinstance(gradient.loss, Tracer):
            check_total_energy(system, cost, x, y, gradient.equilibrium.state)
            self.free.refuse(system, x, state, gradient.equilibrium)
            self.check(gradient)
            self._warn_rounded(gradient)
        return gradient

    def _warn_rounded(self, gradient: Gradient) -> None:
        """Warn once if most of the gradient is rounding; not where the cost is 0."""
        error = gradient.stats.values.get("rounding")
        if error is None:
            return
        dtype = jnp.result_type(*jax.tree.leaves(gradient.equilibrium.state))
        if abs(float(gradient.loss)) > float(jnp.finfo(dtype).eps):
            warn_rounded(self, float(error), dtype)

    @eqx.filter_jit
    def _compiled(self, system, cost, x, y, state, key, weight) -> Gradient:
        found = _share_rounding(self.estimate(system, cost, x, y, state, key, weight))
        used = weight if found.weight is None else found.weight
        return found if used is None else _weighted(found, used)

    def estimate(
        self,
        system: AbstractSystem,
        cost: Any,
        x: PyTree[Array],
        y: PyTree[Array],
        state: State | None,
        key: PRNGKeyArray | None,
        weight: Float[Array, " batch"] | None,
    ) -> Gradient:
        """The free phase, then the rule; called with checked arguments."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        free = relax(system, x, self.free, state=state, key=keys[0])
        _check.check_cost(system, cost, *_check.example((x, y, free.state)))
        return self.at(system, cost, x, y, free, (keys[0], keys[2]), weight)

    @abc.abstractmethod
    def at(
        self,
        system: AbstractSystem,
        cost: Any,
        x: PyTree[Array],
        y: PyTree[Array],
        free: Equilibrium,
        keys: tuple[PRNGKeyArray | None, PRNGKeyArray | None],
        weight: Float[Array, " batch"] | None,
    ) -> Gradient:
        """The rule itself at a given free equilibrium, under `jax.jit`.

        `keys` holds the key of the free phase, for nudged phases that share its
        noise, and one for the rule's own draws.
        """

    def check(self, gradient: Gradient) -> None:
        """Raise if the gradient must not be used; outside of `jax.jit` only."""

    def check_optimizer(
        self, optimizer: optax.GradientTransformation, params: PyTree[Array]
    ) -> None:
        """Raise if the rule's gradients mean nothing to that optimizer.

        `params` are the parameters of the pair (system, cost).
        """

    def check_devices(self, devices: int, batch_size: int) -> None:
        """Raise if that many devices could not share a batch with the same result.

        A device calls the rule on its part of the batch, with the same key as the
        others.  Noise of single examples comes from `example_keys`.
        """
        if devices > 1 and uses_outside(self):
            raise ValueError(
                f"{type(self).__name__} relaxes on a device of yours, of which there "
                f"is one: it cannot be shared by {devices}; train on one device"
            )


def _share_rounding(found: Gradient) -> Gradient:
    """Make `stats["rounding"]` relative to the whole gradient, the cost's included.

    Rounding of the states spoils the system's part only.  That part is 0 while a
    readout in the cost still has weights of 0.
    """
    if "rounding" not in found.stats.values or not jax.tree.leaves(found.cost_grads):
        return found
    values = found.stats.values
    error = values["rounding"]

    def shared() -> Scalar:
        part, whole = norm(found.grads), norm((found.grads, found.cost_grads))
        return (error * part / jnp.where(whole > 0, whole, 1)).astype(error.dtype)

    # The error of a batch that is not measured is 0: skip the norms.
    rounding = jax.lax.cond(error > 0, shared, lambda: jnp.zeros_like(error))
    values = values | {"rounding": rounding}
    return dataclasses.replace(found, stats=Stats(found.stats.rule, values))


def _weighted(found: Gradient, weight: Float[Array, " batch"]) -> Gradient:
    """With its weights, and 0 for the means of no example: those may be of a NaN."""
    empty = jnp.sum(weight) == 0
    means = (found.loss, found.grads, found.cost_grads)
    loss, grads, cost_grads = jax.tree.map(lambda v: jnp.where(empty, 0, v), means)
    return Gradient(loss, grads, cost_grads, found.equilibrium, found.stats, weight)


def weighted_mean(
    values: Float[Array, " batch"], weight: Float[Array, " batch"] | None
) -> Scalar:
    """Σ w v / Σ w, over the examples with w ≠ 0 only: a NaN of weight 0 is ignored."""
    if weight is None:
        return jnp.mean(values)
    total = jnp.sum(weight)
    kept = jnp.where(weight != 0, values, 0)
    return jnp.sum(weight * kept) / jnp.where(total == 0, 1, total)


def replace_ignored(tree: PyTree, weight: Float[Array, " batch"] | None) -> PyTree:
    """`tree` with the examples of weight 0 replaced by the one of largest weight.

    Differentiating around a NaN with `where` gives NaN; around a copy it does not.
    """
    if weight is None:
        return tree
    chosen = jnp.where(weight != 0, jnp.arange(len(weight)), jnp.argmax(weight))
    return jax.tree.map(lambda leaf: leaf[chosen], tree)


class UnsuitableRule(ValueError):
    """The system or cost does not fit a learning rule; `instead` names rules that do.

    They are named by their words on the command line, the keys of `ESTIMATORS`.
    """

    def __init__(self, message: str, *instead: str) -> None:
        super().__init__(message)
        self.instead = instead
