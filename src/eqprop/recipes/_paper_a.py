"""Paper A, table 2: one, two and three hidden layers on MNIST.

Source: Scellier & Bengio 2017 (arXiv 1602.05179).  T, K, ε and batch size are the
paper's.  The paper gives no number of epochs; ours are those of the authors' code.  The
first 50,000 examples train and the next 10,000 validate, in fixed order.

**The factor ½.** Our cost is ½‖y − d‖², as in the paper's equation 2.  The authors'
code leaves out the ½.  So its β = 0.5, 1 and 1 for one, two and three layers nudge like
our β = 1, 2 and 2, and its learning rates act like twice their number.  We chose by
running:

- One layer: β = 1 as printed, and the rates as they acted, 0.2 and 0.1.
  `mnist-1h-printed` uses the printed rates with the ½.
- Two and three layers: β = 2, the code's nudge, and the printed rates.  In single runs
  (not kept), three classes of the two-layer network never learned with β = 1 (31 %
  train error after 8 epochs): an output at 0 whose drive is below −β cannot be reached
  by a nudge.  They did not learn with doubled rates and β = 2 either (27 % after 2
  epochs).

**Persistent states.** The authors' code keeps the states of validation and test
examples too, and reports the errors of those states.  A network that starts from its
initial state does worse.  We record both: `test_error` and `test_error_cold`.
"""

from ..estimators import EquilibriumPropagation
from ..relaxations import Euler
from ..training import Config, Hopfield, Optimizer

PAPER = "A, table 2"


def _config(
    hidden: tuple[int, ...],
    free: int,
    nudged: int,
    beta: float,
    lr: tuple[float, ...],
    epochs: int,
    data: str = "mnist",
) -> Config:
    return Config(
        data=data,
        validation=10_000,
        model=Hopfield(hidden=hidden),
        estimator=EquilibriumPropagation(
            free=Euler(dt=0.5, steps=free),
            nudged=Euler(dt=0.5, steps=nudged),
            beta=beta,
            nudging="random-sign",
        ),
        optimizer=Optimizer("sgd", lr),
        epochs=epochs,
        batch_size=20,
        persistent=True,
        shuffle=False,
    )


RECIPES = {
    "mnist-1h": (
        _config((500,), 20, 4, 1.0, (0.2, 0.1), 25),
        "784-500-10 on MNIST",
        PAPER,
        "test error 2–3 %, train error towards 0",
    ),
    "mnist-2h": (
        _config((500, 500), 100, 6, 2.0, (0.4, 0.1, 0.01), 60),
        "784-500-500-10 on MNIST",
        PAPER,
        "test error 2–3 %, train error towards 0",
    ),
    "mnist-3h": (
        _config((500, 500, 500), 500, 8, 2.0, (0.128, 0.032, 0.008, 0.002), 500),
        "784-500-500-500-10 on MNIST",
        PAPER,
        "not run to T yet; about 3.6 % if free phases stop when settled",
    ),
    "mnist-1h-printed": (
        _config((500,), 20, 4, 1.0, (0.1, 0.05), 25),
        "mnist-1h with the printed rates",
        PAPER,
        "test error about 3.2 %, train error 0.03 %",
    ),
    "fashion-1h": (
        _config((500,), 20, 4, 1.0, (0.2, 0.1), 25, "fashion-mnist"),
        "mnist-1h on Fashion-MNIST",
        "none (A's network)",
        "not in the paper; measured in results/",
    ),
}
