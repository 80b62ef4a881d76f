"""Total energies that are not affine in β, and a weight penalty inside the cost."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ..costs import SquaredError
from ..estimators import EquilibriumPropagation, ImplicitDifferentiation
from ..relaxations import Euler, relax
from ..systems import AbstractTotalEnergy, batch_costs
from ._demonstration import Curve, Demonstration, Panel

SETTLE = Euler(dt=0.2, steps=4000, tol=1e-13)
BETAS = tuple(2.0**-k for k in range(3, 9))
Shape = Literal["affine", "sinh", "coupling"]


class Net(AbstractTotalEnergy):
    """E = ½‖s‖² + ¼‖s‖⁴₄ − tanh(s)·(W x + ½ M tanh(s)), in three total energies.

    `affine` E + β C', `sinh` E + sinh(4β)/4 C', and `coupling`, where β also scales
    W x by 1 + β y₁ + β²; C' = C + ½ decay ‖W‖².
    """

    W: Array
    M: Array
    shape: Shape = eqx.field(static=True)
    decay: float = 0.0

    def init_state(self, x):
        return jnp.zeros_like(self.W[:, 0])

    def readout(self, s):
        return s[:2]

    def total_energy(self, x, y, s, beta):
        gain, nudge = 1.0, beta
        if self.shape == "sinh":
            nudge = jnp.sinh(4 * beta) / 4
        elif self.shape == "coupling":
            gain = 1 + beta * y[0] + beta**2
        rate, mixed = jnp.tanh(s), (self.M + self.M.T) / 2
        leak = 0.5 * jnp.sum(s**2) + 0.25 * jnp.sum(s**4)
        pull = rate @ (gain * (self.W @ x) + 0.5 * mixed @ rate)
        cost = SquaredError()(self.readout(s), y)
        return leak - pull + nudge * (cost + 0.5 * self.decay * jnp.sum(self.W**2))


def net(shape: Shape, decay: float = 0.0) -> tuple[Net, Any, Any]:
    """A network of five units with four examples."""
    w, m, x, y = jax.random.split(jax.random.key(0), 4)
    system = Net(
        jax.random.normal(w, (5, 3)),
        0.3 * jax.random.normal(m, (5, 5)),
        shape,
        decay,
    )
    return system, jax.random.normal(x, (4, 3)), jax.random.normal(y, (4, 2))


def bias(shape: Shape) -> list[float]:
    """‖EP − exact‖ / ‖exact‖ of centered EP for every β."""
    system, x, y = net(shape)
    exact, _ = ravel_pytree(ImplicitDifferentiation(SETTLE)(system, None, x, y).grads)
    errors = []
    for beta in BETAS:
        rule = EquilibriumPropagation(SETTLE, SETTLE, jnp.asarray(beta))  # type: ignore[arg-type]
        found, _ = ravel_pytree(rule(system, None, x, y).grads)
        errors.append(float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)))
    return errors


def penalty_error(decay: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """∂J/∂W of J = C(s⁰) + λΩ, by EP at a small β and by finite differences."""
    system, x, y = net("affine", decay)
    rule = EquilibriumPropagation(SETTLE, SETTLE, 1e-4)
    found = np.asarray(rule(system, None, x, y).grads.W).ravel()

    @eqx.filter_jit
    def objective(weight):
        moved = eqx.tree_at(lambda s: s.W, system, weight)
        state = relax(moved, x, SETTLE).state
        return jnp.mean(batch_costs(moved, None, x, y, state))

    steps = 1e-5 * np.eye(found.size).reshape(-1, *system.W.shape)
    slopes = [
        float(objective(system.W + h) - objective(system.W - h)) / 2e-5 for h in steps
    ]
    return found, np.asarray(slopes)


def total_energy(*, quick: bool = False) -> Demonstration:
    """The order in β of three total energies, and the penalty's gradient."""
    shapes: tuple[Shape, ...] = ("affine", "coupling")
    if not quick:
        shapes = ("affine", "sinh", "coupling")
    with jax.enable_x64(True):
        errors = {shape: bias(shape) for shape in shapes}
        found, slopes = penalty_error()
    orders = {
        shape: float(np.polyfit(np.log(BETAS[-4:]), np.log(values[-4:]), 1)[0])
        for shape, values in errors.items()
    }
    off = float(np.max(np.abs(found - slopes)) / np.max(np.abs(slopes)))
    names = {"affine": "E + β C", "sinh": "E + ¼ sinh(4β) C", "coupling": "β in W x"}
    measured = [Curve(names[shape], BETAS, errors[shape]) for shape in shapes]
    slope = [errors["affine"][0] * (b / BETAS[0]) ** 2 for b in BETAS]
    pairs = sorted(zip(slopes.tolist(), found.tolist(), strict=True))
    ends = [float(np.min(slopes)), float(np.max(slopes))]
    return Demonstration(
        claim="EP differentiates any total energy F(β), with an error of order β²",
        source="arXiv 1602.05179, eqs 23 and 26, footnote 3",
        panels=(
            Panel(
                "β",
                "relative error of centered EP",
                (*measured, Curve("slope 2", BETAS, slope, "expected")),
                "xy",
            ),
            Panel(
                "∂(C + λΩ)/∂W by finite differences",
                "by EP, λΩ inside the cost",
                (
                    Curve("each weight", [a for a, _ in pairs], [b for _, b in pairs]),
                    Curve("equal", ends, ends, "expected"),
                ),
            ),
        ),
        findings={**{f"order, {s}": o for s, o in orders.items()}, "penalty": off},
        holds=all(abs(order - 2) < 0.1 for order in orders.values()) and off < 1e-5,
        words=(
            "The error of centered EP falls as "
            + ", ".join(f"β^{order:.2f} ({names[s]})" for s, order in orders.items())
            + f"; with a weight penalty inside the cost the gradient is off finite "
            f"differences by {off:.1g}."
        ),
    )


ITEMS = {"A.total-energy": total_energy}
