"""A relaxation outside the library: a chip, a circuit simulator, any program.

EP only needs the states of a physical network in two phases.  Here the user's function
returns them, once a phase for the whole batch.  The learning rule uses them like
computed states, so training includes the device's mismatch and noise.
"""

import functools
import inspect
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
from ._outside import raised


class HardwareInTheLoop(AbstractRelaxation):
    """The states to which a device, or any Python program, settles.

    `device(params, x, y, beta, state) -> state` gets and returns NumPy arrays with a
    leading batch axis.  The arrays are copies:

    - `params`: the system, its arrays as NumPy (`params.weights[0]`);
    - `x`, `y`: inputs and targets; `y` is `None` in a free phase;
    - `beta`: a float, 0.0 in a free phase, or an array `[batch]`;
    - `state`: the start state; the returned state must have its structure and shapes.

    A device with a parameter `key` or `phase` also gets, by keyword:

    - `key`: an array of integers, a seed for `numpy.random.default_rng(key)`, or `None`
      if the caller has no key.  Training passes a key; a resumed run passes the same;
    - `phase`: `"free"` or `"nudged"`; the sign of `beta` distinguishes nudged phases.

    The device may return `(state, status)`, with an `ep.Status` for each example.
    Examples that did not settle are then treated as in a computed phase
    (`on_unsettled`), and the state of a diverged example may be NaN.  Return float64:
    `Equilibrium.remainder` keeps the part that the model's dtype cannot hold, and EP's
    contrast uses it.

    Each phase is exactly one call, also inside `jax.jit` and training.  Centered EP
    makes three calls a batch, with 0, β and −β.  With `batched` it makes two: `state`
    and the returned state then start with an axis of phases (of length 1 in a free
    phase), `beta` has the shape `[phases]` or `[phases, batch]`, `key` has
    `[phases, words]` and the status `[phases, batch]`; x and y have no such axis.  The
    estimator's `common_noise` decides whether phases share a key.  The device nudges
    with its own cost; the library's cost gives the loss and ∂C/∂θ.

    The result counts as one step.  If the device returns no status, an example is
    `settled` if its residual, the model's projected velocity at the device's state, is
    finite.  The residual measures how far the model is from the device.  Derivatives do
    not pass through the device: rules that need a Jacobian (RBP, BPTT, implicit,
    AsymEP, Dyadic EP) use the model's Jacobian at the device's state.

    An exception of the device reaches the caller unchanged.  A returned state with
    another structure, shape or kind of number raises `ValueError`, and so does a state
    that is not finite unless its example diverged.  Ctrl-C interrupts the device.

    **Arguments:**

    - `device`: the function; it cannot call JAX.
    - `batched`: settle all nudged phases of a batch in one call.
    """

    device: Callable[..., Any] = eqx.field(static=True)
    """(params, x, y, beta, state) -> state, in NumPy"""
    batched: bool = eqx.field(default=False, static=True)
    """settle all nudged phases of a batch in one call"""
    steps: int = eqx.field(default=1, init=False)
    tol: float | None = eqx.field(default=None, init=False)
    outside = True

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
                f"device is a {type(self.device).__name__} without a hash, which JAX "
                "needs to find its compiled program again; wrap it: def device(*args): "
                "return it(*args)"
            ) from None

    def step(self, dynamics: Dynamics, s: State, key):
        raise ValueError(
            "HardwareInTheLoop settles whole batches at once and has no single steps; "
            "use ep.Euler for a theorem or a trajectory"
        )

    def settle_batch(self, system, x, y, state, cost, beta, keys) -> Equilibrium:
        if any(jnp.iscomplexobj(u) for u in (beta, *jax.tree.leaves(state))):
            raise ValueError(
                "the state is complex, but a device has real states; holomorphic EP "
                "needs computed phases, e.g. nudged=ep.Euler(...)"
            )
        if jax.tree.leaves(eqx.filter(cost, eqx.is_inexact_array)):
            raise ValueError(
                f"the cost {type(cost).__name__} has parameters, which a device does "
                "not get; move them to the system, and give a cost without parameters"
            )
        arrays, static = eqx.partition(system, eqx.is_array)
        key = None if keys is None else jax.random.key_data(keys[0])
        given = jax.lax.stop_gradient(((arrays, x, y), (beta, state, key)))
        kinds = jax.tree.map(lambda u: u.dtype, given)
        call = functools.partial(self._call, static, kinds)
        ask = _in_one_call(call, state) if self.batched else _ask(call, state)
        words, remainder, status = ask(*jax.tree.map(_to_words, given))
        reached = jax.tree.map(lambda u, s: _from_words(u, s.dtype), words, state)
        reached, remainder = jax.lax.stop_gradient((reached, remainder))

        def residual(x, y, s, beta):
            return self.residual(Dynamics(system, x, cost, y, beta), s)

        axes = (0, 0, 0, 0 if beta.ndim else None)
        left = jax.vmap(residual, in_axes=axes)(x, y, reached, beta)
        status = jnp.where(jnp.isfinite(left), status, Status.diverged)
        return Equilibrium(reached, jnp.ones(left.shape, int), left, status, remainder)

    def _call(self, static: Any, kinds: Any, *words: Any) -> Any:
        """Call the device once and return its checked answer, all in NumPy."""
        try:
            words = jax.tree.map(np.asarray, words)
            numbers = jax.tree.map(_from_words, words, kinds)
            (arrays, x, y), (beta, state, key) = numbers
            told = {"key": key, "phase": "free" if y is None else "nudged"}
            told = {name: told[name] for name in _keywords(self.device) & told.keys()}
            beta = beta if beta.ndim else float(beta)
            start = jax.tree.map(lambda u: np.where(np.isfinite(u), u, 0), state)
            params = eqx.combine(arrays, static)
            return _answer(
                self.device(params, x, y, beta, start, **told), state, 1 + self.batched
            )
        except BaseException as error:
            raised.append(error)
            raise


def _ask(call: Callable, state: State, phases: tuple[int, ...] = ()) -> Callable:
    """Return the call as a JAX function: (state in words, remainder, status)."""
    high = jax.eval_shape(lambda: jax.tree.map(_to_words, state))
    low = None
    if any(leaf.dtype != np.float64 for leaf in jax.tree.leaves(state)):
        low = jax.tree.map(lambda u: jax.ShapeDtypeStruct(u.shape, np.float32), state)
    batch = jax.tree.leaves(state)[0].shape[:1]
    shapes = (high, low, jax.ShapeDtypeStruct(batch, np.int32))
    shapes = jax.tree.map(
        lambda u: jax.ShapeDtypeStruct((*phases, *u.shape), u.dtype), shapes
    )
    # An impure callback, so that JAX does not merge, drop or repeat a call.  Under
    # jax.vmap (the phases of β) it runs once for each phase, with whole batches.
    return functools.partial(io_callback, call, shapes)


def _in_one_call(call: Callable, state: State) -> Callable:
    """Return `_ask` with an axis of phases, over which `jax.vmap` makes one call."""

    @jax.custom_batching.custom_vmap
    def ask(fixed, varied):
        varied = jax.tree.map(lambda u: u[None], varied)
        return jax.tree.map(lambda u: u[0], _ask(call, state, (1,))(fixed, varied))

    @ask.def_vmap
    def phases(size, mapped, fixed, varied):
        def one(u, is_mapped):
            return u if is_mapped else jnp.broadcast_to(u, (size, *u.shape))

        def spread(tree, mapped):
            return jax.tree.map(one, tree, mapped)

        if any(jax.tree.leaves(mapped[0])):  # the user's own vmap, over models or data
            given = (spread(fixed, mapped[0]), spread(varied, mapped[1]))
            found = jax.lax.map(lambda one: ask(*one), given)
        else:
            found = _ask(call, state, (size,))(fixed, spread(varied, mapped[1]))
        return found, jax.tree.map(lambda _: True, found)

    return ask


def _keywords(device: Callable) -> set[str]:
    """Return the names that a device takes by keyword, after its five arguments."""
    try:
        parameters = list(inspect.signature(device).parameters.values())
    except (TypeError, ValueError):  # a builtin, or an object without a signature
        return set()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {"key", "phase"}
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return {p.name for p in parameters if p not in positional[:5]}


def _to_words(array: Any) -> Any:
    """Return numbers of 64 bits as pairs of 32 bits, which JAX passes unchanged.

    JAX would round them, because the callback's thread ignores `jax.enable_x64`.
    """
    if array.dtype not in (np.float64, np.int64, np.uint64):
        return array
    if isinstance(array, np.ndarray):
        return array[..., None].view(np.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.uint32)


def _from_words(words: Any, kind: Any) -> Any:
    """Return the numbers of that dtype again; in NumPy as a writable copy."""
    if words.dtype != kind:
        if isinstance(words, np.ndarray):
            return np.array(words).view(kind)[..., 0]
        return jax.lax.bitcast_convert_type(words, kind)
    return np.array(words) if isinstance(words, np.ndarray) else words


def _answer(found: Any, state: State, axes: int) -> Any:
    """Return (state in words, remainder, status) of a device's checked answer.

    `axes` counts the leading axes: examples, and phases if any.
    """
    expected, shape = jax.tree.structure(state), jax.tree.leaves(state)[0].shape[:axes]
    status = np.full(shape, Status.settled, np.int32)
    pair = isinstance(found, tuple) and len(found) == 2
    if pair and jax.tree.structure(found) != expected:
        first, second = found
        if jax.tree.structure(first) == expected:
            found, status = first, _as_status(second, shape)
    if jax.tree.structure(found) != expected:
        raise ValueError(
            f"the device returned the structure {_check._structure(found)}; return "
            f"{_check._structure(state)}, alone or in a pair (state, status)"
        )
    found = jax.tree_util.tree_map_with_path(
        functools.partial(_as_leaf, status), state, found
    )
    high = jax.tree.map(lambda old, new: np.array(new, old.dtype), state, found)
    low = None
    if any(leaf.dtype != np.float64 for leaf in jax.tree.leaves(state)):

        def rounded_away(h, new):
            return np.asarray(new - h.astype(np.float64), np.float32)

        with np.errstate(invalid="ignore"):
            low = jax.tree.map(rounded_away, high, found)
    return jax.tree.map(_to_words, high), low, status


def _as_status(status: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a checked `Status` number for each example."""
    status = np.asarray(status)
    kinds = [int(kind) for kind in Status]
    integers = np.issubdtype(status.dtype, np.integer)
    if status.shape != shape or not integers or not np.isin(status, kinds).all():
        raise ValueError(
            f"the device returned the status {status!r}; it must contain numbers of "
            f"ep.Status, {kinds[0]} to {kinds[-1]}, one for each example: shape {shape}"
        )
    return status.astype(np.int32)


def _as_leaf(status: np.ndarray, path: Any, old: Any, new: Any) -> np.ndarray:
    """Return one checked array of a device's state in float64."""
    name, new = f"state{jax.tree_util.keystr(path)}", np.asarray(new)
    if new.shape != old.shape:
        leading = "batch first" if status.ndim == 1 else "phases and batch first"
        raise ValueError(
            f"the device returned shape {new.shape} for {name}; it must be "
            f"{old.shape}, {leading}"
        )
    if not np.issubdtype(new.dtype, np.floating):
        raise ValueError(
            f"the device returned {new.dtype} for {name}; give floating-point "
            "numbers, in the units of the model's state"
        )
    finite = np.isfinite(new).reshape(*status.shape, -1).all(-1)
    wrong = ~finite & (status != Status.diverged)
    if wrong.any():
        first = int(np.argwhere(wrong)[0, -1])
        raise ValueError(
            f"the device returned NaN or infinity for {name}, first in example "
            f"{first} of the batch; it must be finite. If an example failed, return "
            "(state, status) with ep.Status.diverged for it"
        )
    # Copy, because the device may reuse its buffer.
    return np.array(new, np.float64)
