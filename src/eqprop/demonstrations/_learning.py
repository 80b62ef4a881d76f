"""Paper C: learning where feedback starts at any angle to the transpose.

784-512-10, trained for a few epochs of a few thousand images: by paper C's rule, with
T, K, β and rates of the recipe vf-1h, and by continual updates, with those of c-vf-1h.
Beside them paper C's rule with feedback that keeps its first weights.  After every
epoch the update is held against the gradient, on images that it does not learn.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..costs import SquaredError
from ..estimators import AbstractEstimator, ImplicitDifferentiation
from ..recipes import RECIPES
from ..relaxations import Euler
from ..systems import LeakyIntegrator
from ..training import Config, Fit, fit, Leaky, Observer
from ..training._measures import alignment
from ..verification._metrics import agreement
from ._demonstration import Curve, Demonstration, Panel
from ._images import images, Images
from ._symmetry import ANGLES

EXACT = ImplicitDifferentiation(Euler(dt=1.0, steps=300, tol=1e-6))
MEASURED = 100
"""how many of the images that are not learned, a sixth, the angles are of"""
NEAR = 60.0
"""no update may end further off the gradient (degrees)"""

EP, C_EP = (RECIPES[name].config for name in ("vf-1h", "c-vf-1h"))
FEW = ANGLES[::2]
"""angles at which continual updates are tried, and that are drawn over the epochs"""


class _Held(LeakyIntegrator):
    """Backward weights that do not learn."""

    def feedback(self, k: int) -> Array:
        return jax.lax.stop_gradient(self.backward[k])


class _HeldFeedback(Leaky):
    """The same network as a model."""

    def network(self, sizes, key, options):
        own = {"angle": self.angle, "discrete": self.discrete}
        make: Any = _Held  # a type checker sees no inherited __init__ in it
        return make(sizes, key=key, **own, **options)


@dataclasses.dataclass
class Watch(Observer):
    """From epoch 0 on: the update's angle to the gradient (°), and tr(W Bᵀ)."""

    rule: AbstractEstimator
    data: Images
    angle: list[float] = dataclasses.field(default_factory=list)
    hidden: list[float] = dataclasses.field(default_factory=list)
    """of the input weights alone, whose error comes through the feedback"""
    trace: list[float] = dataclasses.field(default_factory=list)

    def measure(self, state: Any) -> None:
        found, exact = (
            _gradient(rule, state.system, self.data) for rule in (self.rule, EXACT)
        )
        self.angle.append(agreement(found, exact).angle)
        self.hidden.append(agreement(found.weights[0], exact.weights[0]).angle)
        self.trace.append(alignment(state.system)["alignment_trace"][0])

    def on_start(self, trainer, state, epochs):
        self.measure(state)

    def on_epoch(self, state, record):
        self.measure(state)


@eqx.filter_jit
def _gradient(rule, system, data):
    return rule(system, SquaredError(), data.flat, data.y).grads


def trained(
    config: Config, angle: float, data: Images, epochs: int, held: bool = False
) -> tuple[Watch, Fit]:
    """Learn five sixths of the images, from feedback at `angle`; watch the updates.

    `held`: the backward weights stay as they are.
    """
    held_out = len(data.x) // 6
    learned, others = (
        Images(data.x[part], data.y[part], data.name)
        for part in (slice(-held_out), slice(-held_out, None))
    )
    few = Images(others.x[:MEASURED], others.y[:MEASURED], data.name)
    one_sided = dataclasses.replace(config.estimator, nudging="one-sided")
    model: Any = dataclasses.replace(config.model, angle=angle)
    if held:
        model = _HeldFeedback(**vars(model))
    system, cost = model.build((784,), 10, jax.random.key(0))
    watch = Watch(one_sided, few)
    found = fit(
        *(system, cost, learned.flat, learned.y),
        estimator=config.estimator,
        optimizer=config.optimizer,
        epochs=epochs,
        batch_size=config.batch_size,
        test=(others.flat, others.y),
        observer=watch,
    )
    return watch, found


def learning(*, quick: bool = False) -> Demonstration:
    """Errors after training against the initial angle; angle and trace over epochs."""
    epochs = 4 if quick else 8
    data = images(2000 if quick else 6000)
    data = Images(jnp.float32(data.x), jnp.float32(data.y), data.name)
    tried = {
        "EP": (EP, ANGLES, False),
        "EP, feedback held": (EP, FEW, True),
        "continual": (C_EP, FEW, False),
    }
    if quick:
        tried = {"EP": (EP, ANGLES[::4], False)}
        tried["EP, feedback held"] = (EP, ANGLES[::8], True)
    runs = {
        name: {angle: trained(config, angle, data, epochs, held) for angle in angles}
        for name, (config, angles, held) in tried.items()
    }
    errors = {
        name: {angle: found.history[-1]["train_error"] for angle, (_, found) in of}
        for name, of in ((name, run.items()) for name, run in runs.items())
    }
    watched = {angle: watch for angle, (watch, _) in runs["EP"].items()}
    tests = {a: found.history[-1]["test_error"] for a, (_, found) in runs["EP"].items()}
    start, end = min(watched), max(watched)
    held, held_test = (
        {
            angle: found.history[-1][f"{part}_error"]
            for angle, (_, found) in runs["EP, feedback held"].items()
        }
        for part in ("train", "test")
    )
    worst = max(watch.angle[-1] for watch in watched.values())
    continual = errors.get("continual")
    slowed = continual is None or continual[end] > 1.2 * continual[start]

    def over_epochs(what: str, text: str) -> Panel:
        curves = tuple(
            Curve(f"{angle:g}°", range(epochs + 1), getattr(watch, what))
            for angle, watch in watched.items()
            if angle in FEW
        )
        return Panel("epoch", text, curves, title="EP, from each initial angle")

    compared = [
        Curve(f"{name}, train", [*of], [100 * error for error in of.values()])
        for name, of in errors.items()
    ]
    compared.append(
        Curve("EP, held out", [*tests], [100 * error for error in tests.values()])
    )
    words = (
        f"784-512-10, {len(data.x) - len(data.x) // 6} examples ({data.name}), "
        f"{epochs} epochs. EP learns from every initial angle: "
        f"{100 * tests[start]:.1f} % of the others are wrong from {start:g}° and "
        f"{100 * tests[end]:.1f} % from {end:g}° (at most "
        f"{100 * max(tests.values()):.1f} % from any), and of the training examples "
        f"{100 * errors['EP'][start]:.1f} and {100 * errors['EP'][end]:.1f} %. Its "
        f"feedback is learned too: from {end:g}° the update of the input weights comes "
        f"from {watched[end].hidden[0]:.0f}° to {watched[end].hidden[-1]:.0f}° of the "
        f"gradient (of settled states), tr(W Bᵀ) from {watched[end].trace[0]:.2g} to "
        f"{watched[end].trace[-1]:.2g}, and no whole update ends further off than "
        f"{worst:.0f}° (tolerance {NEAR:g}°). With feedback that keeps its first "
        f"weights {100 * held_test[start]:.1f} % are wrong from {start:g}° and "
        f"{100 * held_test[end]:.1f} % from {end:g}° ({100 * held[start]:.1f} and "
        f"{100 * held[end]:.1f} % of the training examples)."
    )
    if continual:
        off = {angle: watch.angle[0] for angle, (watch, _) in runs["continual"].items()}
        last = runs["continual"][end][0]
        words += (
            " With continual updates and their far smaller rates, "
            f"{100 * continual[start]:.0f} % of the training examples are wrong in the "
            f"last epoch from {start:g}°, where the update starts {off[start]:.0f}° "
            f"off the gradient, and {100 * continual[end]:.0f} % from {end:g}° "
            f"({off[end]:.0f}°): in so short a training tr(W Bᵀ) comes from "
            f"{last.trace[0]:.2g} to {last.trace[-1]:.2g} there."
        )
    return Demonstration(
        claim="Feedback aligns while it is learned: paper C's rule learns from any "
        "initial angle",
        source="paper C, figure 3; arXiv 2005.04168, figure 5",
        panels=(
            Panel(
                "initial angle of forward and backward weights (degrees)",
                f"error after {epochs} epochs (%)",
                tuple(compared),
            ),
            over_epochs("angle", "update's angle to the gradient (degrees)"),
            over_epochs("hidden", "the same, input weights only"),
            over_epochs("trace", "tr(W Bᵀ)"),
        ),
        findings={
            **{
                f"train error, {name}, {angle:g}°": error
                for name, of in errors.items()
                for angle, error in of.items()
            },
            **{f"held-out error, EP, {angle:g}°": e for angle, e in tests.items()},
            **{
                f"{what}, {when}, {name}, {angle:g}°": getattr(watch, what)[k]
                for name, run in runs.items()
                for angle, (watch, _) in run.items()
                for what in ("angle", "hidden", "trace")
                for when, k in (("first", 0), ("last", -1))
            },
        },
        holds=bool(
            max(tests.values()) < 1.5 * tests[start]
            and worst < NEAR
            and watched[end].hidden[-1] < 90 < watched[end].hidden[0]
            and watched[end].trace[-1] > 0 > watched[end].trace[0]
            and slowed
        ),
        words=words,
        rows=2,
    )


ITEMS = {"C.learning": learning}
