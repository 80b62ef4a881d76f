"""What each learning rule claims, measured: one function a claim, one figure each."""

from collections.abc import Callable

from . import (
    _continual,
    _contrastive,
    _convolution,
    _external,
    _gradients,
    _homeostasis,
    _interleaved,
    _learning,
    _paper_b,
    _paper_d,
    _path,
    _phases,
    _stochastic,
    _symmetry,
    _total_energy,
    _xie_seung,
)
from ._demonstration import (
    Curve as Curve,
    Demonstration as Demonstration,
    Panel as Panel,
)

DEMONSTRATIONS: dict[str, Callable[..., Demonstration]] = {
    **_gradients.ITEMS,
    **_path.ITEMS,
    **_continual.ITEMS,
    **_convolution.ITEMS,
    **_paper_b.ITEMS,
    **_symmetry.ITEMS,
    **_learning.ITEMS,
    **_paper_d.ITEMS,
    **_interleaved.ITEMS,
    **_phases.ITEMS,
    **_contrastive.ITEMS,
    **_xie_seung.ITEMS,
    **_stochastic.ITEMS,
    **_external.ITEMS,
    **_homeostasis.ITEMS,
    **_total_energy.ITEMS,
}
"""By name, `PAPER.claim`: functions of `quick`, with which a claim that takes long is
measured on a smaller network or over a shorter time, and the others as they are."""
