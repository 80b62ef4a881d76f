"""An energy in discrete time: paper D's energy-based setting."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from ._base import AbstractEnergy, AbstractPrimitive, State
from ._total_energy import has_total_energy


class DiscreteEnergy(AbstractPrimitive):
    """Φ = ½‖s‖² − ε E: the primitive function whose map is Euler's step on E (paper D).

    With steps of dt = 1 and a nudge of ε β it takes the very steps that `ep.Euler(ε)`
    takes on the energy with β: the same states, and EP's contrast of Φ over ε β is that
    of the energy over β.

    **Arguments:**

    - `system`: the energy.
    - `dt`: ε, in units of the neurons' time constant.
    """

    system: AbstractEnergy
    dt: float = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.system, AbstractEnergy):
            raise ValueError(
                f"system is a {type(self.system).__name__}; give an AbstractEnergy"
            )
        if not 0 < self.dt < float("inf"):
            raise ValueError(f"dt is {self.dt}; it must be positive, e.g. 0.2")

    def init_state(self, x) -> State:
        return self.system.init_state(x)

    def primitive(self, x, s: State) -> Scalar:
        squares = (jnp.sum(leaf**2) for leaf in jax.tree.leaves(s))
        return 0.5 * sum(squares) - self.dt * self.system.energy(x, s)

    @property
    def total_energy(self):
        """ε F(β/ε) − ½‖s‖², where the energy has an F of its own."""
        if not has_total_energy(self.system):
            return None
        return lambda x, y, s, beta: (
            self.dt * self.system.total_energy(x, y, s, beta / self.dt)  # type: ignore[attr-defined]
            - 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(s))
        )

    def project(self, s: State) -> State:
        return self.system.project(s)

    def project_parameters(self) -> "DiscreteEnergy":
        return DiscreteEnergy(self.system.project_parameters(), self.dt)

    def readout(self, s: State):
        return self.system.readout(s)
