"""eqprop: learning in systems that settle to a fixed point.

The flow: system → relaxation → estimator → optimizer → loop → report.
"""

from .costs import (
    AbstractCost as AbstractCost,
    CrossEntropy as CrossEntropy,
    SquaredError as SquaredError,
)
from .estimators import (
    AbstractEstimator as AbstractEstimator,
    AdjointNotConverged as AdjointNotConverged,
    AsymmetricEquilibriumPropagation as AsymmetricEquilibriumPropagation,
    BackpropagationThroughTime as BackpropagationThroughTime,
    DyadicEquilibriumPropagation as DyadicEquilibriumPropagation,
    BoltzmannLearning as BoltzmannLearning,
    ContrastiveDivergence as ContrastiveDivergence,
    EquilibriumPropagation as EquilibriumPropagation,
    Gradient as Gradient,
    HolomorphicEquilibriumPropagation as HolomorphicEquilibriumPropagation,
    ImplicitDifferentiation as ImplicitDifferentiation,
    RecurrentBackpropagation as RecurrentBackpropagation,
    settle as settle,
    StochasticEquilibriumPropagation as StochasticEquilibriumPropagation,
    Symmetrized as Symmetrized,
)
from .relaxations import (
    AbstractRelaxation as AbstractRelaxation,
    Dynamics as Dynamics,
    Equilibrium as Equilibrium,
    Euler as Euler,
    Langevin as Langevin,
    relax as relax,
    Status as Status,
    Sweep as Sweep,
)
from .recipes import recipe as recipe, RECIPES as RECIPES
from .runs import (
    evaluate as evaluate,
    load as load,
    predict as predict,
    resume as resume,
    Run as Run,
    train as train,
    TrainingInterrupted as TrainingInterrupted,
)
from .systems import (
    AbstractEnergy as AbstractEnergy,
    AbstractMap as AbstractMap,
    AbstractPrimitive as AbstractPrimitive,
    AbstractSystem as AbstractSystem,
    AbstractVectorField as AbstractVectorField,
    Activation as Activation,
    Block as Block,
    DiscreteEnergy as DiscreteEnergy,
    fan_in_uniform as fan_in_uniform,
    gain_uniform as gain_uniform,
    glorot_uniform as glorot_uniform,
    hard_sigmoid as hard_sigmoid,
    HopfieldEnergy as HopfieldEnergy,
    identity as identity,
    LeakyIntegrator as LeakyIntegrator,
    MaskedHopfieldEnergy as MaskedHopfieldEnergy,
    PrototypicalNetwork as PrototypicalNetwork,
    shifted_sigmoid as shifted_sigmoid,
    tanh as tanh,
    toy_network as toy_network,
)
from .training import (
    Config as Config,
    Fit as Fit,
    fit as fit,
    Hopfield as Hopfield,
    Observer as Observer,
    Optimizer as Optimizer,
    TrainingDiverged as TrainingDiverged,
)
from .verification import (
    bptt_process as bptt_process,
    ep_flow as ep_flow,
    ep_process as ep_process,
    flow as flow,
    flow_figure as flow_figure,
    Process as Process,
    projected_cost as projected_cost,
    rbp_flow as rbp_flow,
    rbp_process as rbp_process,
    truncation as truncation,
    tune as tune,
    Tuning as Tuning,
    Verification as Verification,
    verify as verify,
)

__version__ = "0.1.0"
