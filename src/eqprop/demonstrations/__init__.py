"""What each learning rule claims, measured: one function a claim, one figure each."""

from collections.abc import Callable

from . import (
    _contrastive,
    _convolution,
    _external,
    _gradients,
    _homeostasis,
    _path,
    _stochastic,
    _total_energy,
    _xie_seung,
)
from ._demonstration import (
    Curve as Curve,
    Demonstration as Demonstration,
    Panel as Panel,
)

DEMONSTRATIONS: dict[str, Callable[[], Demonstration]] = {
    **_gradients.ITEMS,
    **_path.ITEMS,
    **_convolution.ITEMS,
    **_contrastive.ITEMS,
    **_xie_seung.ITEMS,
    **_stochastic.ITEMS,
    **_external.ITEMS,
    **_homeostasis.ITEMS,
    **_total_energy.ITEMS,
}
"""By name, `PAPER.claim`; each takes seconds to two minutes on two cores."""
