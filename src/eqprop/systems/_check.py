"""Shape checks of a user's system, cost and data, at trace time and at no cost.

Everything is evaluated abstractly (`jax.eval_shape`), so a mistake in a model is
reported before anything is computed, with what was found and what is expected.
"""

import sysconfig
import traceback
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._base import AbstractSystem, has_potential
from ._total_energy import cost_of, has_total_energy


def batch(**trees: Any) -> tuple[Any, ...]:
    """The trees with leaves that JAX takes, checked to be batches of one length.

    Arrays of other libraries (`__array__` or DLPack, e.g. PyTorch's) become NumPy's or
    JAX's, foreign byte orders the machine's own.
    """
    if str(jax.config.jax_numpy_dtype_promotion) == "strict":  # type: ignore[attr-defined]
        raise ValueError(
            "jax_numpy_dtype_promotion is 'strict', and eqprop computes with arrays of "
            "different dtypes (counts, labels, states); call it in a block "
            "with jax.numpy_dtype_promotion('standard'):"
        )
    found = {name: as_arrays(name, tree) for name, tree in trees.items()}
    batch_size(**found)
    return tuple(found.values())


def as_arrays(name: str, tree: Any) -> Any:
    """The tree with leaves that JAX takes; a ValueError for what is no array."""

    if hasattr(tree, "__next__"):  # of which JAX makes an error of its own
        raise ValueError(f"{name} is {_no_array(name, tree)}")

    def array(path, leaf):
        return _as_array(name, name + jax.tree_util.keystr(path), leaf)

    return jax.tree_util.tree_map_with_path(array, tree)


def _as_array(name: str, label: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, np.ma.MaskedArray):
        raise ValueError(
            f"{label} is a masked array, whose masked values would be used as they "
            "are; fill them, e.g. x.filled(0), or leave the examples out"
        )
    if not isinstance(leaf, np.ndarray):
        if not any(hasattr(leaf, name) for name in ("__array__", "__dlpack__")):
            raise ValueError(f"{label} is {_no_array(name, leaf)}")
        leaf = _from_outside(label, leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    longest = {"g": np.float64, "G": np.complex128}  # of JAX, for NumPy's longdouble
    dtype = longest.get(leaf.dtype.char, leaf.dtype.newbyteorder("="))
    return leaf.astype(dtype, copy=False)


def _from_outside(label: str, leaf: Any) -> Any:
    """An array of another library; PyTorch's may be on a device or need gradients."""
    leaf = leaf.detach() if callable(getattr(leaf, "detach", None)) else leaf
    readers = {"__array__": np.asarray, "__dlpack__": jnp.from_dlpack}
    reasons = []
    for name, read in readers.items():
        if not hasattr(leaf, name):
            continue
        try:
            return read(leaf)
        except Exception as error:  # whatever another library raises
            reasons.append(_reason(error))
    raise ValueError(
        f"{label} is a {type(leaf).__name__} that neither NumPy nor DLPack reads "
        f"({'; '.join(reasons)}); convert it to a NumPy array first"
    )


def _no_array(name: str, leaf: Any) -> str:
    """What a leaf is instead, and what to do."""
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
            "takes arrays. Of a loader of batches (x, y) make them with "
            "x, y = (np.concatenate(parts) for parts in zip(*loader)), of a dataset of "
            "single examples with np.stack; or call an estimator on each batch"
        )
    return f"a {kind}, not an array; give an array with a leading axis of examples"


def batch_size(**arrays: Any) -> int:
    """The common length of the leading axes, or a ValueError that names them."""
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
            f"leading batch axes differ ({found}); they must be equal: the first axis "
            "counts examples, and a single example needs one too, x[None] and y[None]"
        )
    if 0 in sizes.values():
        raise ValueError("the batch is empty; give at least one example")
    return next(iter(sizes.values()))


def check_finite(**arrays: Any) -> None:
    """A ValueError for NaN or infinity, with the place of the first."""
    for name, tree in arrays.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            # By NumPy: a program of its own for every shape would be compiled first.
            finite = np.isfinite(np.asarray(leaf))
            if not finite.all():
                wrong = np.argwhere(~finite)
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} has {len(wrong)} NaN or "
                    f"infinite value{'s' * (len(wrong) > 1)}, the first at index "
                    f"{tuple(wrong[0].tolist())}; remove or replace them"
                )


def check_system(system: Any, x: Any, state: Any) -> None:
    """Check one example's functions against each other (shapes only)."""
    name = type(system).__name__
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"{name}: state{jax.tree_util.keystr(path)} has dtype {leaf.dtype}; a "
                "state that settles must be floating point"
            )
    if has_potential(system):
        function = system.potential  # type: ignore[attr-defined]
        scalar = _eval(name, "energy or primitive", function, x, state)
        if not hasattr(scalar, "shape") or scalar.shape != ():
            found = _described(scalar)
            raise ValueError(
                f"{name}: the energy (or primitive) of one example is {found}; it must "
                "be a scalar, shape (). Sum over units; eqprop adds the batch axis "
                "itself."
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
    """Check a state passed by the caller against that of `init_state`."""
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
            f"the cost has parameters, and {type(system).__name__}.total_energy brings "
            "a cost of its own; give cost=None, and put the parameters into the system"
        )
    if cost is None and not total:
        raise ValueError(
            f"cost is None, and {type(system).__name__} has no total_energy that would "
            "bring one; give a cost, e.g. ep.SquaredError()"
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
    """The shapes of one example of a batched pytree."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)),
        tree,
    )


def initial_state(system: AbstractSystem, x: Any) -> Any:
    """Shapes of `system.init_state` of one example."""
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
        raise ValueError(f"{name}.init_state returned no arrays; a state needs one")
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
    """What an exception in a user's function says, and the line it comes from."""
    text = next(iter(str(error).splitlines()), "")
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, jax.errors.JAXTypeError):
        text += " Write it with jax.numpy, with jnp.where in place of if."
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
    """The nesting of a tree, with a star for each array."""
    return str(jax.tree.structure(tree)).removeprefix("PyTreeDef(").removesuffix(")")


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"of shape {shape}"


def shapes(tree: Any) -> Any:
    """The same tree with the shape of each array in its place."""
    return jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf)), tree)
