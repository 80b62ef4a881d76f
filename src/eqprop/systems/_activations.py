"""Activation functions ρ of the papers, each with what a relaxation must know.

JAX's own derivative of `clip` at a bound is ½ and that of `lax.clamp` 0.  The papers
need ρ′(0) = ρ′(1) = 1, or a network that starts at zero never moves (paper A,
section 5): that rule stands here, once.
"""

import importlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


class Activation(eqx.Module):
    """ρ, the interval its units are kept in, and how strongly it bends.

    **Arguments:**

    - `function`: ρ, elementwise.
    - `bounds`: units are projected to this closed interval after every step, or
      `None`.  Within the bounds `bend` holds.
    - `bend`: an upper bound of |ρ″|.  0 means that a layer's energy given its
      neighbours is quadratic, so that `Sweep` solves it exactly.
    """

    function: Callable[[Array], Array] = eqx.field(static=True)
    bounds: tuple[float, float] | None = eqx.field(static=True, default=None)
    bend: float = eqx.field(static=True, default=0.0)

    def __call__(self, s: Array) -> Array:
        return self.function(s)

    def project(self, s: Array) -> Array:
        """`s` moved into `bounds`."""
        return s if self.bounds is None else jnp.clip(s, *self.bounds)

    def __reduce__(self):
        """Pickle ρ by its name: compiled functions of JAX cannot pickle themselves."""
        name = _name_of(self.function)
        return _of_name, (type(self), name, self.bounds, self.bend)

    def __deepcopy__(self, memo: Any) -> "Activation":
        return self  # nothing in it changes


def _name_of(function: Any) -> tuple[str, str]:
    """The module and the name under which a function is found."""
    name = getattr(function, "__qualname__", "")
    # JAX's public names outlive those of its private modules.
    for module in ("jax.numpy", "jax.nn", getattr(function, "__module__", "")):
        if name and getattr(sys.modules.get(module), name, None) is function:
            return module, name
    raise pickle.PicklingError(
        f"Activation: function {function!r} has no name in a module, so that no other "
        "process finds it; define it with def at the top of a module"
    )


def _of_name(kind: type, name: tuple[str, str], *fields: Any) -> Activation:
    module, function = name
    return kind(getattr(importlib.import_module(module), function), *fields)


@jax.custom_jvp
def _inclusive_clip(s: Array) -> Array:
    return jnp.clip(s, 0.0, 1.0)


@_inclusive_clip.defjvp
def _inclusive_clip_jvp(primals, tangents):
    (s,), (ds,) = primals, tangents
    inside = (s >= 0) & (s <= 1)
    return _inclusive_clip(s), jnp.where(inside, ds, jnp.zeros_like(ds))


def _hard_sigmoid(s: Array) -> Array:
    return _inclusive_clip(s)


def _shifted_sigmoid(s: Array) -> Array:
    return jax.nn.sigmoid(4 * s - 2)


def _identity(s: Array) -> Array:
    return s


hard_sigmoid = Activation(_hard_sigmoid, bounds=(0.0, 1.0))
"""ρ(s) = min(max(s, 0), 1), with ρ′ = 1 on the closed interval (paper A, eq 43)."""

# sup |σ″| of the logistic function is 1/(6√3); the inner slope 4 enters squared.
shifted_sigmoid = Activation(_shifted_sigmoid, bend=16 / (6 * 3**0.5))
"""ρ(s) = 1 / (1 + e^{−4(s − ½)}) (paper D, training runs)."""

clipped_sigmoid = Activation(_shifted_sigmoid, (0.0, 1.0), shifted_sigmoid.bend)
"""The same ρ, its units kept in [0, 1] (paper D's energy-based training runs)."""

tanh = Activation(jnp.tanh, bend=4 / (3 * 3**0.5))
"""ρ(s) = tanh(s) (paper D, theorem checks)."""

identity = Activation(_identity)
"""ρ(s) = s: linear units, as in the output layer of Scellier et al. 2023."""
