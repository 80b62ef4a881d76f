"""Train on your own data: arrays x and y in one .npz file.

    python examples/own_data.py                 # writes spirals.npz, trains from Python
    eqprop train --data spirals.npz --epochs 60 # the same from the command line

y holds class labels 0…C−1 (as here) or rows of real targets.  Without x_test and
y_test in the file a fifth of the examples is held out as the test set.
"""

import numpy as np

import eqprop as ep


def spirals(per_class: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three interleaved spirals, lifted to 64 random sine features in [0, 1]."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), per_class)
    radius = rng.uniform(0.1, 1, len(y))
    angle = 4 * radius + 2 * np.pi * y / 3 + rng.normal(0, 0.1, len(y))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    directions, phases = rng.normal(0, 3, (2, 64)), rng.uniform(0, 2 * np.pi, 64)
    return 0.5 + 0.5 * np.sin(points @ directions + phases), y


def main() -> None:
    x, y = spirals()
    np.savez("spirals.npz", x=x, y=y)
    run = ep.train("digits", data="spirals.npz", epochs=60)
    last = run.history[-1]
    print(f"test error {100 * last['test_error']:.2f} %, run in {run.path}")


if __name__ == "__main__":
    main()
