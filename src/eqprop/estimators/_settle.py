"""A settling network as one layer of any JAX program.

`jax.grad` through `settle` gives the incoming cotangent g to an estimator as the
linear cost g·s: EP nudges with F = E + β g·s, the references do as they always do.
"""

import dataclasses
import warnings
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..costs import AbstractCost
from ..relaxations import Equilibrium, relax, Status
from ..relaxations._numbers import traced
from ..systems import _check
from ..systems._base import AbstractSystem, Block, State
from ._base import AbstractEstimator
from ._reverse import first_order, reverse_only
from ._rounding import warn_rounded
from ._step import inner, norm


def settle(
    system: AbstractSystem,
    x: PyTree[Array],
    *,
    adjoint: AbstractEstimator,
    state: State | None = None,
    key: PRNGKeyArray | None = None,
    with_equilibrium: bool = False,
    warn: bool = False,
) -> Any:
    """Return the settled states of a batch, with gradients by `adjoint`.

    `jax.grad` reaches the system's parameters and x; `state` and `key` are constants.
    EP's nudge is β times the example's cotangent scaled to norm 1, so that β means
    the same whatever comes after the layer.  Only first derivatives in reverse mode
    are supported.

    The gradient is right only where the states settled, and the state alone does not
    show it.  To see convergence, outside or inside `jax.jit`:

        state, equilibrium = ep.settle(system, x, adjoint=rule, with_equilibrium=True)
        settled = jnp.mean(equilibrium.status == ep.Status.settled)  # share of them

    `equilibrium.residual` says how far each example still moves, and `steps` how many
    it took.  Give `adjoint.free` more steps until `settled` is 1.

    **Arguments:**

    - `x`: inputs with a leading batch axis.
    - `adjoint`: any estimator; its `free` relaxation settles the state.
    - `state`: batched state to start from; `system.init_state(x)` where `None`.
    - `key`: for rules and relaxations that draw random numbers.
    - `with_equilibrium`: also return the `Equilibrium` of the free phase, a constant
      for derivatives.
    - `warn`: warn whenever an example of a batch did not settle, in the free phase
      or in a nudged phase of the backward pass, and once if that pass is mostly
      rounding (`RoundedGradient`).  It works under `jax.jit` (a
      `jax.debug.callback`); use it while a program is developed.

    **Returns:** the batched state; use `system.readout` under `jax.vmap` on it.  With
        `with_equilibrium` the pair (state, `Equilibrium`).

    **Raises:** `ValueError` if shapes do not agree or `adjoint` is no estimator, or
        one that gives no gradient of the loss above the layer; `NotImplementedError`
        for derivatives in forward mode and for second derivatives.
    """
    if not isinstance(adjoint, AbstractEstimator):
        raise ValueError(
            f"adjoint is a {type(adjoint).__name__}; give an estimator, e.g. "
            "ep.EquilibriumPropagation(free=…, nudged=…, beta=0.1)"
        )
    if adjoint.no_adjoint:
        raise ValueError(
            f"adjoint is {type(adjoint).__name__}, which {adjoint.no_adjoint}; use "
            "e.g. ep.EquilibriumPropagation"
        )
    nudged = vars(adjoint).get("nudged")
    if nudged is not None and nudged.outside:
        raise ValueError(
            f"adjoint.nudged is a {type(nudged).__name__}; here the nudge is a "
            "cotangent, but a device nudges with its own cost: use ep.Euler, or "
            "ep.RecurrentBackpropagation (`free` may be the device)"
        )
    (x,) = _check.batch(x=x)
    x = jax.tree.map(jnp.asarray, x)  # the backward pass takes single examples of it
    state = _check.as_arrays("state", state)
    system, x = reverse_only((system, x))
    found = _settle(
        (system, x), traced(adjoint, system, x), jax.lax.stop_gradient(state), key, warn
    )
    found = Equilibrium(found.state, *jax.lax.stop_gradient(_measured(found)))
    return (found.state, found) if with_equilibrium else found.state


@eqx.filter_custom_vjp
def _settle(differentiable, adjoint, state, key, warn) -> Equilibrium:
    return _free(differentiable, adjoint, state, key, warn)


def _free(differentiable, adjoint, state, key, warn) -> Equilibrium:
    system, x = differentiable
    free_key = None if key is None else jax.random.split(key, 3)[0]
    free = relax(system, x, adjoint.free, state=state, key=free_key)
    if warn:
        _warn("free", free.status)
    return free


@_settle.def_fwd
def _forward(perturbed, differentiable, adjoint, state, key, warn):
    del perturbed
    free = _free(differentiable, adjoint, state, key, warn)
    return free, free


@_settle.def_bwd
def _backward(free, cotangent, perturbed, differentiable, adjoint, state, key, warn):
    del perturbed, state
    free, cotangent, differentiable = first_order((free, cotangent, differentiable))
    system, x = differentiable
    cotangent = jax.tree.map(
        lambda g, s: jnp.zeros_like(s) if g is None else g,
        cotangent.state,
        free.state,
        is_leaf=lambda leaf: leaf is None,
    )
    size = jax.vmap(norm)(cotangent)
    safe = jnp.where(size == 0, 1, size)
    direction = jax.vmap(_flat)(cotangent) / safe[:, None]
    keys = (None, None) if key is None else tuple(jax.random.split(key, 3)[::2])
    index = jnp.arange(len(size))
    gradient = adjoint.at(
        _Layer(system, x), _LinearCost(), index, direction, free, keys, size
    )
    if warn and "nudged_status" in gradient.stats.values:
        _warn("nudged", gradient.stats["nudged_status"])
    if warn and "rounding" in gradient.stats.values:
        _warn_rounded(adjoint, gradient.stats["rounding"], size.dtype)
    # The weights are the norms of the cotangents, so the mean becomes their sum.
    total = jnp.sum(size)
    layer = jax.tree.map(lambda g: g * total.astype(g.dtype), gradient.grads)
    return _like((system, x), (layer.system, layer.inputs))


class NotSettled(UserWarning):
    """Examples of `ep.settle` did not settle, so that their gradient is not right."""


def _warn(phase: str, status: Array) -> None:
    """Warn at run time of every batch with examples that did not settle."""

    def say(unsettled, examples):
        if unsettled:
            warnings.warn(
                f"ep.settle: {unsettled} of {examples} states of the {phase} phase did "
                "not settle, so that the gradient through them is not right; give "
                f"adjoint.{phase} more steps, or a smaller dt where they oscillate or "
                "diverge",
                NotSettled,
                stacklevel=2,
            )

    jax.debug.callback(say, jnp.sum(status != Status.settled), status.size)


def _warn_rounded(adjoint: AbstractEstimator, error: Array, dtype: Any) -> None:
    """Warn at run time, once for each β, of a backward pass that is mostly rounding."""
    jax.debug.callback(lambda error: warn_rounded(adjoint, float(error), dtype), error)


def _measured(found: Equilibrium) -> tuple[Array, Array, Array]:
    return found.steps, found.residual, found.status


def _like(tree: Any, grads: Any) -> Any:
    """`grads` with None wherever `tree` has no inexact array."""
    return jax.tree.map(
        lambda leaf, g: g if eqx.is_inexact_array(leaf) else None,
        tree,
        grads,
        is_leaf=lambda leaf: leaf is None,
    )


def _flat(s: State) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(s)])


class _LinearCost(AbstractCost):
    """⟨g, s⟩, of which ∂/∂s is the cotangent g."""

    curvature: ClassVar[float] = 0.0

    def __call__(self, prediction, y):
        return inner(prediction, y)


class _Layer(AbstractSystem):
    """A system whose inputs are parameters too, one for each example.

    An example's x is its index, and the prediction is its whole state.  The layer has
    no total energy: its cost is the cotangent.
    """

    system: AbstractSystem
    inputs: PyTree[Array]

    def _x(self, index):
        return jax.tree.map(lambda leaf: leaf[index], self.inputs)

    def init_state(self, x):
        return self.system.init_state(self._x(x))

    def velocity(self, x, s):
        return self.system.velocity(self._x(x), s)

    def forced_velocity(self, x, s, force):
        return self.system.forced_velocity(self._x(x), s, force)

    def project(self, s):
        return self.system.project(s)

    def project_parameters(self):
        return dataclasses.replace(self, system=self.system.project_parameters())

    def prepared(self):
        return dataclasses.replace(self, system=self.system.prepared())

    def reciprocal(self):
        return self.system.reciprocal()

    def tangent(self, direction):
        return self.system.tangent(direction)

    def readout(self, s):
        return _flat(s)

    @property
    def potential(self):
        return self._at(self.system.potential)

    @property
    def learning_field(self):
        return self._at(self.system.learning_field)

    @property
    def rates(self):
        return self.system.rates

    @property
    def synapses(self):
        return self._at(self.system.synapses)

    def _at(self, function):
        return function and (lambda x, s: function(self._x(x), s))

    def blocks(self):
        blocks = self.system.blocks()
        return blocks and tuple(self._block(block) for block in blocks)

    def _block(self, block: Block) -> Block:
        curvature = block.curvature
        if not callable(curvature):
            return block
        return dataclasses.replace(
            block, curvature=lambda x, s: curvature(self._x(x), s)
        )
