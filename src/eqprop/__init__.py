"""eqprop: learning in systems that settle to a fixed point.

The flow: system → relaxation → estimator → optimizer → loop → report.
"""

from . import _start as _start
from .costs import (
    AbstractCost as AbstractCost,
    CrossEntropy as CrossEntropy,
    SoftmaxReadout as SoftmaxReadout,
    SquaredError as SquaredError,
)
from .estimators import (
    AbstractEstimator as AbstractEstimator,
    AdjointNotConverged as AdjointNotConverged,
    AsymmetricEquilibriumPropagation as AsymmetricEquilibriumPropagation,
    BackpropagationThroughTime as BackpropagationThroughTime,
    ContinualEquilibriumPropagation as ContinualEquilibriumPropagation,
    Clamped as Clamped,
    ContrastiveHebbianLearning as ContrastiveHebbianLearning,
    CoupledLearning as CoupledLearning,
    DyadicEquilibriumPropagation as DyadicEquilibriumPropagation,
    BoltzmannLearning as BoltzmannLearning,
    ContrastiveDivergence as ContrastiveDivergence,
    EquilibriumPropagation as EquilibriumPropagation,
    Gradient as Gradient,
    HolomorphicEquilibriumPropagation as HolomorphicEquilibriumPropagation,
    ImplicitDifferentiation as ImplicitDifferentiation,
    KolenPollackEquilibriumPropagation as KolenPollackEquilibriumPropagation,
    JacobianHomeostasis as JacobianHomeostasis,
    RecurrentBackpropagation as RecurrentBackpropagation,
    settle as settle,
    Stats as Stats,
    StochasticEquilibriumPropagation as StochasticEquilibriumPropagation,
    Symmetrized as Symmetrized,
    weighted_mean as weighted_mean,
    SpikeTimingDependentPlasticity as SpikeTimingDependentPlasticity,
    VectorFieldEquilibriumPropagation as VectorFieldEquilibriumPropagation,
)
from .relaxations import (
    AbstractRelaxation as AbstractRelaxation,
    Dynamics as Dynamics,
    Equilibrium as Equilibrium,
    Euler as Euler,
    HardwareInTheLoop as HardwareInTheLoop,
    Langevin as Langevin,
    relax as relax,
    Status as Status,
    Sweep as Sweep,
)
from .recipes import recipe as recipe, RECIPES as RECIPES
from .runs import (
    compare as compare,
    Comparison as Comparison,
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
    AbstractTotalEnergy as AbstractTotalEnergy,
    AbstractVectorField as AbstractVectorField,
    Activation as Activation,
    Block as Block,
    Convolution as Convolution,
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
    XieSeungEnergy as XieSeungEnergy,
)
from .training import (
    Config as Config,
    DiscreteHopfield as DiscreteHopfield,
    Fit as Fit,
    fit as fit,
    Hopfield as Hopfield,
    Leaky as Leaky,
    Observer as Observer,
    Optimizer as Optimizer,
    Prototypical as Prototypical,
    Toy as Toy,
    TrainingDiverged as TrainingDiverged,
    XieSeung as XieSeung,
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
