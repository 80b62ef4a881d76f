"""Optax optimizers by name, with a learning rate per layer, and the update of a step.

`Optimizer` is part of a configuration.  `make_update` wraps its transformation in an
`Update`, which the compiled loop calls.
"""

import dataclasses
import difflib
import inspect
import math
import warnings
from typing import Any, get_args, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..systems import _check
from ..systems._parameters import (
    by_layer,
    frozen_parameters,
    inside_bounds,
    parameter_groups,
    parameter_name,
    shared_arrays,
)
from ._settings import check_choice

Schedule = Literal["constant", "cosine", "exponential"]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Any optax optimizer, with one learning rate or one for each layer.

    With a constant schedule it is itself an optax transformation, which optax can wrap:
    `optax.chain(ep.Optimizer("adam", 1e-3), optax.keep_params_nonnegative())`.
    """

    name: str = "sgd"
    """optimizer: a function of optax, e.g. sgd, adam, adamw, lion"""
    lr: tuple[float, ...] = (0.05,)
    """learning rate: one for all layers, or one for each, input side first"""
    schedule: Schedule = "constant"
    """learning rate over the run: constant; cosine: falls to 0 at the last step;
    exponential: falls to 1/e at the last step (over 100 epochs, by 1 % in each)"""
    options: dict[str, float] = dataclasses.field(default_factory=dict)
    """more arguments of the optax function, e.g. momentum 0.9"""
    projection: str | None = None
    """projection of optax that is applied to each parameter array after every update,
    e.g. non_negative, box"""
    projection_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """arguments of the projection, e.g. lower 0 upper 0.5 for box"""

    def __post_init__(self):
        if isinstance(self.lr, int | float):
            object.__setattr__(self, "lr", (self.lr,))
        if not self.lr or any(not _finite(lr) or lr < 0 for lr in self.lr):
            raise ValueError(
                f"optimizer.lr is {self.lr!r}; give one or more numbers ≥ 0, e.g. 0.05"
            )
        check_choice("optimizer.schedule", self.schedule, get_args(Schedule))
        accepted = _arguments(self.name)
        _check_options(
            "optimizer.options", f"optax.{self.name}", self.options, accepted
        )
        _check_projection(self.projection, self.projection_options)

    def build(self, model: PyTree, steps: int) -> optax.GradientTransformation:
        """Return the transformation for the parameters of `model` and `steps` updates.

        `model` is the pair (system, cost).
        """
        groups = parameter_groups(model)
        rates = by_layer("optimizer.lr", self.lr, groups)
        if len(self.lr) == 1:
            made = self._one(self.lr[0], steps)
        else:
            made = optax.multi_transform(
                {name: self._one(lr, steps) for name, lr in rates.items()}, groups
            )
        if self.projection is None:
            return made
        return optax.chain(made, self._projected())

    def init(self, params: PyTree[Array]) -> optax.OptState:
        """Return the state of the transformation, for a wrapper of optax."""
        return self._unplanned(params).init(params)

    def update(
        self, grads: PyTree[Array], state: optax.OptState, params: Any = None
    ) -> tuple[PyTree[Array], optax.OptState]:
        """Return the updates and the new state, for a wrapper of optax."""
        return self._unplanned(grads).update(grads, state, params)

    def _unplanned(self, params: PyTree[Array]) -> optax.GradientTransformation:
        """Return the transformation without the number of updates."""
        if self.schedule != "constant":
            raise ValueError(
                f"optimizer.schedule is {self.schedule!r}, but a wrapper of optax does "
                "not know the number of updates; wrap ep.Optimizer(…).build((system, "
                "cost), steps), or use 'constant'"
            )
        return self.build(params, 1)

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
                f"optimizer.options is {self.options}, which optax.{self.name} "
                f"refuses: {error}"
            ) from error

    def _projected(self) -> optax.GradientTransformation:
        """Return the transformation that projects the updated parameters."""
        project = getattr(optax.projections, f"projection_{self.projection}")

        def update(updates, state, params=None):
            if params is None:
                raise ValueError("optimizer.projection needs the parameters in update")

            def change(param, step):
                return project(param + step, **self.projection_options) - param

            return jax.tree.map(change, params, updates), state

        return optax.GradientTransformation(optax.init_empty_state, update)


class Update(eqx.Module):
    """One step of an optimizer that keeps parameters frozen and inside their bounds.

    - `frozen`: for each parameter, whether it is frozen.  A frozen parameter moves only
      if its gradient is not 0.  So weight decay does not move it.
    """

    optimizer: optax.GradientTransformation
    frozen: tuple[bool, ...] = eqx.field(static=True)

    def init(self, params: PyTree[Array]) -> optax.OptState:
        """Return the optimizer's state before the first step."""
        return self.optimizer.init(params)

    def step(
        self, grads: PyTree, state: optax.OptState, params: PyTree, static: PyTree
    ) -> tuple[PyTree, optax.OptState]:
        """Return parameters and optimizer state after a step.

        `params` and `static` are the two parts of the pair (system, cost).
        """
        updates, state = self.optimizer.update(grads, state, params)
        moved = self._hold(grads, optax.apply_updates(params, updates), params)
        inside = inside_bounds(moved, static)
        if inside is not moved:
            inside = self._hold(grads, inside, params)
        return inside, state

    def _hold(self, grads: PyTree, moved: PyTree, params: PyTree) -> PyTree:
        """Return `moved` with the frozen parameters of `params`."""
        if not any(self.frozen):
            return moved
        leaves, tree = jax.tree.flatten(params)
        news, grad_leaves = jax.tree.leaves(moved), jax.tree.leaves(grads)
        held = [
            jnp.where(jnp.any(grad != 0), new, old) if frozen else new
            for frozen, grad, new, old in zip(
                self.frozen, grad_leaves, news, leaves, strict=True
            )
        ]
        return jax.tree.unflatten(tree, held)


def make_update(
    optimizer: optax.GradientTransformation, model: PyTree, x: Any, y: Any, s: Any
) -> Update:
    """Check the bounds of a model's parameters and find the frozen ones.

    x, y and s are the shapes of one example.  Warn if two fields hold the same array.
    """
    for first, other in shared_arrays(model):
        warnings.warn(
            f"{first} and {other} are one array, but train as two parameters that "
            f"differ after the first update; to tie them, keep only {first} and use "
            "it in both places",
            stacklevel=2,
        )
    check_bounds(model[0])
    frozen = frozen_parameters(model, x, y, s)
    return Update(optimizer, tuple(jax.tree.leaves(frozen)))


def check_bounds(system: Any) -> None:
    """Raise `ValueError` if `project_parameters` moves a parameter, or fails."""
    name = f"{type(system).__name__}.project_parameters"
    try:
        projected = system.project_parameters()
    except Exception as error:
        raise ValueError(f"{name} failed: {_check._reason(error)}") from error
    if projected is system:
        return
    before, after = (eqx.filter(u, eqx.is_inexact_array) for u in (system, projected))
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"{name} returned a {type(projected).__name__} with another structure; it "
            "must return the system with new values of its arrays, e.g. "
            "eqx.tree_at(lambda system: system.w, self, jnp.clip(self.w, 0, 1))"
        )

    def check(path, old, new):
        leaf = parameter_name((jax.tree_util.SequenceKey(0), *path))
        old, new = np.asarray(old), np.asarray(new)
        if old.shape != new.shape:
            raise ValueError(
                f"{name} returned shape {new.shape} for {leaf}; it must be {old.shape}"
            )
        # Allow for rounding, which a projection that normalizes changes again.
        rounding = 8 * np.finfo(new.dtype).eps * max(np.abs(new).max(initial=0), 1)
        outside = ~(np.abs(old - new) <= rounding)
        if outside.any():
            first = tuple(np.argwhere(outside)[0].tolist())
            raise ValueError(
                f"{leaf} starts outside the bounds of {name}: {outside.sum()} of "
                f"{old.size} values, the first at index {first}, where it is "
                f"{old[first]:.6g} and must be {new[first]:.6g}; start with "
                "system.project_parameters()"
            )

    jax.tree_util.tree_map_with_path(check, before, after)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _check_options(what: str, of: str, options: dict, accepted: list[str]) -> None:
    """Raise `ValueError` for arguments that a function of optax does not take."""
    for option in options:
        if option not in accepted:
            takes = "it takes " + ", ".join(accepted) if accepted else "it takes none"
            raise ValueError(f"{what}: {of} has no {option!r}; {takes}")
    wrong = {k: v for k, v in options.items() if not _finite(v)}
    if wrong:
        raise ValueError(f"{what} holds {wrong}; give finite numbers")


def _check_projection(name: str | None, options: dict[str, float]) -> None:
    """Raise `ValueError` for a projection that optax lacks, or for wrong arguments."""
    # The other projections need arrays, which a configuration cannot hold.
    known = {
        found.removeprefix("projection_"): inspect.signature(function).parameters
        for found, function in vars(optax.projections).items()
        if found.startswith("projection_")
        and "a" not in inspect.signature(function).parameters
    }
    if name is not None and name not in known:
        raise ValueError(
            f"optimizer.projection is {name!r}; choose one of optax.projections: "
            + ", ".join(known)
        )
    arguments = list(known[name].values())[1:] if name is not None else []
    of = f"optax.projections.projection_{name}" if name else "no projection"
    accepted = [argument.name for argument in arguments]
    _check_options("optimizer.projection_options", of, options, accepted)
    needed = [a.name for a in arguments if a.default is inspect.Parameter.empty]
    if missing := [argument for argument in needed if argument not in options]:
        raise ValueError(
            f"optimizer.projection_options lacks {', '.join(missing)}, which {of} needs"
        )


def _arguments(name: str) -> list[str]:
    """Return the arguments, besides the learning rate, of an optimizer of optax."""
    if name not in (optimizers := _optimizers()):
        near = difflib.get_close_matches(name, optimizers, 1)
        hint = f"did you mean {near[0]!r}?" if near else ", ".join(list(optimizers)[:8])
        raise ValueError(
            f"optimizer.name is {name!r}; give an optimizer of optax: {hint}"
        )
    return [argument for argument in optimizers[name] if argument != "learning_rate"]


def _optimizers() -> dict[str, list[str]]:
    """Return the arguments of each function of optax that takes a learning rate."""
    found = {}
    for name, function in sorted(vars(optax).items()):
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by_")):
            arguments = list(inspect.signature(function).parameters)
            if "learning_rate" in arguments:
                found[name] = arguments
    return found
