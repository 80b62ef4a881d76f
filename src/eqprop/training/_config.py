"""The configuration of a run: a frozen dataclass that a recipe fills in.

Together with the versions and the machine it decides the result of a run.  The command
line overrides single fields; `config.json` in the run directory holds all of them, so
that the same run can be made again.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, get_args, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ..estimators import AbstractEstimator, ESTIMATORS, JacobianHomeostasis
from ..relaxations import RELAXATIONS
from ..systems import Convolution
from ._augmentation import check_augmentation
from ._models import Hopfield, Model
from ._optimizer import Optimizer
from ._settings import check_choice, rule_for, Settings

Task = Literal["auto", "classification", "regression"]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The learning rule, optimizer, network, data and training settings of a run."""

    estimator: AbstractEstimator
    """learning rule, which computes the gradient"""
    optimizer: Optimizer
    """optax optimizer, which updates the parameters with the gradient"""
    model: Model = dataclasses.field(default_factory=Hopfield)
    """network"""
    data: str | None = "digits"
    """digits, mnist, fashion-mnist, or a file FILE.npz with the arrays x and y"""
    validation: int | float = 0
    """training examples held out for validation: a number (≥ 1) or a fraction (< 1)"""
    test: float = 0.2
    """fraction held out for the test if the data have no test set"""
    flatten: bool = True
    """pass each image to the network as a vector"""
    task: Task = "auto"
    """what y of a file holds: classification: labels; regression: target values; auto:
    labels if y is integers or whole numbers [N], target values otherwise"""
    shift: int = 0
    """move each training image by up to this many pixels along each axis, at random in
    each epoch"""
    flip: bool = False
    """mirror half of the training images (left ↔ right), at random in each epoch"""

    def __post_init__(self):
        if isinstance(self.data, os.PathLike):
            object.__setattr__(self, "data", os.fspath(self.data))
        self._check_kinds()
        record = _encode(self.estimator)
        try:
            _decode(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"estimator cannot be read back from config.json: {error}; train it "
                "with ep.fit, which writes no run directory"
            ) from error
        check_choice("task", self.task, get_args(Task))
        check_augmentation(self.shift, self.flip)
        super().__post_init__()
        rule_for(self, self.estimator)

    def _check_kinds(self) -> None:
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

    @property
    def settings(self) -> Settings:
        """The settings of training alone, which a `Trainer` holds."""
        names = [field.name for field in dataclasses.fields(Settings)]
        return Settings(**{name: getattr(self, name) for name in names})

    def keys(self) -> tuple[PRNGKeyArray, PRNGKeyArray]:
        """Return the random keys of the initial weights and of the training steps."""
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
    """Return the configuration as a JSON object, which `config_from_json` reads."""
    return _encode(config)


def config_from_json(record: dict[str, Any]) -> Config:
    """Return the configuration that `config_to_json` wrote."""
    config = _decode(record)
    if not isinstance(config, Config):
        raise ValueError("the record is not an eqprop configuration")
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
        raise ValueError(f"{path} is not an eqprop configuration: {error}") from error


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
            f"estimator holds the function {getattr(value, '__name__', value)!r}, but "
            "config.json cannot hold functions; train it with ep.fit"
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
        raise ValueError(f"it holds the number {value}; numbers must be below 2**32")
    if not isinstance(value, dict):
        return value
    fields = {name: _decode(item) for name, item in value.items() if name != "type"}
    if "type" not in value:
        return fields
    kinds = (*_TYPES, *RELAXATIONS.values(), *ESTIMATORS.values())
    types = {cls.__name__: cls for cls in kinds}
    if value["type"] not in types:
        known = ", ".join(types)
        raise ValueError(f"it has the type {value['type']!r}; known types are {known}")
    return types[value["type"]](**fields)
