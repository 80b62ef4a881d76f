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
    """Return an energy with links between inputs, hidden units and outputs.

    Each of the three groups is linked to the two others, and no unit to its own group.
    The factor ρ′ also acts on the output units, so EP is exact.
    """
    sizes = np.repeat([0, 1, 2], [inputs, hidden, outputs])
    mask = sizes[:, None] != sizes[None, :]
    return MaskedHopfieldEnergy(
        mask, inputs=inputs, outputs=outputs, key=key, activation=activation
    )
