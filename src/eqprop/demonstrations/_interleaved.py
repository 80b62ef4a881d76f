"""Why prototypical networks do not always settle, and what an odd K makes of it.

In a layered network odd layers hear even ones only.  Stepped all at once by dt = 1 it
is two networks that never meet: the odd layers at odd times with the even ones at even
times, and the others.  Each settles; where an input has several fixed points the two
need not settle at the same one, and the state swings between two mixtures of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..costs import SquaredError
from ..estimators import EquilibriumPropagation
from ..relaxations import Euler, relax, Sweep
from ..systems import fan_in_uniform, PrototypicalNetwork, shifted_sigmoid
from ..training import fit, Optimizer
from ._convolution import digits
from ._demonstration import Curve, Demonstration, Panel

SIZES = (64, 64, 64, 10)
EXAMPLES = 1500
EPOCHS = 20
FREE, NUDGED, BETA, RATES = 100, 20, 0.5, (0.2, 0.05, 0.005)
"""T, K, β and rates of paper D's P-2h"""
LONG = 1000
"""steps after which what will settle has settled"""
SWINGS = 0.1
"""velocity above which it then has not, and"""
FIXED = 1e-8
"""below which a state counts as a fixed point"""
SHOWN = range(61)
"""steps of an example that is drawn"""
COUNTS = range(1, 25)
"""steps K of the nudged phase"""


def interleaved(*, quick: bool = False) -> Demonstration:
    """Period 2 is two fixed points in turn; the contrast of such examples against K."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        x, y = _examples()
        net = _trained(x, y)
        ended = relax(net, x, Euler(dt=1.0, steps=LONG))
        swings = np.asarray(ended.residual) > SWINGS
        if not swings.any():
            raise RuntimeError("every example settled: there is nothing to show")
        mixtures = _one_by_one(net, x[swings], ended.state, swings)
        norms = _contrasts(net, x, y, swings)
        example = _outputs(net, x[swings], mixtures)
        swept = np.asarray(relax(net, x[swings], Sweep(LONG, FIXED)).residual)
    odd, even = (norms["swinging"][first::2].mean() for first in (0, 1))
    others = norms["settled"].mean()
    residual = max(m["residual"].max() for m in mixtures)
    first, second = (np.argmax(m["outputs"], axis=1) for m in mixtures)
    findings = {
        "examples": len(x),
        "examples that swing": int(swings.sum()),
        "residual of the halves": float(residual),
        "of two classes": int((first != second).sum()),
        "contrast, odd over even K": float(odd / even),
        "contrast, odd K over the others": float(odd / others),
        "residual by sweeps": float(swept.max()),
    }
    fixed = residual < FIXED and swept.max() < FIXED
    sizes = "-".join(map(str, SIZES))
    return Demonstration(
        claim="With dt = 1 a layered network is two that never meet; where they settle "
        "apart its state has period 2, and with an odd K the contrast is that of two "
        "fixed points",
        source="derived here; paper D's prototypical setting",
        panels=(
            example,
            Panel(
                "steps K of the nudged phase",
                "norm of an example's contrast (mean)",
                (
                    Curve("examples of period 2", COUNTS, norms["swinging"]),
                    Curve("others", COUNTS, norms["settled"]),
                ),
                "y",
            ),
        ),
        findings=findings,
        holds=bool(fixed and odd > 2 * even and odd > 10 * others),
        words=(
            f"{sizes} trained on {len(x)} digits as paper D's P-2h: {swings.sum()} "
            "examples never settle. Taken apart, both halves of each are fixed points "
            f"(residual at most {residual:.0e}), {findings['of two classes']} times of "
            "different classes. With an odd K their contrast is "
            f"{odd / even:.1f} times that with an even one, and {odd / others:.0f} "
            "times that of other examples. Sweeps settle all of them."
        ),
    )


def _examples() -> tuple[Any, Any]:
    images, y = digits(EXAMPLES)
    return images.reshape(len(images), -1), y


def _trained(x: Any, y: Any) -> PrototypicalNetwork:
    """By paper D's steps, all layers at once."""
    net = PrototypicalNetwork(
        SIZES,
        key=jax.random.key(0),
        activation=shifted_sigmoid,
        initializer=fan_in_uniform,
    )
    rule = EquilibriumPropagation(
        Euler(dt=1.0, steps=FREE), Euler(dt=1.0, steps=NUDGED), BETA, "one-sided"
    )
    found = fit(
        *(net, SquaredError(), x, y),
        estimator=rule,
        optimizer=Optimizer("sgd", RATES),
        epochs=EPOCHS,
        batch_size=20,
    )
    return found.system  # type: ignore[return-value]


def _one_by_one(net: Any, x: Any, state: Any, swings: Any) -> list[dict[str, Any]]:
    """Odd layers of one step with even layers of the next, and the reverse."""
    now = tuple(layer[swings] for layer in state)
    then = relax(net, x, Euler(dt=1.0, steps=1), state=now).state
    pairs = [(now, then), (then, now)]
    halves = [tuple(p[k % 2][k] for k in range(len(now))) for p in pairs]
    ends = [relax(net, x, Euler(dt=1.0, steps=0), state=half) for half in halves]
    return [
        {"outputs": np.asarray(e.state[-1]), "residual": np.asarray(e.residual)}
        for e in ends
    ]


def _contrasts(net: Any, x: Any, y: Any, swings: Any) -> dict[str, np.ndarray]:
    """Mean norm of ∂Φ/∂θ at s^β_K less that at s_T, of both kinds of examples."""

    def direction(x, s):
        return jax.grad(lambda net: net.primitive(x, s))(net)

    @jax.jit
    def norms(x, nudged, free):
        change = jax.tree.map(
            jnp.subtract, *(jax.vmap(direction)(x, s) for s in (nudged, free))
        )
        squares = [
            jnp.sum(u.reshape(len(u), -1) ** 2, 1) for u in jax.tree.leaves(change)
        ]
        return jnp.sqrt(sum(squares))

    others = np.flatnonzero(~swings)[: 10 * swings.sum()]
    found = {}
    for name, chosen in (("swinging", np.flatnonzero(swings)), ("settled", others)):
        free = relax(net, x[chosen], Euler(dt=1.0, steps=FREE)).state
        nudged, means = free, []
        for _ in COUNTS:
            nudged = relax(
                *(net, x[chosen], Euler(dt=1.0, steps=1)),
                state=nudged,
                cost=SquaredError(),
                y=y[chosen],
                beta=BETA,
            ).state
            means.append(float(norms(x[chosen], nudged, free).mean()))
        found[name] = np.array(means)
    return found


def _outputs(net: Any, x: Any, mixtures: list[dict[str, Any]]) -> Panel:
    """The two outputs that differ most between an example's fixed points, over time."""
    both = np.stack([m["outputs"] for m in mixtures])
    apart = np.abs(both[0] - both[1])
    shown = np.argmax(np.sort(apart, axis=1)[:, -2])  # by the second largest
    units = np.argsort(-apart[shown])[:2]
    start, outputs = None, []
    for t in SHOWN:
        step = Euler(dt=1.0, steps=int(t > 0))
        start = relax(net, x[shown][None], step, state=start).state
        outputs.append(np.asarray(start[-1][0]))
    curves = [
        Curve(f"output {unit}", SHOWN, [s[unit] for s in outputs], color=color)
        for color, unit in enumerate(units)
    ]
    curves += [
        Curve("", (SHOWN[0], SHOWN[-1]), (end, end), "expected", color)
        for color, unit in enumerate(units)
        for end in both[:, shown, unit]
    ]
    title = "dashed: the two fixed points of this example"
    return Panel("steps t, all layers at once", "state", tuple(curves), title=title)


ITEMS = {"D.interleaved": interleaved}
