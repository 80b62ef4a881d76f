"""Continual EP at its paper's settings: its theorem, and angles at the start.

The paper is Ernoult et al. 2020, arXiv 2005.04168.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..estimators import (
    BackpropagationThroughTime,
    ContinualEquilibriumPropagation,
    EquilibriumPropagation,
)
from ..recipes import RECIPES
from ..relaxations import Euler
from ..verification import bptt_process, ep_process
from ..verification._metrics import agreement, process_rmse
from ._demonstration import Curve, Demonstration, Panel
from ._images import images, Images
from ._steps import Check, COST

ETA = 2e-5
HIDDEN = 512
NETS = (
    Check("EB-1h", (784, HIDDEN, 10), dt=0.08, beta=0.005, T=800, K=80, batch=20),
    Check("P-1h", (784, HIDDEN, 10), dt=1.0, beta=0.01, T=150, K=10, batch=20),
)
EXACT, NEAR = 0.1, 0.7
"""largest relative RMSE of a layer's weights to BPTT's: energy-based, prototypical"""
LEAST = 5.0
"""times by which C-EP comes nearer to EP where η is ten times smaller"""

POINTS = {
    "EP-1h": ("p-1h", 17),
    "EP-2h": ("p-2h", 49),
    "C-EP-1h": ("c-ep-1h", 50),
    "C-EP-2h": ("c-ep-2h", 53),
    "C-VF-1h": ("c-vf-1h", 65),
    "C-VF-2h": ("c-vf-2h", 61),
}
"""recipe, and angle read off figure 5a; vector fields start tied"""


def theorem(*, quick: bool = False) -> Demonstration:
    """C-EP's updates against EP's and BPTT's in EB-1h and P-1h, with the paper's η."""
    distances, panels = {}, []
    with jax.enable_x64(True):
        data = images(20)
        for check in map(_narrow, NETS) if quick else NETS:
            batch = data.flat[: check.batch], data.y[: check.batch]
            for layer, found in enumerate(_updates(check, *batch)):
                name = f"{check.name} W{layer + 1}"
                at, smaller, ep, bptt = found
                distances |= {
                    f"C-EP from BPTT, {name}": _rmse(at, bptt),
                    f"C-EP from BPTT at η/10, {name}": _rmse(smaller, bptt),
                    f"C-EP from EP, {name}": _rmse(at, ep),
                    f"C-EP from EP at η/10, {name}": _rmse(smaller, ep),
                    f"EP from BPTT, {name}": _rmse(ep, bptt),
                }
                panels.append(_panel(name, *found))

    def most(pair: str, name: str = "") -> float:
        chosen = f"{pair}, {name}"
        return max(v for k, v in distances.items() if k.startswith(chosen))

    def of(name: str) -> str:
        return (
            f"{most('C-EP from BPTT', name):.2g}, at η/10 "
            f"{most('C-EP from BPTT at η/10', name):.2g} (EP "
            f"{most('EP from BPTT', name):.2g}"
        )

    falls = most("C-EP from EP") / most("C-EP from EP at η/10")
    return Demonstration(
        claim="As η falls continual EP's updates come to EP's, and with them to BPTT's "
        "gradients, step by step",
        source="Ernoult et al. 2020, arXiv 2005.04168, theorem",
        panels=tuple(panels),
        findings=distances | {"C-EP from EP: at η over at η/10": falls},
        holds=bool(
            most("C-EP from BPTT at η/10", "EB") < EXACT
            and most("C-EP from BPTT at η/10", "P") < NEAR
            and falls > LEAST
        ),
        words=(
            f"784-{32 if quick else HIDDEN}-10, tanh, {data.name}, first images, "
            f"η = {ETA:g}. Relative RMSE of a layer's weights to BPTT's gradients, at "
            f"most: EB-1h {of('EB')}; tolerance at η/10 {EXACT}), P-1h {of('P')}, σ "
            f"outside of Φ breaks exactness; tolerance {NEAR}). The distance to EP, "
            f"at most {most('C-EP from EP'):.2g}, is {falls:.1f} times smaller at η/10 "
            f"(at least {LEAST:g} expected, 10 where η is small). Our η is of "
            "∂E/∂θ; whether the paper's, of ∂Φ/∂θ, has "
            "the energy-based network's ε in it is not known to us."
        ),
        rows=2,
    )


def angles(*, quick: bool = False) -> Demonstration:
    """Angle of EP's, C-EP's and C-VF's first updates to BPTT's gradient."""
    seeds = range(2 if quick else 5)
    data = images(20)
    data = Images(jnp.float32(data.x), jnp.float32(data.y), data.name)
    found, still = {}, {}
    for name, (recipe, _) in POINTS.items():
        pairs = np.array([_angles(recipe, data, seed) for seed in seeds])
        found[name], still[name] = pairs[:, 0], pairs[:, 1]
    mean = {name: float(np.mean(each)) for name, each in found.items()}
    spread = {name: float(np.std(each, ddof=1)) for name, each in found.items()}
    turned = all(
        mean[f"EP-{n}h"] < mean[f"{name}-{n}h"] < 90
        for name in ("C-EP", "C-VF")
        for n in (1, 2)
    )
    places, theirs = range(len(POINTS)), [read for _, read in POINTS.values()]
    unmoved = [float(np.mean(each)) for each in still.values()]
    listed = ", ".join(
        f"{name} {mean[name]:.0f} ± {spread[name]:.0f}° ({read}°)"
        for name, read in zip(POINTS, theirs, strict=True)
    )
    return Demonstration(
        claim="Weights that move while the network is nudged turn its update away "
        "from the gradient, by less than a right angle",
        source="Ernoult et al. 2020, arXiv 2005.04168, figure 5a",
        panels=(
            Panel(
                "0, 1: EP-1h, 2h; 2, 3: C-EP-1h, 2h; 4, 5: C-VF-1h, 2h",
                "angle to BPTT's gradient (°)",
                (
                    Curve("ours", places, list(mean.values())),
                    Curve("ours, weights held", places, unmoved, "other"),
                    Curve("read off figure 5a", places, theirs, "expected"),
                ),
                title="first update of training",
            ),
        ),
        findings={
            **{
                f"angle, {name}, seed {k}": v
                for name in found
                for k, v in _each(found[name])
            },
            **{
                f"weights held, {name}, seed {k}": v
                for name in still
                for k, v in _each(still[name])
            },
        },
        holds=turned,
        words=(
            f"First 20 images ({data.name}), {len(seeds)} initial weights, published "
            f"angles, read off, in brackets: {listed}. Weights that are held while "
            f"nudged give {max(unmoved):.0f}° at most."
        ),
    )


def _narrow(check: Check) -> Check:
    return dataclasses.replace(check, sizes=(784, 32, 10), batch=4)


def _updates(check: Check, x: Any, y: Any) -> list[tuple[np.ndarray, ...]]:
    """Of each layer's weights: sums of C-EP at η and η/10, of EP and BPTT, over t."""
    problem = check.network(), COST, x, y
    free = Euler(dt=check.dt, steps=check.T)
    nudged = Euler(dt=check.dt, steps=check.K)
    options: dict[str, Any] = {"free": free, "dt": check.dt, "steps": check.K}
    ways = [
        ContinualEquilibriumPropagation(
            free, nudged, check.beta, learning_rate=eta
        ).path(*problem)
        for eta in (ETA, ETA / 10)
    ]
    ways += [
        ep_process(*problem, **options, beta=check.beta, nudging="one-sided"),
        bptt_process(*problem, **options),
    ]
    return [
        tuple(np.asarray(w).reshape(check.K + 1, -1) for w in layer)
        for layer in zip(*(way.grads.weights for way in ways), strict=True)
    ]


def _rmse(one: np.ndarray, other: np.ndarray) -> float:
    """Mean of paper D's relative RMSE over the weights that either moves."""
    moves = np.any((one != 0) | (other != 0), axis=0)
    return float(process_rmse(one, other)[moves].mean())


def _panel(title: str, *found: np.ndarray) -> Panel:
    """The weight with the largest gradient."""
    weight = int(np.abs(found[-1][-1]).argmax())
    kinds = {
        "C-EP": "measured",
        "C-EP, η/10": "other",
        "EP": "dashed",
        "BPTT": "expected",
    }
    curves = tuple(
        Curve(label, range(len(sums)), sums[:, weight], kind)  # type: ignore[arg-type]
        for (label, kind), sums in zip(kinds.items(), found, strict=True)
    )
    return Panel("t (steps)", "sum of updates", curves, title=title)


def _angles(recipe: str, data: Images, seed: int) -> tuple[float, float]:
    """Of the rule's update, and of the one whose weights are held while nudged."""
    config: Any = RECIPES[recipe].config
    rule = dataclasses.replace(config.estimator, nudging="one-sided")
    network, cost = config.model.build((784,), 10, jax.random.key(seed))
    held = EquilibriumPropagation(rule.free, rule.nudged, rule.beta, "one-sided")
    exact = BackpropagationThroughTime(rule.free, 1.0, rule.nudged.steps)
    found, other, reference = (
        each(network, cost, data.flat, data.y).grads for each in (rule, held, exact)
    )
    return agreement(found, reference).angle, agreement(other, reference).angle


def _each(values: np.ndarray) -> list[tuple[int, float]]:
    return [(k, float(v)) for k, v in enumerate(values)]


ITEMS = {"C-EP.theorem": theorem, "C-EP.angles": angles}
