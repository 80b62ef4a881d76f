"""The best results we know how to reach, with and without augmentation.

What was compared was compared on examples kept from the training set: on MNIST shifts
of one and two pixels, on Fashion-MNIST widths, decays, shifts and mirroring of a dense
network (the augmentations did worse in as many epochs), and what is said below.  All
else is that of `mnist-dense` and `mnist-conv`, or was set before the first run; no test
example chose anything.

The convolutional networks are not trained as `mnist-conv` is: with its sweeps and
rates, on mirrored images of Fashion-MNIST, train error stood at 13 % from the fifth
epoch to the 23rd, where the run was stopped.  Seven sweeps then left a residual of 0.2,
and EP's gradient was 76° off that of settled states.  With weight decay, ten
sweeps and over-relaxed nudges the residual stays at 0.02 to 0.04, and it learns on.
Rates, sweeps, over-relaxed nudges, β, decay and the weights' gain were compared in
trials of 10,000 examples and 4 epochs on 1,000 others, not kept; the rate that was
best there, 1e-3, unlearns in the second epoch of all examples: it is `mnist-conv`'s.
On MNIST all this was taken over unchanged (with `mnist-conv`'s own, for 15 epochs, test
error had been 0.83 %).

Kernels of 3×3 that keep the size of an image, and 256 units above them, were tried on
Fashion-MNIST against 5×5 and 128 for four epochs of 58,000 examples, mirrored, 50 at a
time, not kept: of 2,000 others 9.75 instead of 11.1 % were wrong.  Which of the three
changes does it was not told apart.

Weak feedback is Xie and Seung's network with γ = 0.03 (arXiv 2508.11659 weakens that of
prototypical networks so).  Feedback of 0.3 is too much for the convolutional network:
after four epochs of 10,000 examples 60 sweeps leave a residual, and EP's gradient by
few sweeps is 87° off that of many.  With its weights and 0.03 two free sweeps and one
nudged one, from the last layer on, are 5 to 10° off.  (The angles are of 60 examples,
and these trials were not kept.)  γ, sweeps and the rate were compared on 2,000 examples
kept from the training set.  In its first epoch of all examples the network comes to
what the one above comes to in three, 12.3 % test error.
"""

import dataclasses

from ..estimators import EquilibriumPropagation
from ..relaxations import Sweep
from ..training import Optimizer, XieSeung
from . import _practice

_DENSE = _practice.RECIPES["mnist-dense"][0]
_CONV = _practice.RECIPES["mnist-conv"][0]


def _dense(width: int, epochs: int, decay: float = 0.0, **others):
    rates = _DENSE.optimizer
    if decay:
        rates = dataclasses.replace(
            rates, name="adamw", options={"weight_decay": decay}
        )
    model = dataclasses.replace(_DENSE.model, hidden=(width,))
    return dataclasses.replace(
        _DENSE, model=model, optimizer=rates, epochs=epochs, **others
    )


def _conv(epochs: int, **others):
    """More sweeps, over-relaxed nudges and weight decay: see above."""
    rule = dataclasses.replace(
        _CONV.estimator,
        free=Sweep(steps=10, omega=1.4),
        nudged=Sweep(steps=4, omega=1.4),
    )
    rates = Optimizer("adamw", (3e-4,), "cosine", {"weight_decay": 0.3})
    return dataclasses.replace(
        _CONV, epochs=epochs, estimator=rule, optimizer=rates, **others
    )


def _smaller_kernels(config):
    """Kernels of 3×3 that keep the size of an image, and twice the dense layer."""
    convolutions = tuple(
        dataclasses.replace(c, kernel=3, padding=1) for c in config.model.convolutions
    )
    model = dataclasses.replace(config.model, convolutions=convolutions, hidden=(256,))
    return dataclasses.replace(config, model=model)


def _weak_feedback(config):
    """Feedback of 0.03: two sweeps nearly settle it, and one back nudges all layers."""
    rule = EquilibriumPropagation(Sweep(steps=2), Sweep(steps=1, backward=True), 0.5)
    rates = Optimizer("adamw", (1e-3,), "cosine", {"weight_decay": 0.1})
    model = XieSeung(**vars(config.model), gamma=0.03)
    return dataclasses.replace(config, model=model, estimator=rule, optimizer=rates)


RECIPES = {
    "best-mnist-dense-shifted": (
        _dense(2048, 40, shift=1),
        "784-2048-10, training images moved by up to one pixel",
        "none",
        "test error about 1.2 % in 15 minutes",
    ),
    "best-fashion-dense": (
        _dense(2048, 50, 0.05, data="fashion-mnist"),
        "784-2048-10 on Fashion-MNIST, weight decay",
        "none",
        "test error about 10.5 % in 20 minutes",
    ),
    "best-fashion-dense-mirrored": (
        _dense(2048, 100, 0.05, data="fashion-mnist", flip=True),
        "best-fashion-dense, longer, training images mirrored at random",
        "none",
        "test error about 10.4 % in half an hour",
    ),
    "best-fashion-dense-moved": (
        _dense(2048, 120, 0.05, data="fashion-mnist", flip=True, shift=1),
        "best-fashion-dense-mirrored, longer, also moved by up to one pixel",
        "none",
        "test error about 10.8 % in half an hour",
    ),
    "best-mnist-conv-shifted": (
        _conv(24, shift=2),
        "mnist-conv, decayed and longer, training images moved by up to two pixels",
        "none",
        "test error about 0.6 % in half an hour",
    ),
    "best-fashion-conv": (
        _conv(20, data="fashion-mnist"),
        "mnist-conv, decayed and longer, on Fashion-MNIST",
        "none",
        "test error about 9.8 % in 25 minutes",
    ),
    "best-fashion-conv-mirrored": (
        _conv(40, data="fashion-mnist", flip=True),
        "best-fashion-conv, longer, training images mirrored at random",
        "none",
        "test error about 9.8 % in 55 minutes",
    ),
    "best-fashion-conv-3x3-mirrored": (
        _smaller_kernels(_conv(24, data="fashion-mnist", flip=True)),
        "32 and 64 kernels of 3×3, 256, 10, on mirrored images of Fashion-MNIST",
        "none",
        "test error about 8.5 % in 75 minutes",
    ),
    "best-fashion-conv-weak-mirrored": (
        _weak_feedback(_smaller_kernels(_conv(16, data="fashion-mnist", flip=True))),
        "best-fashion-conv-3x3-mirrored with weak feedback, 16 epochs",
        "none",
        "test error about 7.3 % in 50 minutes",
    ),
}
