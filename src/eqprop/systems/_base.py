"""The five ways to describe a system that settles, as abstract base classes.

A system is an `equinox.Module` written for ONE example: the library batches with
`jax.vmap`.  A state is any pytree of floating-point arrays.  Every inexact array in
a system is a parameter; integer and boolean arrays are constants (masks).  To freeze
an inexact one, use `jax.lax.stop_gradient(self.name)` wherever the system reads it:
every estimator then finds its gradient to be exactly zero, and no optimizer moves it.

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
from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

State = PyTree[Array]
Curvature = float | tuple[Any, ...] | Callable[[Any, State], tuple[Array, ...]]


class Block(eqx.Module):
    """A group of state leaves that relax together, given all the others.

    **Arguments:**

    - `where`: `state -> leaf or sequence of leaves`, as in `equinox.tree_at`.
    - `curvature`: the diagonal of −∂velocity/∂s on those leaves, which for an energy
      is that of ∂²potential/∂s²: a number, a sequence of arrays that broadcast
      against the leaves, or a function `(x, s) -> such a sequence`; positive, also
      where −∂velocity/∂s is not.  An upper bound makes the step a damped Newton step,
      under which the potential never rises if the leaves of a block do not interact.
    """

    where: Callable[[State], Any] = eqx.field(static=True)
    curvature: Curvature = 1.0


class AbstractSystem(eqx.Module):
    """A state, its velocity and a readout, for one example x.

    Optional members of a subclass:

    - `potential(x, s) -> scalar`: the function EP contrasts.  A system without one
      learns by the vector-field rule.
    - `blocks() -> sequence of Block`: what `Sweep` relaxes in turn.
    - `rates(s)` and `synapses(x, rates) -> scalar`, bilinear in x and the rates r:
      the parameters are in the potential as −synapses(x, rates(s)), and nowhere else.
    - `learning_field(x, s) -> state`: the field μ of the vector-field rule
      (∂μ/∂θ)ᵀ q where this is not the velocity: where a nonlinearity of the map stands
      outside of what learns, as in s ← ρ(drive), which learns by its drive.
    - `reciprocal() -> (forward, backward)`: parameters that are counterparts of each
      other, in two sequences that match.
    """

    @abc.abstractmethod
    def init_state(self, x: Any) -> State:
        """The state from which the free phase starts when none is given."""

    @abc.abstractmethod
    def velocity(self, x: Any, s: State) -> State:
        """ds/dt of the free dynamics, same structure and shapes as `s`."""

    def forced_velocity(self, x: Any, s: State, force: State) -> State:
        """ds/dt under a force on the units, as of a nudge: velocity + force.

        Override it where a force is felt in another way, e.g. scaled by a time
        constant: D (−∂E/∂s + force).
        """
        return jax.tree.map(jnp.add, self.velocity(x, s), force)

    @abc.abstractmethod
    def readout(self, s: State) -> Array:
        """The prediction ŷ that the cost compares with the target y."""

    def project(self, s: State) -> State:
        """The nearest allowed state; the identity unless overridden."""
        return s

    def project_parameters(self) -> Self:
        """Return this system with its parameters inside their bounds.

        Training applies it after every update.  Projecting twice must give the same
        parameters as projecting once.  Unless overridden, parameters have no bounds.
        """
        return self


class AbstractEnergy(AbstractSystem):
    """ds/dt = −∂E/∂s with E = `energy(x, s)` (paper A, eq 4; paper B, eq 1)."""

    @abc.abstractmethod
    def energy(self, x: Any, s: State) -> Scalar:
        """The scalar E(x, s) of one example."""

    def velocity(self, x: Any, s: State) -> State:
        force = state_gradient(lambda state: self.energy(x, state), s)
        return jax.tree.map(jnp.negative, force)

    def potential(self, x: Any, s: State) -> Scalar:
        return self.energy(x, s)


class AbstractPrimitive(AbstractSystem):
    """s ← ∂Φ/∂s with Φ = `primitive(x, s)` (paper D, energy-based setting)."""

    @abc.abstractmethod
    def primitive(self, x: Any, s: State) -> Scalar:
        """The scalar Φ(x, s) of one example."""

    def velocity(self, x: Any, s: State) -> State:
        image = state_gradient(lambda state: self.primitive(x, state), s)
        return jax.tree.map(jnp.subtract, image, s)

    def potential(self, x: Any, s: State) -> Scalar:
        return -self.primitive(x, s)


class AbstractMap(AbstractSystem):
    """s ← F(x, s), learning by a primitive Φ (paper D, prototypical setting).

    Where F is not ∂Φ/∂s (σ outside Φ), EP's gradient is approximate by declaration.
    """

    @abc.abstractmethod
    def map(self, x: Any, s: State) -> State:
        """The next state F(x, s), same structure and shapes as `s`."""

    @abc.abstractmethod
    def primitive(self, x: Any, s: State) -> Scalar:
        """The scalar Φ(x, s) that the learning rule contrasts."""

    def velocity(self, x: Any, s: State) -> State:
        return jax.tree.map(jnp.subtract, self.map(x, s), s)

    def potential(self, x: Any, s: State) -> Scalar:
        return -self.primitive(x, s)

    def learning_field(self, x: Any, s: State) -> State:
        """∂Φ/∂s: without σ, as the rule that contrasts Φ."""
        return state_gradient(lambda state: self.primitive(x, state), s)


class AbstractVectorField(AbstractSystem):
    """ds/dt = μ(x, s) = `velocity(x, s)`, with no potential (paper C)."""


def has_potential(system: AbstractSystem) -> bool:
    """Whether EP contrasts a potential of this system, or uses paper C's rule."""
    return callable(getattr(system, "potential", None))


def learning_field(system: AbstractSystem) -> Callable[[Any, State], State]:
    """What the vector-field rule differentiates: the velocity, or a field declared."""
    return getattr(system, "learning_field", None) or system.velocity


def energy_of(system: AbstractSystem) -> Callable[[Any, State], Scalar]:
    """E(x, s) of which velocity is the descent −∂E/∂s; a ValueError if there is none.

    It is the potential, to which a primitive Φ adds ½‖s‖².
    """
    if isinstance(system, AbstractMap) or not has_potential(system):
        kind = "map" if isinstance(system, AbstractMap) else "vector field"
        raise ValueError(
            f"{type(system).__name__} is a {kind}: its velocity descends no energy E, "
            "so there is no law e^(−E/T) to sample; use adjusted=False, whose law is "
            "that of the noisy dynamics itself, or write the model as an AbstractEnergy"
        )
    potential: Callable[[Any, State], Scalar] = system.potential  # type: ignore[attr-defined]
    if not isinstance(system, AbstractPrimitive):
        return potential

    def energy(x: Any, s: State) -> Scalar:
        squares = (0.5 * jnp.sum(leaf**2) for leaf in jax.tree.leaves(s))
        return sum(squares) + potential(x, s)

    return energy


def state_gradient(function: Callable[[State], Scalar], s: State) -> State:
    """∂function/∂s, holomorphic where the state is complex."""
    holomorphic = any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(s))
    return jax.grad(function, holomorphic=holomorphic)(s)
