"""Systems that settle: energies, maps and vector fields, written for one example.

First stage of the flow: system → relaxation → estimator → optimizer → loop →
report.  Only systems know parameters.
"""

from ._activations import (
    Activation as Activation,
    clipped_sigmoid as clipped_sigmoid,
    hard_sigmoid as hard_sigmoid,
    identity as identity,
    shifted_sigmoid as shifted_sigmoid,
    tanh as tanh,
)
from ._base import (
    AbstractEnergy as AbstractEnergy,
    AbstractMap as AbstractMap,
    AbstractPrimitive as AbstractPrimitive,
    AbstractSystem as AbstractSystem,
    AbstractVectorField as AbstractVectorField,
    Block as Block,
)
from ._discrete import DiscreteEnergy as DiscreteEnergy
from ._hopfield import (
    HopfieldEnergy as HopfieldEnergy,
    MaskedHopfieldEnergy as MaskedHopfieldEnergy,
)
from ._initializers import (
    fan_in_uniform as fan_in_uniform,
    gain_uniform as gain_uniform,
    glorot_uniform as glorot_uniform,
    Initializer as Initializer,
)
from ._links import Convolution as Convolution
from ._leaky import LeakyIntegrator as LeakyIntegrator
from ._prototypical import PrototypicalNetwork as PrototypicalNetwork
from ._total_energy import (
    AbstractTotalEnergy as AbstractTotalEnergy,
    batch_costs as batch_costs,
    has_total_energy as has_total_energy,
)
from ._toy import toy_network as toy_network
from ._xie_seung import XieSeungEnergy as XieSeungEnergy
