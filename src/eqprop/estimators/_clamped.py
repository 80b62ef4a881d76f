"""A system whose output units are held at given values, whatever drives them."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Inexact, PyTree

from ..systems import _check
from ..systems._base import AbstractMap, AbstractSystem, energy_of, State
from ..systems._total_energy import has_total_energy
from ._base import UnsuitableRule


class Clamped(AbstractSystem):
    """`system` with the units that its readout reads held at `target`.

    Velocity and blocks are the system's own, the potential is that of its energy (none
    of a map); `project` is the system's, then sets the held units, inside its bounds
    or not.  As every system this is one of ONE example: where examples have different
    targets, map over `target` too.  The readout must be a selection of units; the rules
    that clamp check it.
    """

    system: AbstractSystem
    target: Inexact[Array, " *outputs"]

    def init_state(self, x: Any) -> State:
        return self.project(self.system.init_state(x))

    def velocity(self, x: Any, s: State) -> State:
        return self.system.velocity(x, s)

    def forced_velocity(self, x: Any, s: State, force: State) -> State:
        return self.system.forced_velocity(x, s, force)

    def project_parameters(self):
        return dataclasses.replace(self, system=self.system.project_parameters())

    def prepared(self):
        return dataclasses.replace(self, system=self.system.prepared())

    def reciprocal(self):
        return self.system.reciprocal()

    def blocks(self):
        return self.system.blocks()

    def readout(self, s: State) -> Array:
        return self.system.readout(s)

    def project(self, s: State) -> State:
        held = self._held(s)
        prediction, pull = jax.vjp(self.system.readout, s)
        (values,) = pull(jnp.asarray(self.target, prediction.dtype))
        return jax.tree.map(
            lambda u, h, value: jnp.where(h != 0, value, u),
            self.system.project(s),
            held,
            values,
        )

    def tangent(self, direction: State) -> State:
        """Return the part of a direction that does not move the held units."""
        held = self._held(direction)
        direction = self.system.tangent(direction)
        return jax.tree.map(lambda u, h: jnp.where(h != 0, 0, u), direction, held)

    def _held(self, s: State) -> State:
        """1 where a unit is read, else 0."""
        prediction, pull = jax.vjp(self.system.readout, s)
        return pull(jnp.ones_like(prediction))[0]

    @property
    def potential(self):
        """The energy that the velocity descends, if there is one."""
        if isinstance(self.system, AbstractMap) or self.system.potential is None:
            return None
        return energy_of(self.system)

    @property
    def learning_field(self):
        return self.system.learning_field

    @property
    def rates(self):
        return self.system.rates

    @property
    def synapses(self):
        return self.system.synapses


def check_clamp(
    rule: str, system: AbstractSystem, s: PyTree[jax.ShapeDtypeStruct], y: Any
) -> None:
    """Refuse what cannot be held at a target, in one example's shapes.

    The readout must be a fixed selection of units, each read once, and y of its shape.
    It is tried on numbers, so that this works under `jax.jit` too; parameters are NaN
    meanwhile, which shows wherever they enter.
    """
    name = type(system).__name__
    if has_total_energy(system):
        raise UnsuitableRule(
            f"{rule} holds outputs in place of a nudge, and {name} brings a total "
            "energy with a nudge of its own; use ep.EquilibriumPropagation, or write "
            "the energy alone",
            "ep",
        )
    try:
        with jax.ensure_compile_time_eval():
            reason = _not_a_selection(system, s)
    except (jax.errors.JAXTypeError, FloatingPointError):
        reason = "reads through arrays of the system; write indices as Python numbers"
    if reason is not None:
        raise UnsuitableRule(
            f"{rule} holds output units at values; {name}.readout {reason}. Read units "
            "of the state as they are, e.g. s[-1], or use "
            "ep.EquilibriumPropagation, which takes any readout",
            "ep",
        )
    prediction, target = jax.eval_shape(system.readout, s).shape, _check.shapes(y)
    if target != prediction:
        raise ValueError(
            f"{rule} holds the outputs at the target: one example's prediction has "
            f"shape {prediction} and its target {target}; they must be equal. Class "
            "labels become targets with jax.nn.one_hot(y, classes)."
        )


def _not_a_selection(system: AbstractSystem, s: Any) -> str | None:
    """Why the readout does not return units of the state as they are, or None."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), s)
    flat, unflatten = ravel_pytree(zeros)
    blank = jax.tree.map(
        lambda a: jnp.full(a.shape, jnp.nan, a.dtype) if eqx.is_inexact_array(a) else a,
        system,
    )

    def read(numbers: np.ndarray) -> np.ndarray:
        state = unflatten(jnp.asarray(numbers, flat.dtype))
        return np.asarray(blank.readout(state)).ravel()

    # A state that counts its units says which are read; others, of both signs and of
    # all sizes, whether they are read unchanged.
    units = read(np.arange(flat.size))
    if not np.isfinite(units).all():
        return "uses parameters, which would not learn"
    chosen = np.clip(units, 0, flat.size - 1).astype(int)
    random = np.random.default_rng(0).normal(size=flat.size).astype(flat.dtype)
    for numbers in (100 * random, -random, random / 100):
        if not np.array_equal(read(numbers), numbers[chosen]):
            return "mixes or changes units"
    if len(set(chosen.tolist())) < chosen.size:
        return "reads a unit twice"
    return None
