"""Build what a configuration trains: a system, a cost and examples."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import data
from ..data import _splits
from ..relaxations import initial_state
from ..systems import AbstractSystem
from ..training import (
    check_program_inputs,
    Config,
    Examples,
    load_user_model,
    UserModel,
)


STARTS = 100
"""number of examples whose initial state is checked before training"""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A system and its cost, and the examples to train, validate and test on."""

    system: AbstractSystem
    cost: Any
    train: Examples
    validation: Examples | None
    test: Examples | None
    image_shape: tuple[int, ...] | None
    dataset: data.Dataset | None = None
    gone: FileNotFoundError | None = None
    """the error that explains why there are no examples (see `without_data`)"""

    @classmethod
    def build(cls, config: Config, model: str | None = None) -> "Problem":
        """Load the data and build the system; `model` replaces config.model.path."""
        if isinstance(config.model, UserModel):
            return cls._of_user(config, model or config.model.path)
        if config.data is None:
            raise ValueError("data is None; give a data set, e.g. digits")
        dataset = _load(config)
        _check_targets(dataset, config.model.cost)
        key, _ = config.keys()
        system, cost = config.model.build(dataset.input_shape, dataset.target_size, key)
        return cls._of(dataset, system, cost)

    def check_start(self, where: str) -> None:
        """Refuse a model whose velocity is not finite in its initial states."""
        if self.dataset is None:
            check_program_inputs(f"{where}: x", self.train[0])
        x = jax.tree.map(lambda leaf: jnp.asarray(leaf[:STARTS]), self.train[0])
        state = initial_state(self.system, x, None)
        velocity = _velocities(self.system, x, state)
        wrong = np.zeros(len(jax.tree.leaves(x)[0]), bool)
        for leaf in jax.tree.leaves(velocity):
            wrong |= ~np.isfinite(leaf).reshape(len(wrong), -1).all(1)
        if wrong.any():
            raise ValueError(
                f"{where}: the velocity is not finite in the initial state of example "
                f"{int(wrong.argmax())}: look for a logarithm, a root or a division, "
                "or return another state from init_state"
            )

    @classmethod
    def without_data(
        cls, config: Config, facts: dict[str, Any], gone: FileNotFoundError
    ) -> "Problem":
        """Build the network for data that are gone, from the `facts` of the run."""
        if isinstance(config.model, UserModel):
            raise gone
        try:
            shape, size, classes, image = (
                facts[name]
                for name in ("input_shape", "target_size", "classes", "image_shape")
            )
            shape, image = tuple(shape), None if image is None else tuple(image)
            split = data.Split(np.zeros((0, *shape), np.float32), np.zeros((0, size)))
        except (KeyError, TypeError, ValueError):
            raise gone from None
        key, _ = config.keys()
        system, cost = config.model.build(shape, size, key)
        name = str(facts.get("name"))
        inputs = data.InputFormat.from_json(facts.get("inputs"))
        dataset = data.Dataset(name, split, None, None, classes, image, inputs)
        return cls(
            system, cost, (split.x, split.y), None, None, image, dataset, gone=gone
        )

    @property
    def inputs(self) -> data.InputFormat | None:
        """The format of x as given; None if x is not one array, or if not recorded."""
        if self.dataset is not None:
            return self.dataset.inputs
        x = self.train[0]
        return data.InputFormat.of_program(x) if hasattr(x, "dtype") else None

    def facts(self) -> dict[str, Any]:
        """Return sizes and shapes of the data, as JSON values."""
        splits = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        found: dict[str, Any] = {
            "name": None if self.dataset is None else self.dataset.name,
            "examples": {
                name: 0 if pair is None else len(jax.tree.leaves(pair[0])[0])
                for name, pair in splits.items()
            },
            "image_shape": self.image_shape,
            "inputs": None if self.inputs is None else self.inputs.to_json(),
        }
        if self.dataset is not None:
            found |= {
                "input_shape": self.dataset.input_shape,
                "target_size": self.dataset.target_size,
                "classes": self.dataset.classes,
            }
        return found

    @classmethod
    def _of_user(cls, config: Config, path: str) -> "Problem":
        system, cost, x, y = load_user_model(path)
        if config.data is not None:
            return cls._of(_load(config), system, cost)
        if config.task != "auto":
            raise ValueError(
                f"task is {config.task!r}, but {path} returns its own x and y; leave "
                "task out, or give a file as data"
            )
        train, validation, test = _split(x, y, config)
        return cls(system, cost, train, validation, test, None)

    @classmethod
    def _of(cls, dataset: data.Dataset, system: AbstractSystem, cost: Any):
        def pair(split):
            return None if split is None else (split.x, dataset.targets(split.y))

        train = pair(dataset.train)
        assert train is not None
        return cls(
            system,
            cost,
            train,
            pair(dataset.validation),
            pair(dataset.test),
            dataset.image_shape,
            dataset,
        )


@eqx.filter_jit
def _velocities(system: AbstractSystem, x: PyTree, state: PyTree) -> PyTree:
    return jax.vmap(system.velocity)(x, state)


def _load(config: Config) -> data.Dataset:
    assert config.data is not None
    return data.load(
        config.data,
        validation=config.validation,
        test=config.test,
        flatten=config.flatten,
        task=config.task,
    )


def _check_targets(dataset: data.Dataset, cost: str) -> None:
    """Refuse targets that a built-in network cannot learn, though they are valid."""
    if dataset.classes == 1:
        raise ValueError(
            f"{dataset.name}: every label is 0, so that there is only one class; give "
            "labels of two or more classes. For targets give floats of shape [N, d], "
            "or task='regression'"
        )
    if dataset.classes is None:
        splits = {"training": dataset.train, "validation": dataset.validation}
        for split, pair in (splits | {"test": dataset.test}).items():
            if pair is not None:
                check_probabilities(pair.y, cost, f"{dataset.name}: the {split} y")


def check_probabilities(y: np.ndarray, cost: str, what: str) -> None:
    """Refuse rows of y that are not probabilities, if the cost needs probabilities."""
    if cost == "squared-error":
        return
    wrong = (y < 0).any(1) | (abs(y.sum(1) - 1) > 1e-3)
    if wrong.any():
        raise ValueError(
            f"{what}[{int(np.argmax(wrong))}] is not a probability (numbers ≥ 0 with "
            f"sum 1), which model.cost {cost} needs; use --model.cost squared-error"
        )


def _split(x: PyTree, y: PyTree, config: Config) -> tuple:
    """Split a user's examples, in one random order, into the three parts."""
    splitting = _splits.Splitting(config.validation, config.test, 0)
    order = np.random.default_rng(0).permutation(len(jax.tree.leaves(x)[0]))
    order, test = _splits.hold_out_test(order, splitting.test)
    train, validation = _splits.hold_out_validation(order, splitting.validation)

    def part(index):
        if not len(index):
            return None
        return jax.tree.map(lambda a: np.asarray(a)[index], (x, y))

    return part(train), part(validation), part(test)
