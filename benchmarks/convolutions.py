"""The forms of a convolution on a CPU, as kernels/_correlation.py chooses from them.

    python benchmarks/convolutions.py > benchmarks/convolutions.md

Milliseconds of a forward pass and one back to the image of a whole batch, which a
relaxation needs in every step, and the largest error of each form's forward pass, over
the largest output, against float64.
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from page import heading

from eqprop.bench._timing import Job, time_rounds
from eqprop.kernels import _correlation

# Batch, image and channels below, kernel and channels above: layer 2 of the MNIST
# network, layers 2 (twice), 3 and 4 of the CIFAR network.
SIZES = [
    (20, 12, 32, 5, 64),
    (8, 18, 128, 3, 256),
    (64, 18, 128, 3, 256),
    (8, 10, 256, 3, 512),
    (8, 6, 512, 3, 512),
]
QUICK = [(2, 8, 16, 3, 16)]


def winograd(stride, image, kernel):
    del stride  # it is 1
    return _correlation._winograd(image, _correlation._kernel_values(kernel))


FORMS = {
    "XLA": _correlation._convolve,
    "patches": _correlation._patches,
    "Winograd": winograd,
}


def forward(form, images, kernel):
    return jax.vmap(lambda image: form(1, image, kernel))(images)


def job(form, images, kernel) -> Job:
    """Forward and back, again and again, each round on the last one's image."""

    def step(_, images):
        outputs, back = jax.vjp(lambda i: forward(form, i, kernel), images)
        (images,) = back(outputs)
        return images / jnp.max(jnp.abs(images))

    run = jax.jit(lambda i, n: jax.lax.fori_loop(0, n, step, i))
    program = run.lower(images, 1).compile()
    return lambda repeats: jax.block_until_ready(program(images, repeats))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each, a round")
    parser.add_argument("--quick", action="store_true", help="a tiny one, one round")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = 1, 1e-3
    print(heading("The forms of a convolution", __file__))
    print(
        "Milliseconds forward and back to the image: medians and, in brackets, ranges "
        f"of {options.rounds}\nrounds, in turns. Errors: forward, of the largest "
        "output.\n"
    )
    forms = [part for name in FORMS for part in (name, f"{name}, error")]
    print("| image (batch) | kernel | " + " | ".join(forms) + " | chosen |")
    print("|" + "---|" * (3 + len(forms)))
    for batch, size, lower, kernel, upper in QUICK if options.quick else SIZES:
        random = np.random.default_rng(0)
        images = random.random((batch, size, size, lower))
        kernels = random.normal(size=(kernel, kernel, lower, upper)) / kernel
        with jax.enable_x64(True):
            exact = np.asarray(
                forward(_correlation._patches, jnp.asarray(images), kernels)
            )
        x, w = (jnp.asarray(a, jnp.float32) for a in (images, kernels))
        jobs = {name: job(form, x, w) for name, form in FORMS.items()}
        times = time_rounds(jobs, options.rounds, options.seconds)
        cells = []
        for name, form in FORMS.items():
            ms = [1e3 * t for t in times[name]]
            cells.append(
                f"{statistics.median(ms):.3g} ({min(ms):.3g}–{max(ms):.3g})",
            )
            error = np.abs(np.asarray(forward(form, x, w)) - exact).max()
            cells.append(f"{error / np.abs(exact).max():.0e}")
        tiled = _correlation._tiled(1, x[0], w)
        chosen = "Winograd" if tiled else "patches"
        print(
            f"| {size} × {size} × {lower} ({batch}) | {kernel} × {kernel} × {upper} | "
            + " | ".join([*cells, chosen])
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
