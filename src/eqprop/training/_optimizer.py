"""From a named optax optimizer and per-layer learning rates to one transformation."""

import dataclasses
import difflib
import inspect
import math
from typing import Any, get_args, Literal

import numpy as np
import optax
from jaxtyping import PyTree

from ..systems._parameters import by_layer, parameter_groups

Schedule = Literal["constant", "cosine", "exponential"]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Any optax optimizer, with one learning rate or one for each layer."""

    name: str = "sgd"
    """a function of optax, e.g. sgd, adam, adamw, lion"""
    lr: tuple[float, ...] = (0.05,)
    """learning rate: one, or one per layer from the input side on"""
    schedule: Schedule = "constant"
    """course of the learning rate; cosine falls to 0 at the last step, exponential
    to 1/e of the first, which over 100 epochs is 1 % less in each"""
    options: dict[str, float] = dataclasses.field(default_factory=dict)
    """further arguments of the optax function, e.g. momentum 0.9"""

    def __post_init__(self):
        if isinstance(self.lr, int | float):
            object.__setattr__(self, "lr", (self.lr,))
        if not self.lr or any(not _finite(lr) or lr < 0 for lr in self.lr):
            raise ValueError(
                f"optimizer.lr is {self.lr!r}; give one or more numbers ≥ 0, e.g. 0.05"
            )
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"optimizer.schedule is {self.schedule!r}; choose "
                + ", ".join(get_args(Schedule))
            )
        accepted = _arguments(self.name)
        for option in self.options:
            if option not in accepted:
                raise ValueError(
                    f"optimizer.options: optax.{self.name} has no {option!r}; it takes "
                    + ", ".join(accepted)
                )
        wrong = {k: v for k, v in self.options.items() if not _finite(v)}
        if wrong:
            raise ValueError(f"optimizer.options holds {wrong}; give finite numbers")

    def build(self, model: PyTree, steps: int) -> optax.GradientTransformation:
        """The transformation for the parameters of `model` and `steps` updates."""
        groups = parameter_groups(model)
        rates = by_layer("optimizer.lr", self.lr, groups)
        if len(self.lr) == 1:
            return self._one(self.lr[0], steps)
        return optax.multi_transform(
            {name: self._one(lr, steps) for name, lr in rates.items()}, groups
        )

    def _one(self, lr: float, steps: int) -> optax.GradientTransformation:
        rate = lr
        if self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(lr, steps)
        elif self.schedule == "exponential":
            rate = optax.exponential_decay(lr, steps, 1 / math.e)
        try:
            return getattr(optax, self.name)(rate, **self.options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"optimizer.options {self.options} do not suit optax.{self.name}: "
                f"{error}"
            ) from error


def check_counts(*, epochs: int, batch_size: int, seed: int) -> None:
    """A ValueError for what no training run can be asked for."""
    counts = {"epochs": (epochs, 1), "batch_size": (batch_size, 1), "seed": (seed, 0)}
    for name, (value, least) in counts.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(
                f"{name} is {value!r}; it must be a whole number ≥ {least}"
            )
    # JAX counts with 32 bits, and keeps 32 of a seed: a larger one would repeat
    # a smaller one's run.
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value >= 2**31:
            raise ValueError(f"{name} is {value}; it must be below 2**31")
    if seed >= 2**32:
        raise ValueError(f"seed is {seed}; it must be below 2**32")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _arguments(name: str) -> list[str]:
    function = getattr(optax, name, None)
    parameters = {}
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters
    if "learning_rate" not in parameters or name.startswith(("_", "scale_by_")):
        known = [
            n
            for n in dir(optax)
            if "learning_rate" in _signature(n) and not n.startswith(("_", "scale_by_"))
        ]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "e.g. " + ", ".join(known[:8])
        raise ValueError(f"optimizer.name is {name!r}, no optimizer of optax; {hint}")
    return [parameter for parameter in parameters if parameter != "learning_rate"]


def _signature(name: str) -> tuple[str, ...]:
    function = getattr(optax, name)
    if not inspect.isfunction(function):
        return ()
    return tuple(inspect.signature(function).parameters)
