"""Train your own energy: write E(x, s) for one example, and nothing else.

    eqprop train --system examples/own_model.py:problem
    python examples/own_model.py                # the same from Python

The network has two groups of hidden units that gate each other multiplicatively, a
three-body coupling that no layered Hopfield network has.  eqprop derives its dynamics
and its learning rule from the energy alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqprop as ep
from eqprop.data import digits


class GatedEnergy(ep.AbstractEnergy):
    """E = ½‖s‖² − aᵀUx − gᵀVx − oᵀW(a∘g) − bᵀo, with a = tanh s_a and so on."""

    U: Array
    V: Array
    W: Array
    b: Array

    def __init__(self, inputs: int, hidden: int, outputs: int, key: Array):
        k1, k2, k3 = jax.random.split(key, 3)
        self.U = jax.random.normal(k1, (hidden, inputs)) / inputs**0.5
        self.V = jax.random.normal(k2, (hidden, inputs)) / inputs**0.5
        self.W = jax.random.normal(k3, (outputs, hidden)) / hidden**0.5
        self.b = jnp.zeros(outputs)

    def init_state(self, x):
        hidden = jnp.zeros(len(self.U))
        return {"amplitude": hidden, "gate": hidden, "out": jnp.zeros(len(self.b))}

    def energy(self, x, s):
        a, g, o = jnp.tanh(s["amplitude"]), jnp.tanh(s["gate"]), s["out"]
        leak = 0.5 * sum(jnp.sum(unit**2) for unit in s.values())
        drive = a @ (self.U @ x) + g @ (self.V @ x)
        return leak - drive - o @ (self.W @ (a * g)) - self.b @ o

    def readout(self, s):
        return s["out"]


def problem():
    """What --system calls: a system, a cost, and batched examples."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(images))
    x = 2 * images[order].reshape(-1, 64).astype(np.float32) - 1
    y = np.eye(10, dtype=np.float32)[labels[order]]
    system = GatedEnergy(64, 128, 10, jax.random.key(0))
    return system, ep.SquaredError(), x, y


def main() -> None:
    system, cost, x, y = problem()
    estimator = ep.EquilibriumPropagation(
        free=ep.Euler(dt=0.2, steps=60), nudged=ep.Euler(dt=0.2, steps=30), beta=0.1
    )
    train, test = slice(0, 1400), slice(1400, None)
    fit = ep.fit(
        system, cost, x[train], y[train], estimator=estimator, test=(x[test], y[test])
    )
    print(f"test error {100 * fit.history[-1]['test_error']:.2f} %")


if __name__ == "__main__":
    main()
