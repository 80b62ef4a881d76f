"""Check the arguments of `verify` and `tune` before anything is measured."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from ..data import InputFormat
from ..estimators import AbstractEstimator, EquilibriumPropagation
from ..relaxations import AbstractRelaxation, relax
from ..relaxations._euler import Euler
from ..relaxations._sweep import Sweep
from ..systems import _check
from ..systems._base import has_potential
from ..systems._total_energy import batch_costs, check_total_energy
from ._problem import Problem


def checked_data(x: Any, y: Any) -> tuple[PyTree[Array], PyTree[Array]]:
    """Return x and y as arrays of one batch; refuse NaN, and x in uint8."""
    x, y = _check.batch(x=x, y=y)
    _check.check_finite(x=x, y=y)
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        given = InputFormat.of_program(leaf)
        if given is not None:
            given.check_scaled("x" + jax.tree_util.keystr(path))
    return x, y


def check_arguments(free, estimators, beta, dt, steps, examples) -> None:
    """Raise `ValueError` for arguments of `verify` that are out of range."""
    if free is not None and not isinstance(free, AbstractRelaxation):
        raise ValueError(
            f"free is {free!r}; give a relaxation, e.g. ep.Euler(0.1, 1000)"
        )
    if free is not None and free.outside:
        raise ValueError(
            f"free is a {type(free).__name__}, which cannot settle to rounding; give "
            "ep.Euler, and the device's estimator as estimators={'device': …}"
        )
    for name, rule in (estimators or {}).items():
        if not isinstance(rule, AbstractEstimator):
            raise ValueError(f"estimators[{name!r}] is {rule!r}; give an estimator")
    if beta is not None and not (np.isfinite(beta) and beta != 0):
        raise ValueError(f"beta is {beta}; it must be finite and not 0, e.g. 1e-3")
    if dt is not None and not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt is {dt}; it must be positive and finite, e.g. 0.1")
    for name, value in (("steps", steps), ("examples", examples)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number ≥ 1")


@eqx.filter_jit
def _start_values(problem: Any, state) -> dict[str, Any]:
    """Return what must be finite at the initial state, by name."""
    system, cost, x, y = problem
    values: dict[str, Any] = {"velocity": jax.vmap(system.velocity)(x, state)}
    if has_potential(system):
        values["energy or primitive"] = jax.vmap(system.potential)(x, state)
    values["cost"] = batch_costs(system, cost, x, y, state)
    return values


def check_start(problem: Problem) -> None:
    """Raise `ValueError` if there is no parameter, or NaN at the initial state."""
    system, cost, x, y = problem
    state = relax(system, x, Euler(dt=1.0, steps=0)).state
    _check.check_cost(system, cost, *_check.example((x, y, state)))
    name = type(system).__name__
    params = eqx.filter((system, cost), eqx.is_inexact_array)
    if not jax.tree.leaves(params):
        raise ValueError(
            f"{name} and its cost hold no floating-point array, so there is no "
            "gradient to verify; make the learnable numbers jnp arrays of the module "
            "(Python floats are constants)"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            where = jax.tree_util.keystr(path[1:]).lstrip(".")
            raise ValueError(f"{name}: the parameter {where} holds NaN or infinity")
    check_total_energy(system, cost, x, y, state)
    for what, value in _start_values(problem, state).items():
        finite = [np.isfinite(np.asarray(leaf)) for leaf in jax.tree.leaves(value)]
        broken = [int(np.argwhere(~leaf)[0, 0]) for leaf in finite if not leaf.all()]
        if broken:
            raise ValueError(
                f"{name}: the {what} of example {min(broken)} is not finite at its "
                "initial state; start where the energy is finite (init_state), or fix "
                f"the {what}"
            )


def check_tune(target, estimator, examples, nudging) -> None:
    """Raise `ValueError` for arguments of `tune` that are out of range."""
    EquilibriumPropagation(Euler(), Euler(), nudging=nudging)  # checks it
    if not (isinstance(target, int | float | np.number) and 0 < target < 90):
        raise ValueError(f"target is {target!r}; it must be between 0 and 90 degrees")
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise ValueError(f"examples is {examples!r}; it must be a whole number ≥ 1")
    if estimator is None:
        return
    if not isinstance(estimator, EquilibriumPropagation):
        raise ValueError(
            f"estimator is {estimator!r}; give an ep.EquilibriumPropagation, or None"
        )
    if not isinstance(estimator.free, Euler | Sweep):
        raise ValueError(
            f"estimator.free is {estimator.free!r}; give an ep.Euler or ep.Sweep"
        )
