"""Estimators: learning rules as gradients of the settled cost.

Third stage of the flow.  Only estimators know β and phases.
"""

from ._base import (
    AbstractEstimator as AbstractEstimator,
    Gradient as Gradient,
    Stats as Stats,
    UnsuitableRule as UnsuitableRule,
    weighted_mean as weighted_mean,
)
from ._asymmetric import (
    AsymmetricEquilibriumPropagation as AsymmetricEquilibriumPropagation,
    DyadicEquilibriumPropagation as DyadicEquilibriumPropagation,
    Symmetrized as Symmetrized,
)
from ._backpropagation_through_time import (
    BackpropagationThroughTime as BackpropagationThroughTime,
)
from ._continual import (
    ContinualEquilibriumPropagation as ContinualEquilibriumPropagation,
)
from ._clamped import Clamped as Clamped
from ._contrastive import (
    ContrastiveHebbianLearning as ContrastiveHebbianLearning,
    CoupledLearning as CoupledLearning,
)
from ._equilibrium_propagation import (
    EquilibriumPropagation as EquilibriumPropagation,
    Nudging as Nudging,
)
from ._boltzmann import (
    BoltzmannLearning as BoltzmannLearning,
    ContrastiveDivergence as ContrastiveDivergence,
)
from ._holomorphic import (
    HolomorphicEquilibriumPropagation as HolomorphicEquilibriumPropagation,
)
from ._homeostasis import JacobianHomeostasis as JacobianHomeostasis
from ._implicit_differentiation import (
    AdjointNotConverged as AdjointNotConverged,
    ImplicitDifferentiation as ImplicitDifferentiation,
)
from ._names import ESTIMATORS as ESTIMATORS, named_estimator as named_estimator
from ._rounding import (
    RoundedGradient as RoundedGradient,
    rounding_message as rounding_message,
)
from ._recurrent_backpropagation import (
    RecurrentBackpropagation as RecurrentBackpropagation,
)
from ._settle import NotSettled as NotSettled, settle as settle
from ._settled import settled_only as settled_only
from ._spike_timing import (
    PlasticityRule as PlasticityRule,
    SpikeTimingDependentPlasticity as SpikeTimingDependentPlasticity,
)
from ._stochastic import (
    StochasticEquilibriumPropagation as StochasticEquilibriumPropagation,
)
from ._vector_field import (
    KolenPollackEquilibriumPropagation as KolenPollackEquilibriumPropagation,
    VectorFieldEquilibriumPropagation as VectorFieldEquilibriumPropagation,
)
