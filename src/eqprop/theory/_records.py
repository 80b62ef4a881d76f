"""What `verify` and `tune` measure, as dataclasses for tables and figures.

Times are in neuron time constants, angles in degrees, β is dimensionless.
"""

import dataclasses
from typing import Literal

import numpy as np

from ._metrics import Agreement, Order

Outcome = Literal["holds", "fails", "note"]
Quantity = Literal["states", "gradients"]
Layer = Literal["neurons", "synapses"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One promise of the theory, the number measured, and whether the promise holds.

    `outcome` is "note" for a number that is reported and not promised.
    """

    name: str
    measured: float | None
    promised: str
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator against the exact gradient, for one parameter or all."""

    estimator: str
    parameter: str
    agreement: Agreement


@dataclasses.dataclass(frozen=True)
class Curve:
    """S̄_t of a few neurons, or Θ̄_t of a few synapses, of one layer: `[times, few]`."""

    kind: Layer
    name: str
    times: np.ndarray
    ep: np.ndarray
    rbp: np.ndarray
    bptt: np.ndarray


@dataclasses.dataclass(frozen=True)
class LayerError:
    """Paper D's RMSE of EP's process against BPTT's: mean and std over one layer."""

    kind: Layer
    name: str
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class BetaErrors:
    """The largest error over t of EP's process against RBP's: `[examples][betas]`."""

    nudging: str
    quantity: Quantity
    betas: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]
    order: Order


@dataclasses.dataclass(frozen=True)
class TuningCurve:
    """The values tried for one hyper-parameter, the measurements, and the choice.

    `measured` maps a name to as many numbers as `values`; angles are to the exact
    gradient:

    - dt: `"steps"` to settle, infinite if it does not settle;
    - K (steps): `"angle"` of EP stopped after K steps from s⁰, β → 0;
    - T (steps): `"residual"` (velocity), and `"angle"` of the gradient taken at s_T;
    - β: `"bias"`, the angle of settled EP in float64; `"angle"`, that of the whole
      proposal in float32.

    NaN stands for a quantity that is not finite.
    """

    values: tuple[float, ...]
    measured: dict[str, tuple[float, ...]]
    chosen: float

    @property
    def at_chosen(self) -> dict[str, float]:
        """The measurements at the chosen value, or at the last value below it."""
        below = [k for k, v in enumerate(self.values) if v <= self.chosen * (1 + 1e-9)]
        where = max(below, key=lambda k: self.values[k]) if below else 0
        return {name: column[where] for name, column in self.measured.items()}
