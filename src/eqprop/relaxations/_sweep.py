"""Block-asynchronous relaxation: groups of layers in turn, each solved at once.

For a layered network the blocks are the odd and the even layers (Scellier et al.
2023), or single layers where the feedback is weak (`XieSeungEnergy`): given its
neighbours a layer's energy is separable, so one step minimises it, exactly where it is
quadratic and safely where its curvature is only bounded.  A few sweeps replace hundreds
of Euler steps.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..systems._base import Block, State
from ..systems._total_energy import has_total_energy
from ._base import (
    AbstractRelaxation,
    check_hyperparameters,
    Dynamics,
    Equilibrium,
    initial_state,
)
from ._projected import largest, projected

LEAST = 0.1
"""of a block's own curvature: what a negative nudge leaves of it at least"""


class CurvatureNotPositive(ValueError):
    """A block declares a curvature by which no step can be divided."""


class Sweep(AbstractRelaxation):
    """s_k ← project(s_k + ω (velocity_k − β ∂C_k/∂s) / (a_k + β c_k)), block by block.

    a is the curvature that the system's `blocks()` declare, c that of the cost.  With
    upper bounds of the true curvature the potential + β cost never rises, for any ω
    between 0 and 2: a block's energy lies below a parabola in each unit, of which ω = 1
    goes to the lowest point, and ω = 2 to the same height on the other side.  Where a
    negative β leaves no such parabola, of which a + β c is below a/10, that is taken:
    its steps descend towards the bounds.  Larger ω (successive over-relaxation, Young
    1954) settles deep networks in fewer sweeps.

    The residual is ‖projected velocity / (a + β c)‖∞ of all blocks at the same state:
    how far the units would move, in units of the state.  A curvature a + β c that is
    not positive is a `ValueError`, and inside `jax.jit`, where nothing can be raised,
    an infinite residual (status `diverged`).

    **Arguments:**

    - `steps`: sweeps over all blocks at most, or exactly where `tol` is `None`.
    - `tol`: an example stops moving once its residual is below it (state).
    - `backward`: the blocks in reverse order.  A nudge starts at the output: where that
      is in the last block, it reaches the first layer sooner: with an odd number of
      hidden layers by a sweep, in `XieSeungEnergy` in the first one.
    - `omega`: ω, over-relaxation.  1.5 to 1.8 needs a fraction of the sweeps to a small
      residual; for a few sweeps that end early, 1 is the safe choice.
    """

    steps: int = 10
    """number of sweeps (at most, where there is a tolerance)"""
    tol: float | None = None
    """residual below which an example stops (state); None: all sweeps"""
    backward: bool = False
    """blocks in reverse order: for a nudge, where the output is in the last block"""
    omega: float = 1.0
    """over-relaxation: between 0 and 2"""

    def __check_init__(self):
        check_hyperparameters("Sweep", self.steps, self.tol, omega=self.omega)
        if not isinstance(self.omega, Tracer) and self.omega >= 2:
            raise ValueError(
                f"Sweep: omega is {self.omega}; it must be below 2, at which sweeps "
                "lower no energy, e.g. 1.5"
            )

    def step(self, dynamics: Dynamics, s: State, key):
        del key
        residuals = []
        for block in self._turns(dynamics, s):
            s, residual = self._update(block, dynamics, s)
            residuals.append(residual)
        return s, jnp.max(jnp.stack(residuals))

    def _turns(self, dynamics: Dynamics, s: State) -> tuple[Block, ...]:
        blocks = _blocks(dynamics.system, s)
        return blocks[::-1] if self.backward else blocks

    def _update(
        self, block: Block, dynamics: Dynamics, s: State
    ) -> tuple[State, Array]:
        """Solve one block; the residual is what it saw."""
        old = _leaves(block, s)
        velocity = _leaves(block, dynamics.velocity(s))
        curvature = _total_curvature(block, dynamics, s)
        moved = [
            u + self.omega * v / a
            for u, v, a in zip(old, velocity, curvature, strict=True)
        ]
        new = _leaves(block, dynamics.system.project(_replace(block, s, moved)))
        # From v, since n − u holds it only to the rounding of u.
        kept = [
            jnp.where(n == m, v / a, (n - u) / self.omega)
            for n, m, v, a, u in zip(new, moved, velocity, curvature, old, strict=True)
        ]
        residual = jnp.where(_positive(curvature), largest(kept), jnp.inf)
        return _replace(block, s, new), residual

    def residual(self, dynamics: Dynamics, s: State) -> Array:
        velocity = dynamics.velocity(s)
        step, positive = velocity, jnp.array(True)
        for block in _blocks(dynamics.system, s):
            curvature = _total_curvature(block, dynamics, s)
            positive &= _positive(curvature)
            parts = zip(_leaves(block, velocity), curvature, strict=True)
            step = _replace(block, step, [v / a for v, a in parts])
        kept = projected(dynamics.system.project, s, step)
        return jnp.where(positive, largest(kept), jnp.inf)

    def refuse(self, system, x, start, found, nudge=(None, None, 0.0)) -> None:
        if np.isfinite(np.asarray(found.residual)).all():
            return
        for state in (initial_state(system, x, start), found.state):
            check_curvature(system, x, state, *nudge)

    def _settle_steps(self, dynamics: Dynamics, s: State, key) -> Equilibrium:
        """Exactly `steps` sweeps, in a loop that begins after the first block's turn.

        What the other blocks get from the first one, e.g. its convolution, the first
        block's next turn needs again for the way back through a pooling.  The compiler
        computes it once where both stand in the loop's body, in this order.
        """
        del key
        first, *rest = self._turns(dynamics, s)

        def turn(block, s):
            moved, residual = self._update(block, dynamics, s)
            return jax.tree.map(lambda n, u: n.astype(u.dtype), moved, s), residual

        def others(s):
            residuals = []
            for block in rest:
                s, residual = turn(block, s)
                residuals.append(residual)
            return s, residuals

        def sweep(_, carry):
            end, _ = others(carry[0])
            return turn(first, end)[0], end

        started, residual = turn(first, s)
        carry = (started, s)
        started, before = jax.lax.fori_loop(0, max(self.steps - 2, 0), sweep, carry)
        previous = before
        if self.steps > 1:
            previous, _ = others(started)
            started, residual = turn(first, previous)
        last, residuals = others(started)
        residual = jnp.max(jnp.stack([residual, *residuals]))
        residual = self.measured(dynamics, last, residual)
        return self._result((last, previous, before), jnp.array(self.steps), residual)


def _leaves(block: Block, s: State) -> list[Array]:
    return jax.tree.leaves(block.where(s))


def _replace(block: Block, s: State, new: list[Array]) -> State:
    return eqx.tree_at(lambda u: jax.tree.leaves(block.where(u)), s, new)


def _blocks(system, s: State) -> tuple[Block, ...]:
    """The system's blocks, checked to hold every leaf of the state exactly once."""
    name = type(system).__name__
    if not callable(getattr(system, "blocks", None)):
        raise ValueError(
            f"Sweep needs a system that declares its blocks, and {name} has no "
            "blocks() method; define one that returns ep.Block objects, or use "
            "ep.Euler, which needs none"
        )
    blocks = system.blocks()
    if isinstance(blocks, Block) or not isinstance(blocks, Iterable):
        raise ValueError(
            f"{name}.blocks() returned a {type(blocks).__name__}; return a sequence of "
            "ep.Block, e.g. (ep.Block(lambda s: s),)"
        )
    blocks = tuple(blocks)
    count = len(jax.tree.leaves(s))
    found = [n for k, block in enumerate(blocks) for n in _numbers(name, k, block, s)]
    if sorted(found) != list(range(count)):
        paths = [jax.tree_util.keystr(p) for p, _ in _paths(s)]
        missing = [f"state{paths[n]}" for n in range(count) if n not in found]
        twice = [f"state{paths[n]}" for n in range(count) if found.count(n) > 1]
        faults = [f"{', '.join(missing)} in none"] * bool(missing)
        faults += [f"{', '.join(twice)} in several"] * bool(twice)
        raise ValueError(
            f"{name}.blocks() has {' and '.join(faults)}; every leaf of the state must "
            "be in exactly one block"
        )
    for number, block in enumerate(blocks):
        value = block.curvature
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(s)]
            first = _numbers(name, number, block, s)[0]
            unit = f"state{jax.tree_util.keystr(paths[first])}"
            raise CurvatureNotPositive(_not_positive(name, number, unit, value))
    return blocks


def check_curvature(
    system, x, state: State, cost=None, y=None, beta: Any = 0.0
) -> None:
    """Raise for the first unit of a batch of states that has no positive curvature.

    Examples whose state is not finite tell nothing and are left out.
    """
    numbers = jax.tree.unflatten(
        jax.tree.structure(state), range(len(jax.tree.leaves(state)))
    )
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    found = _batch_curvature(system, x, state, cost, y, jnp.asarray(beta))
    finite = np.logical_and.reduce(
        [
            np.isfinite(u).reshape(len(u), -1).all(1)
            for u in map(np.asarray, jax.tree.leaves(state))
        ]
    )
    for number, (block, leaves) in enumerate(zip(system.blocks(), found, strict=True)):
        places = jax.tree.leaves(block.where(numbers))
        for place, (total, value) in zip(places, leaves, strict=True):
            total = np.real(total)
            bad = np.argwhere(~((total > 0) & np.isfinite(total)))
            bad = bad[finite[bad[:, 0]]]
            if len(bad):
                example, *unit = (int(n) for n in bad[0])
                at = f"state{jax.tree_util.keystr(paths[place])}{unit}"
                what = np.real(np.asarray(value)[tuple(bad[0])])
                name = f"{at} of example {example}"
                message = _not_positive(type(system).__name__, number, name, what)
                raise CurvatureNotPositive(message)


@eqx.filter_jit
def _batch_curvature(system, x, state, cost, y, beta) -> list:
    """Of every leaf of every block: the curvature that a step divides by, and a + β c.

    They differ where a negative β c would leave too little of a.
    """

    def one(x, y, s, beta):
        dynamics = Dynamics(system, x, cost, y, beta)

        def of(block):
            old = _leaves(block, s)
            own = _curvature(block, x, s, len(old))
            given = [
                jnp.asarray(a) + c
                for a, c in zip(own, _cost_curvature(dynamics, block, s), strict=True)
            ]
            total = _total_curvature(block, dynamics, s)
            return [
                tuple(jnp.broadcast_to(value, u.shape) for value in pair)
                for u, *pair in zip(old, total, given, strict=True)
            ]

        return [of(block) for block in _blocks(system, s)]

    return jax.vmap(one, (0, 0, 0, 0 if beta.ndim else None))(x, y, state, beta)


def _not_positive(name: str, number: int, unit: str, value: Any) -> str:
    help = "declare the diagonal of −∂velocity/∂s, or an upper bound of it, in blocks()"
    if value == 0:
        help = (
            "nothing holds this unit, neither a leak nor a connection: give it one, or "
            "take it out of the state"
        )
    return (
        f"Sweep: block {number} of {name} has the curvature {value:.3g} at {unit}; a "
        f"curvature must be positive and finite: {help}"
    )


def _total_curvature(block: Block, dynamics: Dynamics, s: State) -> list[Array]:
    """a + β c of each leaf of a block; a negative β c leaves LEAST of a."""
    count = len(_leaves(block, s))
    pairs = zip(
        _curvature(block, dynamics.x, s, count),
        _cost_curvature(dynamics, block, s),
        strict=True,
    )
    return [a + jnp.maximum(c, (LEAST - 1) * jnp.real(a)) for a, c in pairs]


def _positive(curvature: list[Array]) -> Array:
    """Whether a block's curvatures are all positive and finite."""
    good = [jnp.all((jnp.real(a) > 0) & jnp.isfinite(a)) for a in curvature]
    return jnp.all(jnp.stack(good))


def _paths(s: State) -> list:
    return jax.tree_util.tree_leaves_with_path(s)


def _numbers(name: str, k: int, block: Block, s: State) -> list[int]:
    """Which leaves of the state the k-th block holds; errors that name it."""
    label = f"{name}.blocks()[{k}]"
    if not isinstance(block, Block):
        raise ValueError(
            f"{label} is {block!r}; it must be an ep.Block, e.g. "
            "ep.Block(lambda s: s['hidden'])"
        )
    leaves = [_Leaf(n) for n in range(len(jax.tree.leaves(s)))]
    try:
        found = jax.tree.leaves(block.where(jax.tree.unflatten(_structure(s), leaves)))
    except Exception as error:
        raise ValueError(
            f"{label}.where failed ({type(error).__name__}: {error}); it must return "
            f"whole leaves of the state, whose structure is {_structure(s)}, and not "
            "compute with them or take a part of one"
        ) from error
    wrong = [leaf for leaf in found if not isinstance(leaf, _Leaf)]
    if wrong or not found:
        what = f"returned {wrong[0]!r}" if wrong else "returned no leaf"
        raise ValueError(
            f"{label}.where {what}; it must return one or more leaves of the state, "
            f"whose structure is {_structure(s)}"
        )
    return [leaf.number for leaf in found]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Stands for a leaf of the state while a block says which it holds."""

    number: int


def _structure(s: State) -> Any:
    return jax.tree.structure(s)


def _curvature(block: Block, x, s: State, count: int) -> tuple:
    given = block.curvature
    if callable(given):
        try:
            given = given(x, s)
        except Exception as error:
            raise ValueError(
                f"the curvature of the block that holds {_held(block, s)} failed on "
                f"one example (x, s): {type(error).__name__}: {error}"
            ) from error
    found = jax.tree.leaves(given)
    if len(found) == 1 and found[0] is given and np.ndim(given) == 0:
        return (given,) * count
    own = [jnp.shape(leaf) for leaf in found]
    shapes = [jnp.shape(leaf) for leaf in _leaves(block, s)]
    if len(own) != count or not all(map(_broadcasts, own, shapes)):
        raise ValueError(
            f"the curvature of the block that holds {_held(block, s)} has the shapes "
            f"{own}, and these leaves {shapes}; give a number, or for each leaf an "
            "array that broadcasts against it"
        )
    return tuple(found)


def _broadcasts(shape: tuple, onto: tuple) -> bool:
    tail = onto[len(onto) - len(shape) :]
    pairs = zip(shape, tail, strict=False)
    return len(shape) <= len(onto) and all(a in (1, b) for a, b in pairs)


def _held(block: Block, s: State) -> str:
    """The leaves of a block by name."""
    names = [f"state{jax.tree_util.keystr(path)}" for path, _ in _paths(s)]
    held = jax.tree.leaves(block.where(jax.tree.unflatten(_structure(s), names)))
    return ", ".join(held)


def _cost_curvature(dynamics: Dynamics, block: Block, s: State) -> list:
    """β ∂²C/∂s² on the block's diagonal, bounded so that the step is safe.

    With J = ∂readout/∂s on the block, |J|ᵀ|J|1 is the diagonal matrix above JᵀJ
    (Gershgorin), and 2 diag(JᵀJ) − |J|ᵀ|J|1 the one below; the two agree where every
    output reads one unit.  A negative β needs the bound from below.
    """
    if dynamics.y is not None and has_total_energy(dynamics.system):
        raise ValueError(
            "Sweep does not know the curvature of "
            f"{type(dynamics.system).__name__}.total_energy in the nudged phase; "
            "relax it with ep.Euler"
        )
    upper = getattr(dynamics.cost, "curvature", 1.0)
    lower = getattr(dynamics.cost, "least_curvature", 0.0)
    known = isinstance(upper, int | float)  # else the cost's parameters decide
    if dynamics.cost is None or (known and upper == lower == 0):
        return [0.0] * len(_leaves(block, s))
    readout = dynamics.system.readout

    def of_block(leaves):
        return readout(_replace(block, s, leaves))

    jacobian = jax.jacrev(of_block)(_leaves(block, s))
    rows = jnp.abs(
        sum(jnp.sum(jnp.abs(j), _unit_axes(readout, s, j)) for j in jacobian)
    )
    curvatures = []
    for j in jacobian:
        outputs = tuple(range(rows.ndim))
        above = jnp.tensordot(rows, jnp.abs(j), (outputs, outputs))
        below = jnp.maximum(2 * jnp.sum(jnp.abs(j) ** 2, outputs) - above, 0)
        beta = jnp.real(dynamics.beta)
        bound = jnp.where(beta > 0, upper * above, lower * below)
        curvatures.append(beta * bound)
    return curvatures


def _unit_axes(readout, s: State, j: Array) -> tuple[int, ...]:
    """The axes of a Jacobian leaf that run over units, after those over outputs."""
    return tuple(range(jax.eval_shape(readout, s).ndim, j.ndim))
