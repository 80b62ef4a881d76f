"""Paper D's toy network (figure 2): 5 inputs, 50 hidden units, 10 outputs."""

import numpy as np
from jaxtyping import PRNGKeyArray

from ._activations import Activation, tanh
from ._hopfield import MaskedHopfieldEnergy


def toy_network(
    *,
    key: PRNGKeyArray,
    inputs: int = 5,
    hidden: int = 50,
    outputs: int = 10,
    activation: Activation = tanh,
) -> MaskedHopfieldEnergy:
    """An energy in which inputs, hidden units and outputs are all joined to each other.

    Links run between the three groups, inputs to outputs included, not within them;
    ρ′ stands at the output too, so that EP is exact.
    """
    sizes = np.repeat([0, 1, 2], [inputs, hidden, outputs])
    mask = sizes[:, None] != sizes[None, :]
    return MaskedHopfieldEnergy(
        mask, inputs=inputs, outputs=outputs, key=key, activation=activation
    )
