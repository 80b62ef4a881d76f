"""Compare two gradients, or two error processes, and fit orders in β."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree


NO_SIGN = 1e-9
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A gradient compared with the exact one, over one parameter or all of them.

    - `error`: ‖g − exact‖ / ‖exact‖.
    - `angle`: between the two, in degrees; NaN if either is zero.
    - `signs`: share of the entries whose signs agree (paper D's recipe tool).  Entries
      that are zero in both, to 1e-9 of the largest, do not count.
    - `ratio`: ‖g‖ / ‖exact‖: 2 if the gradient is twice too long, whatever its
      direction; NaN if the exact one is zero.
    """

    error: float
    angle: float
    signs: float
    ratio: float = math.nan


def agreement(found: PyTree[Array], exact: PyTree[Array]) -> Agreement:
    """Compare two gradients over all their leaves."""
    g, e = flat(found), flat(exact)
    with np.errstate(over="ignore", invalid="ignore"):  # a phase that diverged
        size, length, off = length_of(e), length_of(g), length_of(g - e)
    error = off / size if size else (0.0 if off == 0 else math.inf)
    ratio = length / size if size else math.nan
    # An entry that is 0 in both, up to rounding, has no sign to agree on.
    floor = NO_SIGN * np.max(np.abs(e), initial=0.0)
    used = (np.abs(g) > floor) | (np.abs(e) > floor)
    signs = float(np.mean(np.sign(g[used]) == np.sign(e[used]))) if used.any() else 1.0
    if not (np.isfinite(off) and size and length):
        return Agreement(error, math.nan, signs, ratio)
    # Accurate for small angles, where arccos of a rounded 1 is not.
    u, v = g / length, e / size
    angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    return Agreement(error, float(np.degrees(angle)), signs, ratio)


def length_of(values: PyTree[Array]) -> float:
    """Return ‖values‖₂ over all leaves, also if the squares would underflow."""
    numbers = flat(values)
    largest = float(np.max(np.abs(numbers), initial=0.0))
    if not (np.isfinite(largest) and largest):
        return largest
    return largest * float(np.linalg.norm(numbers / largest))


def relative_error(found: PyTree[Array], exact: PyTree[Array]) -> float:
    """Return max |found − exact| / max |exact| over all leaves; NaN if any entry is."""
    f, e = flat(found), flat(exact)
    size = float(np.max(np.abs(e), initial=0.0))
    off = float(np.max(np.abs(f - e), initial=0.0))
    return off / size if size else (0.0 if off == 0 else float("inf"))


def process_rmse(
    found: Float[np.ndarray, "times *shape"],
    reference: Float[np.ndarray, "times *shape"],
) -> Float[np.ndarray, " *shape"]:
    """Return √(Σ_t (a − b)² / max(Σ_t a², Σ_t b²)) per unit (paper D, fig. 3)."""
    a, b = np.asarray(found), np.asarray(reference)
    with np.errstate(over="ignore", invalid="ignore"):  # a phase that diverged
        largest = np.max(np.maximum(np.abs(a), np.abs(b)), 0, initial=0)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1)
        a, b = a / scale, b / scale  # the squares of small numbers are 0
        size = np.maximum(np.sum(a**2, 0), np.sum(b**2, 0))
        off = np.sum((a - b) ** 2, 0)
    return np.sqrt(np.divide(off, size, out=np.zeros_like(off), where=size > 0))


@dataclasses.dataclass(frozen=True)
class Order:
    """How errors fall with β: error ∝ β^measured from β = `low` to `high`.

    - `measured`: the order; the median over several examples; NaN if no range of β
      shows a constant order.
    - `low`, `high`: the range of β, common to the examples.
    - `smallest`: the least error over β.
    - `share`: the part of the examples with a constant order.
    - `exact`: the error is lost in rounding at every β.
    """

    expected: float
    measured: float
    low: float
    high: float
    smallest: float
    share: float = 1.0
    exact: bool = False

    def holds(self, tolerance: float = 0.05) -> bool:
        """Accept the expected order, or up to twice it if its coefficient is 0."""
        low, high = self.expected * (1 - tolerance), 2 * self.expected * (1 + tolerance)
        return self.exact or low <= self.measured <= high


def order_in_beta(
    betas: Any, errors: Any, expected: float, moved: float = 1.0
) -> Order:
    """Fit error ∝ β^p on the longest range of β on which p is constant.

    At large β, higher orders or the bounds of units show; at small β, rounding.  In
    between, the logarithmic slope is constant; at least four β must lie there.  An
    error is lost in rounding if its product with the displacement of the state, β ·
    `moved`, is below `ROUNDING`.
    """
    order = np.argsort(betas)
    betas, errors = np.asarray(betas)[order], np.asarray(errors)[order]
    nan = Order(expected, math.nan, betas[0], betas[-1], math.nan, share=0.0)
    finite = np.isfinite(errors)  # a phase nudged too strongly may diverge
    betas, errors = betas[finite], errors[finite]
    if len(betas) < 4:
        return nan
    smallest = float(np.min(errors))
    if np.max(errors * betas) * min(moved, 1.0) < ROUNDING:
        return dataclasses.replace(nan, smallest=smallest, share=1.0, exact=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(np.log(errors)) / np.diff(np.log(betas))
    best: tuple[int, int] | None = None
    for first in range(len(slopes)):
        for last in range(first + 3, len(slopes) + 1):
            part = slopes[first:last]
            if not np.isfinite(part).all() or np.ptp(part) > 0.1 or part.mean() < 0.5:
                continue
            # Of equally long ranges take the one at smaller β, closer to the limit.
            if best is None or last - first > best[1] - best[0]:
                best = first, last
    if best is None:
        return dataclasses.replace(nan, smallest=smallest)
    used = slice(best[0], best[1] + 1)
    measured = float(np.polyfit(np.log(betas[used]), np.log(errors[used]), 1)[0])
    low, high = float(betas[used][0]), float(betas[used][-1])
    return Order(expected, measured, low, high, smallest)


def common_order(orders: list[Order]) -> Order:
    """Return the order of several examples; a quarter of them may show none.

    An example has no constant order if one of its units is so near a bound or a kink
    that every β large enough for the arithmetic moves it across.
    """
    shown = [order for order in orders if order.share]
    share = len(shown) / len(orders)
    worst = sorted(order.smallest for order in orders)
    smallest = worst[len(worst) - 1 - len(worst) // 4]
    expected = orders[0].expected
    if share < 0.75:
        return Order(expected, math.nan, 0.0, math.inf, smallest, share)
    if all(order.exact for order in shown):
        return dataclasses.replace(shown[0], smallest=smallest, share=share)
    fitted = [order for order in shown if not order.exact]
    return Order(
        expected,
        float(np.median([order.measured for order in fitted])),
        max(order.low for order in fitted),
        min(order.high for order in fitted),
        smallest,
        share,
    )


def flat(tree: PyTree) -> np.ndarray:
    """Return all numbers of a tree in one vector."""
    leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def parameter_names(model: tuple[PyTree, PyTree]) -> list[str]:
    """Name the arrays of (system, cost), in the order of the tree."""
    return [name for name, _ in _named(model)]


def by_parameter(found: Any, exact: Any) -> list[tuple[str, Any, Any]]:
    """List name, gradient and exact gradient of each array of (system, cost)."""
    leaves = zip(_named(exact), jax.tree.leaves(found), strict=True)
    return [(name, g, e) for (name, e), g in leaves]


def _named(model: tuple[PyTree, PyTree]) -> list[tuple[str, Any]]:
    return [*named_leaves(model[0]), *named_leaves(model[1], "cost.")]


def both(gradient: Any) -> tuple[PyTree, PyTree]:
    """Return the gradients of system and cost."""
    return gradient.grads, gradient.cost_grads


def named_leaves(tree: PyTree, prefix: str = "") -> list[tuple[str, Any]]:
    """Return `[("weights[0]", array), …]`, in the order of the tree."""
    return [
        (prefix + jax.tree_util.keystr(path).lstrip("."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
