"""Compare each function of a model with its own derivative, argument by argument.

JAX's derivative of a function need not be the slope of its values: `stop_gradient`, a
straight-through weight or a `custom_jvp` replace it, and every learning rule uses the
replacement.  Both are measured along one random direction for each argument: the state,
the prediction, and each parameter array.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..estimators._step import inner
from ..systems._base import AbstractSystem, has_potential, State
from ..systems._total_energy import cost_of, has_total_energy
from ._exactness import projector
from ._metrics import parameter_names
from ._problem import Place, Problem, random_like

STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
LIMIT = 1e-5
"""relative difference allowed between a derivative and finite differences"""
KINK = 1e-3
"""relative difference of the slopes on both sides above which there is a kink"""
NEAR = 0.1
"""distance from the settled state, in units of its size"""
LEAVES = 24
"""parameter arrays tested at most"""


@dataclasses.dataclass(frozen=True)
class Slope:
    """JAX's derivative and the finite difference of one function in one argument.

    - `error`: their relative difference in the worst example.
    - `derivative`, `difference`: the two in that example.
    - `unused`: JAX's derivative is 0 in every example; `flat`: so is the difference.
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


def slopes(problem: Problem, state: State, dt: float) -> list[Slope]:
    """Compare near a batch of settled states, where no derivative is 0 by design.

    Functions: readout, cost (or total energy), project, bounds (project far outside),
    potential, velocity.  Arguments: `"s"`, `"prediction"` (of the cost), and the names
    of parameter arrays.  Examples with a kink at their state are left out.  So are
    parameters without any derivative: they are frozen on purpose, or unused.
    """
    leaves = jax.tree.leaves((problem, state))
    if any(jnp.iscomplexobj(leaf) for leaf in leaves if eqx.is_array(leaf)):
        return []
    params = eqx.filter(problem.model, eqx.is_inexact_array)
    names = parameter_names(params)
    chosen = np.linspace(0, len(names) - 1, min(len(names), LEAVES)).astype(int)
    arguments = ["s", "prediction", *(names[k] for k in chosen)]
    directions = [_direction(leaf, k) for k, leaf in enumerate(jax.tree.leaves(params))]
    probes = random_like(state, 4), random_like(state, 5)
    cases = np.zeros((len(arguments), 2 + len(names)))
    for row, column in enumerate([0, 1, *(chosen + 2)]):
        cases[row, column] = 1
    place = Place(state, dt, 0)
    found = _measure(problem, place, directions, probes, jnp.asarray(cases))
    exact, ahead, behind, size = (np.asarray(part) for part in found)
    result = []
    for k, function in enumerate(_functions(problem.system)):
        # A product that is small by chance is compared with the largest of the others.
        floor = 1e-3 * np.max(np.abs(np.nan_to_num(exact[:, :, k])), initial=0)
        for row, argument in enumerate(arguments):
            values = (part[:, row, ..., k] for part in (exact, ahead, behind, size))
            result.append(_slope((function, argument), floor, *values))
    used = {slope.argument for slope in result if not slope.unused}
    return [s for s in result if s.argument in used | {"s", "prediction"}]


def _slope(names, floor, exact, ahead, behind, size) -> Slope:
    """Return the worst finite example without a kink, at the best step size."""
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
    """Draw normal numbers of a parameter's shape and size."""
    values = np.asarray(leaf)
    size = float(np.max(np.abs(values), initial=0)) or 1.0
    draw = np.random.default_rng(100 + number).normal(size=values.shape)
    return jnp.asarray(size * draw, values.dtype)


def _functions(system: AbstractSystem) -> list[str]:
    """List the functions; the potential comes before the velocity derived from it."""
    if has_total_energy(system):
        return ["readout", "total energy", "project", "bounds", "potential", "velocity"]
    potential = ["potential"] if has_potential(system) else []
    return ["readout", "cost", "project", "bounds", *potential, "velocity"]


@eqx.filter_jit
def _measure(problem: Problem, place: Place, directions, probes, cases):
    """Return derivatives `[example, case, function]`, and slopes on both sides."""
    (system, cost, x, y), (state, dt, _) = problem, place
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
    """Return the scale of a state's leaf; 1 if the leaf is 0."""
    size = jnp.max(jnp.abs(leaf), initial=0)
    return jnp.where(size < 1e-8, 1, size)
