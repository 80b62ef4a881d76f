"""What a rule around another rule takes over from it."""

import equinox as eqx

from ..relaxations._base import AbstractRelaxation
from ._base import AbstractEstimator, Gradient


class AbstractAround(AbstractEstimator):
    """A rule that changes what `estimator` makes of a free equilibrium."""

    estimator: eqx.AbstractVar[AbstractEstimator]

    @property
    def free(self) -> AbstractRelaxation:  # type: ignore[override]
        """The free phase of the rule."""
        return self.estimator.free

    def check(self, gradient: Gradient) -> None:
        self.estimator.check(gradient)

    def check_optimizer(self, optimizer, params) -> None:
        self.estimator.check_optimizer(optimizer, params)

    def check_devices(self, devices, batch_size) -> None:
        self.estimator.check_devices(devices, batch_size)
