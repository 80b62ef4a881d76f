"""Activation functions ρ of the papers, each with its bounds and bend.

At a bound, JAX's derivative of `clip` is ½ and that of `lax.clamp` is 0.  The papers
need ρ′(0) = ρ′(1) = 1; otherwise a network that starts at zero never moves (paper A,
section 5).  `hard_sigmoid` has this derivative.
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
    """ρ, the bounds of its units, and an upper bound of |ρ″|.

    **Arguments:**

    - `function`: ρ, elementwise.
    - `bounds`: the closed interval to which units are projected after every step, or
      `None`.
    - `bend`: an upper bound of |ρ″| within the bounds.  If it is 0, the energy of a
      layer with fixed neighbours is quadratic, and `Sweep` solves it exactly.
    """

    function: Callable[[Array], Array] = eqx.field(static=True)
    bounds: tuple[float, float] | None = eqx.field(static=True, default=None)
    bend: float = eqx.field(static=True, default=0.0)

    def __call__(self, s: Array) -> Array:
        return self.function(s)

    def project(self, s: Array) -> Array:
        """Return `s` clipped to `bounds`."""
        return s if self.bounds is None else jnp.clip(s, *self.bounds)

    def __reduce__(self):
        """Pickle ρ by its name, because JAX's compiled functions cannot be pickled."""
        name = _name_of(self.function)
        return _of_name, (type(self), name, self.bounds, self.bend)

    def __deepcopy__(self, memo: Any) -> "Activation":
        return self  # immutable


def _name_of(function: Any) -> tuple[str, str]:
    """Return the module and the name under which a function can be imported."""
    name = getattr(function, "__qualname__", "")
    # Prefer JAX's public modules: names in its private modules change more often.
    for module in ("jax.numpy", "jax.nn", getattr(function, "__module__", "")):
        if name and getattr(sys.modules.get(module), name, None) is function:
            return module, name
    raise pickle.PicklingError(
        f"Activation: function {function!r} cannot be imported by a name, so it cannot "
        "be pickled; define it with def at the top level of a module"
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

# sup |σ″| of the logistic function is 1/(6√3); the inner slope 4 contributes 4².
shifted_sigmoid = Activation(_shifted_sigmoid, bend=16 / (6 * 3**0.5))
"""ρ(s) = 1 / (1 + e^{−4(s − ½)}) (paper D, training runs)."""

clipped_sigmoid = Activation(_shifted_sigmoid, (0.0, 1.0), shifted_sigmoid.bend)
"""The same ρ with units bounded to [0, 1] (paper D's energy-based training runs)."""

tanh = Activation(jnp.tanh, bend=4 / (3 * 3**0.5))
"""ρ(s) = tanh(s) (paper D, theorem checks)."""

identity = Activation(_identity)
"""ρ(s) = s: linear units, as in the output layer of Scellier et al. 2023."""
