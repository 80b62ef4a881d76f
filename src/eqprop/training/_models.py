"""The networks of a configuration; `build` makes the system and cost for the data."""

import abc
import dataclasses
import math
from collections.abc import Collection
from typing import Any, get_args, Literal

import jax
from jaxtyping import PRNGKeyArray

from .. import costs, systems
from ..systems._layered import Options
from ._settings import check_choice

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
    """The options of all layered networks; the data set the inputs and outputs."""

    hidden: tuple[int, ...] = (500,)
    """units of each hidden layer after the convolutions, input side first"""
    convolutions: tuple[systems.Convolution, ...] = ()
    """convolutional layers, e.g. 32:5:max (channels:kernel:pool)"""
    activation: ActivationName = "hard-sigmoid"
    """activation ρ of the hidden layers"""
    output: ActivationName = "hard-sigmoid"
    """activation ρ of the output layer"""
    initializer: InitializerName = "glorot"
    """initial weights: glorot (paper A), fan-in (paper D), gain (Scellier 2023)"""
    gain: float | None = None
    """scale of the initial weights, for --model.initializer gain (dimensionless)"""
    cost: Literal["squared-error", "cross-entropy", "softmax-readout"] = "squared-error"
    """cost C(ŷ, y); softmax-readout: the output layer is not part of the dynamics"""

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
                f"model.output is {self.output!r}, but model.cost softmax-readout has "
                "no output layer in the dynamics; leave out model.output"
            )
        if not isinstance(self.hidden, tuple) or any(
            not isinstance(n, int) or n < 1 for n in self.hidden
        ):
            raise ValueError(
                f"model.hidden is {self.hidden!r}; give a whole number ≥ 1 for each "
                "hidden layer, e.g. (500,)"
            )
        if self.cost == "softmax-readout" and not self.hidden:
            raise ValueError(
                "model.hidden is (), but model.cost softmax-readout reads the last "
                "hidden layer; give at least one, e.g. (500,)"
            )
        if (self.gain is not None) != (self.initializer == "gain"):
            raise ValueError(
                f"model.gain is {self.gain} and model.initializer is "
                f"{self.initializer}; the initializer 'gain' needs a gain, and the "
                "others take none"
            )
        if self.gain is not None and not 0 < self.gain < float("inf"):
            raise ValueError(
                f"model.gain is {self.gain}; it must be positive and finite, e.g. 0.5"
            )

    def build(
        self, input_shape: tuple[int, ...], outputs: int, key: PRNGKeyArray
    ) -> tuple[systems.AbstractSystem, costs.AbstractCost]:
        """Return the system and cost for examples of this shape."""
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
        # The softmax layer reads the last hidden layer, which keeps its activation.
        key, readout_key = jax.random.split(key)
        options["output"] = options["activation"]
        readout = costs.SoftmaxReadout(self.hidden[-1], outputs, key=readout_key)
        return self.network(sizes, key, options), readout

    def _image(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (height, width, channels) of an example; add the channel if needed."""
        if len(shape) not in (2, 3):
            raise ValueError(
                f"model.convolutions need images, but an example has shape {shape}; "
                "use --no-flatten and data of shape [N, height, width] or [N, height, "
                "width, channels]"
            )
        return (*shape, 1)[:3]

    @abc.abstractmethod
    def network(
        self, sizes: Any, key: PRNGKeyArray, options: Options
    ) -> systems.AbstractSystem:
        """Return the system with layers of these sizes."""


@dataclasses.dataclass(frozen=True)
class Hopfield(LayeredModel):
    """Paper A's layered Hopfield network."""

    def network(self, sizes, key, options):
        return systems.HopfieldEnergy(sizes, key=key, **options)


@dataclasses.dataclass(frozen=True)
class DiscreteHopfield(LayeredModel):
    """The Hopfield network as a primitive function, Φ = ½‖s‖² − εE (paper D)."""

    dt: float = 0.5
    """ε, in units of the neurons' time constant; relax it with steps of dt = 1"""

    def network(self, sizes, key, options):
        inner = systems.HopfieldEnergy(sizes, key=key, **options)
        return systems.DiscreteEnergy(inner, self.dt)


@dataclasses.dataclass(frozen=True)
class XieSeung(LayeredModel):
    """Xie & Seung: a Hopfield network with weaker feedback (paper A, eq 33)."""

    gamma: float = 0.1
    """strength γ of the feedback, in (0, 1]"""

    def network(self, sizes, key, options):
        return systems.XieSeungEnergy(sizes, gamma=self.gamma, key=key, **options)


@dataclasses.dataclass(frozen=True)
class Prototypical(LayeredModel):
    """Paper D's network with σ outside of Φ; relax it with steps of dt = 1."""

    def network(self, sizes, key, options):
        return systems.PrototypicalNetwork(sizes, key=key, **options)


@dataclasses.dataclass(frozen=True)
class Leaky(LayeredModel):
    """Paper C's leaky integrators with untied forward and backward weights."""

    angle: float | None = 0.0
    """initial angle between forward and backward weights (degrees); None: draw the
    backward weights independently"""
    discrete: bool = False
    """discrete dynamics s ← ρ(drive), with steps of dt = 1"""

    def network(self, sizes, key, options):
        return systems.LeakyIntegrator(
            sizes, key=key, angle=self.angle, discrete=self.discrete, **options
        )


@dataclasses.dataclass(frozen=True)
class Toy:
    """Paper D's toy network: all units are connected."""

    hidden: int = 50
    """number of hidden units"""
    activation: ActivationName = "tanh"
    """activation ρ of all units"""
    cost: Literal["squared-error", "cross-entropy"] = "squared-error"
    """cost C(ŷ, y)"""

    def __post_init__(self):
        _check_words(self, activation=ACTIVATIONS, cost=COSTS)
        if not isinstance(self.hidden, int) or self.hidden < 0:
            raise ValueError(
                f"model.hidden is {self.hidden!r}; give a whole number ≥ 0, e.g. 50"
            )

    def build(self, input_shape, outputs, key):
        """Return the system and cost for examples of this shape."""
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
    """A model of your own: a function that returns (system, cost, x, y)."""

    path: str
    """FILE.py:NAME of the function, which takes no arguments"""


def _check_words(model: Any, **known: Collection[str]) -> None:
    """Raise `ValueError` if a field of `model` is not one of its known words."""
    for name, words in known.items():
        check_choice(f"model.{name}", getattr(model, name), words)


Model = Hopfield | DiscreteHopfield | XieSeung | Prototypical | Leaky | Toy | UserModel
