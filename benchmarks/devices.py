"""Step times on N devices, and the bytes that their compiled step exchanges.

`python benchmarks/devices.py N [BATCH]`: paper A's 784-500-10 on random inputs, EP
with 20 + 4 Euler steps, persistent states; processors are split into N devices.
"""

import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import eqprop as ep
from eqprop.training import _devices, _loop, make_trainer, Settings

STEPS = 100
SIZES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "pred": 1}


def trainer(devices: int, batch: int):
    """The trainer and its first state."""
    rng = np.random.default_rng(0)
    x = rng.random((batch * STEPS, 784), np.float32)
    y = np.eye(10, dtype=np.float32)[rng.integers(0, 10, len(x))]
    model = ep.Hopfield(hidden=(500,))
    system, cost = model.build((784,), 10, jax.random.key(0))
    made = make_trainer(
        (system, cost),
        {"train": (x, y)},
        Settings(epochs=1, batch_size=batch, persistent=True),
        estimator=ep.EquilibriumPropagation(
            ep.Euler(0.5, 20), ep.Euler(0.5, 4), 0.5, "random-sign"
        ),
        optimizer=ep.Optimizer("sgd", (0.05,)),
        devices=devices,
    )
    return made, made.init(system, cost)


def exchanged(made, state) -> dict[str, int]:
    """Bytes of every collective's result in the compiled step, by kind."""
    order = _devices.everywhere(made.order(0), made.mesh)
    until = _devices.everywhere(jnp.array(1), made.mesh)
    text = (
        _loop._advance.lower((made, order, until), state).compile().compiled.as_text()
    )
    found: dict[str, int] = {}
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    pattern = rf"= (\S.*?) ({kinds})(?:-start)?\("
    for shapes, kind in re.findall(pattern, text):
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            count = int(np.prod([int(d) for d in dims.split(",") if d], dtype=int))
            found[kind] = found.get(kind, 0) + count * SIZES.get(dtype, 4)
    return found


if __name__ == "__main__":
    devices = int(sys.argv[1])
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    jax.config.update("jax_num_cpu_devices", devices)
    made, state = trainer(devices, batch)
    if devices > 1:
        print("bytes a step", exchanged(made, state))
    chunks = made.epoch(state)
    began, first = time.perf_counter(), None
    for state in chunks:
        if first is None:
            began, first = time.perf_counter(), int(state.step)
    seconds = (time.perf_counter() - began) / (made.steps - first)
    print(f"{devices} devices, batch {batch}: {1000 * seconds:.2f} ms a step")
