"""Costs C(ŷ, y) of one example's prediction ŷ = readout(s) and target y.

A cost is an `equinox.Module` (or any function) `(prediction, y) -> scalar`; its
inexact arrays are parameters that learn like the system's.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray, Scalar


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

    def outputs(self, prediction: Any) -> Any:
        """What is compared with y: the prediction itself, unless a layer follows."""
        return prediction


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


class SoftmaxReadout(AbstractCost):
    """C = cross-entropy of softmax(ŷ W + b), a layer outside of the dynamics.

    The network's units ŷ are nudged by W(y − softmax), and W and b get their ordinary
    gradient (Laborieux et al. 2021).

    **Arguments:**

    - `units`: length of the prediction ŷ; `classes`: of the target y.
    - `key`: a `jax.random.key`; W and b are uniform in ±1/√units.
    """

    weight: Float[Array, "units classes"]
    bias: Float[Array, " classes"]

    def __init__(self, units: int, classes: int, *, key: PRNGKeyArray):
        for name, value in (("units", units), ("classes", classes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number ≥ 1")
        keys, limit = jax.random.split(key), units**-0.5
        draw = jax.random.uniform
        self.weight = draw(keys[0], (units, classes), minval=-limit, maxval=limit)
        self.bias = draw(keys[1], (classes,), minval=-limit, maxval=limit)

    @property
    def curvature(self) -> Float[Array, ""]:  # type: ignore[override]
        """½ ‖W Wᵀ‖∞, above the largest eigenvalue of ∂²C/∂ŷ²."""
        return 0.5 * jnp.max(jnp.sum(jnp.abs(self.weight @ self.weight.T), axis=1))

    def outputs(self, prediction: Float[Array, " units"]) -> Float[Array, " classes"]:
        """The logits ŷ W + b."""
        if jnp.shape(prediction) != self.weight.shape[:1]:
            raise ValueError(
                f"SoftmaxReadout: one example's prediction has shape "
                f"{jnp.shape(prediction)}; the layer takes {self.weight.shape[:1]}"
            )
        return prediction @ self.weight + self.bias

    def __call__(
        self, prediction: Float[Array, " units"], y: Float[Array, " classes"]
    ) -> Scalar:
        return CrossEntropy()(self.outputs(prediction), y)


def outputs_of(cost: Any, prediction: Any) -> Any:
    """What `cost` compares with y; the prediction where the cost does not say."""
    outputs = getattr(cost, "outputs", None)
    return outputs(prediction) if callable(outputs) else prediction


def _check_shapes(name: str, prediction: Array, y: Array) -> None:
    if jnp.shape(prediction) != jnp.shape(y):
        raise ValueError(
            f"{name}: one example's prediction has shape {jnp.shape(prediction)} and "
            f"its target {jnp.shape(y)}; they must be equal. Class labels become "
            "targets with jax.nn.one_hot(y, classes)."
        )
