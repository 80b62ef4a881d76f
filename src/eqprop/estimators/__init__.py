"""Estimators: learning rules as gradients of the settled cost.

Third stage of the flow.  Only estimators know β and phases.
"""

from ._base import (
    AbstractEstimator as AbstractEstimator,
    Gradient as Gradient,
    Stats as Stats,
)
from ._equilibrium_propagation import (
    EquilibriumPropagation as EquilibriumPropagation,
)
