"""The configuration of a run: a frozen dataclass that a recipe fills in.

Everything that decides a run's result stands here and in the seed.  The command
line overrides single fields; `config.json` in the run directory holds the resolved
whole, from which the same run can be made again.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, get_args, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .._precision import check_precision, Precision
from ..estimators import AbstractEstimator, ESTIMATORS, JacobianHomeostasis
from ..relaxations import RELAXATIONS
from ..systems import Convolution
from ._augmentation import check_augmentation
from ._models import Hopfield, Model
from ._faults import check_faults, OnUnsettled, StepSize
from ._optimizer import check_counts, Optimizer


Task = Literal["auto", "classification", "regression"]


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run."""

    estimator: AbstractEstimator
    """the learning rule"""
    optimizer: Optimizer
    """the optax optimizer that follows its gradients"""
    model: Model = dataclasses.field(default_factory=Hopfield)
    """the network"""
    data: str | None = "digits"
    """digits, mnist, fashion-mnist or a file FILE.npz with arrays x and y"""
    validation: int | float = 0
    """training examples kept for validation: a number (≥ 1) or a fraction (< 1)"""
    test: float = 0.2
    """fraction held out as the test set where the data bring none"""
    flatten: bool = True
    """give the network vectors, not images"""
    task: Task = "auto"
    """what y of a file holds: classification: labels, regression: target values, auto:
    labels where y is whole numbers [N] or integers, else target values"""
    epochs: int = 10
    """passes over the training examples"""
    batch_size: int = 20
    """examples per update"""
    persistent: bool = False
    """start each free phase from the example's last free equilibrium"""
    shuffle: bool = True
    """visit the examples in a new seeded order in each epoch"""
    shift: int = 0
    """move each training image by up to so many pixels each way, anew in each epoch"""
    flip: bool = False
    """mirror half of the training images, left for right, anew in each epoch"""
    precision: Precision = "float32"
    """operands of matrix products; states, parameters and sums stay float32"""
    on_unsettled: OnUnsettled = "warn"
    """examples whose free phase did not settle: error stops at the first, mask leaves
    them out of the gradient and counts them, warn says at the end how many they were"""
    dt: StepSize = "given"
    """step size of the Euler phases: as given to them, or auto, 1/λ of the largest
    eigenvalue of the network's Jacobian, measured anew at the start of each epoch (the
    dt of RBP, BPTT and dyadic EP stays as given)"""
    seed: int = 0
    """seed of the initial weights, the order and the signs of β"""

    def __post_init__(self):
        if isinstance(self.data, os.PathLike):
            object.__setattr__(self, "data", os.fspath(self.data))
        kinds = {
            "estimator": (AbstractEstimator, "a learning rule of eqprop"),
            "optimizer": (Optimizer, "an ep.Optimizer"),
            "model": (Model, "an ep.Hopfield"),
            "data": (str | None, "the name of a data set or a path FILE.npz"),
        }
        for name, (kind, wanted) in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                found = repr(value) if isinstance(value, str) else type(value).__name__
                raise ValueError(f"{name} is {found}; give {wanted}")
        record = _encode(self.estimator)
        try:
            _decode(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"estimator cannot be read back from config.json: {error}; train it "
                "with ep.fit, which keeps no run"
            ) from error
        if self.task not in get_args(Task):
            raise ValueError(
                f"task is {self.task!r}; choose {', '.join(get_args(Task))}"
            )
        check_precision(self.precision)
        check_augmentation(self.shift, self.flip)
        check_faults(self.on_unsettled, self.dt, self.estimator)
        check_counts(epochs=self.epochs, batch_size=self.batch_size, seed=self.seed)

    def keys(self) -> tuple[PRNGKeyArray, PRNGKeyArray]:
        """Keys of the initial weights and of the training steps."""
        init, steps = jax.random.split(jax.random.key(self.seed))
        return init, steps


_TYPES = (
    Config,
    Convolution,
    Optimizer,
    *get_args(Model),
    JacobianHomeostasis,
)


def config_to_json(config: Config) -> dict[str, Any]:
    """A JSON object from which `config_from_json` makes the same configuration."""
    return _encode(config)


def config_from_json(record: dict[str, Any]) -> Config:
    """The configuration that `config_to_json` wrote."""
    config = _decode(record)
    if not isinstance(config, Config):
        raise ValueError("the record is no eqprop configuration")
    return config


def load_config(path: Path) -> Config:
    """Read `config.json` of a run directory."""
    try:
        return config_from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist; give a run directory that eqprop train made"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no eqprop configuration: {error}") from error


def _encode(value: Any) -> Any:
    if isinstance(value, eqx.Module) or dataclasses.is_dataclass(value):
        fields = {
            field.name: _encode(getattr(value, field.name))
            for field in dataclasses.fields(value)  # type: ignore[arg-type]
            if field.init
        }
        return {"type": type(value).__name__, **fields}
    if callable(value):
        raise ValueError(
            f"estimator holds the function {getattr(value, '__name__', value)!r}, and "
            "config.json cannot hold a program; train it with ep.fit"
        )
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if isinstance(value, int) and abs(value) >= 2**32:
        raise ValueError(f"it holds the number {value}, which is too large")
    if not isinstance(value, dict):
        return value
    fields = {name: _decode(item) for name, item in value.items() if name != "type"}
    if "type" not in value:
        return fields
    kinds = (*_TYPES, *RELAXATIONS.values(), *ESTIMATORS.values())
    types = {cls.__name__: cls for cls in kinds}
    if value["type"] not in types:
        known = ", ".join(types)
        raise ValueError(f"it has the type {value['type']!r}; known are {known}")
    return types[value["type"]](**fields)
