"""Costs C(ŷ, y) of one example's prediction ŷ = readout(s) and target y.

A cost is an `equinox.Module` (or any function) `(prediction, y) -> scalar`.  Its
inexact arrays are parameters; they learn like those of the system.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray, Scalar

from .systems._base import Declared
from .systems._check import whole


class AbstractCost(Declared):
    """Base class of costs.

    `Sweep` divides by the curvature.  If `curvature` and `least_curvature` are equal,
    its step is exact.  The defaults are bounds for every convex cost whose curvature
    is at most 1, that of the squared error.
    """

    curvature: ClassVar[float] = 1.0
    """upper bound of the eigenvalues of ∂²C/∂ŷ²"""
    least_curvature: ClassVar[float] = 0.0
    """lower bound of these eigenvalues"""

    @abc.abstractmethod
    def __call__(self, prediction: Any, y: Any) -> Scalar:
        """Return the scalar cost of one example."""

    def outputs(self, prediction: Any) -> Any:
        """Return the value that is compared with y: by default, the prediction."""
        return prediction


class FunctionCost(AbstractCost):
    """A plain function as a cost, with the defaults of `AbstractCost`.

    A user's own class that is not an `AbstractCost` may define the members that it
    needs; they replace the defaults.
    """

    function: Callable[[Any, Any], Scalar]

    def __call__(self, prediction: Any, y: Any) -> Scalar:
        return self.function(prediction, y)

    @property
    def curvature(self):  # type: ignore[override]
        return getattr(self.function, "curvature", AbstractCost.curvature)

    @property
    def least_curvature(self):  # type: ignore[override]
        return getattr(self.function, "least_curvature", AbstractCost.least_curvature)

    def outputs(self, prediction: Any) -> Any:
        own = getattr(self.function, "outputs", None)
        return prediction if own is None else own(prediction)


def as_cost(cost: Callable[[Any, Any], Scalar]) -> AbstractCost:
    """Return `cost`, or a plain function wrapped as an `AbstractCost`."""
    return cost if isinstance(cost, AbstractCost) else FunctionCost(cost)


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
    """C = cross-entropy of softmax(ŷ W + b), a layer outside the dynamics.

    The nudge on the network's units ŷ is W(y − softmax).  W and b get their ordinary
    gradient (Laborieux et al. 2021).

    **Arguments:**

    - `units`: length of the prediction ŷ; `classes`: of the target y.
    - `key`: a `jax.random.key`; W and b are uniform in ±1/√units.
    """

    weight: Float[Array, "units classes"]
    bias: Float[Array, " classes"]

    def __init__(self, units: int, classes: int, *, key: PRNGKeyArray):
        for name, value in (("units", units), ("classes", classes)):
            whole(name, value, 1)
        keys, limit = jax.random.split(key), units**-0.5
        draw = jax.random.uniform
        self.weight = draw(keys[0], (units, classes), minval=-limit, maxval=limit)
        self.bias = draw(keys[1], (classes,), minval=-limit, maxval=limit)

    @property
    def curvature(self) -> Float[Array, ""]:  # type: ignore[override]
        """½ ‖W Wᵀ‖∞, an upper bound of the eigenvalues of ∂²C/∂ŷ²."""
        return 0.5 * jnp.max(jnp.sum(jnp.abs(self.weight @ self.weight.T), axis=1))

    def outputs(self, prediction: Float[Array, " units"]) -> Float[Array, " classes"]:
        """Return the logits ŷ W + b."""
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
    """Return the value that `cost`, if there is one, compares with y."""
    return prediction if cost is None else as_cost(cost).outputs(prediction)


def _check_shapes(name: str, prediction: Array, y: Array) -> None:
    if jnp.shape(prediction) != jnp.shape(y):
        raise ValueError(
            f"{name}: one example's prediction has shape {jnp.shape(prediction)} and "
            f"its target {jnp.shape(y)}; they must be equal. Class labels become "
            "targets with jax.nn.one_hot(y, classes)."
        )
