"""Each function of a model against its own derivative, argument by argument.

JAX's derivative of a function need not be the slope of its values: `stop_gradient`, a
straight-through weight or a `custom_jvp` replace it.  Every learning rule works with
the replaced one.  Here both are measured along one random direction for each argument:
the state, the prediction, and each parameter array.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..estimators._step import inner
from ..systems._base import AbstractSystem, State, has_potential
from ..systems._total_energy import cost_of, has_total_energy
from ._exactness import projector
from ._fixed_point import random_like
from ._metrics import named_leaves

STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
LIMIT = 1e-5
"""relative difference allowed between a derivative and finite differences"""
KINK = 1e-3
"""relative difference of the slopes on both sides that shows a kink"""
NEAR = 0.1
"""distance from the settled state, in units of its size"""
LEAVES = 24
"""parameter arrays tested at most"""


@dataclasses.dataclass(frozen=True)
class Slope:
    """One function along one argument: JAX's derivative and the finite difference.

    `error` is their relative difference in the worst example; `derivative` and
    `difference` are those of that example.  `unused`: JAX's derivative is 0 in every
    example; `flat`: the finite difference is 0 there too.
    """

    function: str
    argument: str
    derivative: float
    difference: float
    error: float
    unused: bool
    flat: bool

    @property
    def wrong(self) -> bool:
        return not self.error <= LIMIT


def slopes(
    system: AbstractSystem, cost: Any, x: PyTree, y: PyTree, state: State, dt: float
) -> list[Slope]:
    """Compare near a batch of settled states, where no derivative is 0 by design.

    Functions: readout, cost (or total energy), project, bounds (project far outside),
    potential, velocity.  Arguments: `"s"`, `"prediction"` (of the cost), and the names
    of parameter arrays.  An example with a kink at its state is left out, and so is a
    parameter without any derivative: it is frozen on purpose, or unused.
    """
    leaves = jax.tree.leaves((x, y, state, system, cost))
    if any(jnp.iscomplexobj(leaf) for leaf in leaves if eqx.is_array(leaf)):
        return []
    params, _ = eqx.partition((system, cost), eqx.is_inexact_array)
    names = [name for name, _ in named_leaves(params[0])]
    names += [name for name, _ in named_leaves(params[1], "cost.")]
    chosen = np.linspace(0, len(names) - 1, min(len(names), LEAVES)).astype(int)
    arguments = ["s", "prediction", *(names[k] for k in chosen)]
    directions = [_direction(leaf, k) for k, leaf in enumerate(jax.tree.leaves(params))]
    probes = random_like(state, 4), random_like(state, 5)
    cases = np.zeros((len(arguments), 2 + len(names)))
    for row, column in enumerate([0, 1, *(chosen + 2)]):
        cases[row, column] = 1
    found = _measure(
        system, cost, x, y, state, dt, directions, probes, jnp.asarray(cases)
    )
    exact, ahead, behind, size = (np.asarray(part) for part in found)
    result = []
    for k, function in enumerate(_functions(system)):
        # A product that is small by accident is held to the largest of the others.
        floor = 1e-3 * np.max(np.abs(np.nan_to_num(exact[:, :, k])), initial=0)
        for row, argument in enumerate(arguments):
            result.append(
                _slope(
                    (function, argument),
                    exact[:, row, k],
                    ahead[:, row, :, k],
                    behind[:, row, :, k],
                    size[:, row, k],
                    floor,
                )
            )
    used = {slope.argument for slope in result if not slope.unused}
    return [s for s in result if s.argument in used | {"s", "prediction"}]


def _slope(names, exact, ahead, behind, size, floor) -> Slope:
    """Of all finite examples without a kink the worst, at the best step size."""
    h = np.asarray(STEPS)
    central = (ahead + behind) / 2
    noise = 1e-15 * size[:, None] / h
    off = np.maximum(np.abs(central - exact[:, None]) - noise, 0)
    best = np.argmin(np.where(np.isfinite(off), off, np.inf), axis=1)
    rows = np.arange(len(exact))
    off, central = off[rows, best], central[rows, best]
    scale = np.maximum(np.maximum(np.abs(exact), np.abs(central)), floor)
    error = np.divide(off, scale, out=np.zeros_like(off), where=scale > 0)
    near = STEPS.index(1e-6)
    bend = np.abs(ahead - behind)[:, near] - 2 * noise[:, near]
    error = np.where((bend > KINK * scale) | ~np.isfinite(error), 0, error)
    worst = int(np.argmax(error))
    steep = np.abs(central) > noise[rows, best]
    return Slope(
        *names,
        derivative=float(exact[worst]),
        difference=float(central[worst]),
        error=float(error[worst]),
        unused=not exact.any(),
        flat=not (exact.any() or steep.any()),
    )


def _direction(leaf, number: int):
    """Normal numbers of a parameter's shape and size."""
    values = np.asarray(leaf)
    size = float(np.max(np.abs(values), initial=0)) or 1.0
    draw = np.random.default_rng(100 + number).normal(size=values.shape)
    return jnp.asarray(size * draw, values.dtype)


def _functions(system: AbstractSystem) -> list[str]:
    """What is differentiated; the potential first, of which a velocity may derive."""
    if has_total_energy(system):
        return ["readout", "total energy", "project", "bounds", "potential", "velocity"]
    potential = ["potential"] if has_potential(system) else []
    return ["readout", "cost", "project", "bounds", *potential, "velocity"]


@eqx.filter_jit
def _measure(system, cost, x, y, state, dt, directions, probes, cases):
    """Derivatives `[example, case, function]`, slopes on both sides with all steps."""
    params, static = eqx.partition((system, cost), eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    names = _functions(system)
    steps = jnp.asarray(STEPS)

    def one(example):
        x, y, s, probe, weights = example
        away = jax.tree.map(lambda u, w: u + NEAR * _size(u) * w, s, weights)
        s = system.project(away)
        far = jax.tree.map(lambda u, w: u + 1e3 * _size(u) * w, s, weights)
        every = jax.tree.map(lambda d, u: _size(u) * d, probe, s)
        toward = projector(system, x, s, dt)(every)
        start = jax.tree.map(lambda u, v: u + dt * v, s, system.velocity(x, s))
        prediction = system.readout(s)
        wave = jnp.cos(1 + jnp.arange(prediction.size)).reshape(prediction.shape)

        def measured(case):
            def along(h):
                moved = [
                    leaf + h * c * d
                    for leaf, c, d in zip(leaves, case[2:], directions, strict=True)
                ]
                model = eqx.combine(jax.tree.unflatten(treedef, moved), static)
                u, begun, read = (
                    jax.tree.map(lambda a, d: a + h * case[0] * d, *pair)
                    for pair in ((s, toward), (start, toward), (away, every))
                )
                system, cost = model
                values = {
                    "readout": lambda: jnp.sum(wave * system.readout(read)),
                    "cost": lambda: cost(prediction + h * case[1] * wave, y),
                    "total energy": lambda: cost_of(system, cost, x, y, u),
                    "project": lambda: inner(system.project(begun), weights),
                    "bounds": lambda: inner(system.project(far), weights),
                    "potential": lambda: system.potential(x, u),
                    "velocity": lambda: inner(system.velocity(x, u), weights),
                }
                return jnp.stack([values[name]() for name in names])

            exact = jax.jacrev(along)(jnp.zeros((), prediction.dtype))
            offsets = jnp.concatenate([jnp.zeros(1), steps, -steps])
            values = jax.lax.map(along, offsets)
            here, up, down = values[0], *jnp.split(values[1:], 2)
            size = jnp.max(jnp.abs(values), 0) + jnp.abs(exact)
            h = steps[:, None]
            return exact, (up - here) / h, (here - down) / h, size

        return jax.lax.map(measured, cases)

    return jax.lax.map(one, (x, y, state, *probes))


def _size(leaf):
    """The scale of a state's leaf; 1 for one that is 0."""
    size = jnp.max(jnp.abs(leaf), initial=0)
    return jnp.where(size < 1e-8, 1, size)
