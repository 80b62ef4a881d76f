"""Checks of a user's numbers, system, cost and data at the public functions.

Systems and costs are evaluated abstractly (`jax.eval_shape`): a mistake in a model is
reported before anything is computed.  Inside, functions trust each other.
"""

import sysconfig
import traceback
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._base import AbstractSystem
from ._total_energy import cost_of, has_total_energy

MEMBERS = (
    "potential",
    "learning_field",
    "total_energy",
    "synapses",
    "blocks",
    "prepared",
    "reciprocal",
    "tangent",
)
"""optional methods of a system, which a user may hide by a field of the same name"""


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number ≥ `least` as an int; raise `ValueError` for others."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number ≥ {least}")
    return int(value)


def is_whole(value: object) -> bool:
    """Return whether `value` is an integer and not a boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def batch(**trees: Any) -> tuple[Any, ...]:
    """Return the trees as arrays that JAX takes; they must be batches of one length.

    Arrays of other libraries (`__array__` or DLPack, e.g. PyTorch's) become arrays of
    NumPy or JAX.  Foreign byte orders become the machine's own.
    """
    if str(jax.config.jax_numpy_dtype_promotion) == "strict":  # type: ignore[attr-defined]
        raise ValueError(
            "jax_numpy_dtype_promotion is 'strict', but eqprop combines arrays of "
            "different dtypes (counts, labels, states); call it in a block "
            "with jax.numpy_dtype_promotion('standard'):"
        )
    found = {name: as_arrays(name, tree) for name, tree in trees.items()}
    batch_size(**found)
    return tuple(found.values())


def as_arrays(name: str, tree: Any) -> Any:
    """Return the tree with leaves that JAX takes; raise `ValueError` for others."""
    if hasattr(tree, "__next__"):  # an iterator, which JAX refuses in unclear words
        raise ValueError(f"{name} is {_no_array(name, tree)}")

    def array(path, leaf):
        return _as_array(name, name + jax.tree_util.keystr(path), leaf)

    return jax.tree_util.tree_map_with_path(array, tree)


def _as_array(name: str, label: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, np.ma.MaskedArray):
        raise ValueError(
            f"{label} is a masked array, but eqprop would use its masked values; fill "
            "them, e.g. x.filled(0), or leave these examples out"
        )
    if not isinstance(leaf, np.ndarray):
        if not any(hasattr(leaf, name) for name in ("__array__", "__dlpack__")):
            raise ValueError(f"{label} is {_no_array(name, leaf)}")
        leaf = _from_outside(label, leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    # JAX has no longdouble.
    longest = {"g": np.float64, "G": np.complex128}
    dtype = longest.get(leaf.dtype.char, leaf.dtype.newbyteorder("="))
    return leaf.astype(dtype, copy=False)


def _from_outside(label: str, leaf: Any) -> Any:
    """Return an array of another library (PyTorch, CuPy …) as NumPy's or JAX's."""
    leaf = leaf.detach() if callable(getattr(leaf, "detach", None)) else leaf
    readers = {"__array__": np.asarray, "__dlpack__": jnp.from_dlpack}
    reasons = []
    for name, read in readers.items():
        if not hasattr(leaf, name):
            continue
        try:
            return read(leaf)
        except Exception as error:  # another library may raise any class
            reasons.append(_reason(error))
    raise ValueError(
        f"{label} is a {type(leaf).__name__}, which neither NumPy nor DLPack can read "
        f"({'; '.join(reasons)}); convert it to a NumPy array first"
    )


def _no_array(name: str, leaf: Any) -> str:
    """Describe a leaf that is not an array, and say what to do."""
    kind = type(leaf).__name__
    if isinstance(leaf, str | bytes):
        return f"a {kind}, not an array; read the file first, e.g. with np.load"
    if isinstance(leaf, bool | int | float | complex):
        return f"a Python {kind}, not an array; pass np.asarray({name})"
    if hasattr(leaf, "toarray"):
        return f"a sparse {kind}; pass its toarray()"
    if hasattr(leaf, "__iter__") or hasattr(leaf, "__getitem__"):
        return (
            f"a {kind}, which yields examples or batches one after the other; eqprop "
            "takes arrays. Join the batches of a loader with "
            "x, y = (np.concatenate(parts) for parts in zip(*loader)) and single "
            "examples with np.stack; or call an estimator on each batch"
        )
    return f"a {kind}, not an array; give an array with a leading axis of examples"


def batch_size(**arrays: Any) -> int:
    """Return the common length of the leading axes; it must be the same for all."""
    sizes = {}
    for name, tree in arrays.items():
        if not jax.tree.leaves(tree):
            raise ValueError(f"{name} holds no arrays; give a batch of examples")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            label = name + jax.tree_util.keystr(path)
            if not hasattr(leaf, "dtype"):
                raise ValueError(
                    f"{label} is a Python {type(leaf).__name__}, not an array; pass "
                    f"np.asarray({name})"
                )
            if not any(jnp.issubdtype(leaf.dtype, k) for k in (jnp.number, jnp.bool_)):
                raise ValueError(
                    f"{label} has dtype {leaf.dtype}; give integers, booleans or "
                    "floating-point numbers"
                )
            if jnp.ndim(leaf) == 0:
                raise ValueError(
                    f"{label} is a scalar; it needs a leading batch axis: use "
                    "value[None] for a single example"
                )
            sizes[label] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(
            f"leading batch axes differ ({found}); they must be equal. The first axis "
            "counts examples; pass a single example as x[None] and y[None]"
        )
    if 0 in sizes.values():
        raise ValueError("the batch is empty; give at least one example")
    return next(iter(sizes.values()))


def check_finite(**arrays: Any) -> None:
    """Raise `ValueError` for NaN or infinity, with the index of the first."""
    for name, tree in arrays.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            # With NumPy, because JAX would compile a program for every shape.
            finite = np.isfinite(np.asarray(leaf))
            if not finite.all():
                wrong = np.argwhere(~finite)
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} has {len(wrong)} NaN or "
                    f"infinite value{'s' * (len(wrong) > 1)}, the first at index "
                    f"{tuple(wrong[0].tolist())}; remove or replace them"
                )


def check_system(system: Any, x: Any, state: Any) -> None:
    """Check that the members of a system agree on one example (shapes only)."""
    name = type(system).__name__
    for member in MEMBERS:
        value = getattr(system, member)
        if value is not None and not callable(value):
            raise ValueError(
                f"{name}.{member} is a {type(value).__name__}, but {member} is the "
                "name of an optional method of every system; rename the field"
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"{name}: state{jax.tree_util.keystr(path)} has dtype {leaf.dtype}; a "
                "state must be floating point"
            )
    if system.potential is not None:
        scalar = _eval(name, "energy or primitive", system.potential, x, state)
        if not hasattr(scalar, "shape") or scalar.shape != ():
            found = _described(scalar)
            raise ValueError(
                f"{name}: the energy (or primitive) of one example is {found}; it must "
                "be a scalar, shape (). Sum over units; eqprop adds the batch axis."
            )
        if not jnp.issubdtype(scalar.dtype, jnp.inexact):
            raise ValueError(
                f"{name}: the energy (or primitive) has dtype {scalar.dtype}; it must "
                "be a floating-point function of the state"
            )
    _check_same(
        name, "velocity", _eval(name, "velocity", system.velocity, x, state), state
    )
    _check_same(name, "project", _eval(name, "project", system.project, state), state)
    if not hasattr(_eval(name, "readout", system.readout, state), "shape"):
        raise ValueError(f"{name}.readout must return one array, the prediction")


def check_given_state(system: AbstractSystem, expected: Any, found: Any) -> None:
    """Check a state that the caller passes against that of `init_state`."""
    name = type(system).__name__
    if jax.tree.structure(expected) != jax.tree.structure(found):
        raise ValueError(
            f"state has the structure {_structure(found)}; {name} needs "
            f"{_structure(expected)}"
        )
    if shapes(expected) != shapes(found):
        raise ValueError(
            f"one example of state has the shapes {shapes(found)}; {name} needs "
            f"{shapes(expected)}"
        )


def check_cost(system: AbstractSystem, cost: Any, x: Any, y: Any, state: Any) -> None:
    """Check that the cost of one example is a scalar."""
    total = has_total_energy(system)
    if total and jax.tree.leaves(eqx.filter(cost, eqx.is_inexact_array)):
        raise ValueError(
            f"the cost has parameters, but {type(system).__name__}.total_energy "
            "contains its own cost; give cost=None, and move the parameters to the "
            "system"
        )
    if cost is None and not total:
        raise ValueError(
            f"cost is None, and {type(system).__name__} has no total_energy with its "
            "own cost; give a cost, e.g. ep.SquaredError()"
        )
    prediction = jax.eval_shape(system.readout, state)
    try:
        value = jax.eval_shape(lambda *one: cost_of(system, cost, *one), x, y, state)
    except Exception as error:
        raise ValueError(
            f"the cost failed on a prediction of shape {prediction.shape} and a target "
            f"of shape {shapes(y)}: {_reason(error)}"
        ) from error
    if getattr(value, "shape", None) != ():
        raise ValueError(
            f"the cost of one example is {_described(value)}; it must be a scalar, "
            "shape (). Sum over outputs."
        )
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        raise ValueError(
            f"the cost of one example has dtype {value.dtype}; it must be a "
            "floating-point function of the prediction"
        )


def example(tree: Any) -> Any:
    """Return the shapes of one example of a batched pytree."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)),
        tree,
    )


def initial_state(system: AbstractSystem, x: Any) -> Any:
    """Return the shapes of `system.init_state` of one example."""
    name = type(system).__name__
    if not isinstance(system, AbstractSystem):
        is_class = isinstance(system, type)
        found = f"the class {system.__name__}" if is_class else f"a {name}"
        raise ValueError(
            f"system is {found}; it must be an instance of a subclass of "
            "AbstractEnergy, AbstractPrimitive, AbstractMap, AbstractVectorField or "
            "AbstractSystem"
        )
    state = _eval(name, "init_state", system.init_state, x)
    if not jax.tree.leaves(state):
        raise ValueError(f"{name}.init_state returned no arrays; return at least one")
    return state


def _eval(name: str, what: str, function: Any, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        given = ", ".join(str(shapes(argument)) for argument in arguments)
        raise ValueError(
            f"{name}: {what} failed on one example with shapes {given}: "
            f"{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the message of an exception in a user's function, and its line."""
    text = next(iter(str(error).splitlines()), "")
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, jax.errors.JAXTypeError):
        text += " Write it with jax.numpy, and jnp.where instead of if."
    known = (Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename[0] != "<"
        and "site-packages" not in frame.filename
        and not any(folder in Path(frame.filename).parents for folder in known)
    ]
    return text + (lines[-1] if lines else "")


def _check_same(name: str, what: str, found: Any, state: Any) -> None:
    if jax.tree.structure(found) != jax.tree.structure(state):
        raise ValueError(
            f"{name}.{what} returned the structure {_structure(found)}; it must be "
            f"that of the state, {_structure(state)}"
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(found), strict=True
    )
    for (path, leaf), other in pairs:
        if leaf.shape != other.shape:
            raise ValueError(
                f"{name}.{what} returned shape {other.shape} for "
                f"state{jax.tree_util.keystr(path)}, which has shape {leaf.shape}; "
                "they must be equal"
            )


def _structure(tree: Any) -> str:
    """Return the nesting of a tree, with a star for each array."""
    return str(jax.tree.structure(tree)).removeprefix("PyTreeDef(").removesuffix(")")


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"of shape {shape}"


def shapes(tree: Any) -> Any:
    """Return the tree with each array replaced by its shape."""
    return jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf)), tree)
