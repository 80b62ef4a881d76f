"""The best results that we reached, with and without augmentation.

**How we chose settings.** On examples held out from the training set, never on test
examples.  On MNIST we compared shifts of one and two pixels.  On Fashion-MNIST we
compared widths, weight decays, shifts and mirroring of a dense network (augmentation
was worse at the same number of epochs), and the settings below.  All other settings are
those of `mnist-dense` and `mnist-conv`, or were fixed before the first run.

**Convolutional networks** need more than `mnist-conv` does.  With its sweeps and rates,
on mirrored Fashion-MNIST, train error stayed at 13 % from epoch 5 to epoch 23, where we
stopped.  The reason: seven sweeps then left a residual of 0.2, and EP's gradient was
76° off the gradient at settled states.  With weight decay, ten sweeps and over-relaxed
nudges the residual stays between 0.02 and 0.04, and training continues to improve.  We
compared rates, sweeps, over-relaxation of the nudge, β, decay and the gain of the
weights in trials of 10,000 examples and 4 epochs, on 1,000 other examples (not kept).
The rate that was best there, 1e-3, diverges in the second epoch of the full training
set, so the rate is that of `mnist-conv`.  MNIST uses the same settings unchanged; with
`mnist-conv`'s own settings for 15 epochs the test error was 0.83 %.

**3×3 kernels** that keep the size of an image, with 256 units above them, against 5×5
kernels and 128 units: four epochs of 58,000 mirrored Fashion-MNIST examples, batch 50,
gave 9.75 % instead of 11.1 % error on 2,000 other examples (not kept).  We did not
ablate the three changes.

**Weak feedback** is Xie and Seung's network with γ = 0.03 (arXiv 2508.11659 does this
for prototypical networks).  γ = 0.3 is too strong for the convolutional network: after
four epochs of 10,000 examples, 60 sweeps still leave a residual, and EP's gradient with
few sweeps is 87° off that with many.  With the same weights and γ = 0.03, two free
sweeps and one backward nudged sweep are 5 to 10° off (60 examples; not kept).  We
compared γ, sweeps and the rate on 2,000 held-out training examples.  After one epoch of
the full training set this network has the test error, 12.3 %, that the network above
has after three.
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
    """Return `mnist-conv` with more sweeps, over-relaxed nudges and weight decay."""
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
    """Use 3×3 kernels that keep an image's size, and a dense layer twice as wide."""
    convolutions = tuple(
        dataclasses.replace(c, kernel=3, padding=1) for c in config.model.convolutions
    )
    model = dataclasses.replace(config.model, convolutions=convolutions, hidden=(256,))
    return dataclasses.replace(config, model=model)


def _weak_feedback(config):
    """Weaken feedback to 0.03: two sweeps nearly settle, one backward sweep nudges."""
    rule = EquilibriumPropagation(Sweep(steps=2), Sweep(steps=1, backward=True), 0.5)
    rates = Optimizer("adamw", (1e-3,), "cosine", {"weight_decay": 0.1})
    model = XieSeung(**vars(config.model), gamma=0.03)
    return dataclasses.replace(config, model=model, estimator=rule, optimizer=rates)


RECIPES = {
    "best-mnist-dense-shifted": (
        _dense(2048, 40, shift=1),
        "784-2048-10, training images shifted by up to one pixel",
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
        "best-fashion-dense-mirrored, longer, also shifted by up to one pixel",
        "none",
        "test error about 10.8 % in half an hour",
    ),
    "best-mnist-conv-shifted": (
        _conv(24, shift=2),
        "mnist-conv, weight decay, longer, images shifted by up to two pixels",
        "none",
        "test error about 0.6 % in half an hour",
    ),
    "best-fashion-conv": (
        _conv(20, data="fashion-mnist"),
        "mnist-conv, weight decay, longer, on Fashion-MNIST",
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
