"""Activation functions ρ of the papers, each with what a relaxation must know.

JAX's own derivative of `clip` at a bound is ½ and that of `lax.clamp` 0.  The papers
need ρ′(0) = ρ′(1) = 1, or a network that starts at zero never moves (paper A,
section 5): that rule stands here, once.
"""

from collections.abc import Callable

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


@jax.custom_jvp
def _hard_sigmoid(s: Array) -> Array:
    return jnp.clip(s, 0.0, 1.0)


@_hard_sigmoid.defjvp
def _hard_sigmoid_jvp(primals, tangents):
    (s,), (ds,) = primals, tangents
    inside = (s >= 0) & (s <= 1)
    return _hard_sigmoid(s), jnp.where(inside, ds, jnp.zeros_like(ds))


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
