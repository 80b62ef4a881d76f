"""Memory of one gradient against the number of steps, by the compiler's account.

python benchmarks/memory.py > benchmarks/memory.md
"""

import datetime
import platform

import equinox as eqx
import jax
import jax.numpy as jnp

import eqprop as ep

STEPS = (10, 100, 1000)
SIZES, BATCH = (784, 512, 512, 10), 20


def temporary_bytes(rule, system, x, y) -> int:
    """Bytes of temporaries that the compiled gradient reserves."""

    def gradient(system, x, y):
        return rule(system, ep.SquaredError(), x, y).grads

    compiled = eqx.filter_jit(gradient).lower(system, x, y).compile()
    return compiled.compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    system = ep.HopfieldEnergy(SIZES, key=jax.random.key(0), activation=ep.tanh)
    x = jnp.ones((BATCH, SIZES[0]))
    y = jnp.ones((BATCH, SIZES[-1]))
    free = ep.Euler(0.5, 100)
    rules = {
        "EP, centered": lambda k: ep.EquilibriumPropagation(free, ep.Euler(0.5, k)),
        "RBP": lambda k: ep.RecurrentBackpropagation(free, 0.5, k),
        "BPTT": lambda k: ep.BackpropagationThroughTime(free, 0.5, k),
        "implicit": lambda k: ep.ImplicitDifferentiation(free),
    }
    name = "-".join(map(str, SIZES))
    print(
        f"# Memory against steps\n\n{datetime.date.today()}, {platform.machine()} CPU,"
    )
    print(f"jax {jax.__version__}: temporaries of one compiled gradient, {name}, batch")
    print(f"{BATCH}, float32, in MiB. Command: `python benchmarks/memory.py`.\n")
    print("| K | " + " | ".join(f"{k}" for k in STEPS) + " | growth per step, KiB |")
    print("|---|" + "---|" * (len(STEPS) + 1))
    for rule, make in rules.items():
        used = [temporary_bytes(make(k), system, x, y) for k in STEPS]
        slope = (used[-1] - used[0]) / (STEPS[-1] - STEPS[0]) / 2**10
        cells = " | ".join(f"{u / 2**20:.1f}" for u in used)
        print(f"| {rule} | {cells} | {slope:.2f} |")
    state = BATCH * sum(SIZES[1:]) * 4 / 2**10
    print(f"\nOne batch of states is {state:.1f} KiB: what BPTT keeps of each step.")


if __name__ == "__main__":
    main()
