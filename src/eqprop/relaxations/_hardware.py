"""A relaxation outside of the library: a chip, a circuit simulator, any program.

EP needs nothing of a physical network but its states in two phases.  Here they come
from the user's own function, once a phase for the whole batch, and the learning rule
takes them as it takes computed ones (in-the-loop training: the device's mismatch and
noise are part of what is trained).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from ..systems import _check
from ..systems._base import State
from ._base import AbstractRelaxation, Dynamics, Equilibrium, Status
from ._outside import Outside, raised


class HardwareInTheLoop(AbstractRelaxation, Outside):
    """States that a device, or any Python program, settles to.

    `device(params, x, y, beta, state) -> state` gets and returns NumPy arrays with a
    leading batch axis, its own copies of them:

    - `params`: the system, its arrays as NumPy (`params.weights[0]`);
    - `x`, `y`: inputs and targets; `y` is `None` in a free phase;
    - `beta`: a float, 0.0 in a free phase, or an array `[batch]`;
    - `state`: where to start, of the structure and shapes to be returned.

    Each phase is one call, neither repeated nor left out, also inside `jax.jit` and
    training; centered EP makes three a batch, with 0, β and −β.  A key is not handed
    on: a device has noise of its own.  The cost it nudges with is the device's affair
    too; the library's is what the loss and ∂C/∂θ are computed from.

    The result counts as one step; its status is `settled` where the residual, the
    model's projected velocity at the device's state, is finite: the device is trusted,
    and the residual says how far the model is from it.  No derivative goes through the
    device: rules that need a Jacobian (RBP, BPTT, implicit, AsymEP, Dyadic EP) take
    the model's, at the device's state.

    An exception of the device reaches the caller as it is; a state of another
    structure, shape or kind of number, or that is not finite, is a `ValueError`.
    Ctrl-C interrupts it like any Python.

    **Arguments:**

    - `device`: the function; it must not call JAX.
    """

    device: Callable[[Any, Any, Any, Any, Any], Any] = eqx.field(static=True)
    """(params, x, y, beta, state) -> state, in NumPy"""
    steps: int = eqx.field(default=1, init=False)
    tol: float | None = eqx.field(default=None, init=False)

    def __check_init__(self):
        if not callable(self.device):
            raise ValueError(
                f"device is {self.device!r}; give a function (params, x, y, beta, "
                "state) -> state"
            )
        try:
            hash(self.device)
        except TypeError:
            raise ValueError(
                f"device is a {type(self.device).__name__} without a hash, by which "
                "compiled programs are found again; wrap it: def device(*args): return "
                "it(*args)"
            ) from None

    def step(self, dynamics: Dynamics, s: State, key):
        raise ValueError(
            "HardwareInTheLoop settles whole batches at once and takes no single "
            "steps; give ep.Euler where a theorem or a trajectory is asked for"
        )

    def settle_batch(self, system, x, y, state, cost, beta, keys) -> Equilibrium:
        del keys
        if any(jnp.iscomplexobj(u) for u in (beta, *jax.tree.leaves(state))):
            raise ValueError(
                "a device has no complex states; holomorphic EP needs computed phases, "
                "e.g. nudged=ep.Euler(...)"
            )
        if jax.tree.leaves(eqx.filter(cost, eqx.is_inexact_array)):
            raise ValueError(
                f"the cost {type(cost).__name__} has parameters, which a device would "
                "not get; make them the system's, and give a cost without"
            )
        arrays, static = eqx.partition(system, eqx.is_array)
        given = jax.lax.stop_gradient((arrays, x, y, beta, state))

        words = jax.tree.map(_to_words, given)
        shapes = jax.eval_shape(lambda: jax.tree.map(_to_words, state))
        kinds = jax.tree.map(lambda u: u.dtype, given)

        def call(*words):
            try:
                words = jax.tree.map(np.asarray, words)
                numbers = jax.tree.map(_from_words, words, kinds)
                arrays, x, y, beta, state = numbers
                params = eqx.combine(arrays, static)
                beta = beta if beta.ndim else float(beta)
                start = jax.tree.map(np.copy, state)
                found = _as_state(self.device(params, x, y, beta, start), state)
                return jax.tree.map(_to_words, found)
            except BaseException as error:
                raised.append(error)
                raise

        # Impure, so that no call is merged with another, dropped or repeated; under
        # jax.vmap (the phases of β) it is called once for each, with whole batches.
        found = jax.lax.stop_gradient(io_callback(call, shapes, *words))
        reached = jax.tree.map(lambda u, s: _from_words(u, s.dtype), found, state)

        def residual(x, y, s, beta):
            return self.residual(Dynamics(system, x, cost, y, beta), s)

        axes = (0, 0, 0, 0 if beta.ndim else None)
        left = jax.vmap(residual, in_axes=axes)(x, y, reached, beta)
        status = jnp.where(jnp.isfinite(left), Status.settled, Status.diverged)
        return Equilibrium(reached, jnp.ones(left.shape, int), left, status)


def _to_words(array: Any) -> Any:
    """Numbers of 64 bits as pairs of 32, which JAX hands to and from a callback as is.

    It rounds others where the callback's thread does not know of `jax.enable_x64`.
    """
    if array.dtype not in (np.float64, np.int64, np.uint64):
        return array
    if isinstance(array, np.ndarray):
        return array[..., None].view(np.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.uint32)


def _from_words(words: Any, kind: Any) -> Any:
    """The numbers of that kind again; in NumPy a writable copy of them."""
    if words.dtype != kind:
        if isinstance(words, np.ndarray):
            return np.array(words).view(kind)[..., 0]
        return jax.lax.bitcast_convert_type(words, kind)
    return np.array(words) if isinstance(words, np.ndarray) else words


def _as_state(found: Any, state: State) -> State:
    """The device's answer as arrays like `state`, or a ValueError that says why not."""
    if jax.tree.structure(found) != jax.tree.structure(state):
        raise ValueError(
            f"the device returned the structure {_check._structure(found)}; a state is "
            f"{_check._structure(state)}"
        )

    def leaf(path, old, new):
        name, new = f"state{jax.tree_util.keystr(path)}", np.asarray(new)
        if new.shape != old.shape:
            raise ValueError(
                f"the device returned shape {new.shape} for {name}; it must be "
                f"{old.shape}, batch first"
            )
        if not np.issubdtype(new.dtype, np.floating):
            raise ValueError(
                f"the device returned {new.dtype} for {name}; give floating-point "
                "numbers, in the units of the model's state"
            )
        if not np.isfinite(new).all():
            first = int(np.argwhere(~np.isfinite(new))[0, 0])
            raise ValueError(
                f"the device returned NaN or infinity for {name}, first in example "
                f"{first} of the batch; it must be finite"
            )
        # A copy: the device may use its own buffer again.
        return np.array(new, old.dtype)

    return jax.tree_util.tree_map_with_path(leaf, state, found)
