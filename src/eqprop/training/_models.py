"""The networks that a configuration can name, each built for the data it meets."""

import abc
import dataclasses
import math
from collections.abc import Collection
from typing import Any, get_args, Literal

import jax
from jaxtyping import PRNGKeyArray

from .. import costs, systems
from ..systems._layered import Options

ACTIVATIONS = {
    "hard-sigmoid": systems.hard_sigmoid,
    "shifted-sigmoid": systems.shifted_sigmoid,
    "clipped-sigmoid": systems.clipped_sigmoid,
    "tanh": systems.tanh,
    "linear": systems.identity,
}
COSTS = {
    "squared-error": costs.SquaredError(),
    "cross-entropy": costs.CrossEntropy(),
}

ActivationName = Literal[
    "hard-sigmoid", "shifted-sigmoid", "clipped-sigmoid", "tanh", "linear"
]
InitializerName = Literal["glorot", "fan-in", "gain"]


@dataclasses.dataclass(frozen=True)
class LayeredModel(abc.ABC):
    """What the layered networks share; input and output follow from the data."""

    hidden: tuple[int, ...] = (500,)
    """units of each hidden layer, input side first, after the convolutions"""
    convolutions: tuple[systems.Convolution, ...] = ()
    """convolutional layers on an image, e.g. 32:5:max (channels:kernel:pool)"""
    activation: ActivationName = "hard-sigmoid"
    """ρ of the hidden layers"""
    output: ActivationName = "hard-sigmoid"
    """ρ of the output layer"""
    initializer: InitializerName = "glorot"
    """initial weights: glorot (paper A), fan-in (paper D), gain (Scellier 2023)"""
    gain: float | None = None
    """gain of the initializer 'gain' (dimensionless)"""
    cost: Literal["squared-error", "cross-entropy", "softmax-readout"] = "squared-error"
    """C(ŷ, y) of one example; softmax-readout: the output layer leaves the dynamics"""

    def __post_init__(self):
        _check_words(
            self,
            activation=ACTIVATIONS,
            output=ACTIVATIONS,
            initializer=get_args(InitializerName),
            cost=(*COSTS, "softmax-readout"),
        )
        unread = self.output not in (type(self).output, self.activation)
        if self.cost == "softmax-readout" and unread:
            raise ValueError(
                f"model.output is {self.output!r}, and model.cost softmax-readout "
                "reads the last hidden layer; leave out model.output"
            )
        if not isinstance(self.hidden, tuple) or any(
            not isinstance(n, int) or n < 1 for n in self.hidden
        ):
            raise ValueError(
                f"model.hidden is {self.hidden!r}; give whole numbers ≥ 1, one for "
                "each hidden layer, e.g. (500,)"
            )
        if self.cost == "softmax-readout" and not self.hidden:
            raise ValueError(
                "model.cost softmax-readout reads the last hidden layer; give "
                "model.hidden at least one"
            )
        if (self.gain is not None) != (self.initializer == "gain"):
            raise ValueError(
                f"model.gain is {self.gain} and model.initializer {self.initializer}: "
                "a gain belongs to the initializer 'gain', and only to it"
            )
        if self.gain is not None and not 0 < self.gain < float("inf"):
            raise ValueError(
                f"model.gain is {self.gain}; it must be positive and finite, e.g. 0.5"
            )

    def build(
        self, input_shape: tuple[int, ...], outputs: int, key: PRNGKeyArray
    ) -> tuple[systems.AbstractSystem, costs.AbstractCost]:
        """The system and cost for examples of this shape."""
        initializer: systems.Initializer = systems.glorot_uniform
        if self.initializer == "fan-in":
            initializer = systems.fan_in_uniform
        elif self.gain is not None:
            initializer = systems.gain_uniform(self.gain)
        options: Options = {
            "activation": ACTIVATIONS[self.activation],
            "output": ACTIVATIONS[self.output],
            "initializer": initializer,
        }
        inputs: Any = math.prod(input_shape)
        if self.convolutions:
            inputs = self._image(input_shape)
        sizes = (inputs, *self.convolutions, *self.hidden)
        if self.cost != "softmax-readout":
            return self.network((*sizes, outputs), key, options), COSTS[self.cost]
        # The last hidden layer is read by the softmax layer, and keeps its own ρ.
        key, readout_key = jax.random.split(key)
        options["output"] = options["activation"]
        readout = costs.SoftmaxReadout(self.hidden[-1], outputs, key=readout_key)
        return self.network(sizes, key, options), readout

    def _image(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(height, width, channels) of an example, its one channel added."""
        if len(shape) not in (2, 3):
            raise ValueError(
                f"model.convolutions need images, and an example has shape {shape}; "
                "use --no-flatten with data of shape [N, height, width] or [N, height, "
                "width, channels]"
            )
        return (*shape, 1)[:3]

    @abc.abstractmethod
    def network(
        self, sizes: Any, key: PRNGKeyArray, options: Options
    ) -> systems.AbstractSystem:
        """The system of these sizes."""


@dataclasses.dataclass(frozen=True)
class Hopfield(LayeredModel):
    """Paper A's layered Hopfield network."""

    def network(self, sizes, key, options):
        return systems.HopfieldEnergy(sizes, key=key, **options)


@dataclasses.dataclass(frozen=True)
class DiscreteHopfield(LayeredModel):
    """The same network as a primitive function, Φ = ½‖s‖² − εE (paper D)."""

    dt: float = 0.5
    """ε, in units of the neurons' time constant; its steps are those of dt = 1"""

    def network(self, sizes, key, options):
        inner = systems.HopfieldEnergy(sizes, key=key, **options)
        return systems.DiscreteEnergy(inner, self.dt)


@dataclasses.dataclass(frozen=True)
class XieSeung(LayeredModel):
    """Xie & Seung's network: Hopfield's with feedback scaled by γ (paper A, eq 33)."""

    gamma: float = 0.1
    """γ, the strength of the feedback, in (0, 1]"""

    def network(self, sizes, key, options):
        return systems.XieSeungEnergy(sizes, gamma=self.gamma, key=key, **options)


@dataclasses.dataclass(frozen=True)
class Prototypical(LayeredModel):
    """Paper D's network with σ outside of Φ; its steps are those of dt = 1."""

    def network(self, sizes, key, options):
        return systems.PrototypicalNetwork(sizes, key=key, **options)


@dataclasses.dataclass(frozen=True)
class Leaky(LayeredModel):
    """Paper C's leaky integrators with untied forward and backward weights."""

    angle: float | None = 0.0
    """angle between forward and backward weights at the start, in degrees; None:
    drawn anew"""
    discrete: bool = False
    """s ← ρ(drive) at steps of dt = 1"""

    def network(self, sizes, key, options):
        return systems.LeakyIntegrator(
            sizes, key=key, angle=self.angle, discrete=self.discrete, **options
        )


@dataclasses.dataclass(frozen=True)
class Toy:
    """Paper D's toy network: inputs, hidden units and outputs all joined."""

    hidden: int = 50
    """hidden units"""
    activation: ActivationName = "tanh"
    """ρ of all units"""
    cost: Literal["squared-error", "cross-entropy"] = "squared-error"
    """C(ŷ, y) of one example"""

    def __post_init__(self):
        _check_words(self, activation=ACTIVATIONS, cost=COSTS)
        if not isinstance(self.hidden, int) or self.hidden < 0:
            raise ValueError(
                f"model.hidden is {self.hidden!r}; give one whole number ≥ 0, e.g. 50"
            )

    def build(self, input_shape, outputs, key):
        """The system and cost for examples of this shape."""
        inputs = math.prod(input_shape)
        system = systems.toy_network(
            key=key,
            inputs=inputs,
            hidden=self.hidden,
            outputs=outputs,
            activation=ACTIVATIONS[self.activation],
        )
        return system, COSTS[self.cost]


@dataclasses.dataclass(frozen=True)
class UserModel:
    """FILE.py:NAME, a function of no arguments: (system, cost, x, y)."""

    path: str
    """FILE.py:NAME"""


def _check_words(model: Any, **known: Collection[str]) -> None:
    """A `ValueError` for a field of `model` that is none of its words."""
    for name, words in known.items():
        if getattr(model, name) not in words:
            raise ValueError(
                f"model.{name} is {getattr(model, name)!r}; choose " + ", ".join(words)
            )


Model = Hopfield | DiscreteHopfield | XieSeung | Prototypical | Leaky | Toy | UserModel
