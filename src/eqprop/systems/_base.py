"""The five ways to describe a system that settles, as abstract base classes.

A system is an `equinox.Module` written for ONE example: the library batches with
`jax.vmap`.  A state is any pytree of floating-point arrays.  Every inexact array in
a system is a parameter; integer and boolean arrays are constants (masks).  To freeze
an inexact array, use `jax.lax.stop_gradient(self.name)` wherever the system reads it:
every estimator then computes a gradient of exactly zero, and no optimizer moves it.

=====================  ====================  ==================  =================
the user writes        base class            velocity ds/dt      potential
=====================  ====================  ==================  =================
energy E(x, s)         AbstractEnergy        −∂E/∂s              E
primitive Φ(x, s)      AbstractPrimitive     ∂Φ/∂s − s           −Φ
map F and Φ            AbstractMap           F(x, s) − s         −Φ
vector field μ(x, s)   AbstractVectorField   μ                   none
velocity, potential    AbstractSystem        velocity            potential, if any
=====================  ====================  ==================  =================
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

State = PyTree[Array]
Curvature = float | tuple[Any, ...] | Callable[[Any, State], tuple[Array, ...]]


class Block(eqx.Module):
    """A group of state leaves that relax together while the others are fixed.

    **Arguments:**

    - `where`: `state -> leaf or sequence of leaves`, as in `equinox.tree_at`.
    - `curvature`: the diagonal of −∂velocity/∂s on these leaves (for an energy, the
      diagonal of ∂²potential/∂s²): a number, a sequence of arrays that broadcast
      against the leaves, or a function `(x, s) -> such a sequence`.  It must be
      positive, even where −∂velocity/∂s is not.  With an upper bound the step is a
      damped Newton step: the potential never rises if the leaves of a block do not
      interact.
    """

    where: Callable[[State], Any] = eqx.field(static=True)
    curvature: Curvature = 1.0


class Declared(eqx.Module):
    """Base of classes that declare optional members as class attributes.

    A subclass may use the name of such a member for a required field (`dt: float`).
    `dataclasses` alone would take the inherited attribute as the field's default.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        inherited = {
            field.name
            for base in filter(dataclasses.is_dataclass, cls.__bases__)
            for field in dataclasses.fields(base)
        }
        for name in inspect.get_annotations(cls):
            if name not in vars(cls) and name not in inherited and hasattr(cls, name):
                setattr(cls, name, dataclasses.field())


class AbstractSystem(Declared):
    """A state, its velocity and a readout, for one example x.

    A subclass must define `init_state`, `velocity` and `readout`.  All other members
    are optional.  Members that are `None` here are methods of the subclasses that
    have them.
    """

    potential = cast(Callable[..., Scalar] | None, None)
    """`potential(x, s) -> scalar`: the function that EP contrasts.  A system without a
    potential learns by the vector-field rule."""
    learning_field = cast(Callable[..., State] | None, None)
    """`learning_field(x, s) -> state`: the field μ of the vector-field rule (∂μ/∂θ)ᵀ q,
    for a system in which μ is not the velocity.  Example: s ← ρ(drive) learns by its
    drive, without ρ."""
    total_energy = cast(Callable[..., Scalar] | None, None)
    """`total_energy(x, y, s, beta) -> scalar`: F, for a system that brings its own
    cost (`ep.AbstractTotalEnergy`)."""
    rates = cast(Callable[..., State] | None, None)
    """`rates(s)`: the firing rates r that `synapses` takes."""
    synapses = cast(Callable[..., Scalar] | None, None)
    """`synapses(x, rates) -> scalar`, bilinear in x and the rates: the potential
    contains the parameters as −synapses(x, rates(s)), and nowhere else."""

    @abc.abstractmethod
    def init_state(self, x: Any) -> State:
        """Return the state from which the free phase starts when none is given."""

    @abc.abstractmethod
    def velocity(self, x: Any, s: State) -> State:
        """Return ds/dt of the free dynamics, with the structure and shapes of `s`."""

    def forced_velocity(self, x: Any, s: State, force: State) -> State:
        """Return ds/dt under a force on the units (the nudge): velocity + force.

        Override it if the force acts in another way, e.g. scaled by a time constant:
        D (−∂E/∂s + force).
        """
        return jax.tree.map(jnp.add, self.velocity(x, s), force)

    @abc.abstractmethod
    def readout(self, s: State) -> Array:
        """Return the prediction ŷ that the cost compares with the target y."""

    def project(self, s: State) -> State:
        """Return the nearest allowed state; by default every state is allowed."""
        return s

    def project_parameters(self) -> Self:
        """Return this system with its parameters inside their bounds.

        Training applies it after every update.  Projecting twice must give the same
        parameters as projecting once.  By default, parameters have no bounds.
        """
        return self

    def blocks(self) -> Sequence[Block] | None:
        """Return the blocks that `Sweep` relaxes in turn; by default there are none."""
        return None

    def prepared(self) -> Self:
        """Return this system with everything computed that does not change in a phase.

        A relaxation calls it once, before its first step.  By default, nothing is
        computed.
        """
        return self

    def reciprocal(self) -> tuple[Any, Any] | None:
        """Return (forward, backward): two sequences of matching parameters.

        A forward parameter and its backward counterpart are the two directions of one
        synapse.  By default, no parameters are declared as counterparts.
        """
        return None

    def tangent(self, direction: State) -> State:
        """Return the part of a direction along which the state may move.

        By default, that is the whole direction; `Clamped` removes its fixed units.
        """
        return direction


class AbstractEnergy(AbstractSystem):
    """ds/dt = −∂E/∂s with E = `energy(x, s)` (paper A, eq 4; paper B, eq 1)."""

    @abc.abstractmethod
    def energy(self, x: Any, s: State) -> Scalar:
        """Return the scalar E(x, s) of one example."""

    def velocity(self, x: Any, s: State) -> State:
        force = state_gradient(lambda state: self.energy(x, state), s)
        return jax.tree.map(jnp.negative, force)

    def potential(self, x: Any, s: State) -> Scalar:
        return self.energy(x, s)


class AbstractPrimitive(AbstractSystem):
    """s ← ∂Φ/∂s with Φ = `primitive(x, s)` (paper D, energy-based setting)."""

    @abc.abstractmethod
    def primitive(self, x: Any, s: State) -> Scalar:
        """Return the scalar Φ(x, s) of one example."""

    def velocity(self, x: Any, s: State) -> State:
        image = state_gradient(lambda state: self.primitive(x, state), s)
        return jax.tree.map(jnp.subtract, image, s)

    def potential(self, x: Any, s: State) -> Scalar:
        return -self.primitive(x, s)


class AbstractMap(AbstractSystem):
    """s ← F(x, s), learning by a primitive Φ (paper D, prototypical setting).

    If F is not ∂Φ/∂s (σ outside Φ), EP's gradient is declared as approximate.
    """

    @abc.abstractmethod
    def map(self, x: Any, s: State) -> State:
        """Return the next state F(x, s), with the structure and shapes of `s`."""

    @abc.abstractmethod
    def primitive(self, x: Any, s: State) -> Scalar:
        """Return the scalar Φ(x, s) that the learning rule contrasts."""

    def velocity(self, x: Any, s: State) -> State:
        return jax.tree.map(jnp.subtract, self.map(x, s), s)

    def potential(self, x: Any, s: State) -> Scalar:
        return -self.primitive(x, s)

    def learning_field(self, x: Any, s: State) -> State:
        """Return ∂Φ/∂s, without σ, as in the rule that contrasts Φ."""
        return state_gradient(lambda state: self.primitive(x, state), s)


class AbstractVectorField(AbstractSystem):
    """ds/dt = μ(x, s) = `velocity(x, s)`, with no potential (paper C)."""


def has_potential(system: AbstractSystem) -> bool:
    """Return whether EP contrasts a potential; else it uses paper C's rule."""
    return system.potential is not None


def learning_field(system: AbstractSystem) -> Callable[[Any, State], State]:
    """Return the field that the vector-field rule differentiates.

    It is the declared `learning_field`, or else the velocity.
    """
    return system.learning_field or system.velocity


def energy_of(system: AbstractSystem) -> Callable[[Any, State], Scalar]:
    """Return E(x, s) with velocity = −∂E/∂s: the potential (−Φ + ½‖s‖² for a Φ).

    Raise `ValueError` if the velocity descends no energy.
    """
    potential = system.potential
    if isinstance(system, AbstractMap) or potential is None:
        kind = "map" if isinstance(system, AbstractMap) else "vector field"
        raise ValueError(
            f"{type(system).__name__} is a {kind}: its velocity descends no energy E, "
            "so no law e^(−E/T) exists to sample. Use adjusted=False, which samples "
            "the law of the noisy dynamics, or write the model as an AbstractEnergy"
        )
    if not isinstance(system, AbstractPrimitive):
        return potential

    def energy(x: Any, s: State) -> Scalar:
        squares = (0.5 * jnp.sum(leaf**2) for leaf in jax.tree.leaves(s))
        return sum(squares) + potential(x, s)

    return energy


def state_gradient(function: Callable[[State], Scalar], s: State) -> State:
    """Return ∂function/∂s, holomorphic if the state is complex."""
    holomorphic = any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(s))
    return jax.grad(function, holomorphic=holomorphic)(s)
