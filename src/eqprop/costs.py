"""Costs C(ŷ, y) of one example's prediction ŷ = readout(s) and target y.

A cost is an `equinox.Module` (or any function) `(prediction, y) -> scalar`; its
inexact arrays are parameters that learn like the system's.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Scalar


class AbstractCost(eqx.Module):
    """Base class of costs.

    `curvature` bounds the eigenvalues of ∂²C/∂ŷ² from above and `least_curvature`
    from below: `Sweep` divides by them.  Where the two agree its step is exact.  The
    defaults suit a convex cost no steeper than the squared error.
    """

    curvature: ClassVar[float] = 1.0
    least_curvature: ClassVar[float] = 0.0

    @abc.abstractmethod
    def __call__(self, prediction: Any, y: Any) -> Scalar:
        """The scalar cost of one example."""


class SquaredError(AbstractCost):
    """C = ½‖ŷ − y‖² (paper A, eq 2), without modulus for complex ŷ."""

    least_curvature: ClassVar[float] = 1.0

    def __call__(
        self, prediction: Inexact[Array, " *shape"], y: Inexact[Array, " *shape"]
    ) -> Scalar:
        _check_shapes("SquaredError", prediction, y)
        return 0.5 * jnp.sum((prediction - y) ** 2)


class CrossEntropy(AbstractCost):
    """C = −Σ_i y_i log softmax(ŷ)_i for logits ŷ and a one-hot or probability y."""

    # diag(p) − ppᵀ has eigenvalues in [0, ½].
    curvature: ClassVar[float] = 0.5

    def __call__(
        self, prediction: Float[Array, " classes"], y: Float[Array, " classes"]
    ) -> Scalar:
        _check_shapes("CrossEntropy", prediction, y)
        return -jnp.sum(y * jax.nn.log_softmax(prediction))


def _check_shapes(name: str, prediction: Array, y: Array) -> None:
    if jnp.shape(prediction) != jnp.shape(y):
        raise ValueError(
            f"{name}: one example's prediction has shape {jnp.shape(prediction)} and "
            f"its target {jnp.shape(y)}; they must be equal. Class labels become "
            "targets with jax.nn.one_hot(y, classes)."
        )
