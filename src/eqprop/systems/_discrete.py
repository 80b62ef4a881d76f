"""An energy in discrete time: paper D's energy-based setting."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from ._base import AbstractEnergy, AbstractPrimitive, Block, Curvature, State


class DiscreteEnergy(AbstractPrimitive):
    """Φ = ½‖s‖² − ε E: the primitive function whose map is Euler's step on E (paper D).

    With dt = 1 and a nudge of ε β its steps are those of `ep.Euler(ε)` on the energy
    with β.  EP's contrast of Φ over ε β equals that of the energy over β.

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
        return _half_square(s) - self.dt * self.system.energy(x, s)

    def velocity(self, x, s: State) -> State:
        """Return ε times the velocity of the energy, with its time constants if any."""
        return self._scaled(self.system.velocity(x, s))

    def forced_velocity(self, x, s: State, force: State) -> State:
        """Return ε times the energy's velocity under the force / ε."""
        force = jax.tree.map(lambda f: f / self.dt, force)
        return self._scaled(self.system.forced_velocity(x, s, force))

    def readout(self, s: State) -> Array:
        return self.system.readout(s)

    def project(self, s: State) -> State:
        return self.system.project(s)

    def project_parameters(self) -> Self:
        return dataclasses.replace(self, system=self.system.project_parameters())

    def prepared(self) -> Self:
        return dataclasses.replace(self, system=self.system.prepared())

    def reciprocal(self):
        return self.system.reciprocal()

    def tangent(self, direction: State) -> State:
        return self.system.tangent(direction)

    def blocks(self) -> Sequence[Block] | None:
        """Return the energy's blocks with ε times their curvature."""
        blocks = self.system.blocks()
        return blocks and [
            dataclasses.replace(block, curvature=self._curvature(block.curvature))
            for block in blocks
        ]

    @property
    def total_energy(self):
        """ε F(β/ε) − ½‖s‖², if the energy defines its own F."""
        total = self.system.total_energy
        if total is None:
            return None
        return lambda x, y, s, beta: (
            self.dt * total(x, y, s, beta / self.dt) - _half_square(s)
        )

    @property
    def learning_field(self):
        field = self.system.learning_field
        return field and (lambda x, s: self._scaled(field(x, s)))

    @property
    def rates(self):
        return self.system.rates

    @property
    def synapses(self):
        synapses = self.system.synapses
        return synapses and (lambda x, rates: self.dt * synapses(x, rates))

    def _scaled(self, tree):
        return jax.tree.map(lambda u: self.dt * u, tree)

    def _curvature(self, curvature: Curvature) -> Curvature:
        if callable(curvature):
            return lambda x, s: self._scaled(curvature(x, s))
        return self._scaled(curvature)


def _half_square(s: State) -> Scalar:
    squares = (jnp.sum(leaf**2) for leaf in jax.tree.leaves(s))
    return 0.5 * sum(squares)  # type: ignore[return-value]
