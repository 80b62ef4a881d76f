"""Paper D's figures 2 to 4: the toy network, the bars of six networks, convolutions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eqprop as ep

from .._claim import claim, Findings
from .._common import images
from .._figure import Curve
from ._steps import (
    bars_panel,
    Check,
    compare,
    curves_panel,
    first_phase,
    Layer,
    overview,
    second_phase,
)

HIDDEN = 512
ONE, TWO, THREE = ((784, *(HIDDEN,) * depth, 10) for depth in (1, 2, 3))
NETS = (
    Check("EB-1h", ONE, dt=0.08, beta=0.001, T=800, K=80, batch=20),
    Check("EB-2h", TWO, dt=0.08, beta=0.01, T=5000, K=150, batch=20),
    Check("EB-3h", THREE, dt=0.08, beta=0.02, T=30000, K=200, batch=20),
    Check("P-1h", ONE, dt=1.0, beta=0.01, T=150, K=10, batch=20),
    Check("P-2h", TWO, dt=1.0, beta=0.01, T=1500, K=40),
    Check("P-3h", THREE, dt=1.0, beta=0.015, T=5000, K=40),
)
TOY = Check("toy", (5, 50, 10), dt=0.08, beta=0.01, T=5000, K=80)
EXACT, EXACT_DEEP, NEAR = 0.02, 0.05, 0.7
"""largest mean RMSE of a layer: the toy, energy-based networks, prototypical ones"""
CLOSE, FAR = 0.2, 1.0
"""the same of the convolutional network: median within bounds, and over all examples"""


def convolutional(kernel: int, channels: tuple[int, int]) -> tuple:
    """The sizes of figure 4's network: 2 convolutions with 2 × 2 max pooling."""
    layers = (ep.Convolution(count, kernel, pool="max") for count in channels)
    return ((28, 28, 1), *layers, 10)


CONV = Check("P-conv", convolutional(5, (32, 64)), 1.0, 0.02, 5000, 10, batch=20)
QUICK_CONV = dataclasses.replace(CONV, sizes=convolutional(5, (4, 8)), T=300)


def smaller(check: Check) -> Check:
    """The same with narrow layers, a short first phase and four examples at most."""
    sizes = tuple(32 if size == HIDDEN else size for size in check.sizes)
    batch, T = min(check.batch, 4), min(check.T, 2000)
    return dataclasses.replace(check, sizes=sizes, T=T, batch=batch)


def ratios(
    found: Findings, layers: Sequence[Layer], name: str, within: Any = None
) -> None:
    """Add the least and the largest RMSE at β over that at β/2: 2 if it is ∝ β."""
    values = [layer.ratio for layer in layers]
    for end, value in {"least": min(values), "largest": max(values)}.items():
        label = f"RMSE at β over RMSE at β/2, {name}, {end}"
        if within is None:
            found.add(label, value)
        else:
            found.near(label, value, 2, within)


@claim(
    "D.fig2",
    shows="step-by-step curves of the toy network, a gradient of Φ (figure 2)",
    source="paper D, figure 2",
)
def toy() -> Findings:
    """In the toy network EP's updates are BPTT's gradients, step by step.

    10-50-5, tanh, {settings}, random input. This is the theorem's own case, exact as β
    → 0: half of β halves the relative RMSE.

    In the paper: Figure 2: step by step, EP's updates (dashed) lie on BPTT's gradients
    (solid) for some neurons and synapses of the toy network.
    """
    found = Findings(rows=2, settings=settings(TOY))
    x, y = jax.random.split(jax.random.key(3))
    data = jax.random.uniform(x, (1, 5)), jax.random.uniform(y, (1, 10))
    layers, residual = compare(TOY, *data)
    for layer in layers:
        found.add(f"RMSE, {layer.name}", layer.rmse, most=EXACT)
        curves_panel(found, "", layer)
    ratios(found, layers, "all layers", 0.1)
    found.add("residual after the first phase", residual)
    return found


@claim(
    "D.fig3",
    shows="relative RMSE per layer of EB-1h, 2h, 3h and P-1h, 2h, 3h (figure 3)",
    source="paper D, figure 3 (and 8 to 13)",
    quick={"change": smaller},
)
def bars(change: Callable[[Check], Check] = lambda check: check) -> Findings:
    """EP's updates are BPTT's gradients in energy-based networks; in prototypical ones
    they follow them, but not exactly.

    {data}, first images. Energy-based networks are the theorem's own case: half of β
    halves the relative RMSE, so EP is exact in the limit. In prototypical networks σ
    outside of Φ breaks exactness. Every example's neurons count; the released code sums
    them over the batch. {listed}.

    In the paper: Figure 3: bars of the RMSE between the two, layer by layer, of
    energy-based and prototypical networks. We do not know their values.
    """
    used, data = [change(check) for check in NETS], images(20)
    listed = "; ".join(f"{check.name}: {settings(check)}" for check in used)
    found = Findings(rows=4, data=data.name, listed=listed)
    nets: dict[bool, dict[str, list[Layer]]] = {True: {}, False: {}}
    for check in used:
        batch = data.part(slice(check.batch))
        layers, residual = compare(check, batch.flat, batch.y)
        nets[check.exact][check.name] = layers
        most = EXACT_DEEP if check.exact else NEAR
        worst = max(layer.rmse for layer in layers)
        found.add(f"largest RMSE of a layer, {check.name}", worst, most=most)
        found.add(f"residual after the first phase, {check.name}", residual)
    for exact, name, within in (
        (True, "energy-based", 0.2),
        (False, "prototypical", None),
    ):
        layers = [layer for net in nets[exact].values() for layer in net]
        ratios(found, layers, name, within)
    titles = ("energy-based: exact as β → 0", "prototypical: σ outside of Φ, not exact")
    for title, each in zip(titles, nets.values(), strict=True):
        for synapses in (False, True):
            bars_panel(found, title, each, synapses)
    for name, layers in (nets[True] | nets[False]).items():
        for synapses in (False, True):
            overview(found, name, layers, synapses)
    return found


def settings(check: Check) -> str:
    """The parameters of a check in words."""
    step = f"ε = {check.dt}, " if check.exact else ""
    batch = f", batch {check.batch}" if check.name != "toy" else ""
    return f"{step}β = {check.beta}, T = {check.T}, K = {check.K}{batch}"


@claim(
    "D.fig4",
    shows="curves and relative RMSE of the convolutional network (figures 4 and 16)",
    source="paper D, figures 4 and 16",
    quick={"check": QUICK_CONV},
)
def convolution(check: Check = CONV) -> Findings:
    """In the convolutional network EP's updates follow BPTT's gradients, except where
    the hard sigmoid holds the right output.

    {data}; {settings}. Over all units, a unit that a bound holds counts as 1. Image by
    image, the RMSE is the largest over the layers, of the units that move. A larger
    nudge can take a unit to a bound, or a pooling window to another maximum. An image
    is inside if its right output is within the hard sigmoid's bounds, and held if not:
    σ′ = 0 at an output held at 0 stops BPTT's error and not EP's.

    In the paper: Figure 4: the same step by step for the convolutional network.

    A hard sigmoid is a projection: within its bounds the map is the gradient of Φ, and
    an error travels by EP as by BPTT. But BPTT gets no error back through an output
    that is held at 0, while EP's nudge moves it. Therefore examples whose right output
    is held differ.
    """
    data, net = images(check.batch), check.network()
    found = Findings(rows=3, data=data.name, settings=settings(check))
    phase = first_phase(check, net, data.x)
    right = np.asarray(jnp.sum(phase.end.state[-1] * data.y, axis=1))

    def layers(chosen: np.ndarray) -> list[Layer]:
        batch = data.part(chosen)
        return second_phase(check, net, batch.x, batch.y, phase.of(chosen))

    whole = layers(np.arange(check.batch))
    single = [layers(np.array([k])) for k in range(check.batch)]
    live = (right > 0) & (right < 1)
    worst = np.array([max(layer.moving for layer in one) for one in single])
    half = np.array([max(layer.moving_half for layer in one) for one in single])
    found.add("RMSE of a layer, least", min(layer.rmse for layer in whole))
    found.add("RMSE of a layer, largest", max(layer.rmse for layer in whole), most=FAR)
    below = f"images with an RMSE below {CLOSE}"
    found.add("inside: median RMSE", np.median(worst[live]), most=CLOSE)
    found.add("inside: median RMSE at β/2", np.median(half[live]))
    found.add("inside: images", live.sum(), least=1)
    found.add(f"inside: {below}", (worst[live] < CLOSE).sum())
    found.add(f"inside: {below} at β/2", (half[live] < CLOSE).sum(), least=live.sum())
    found.add("held: images", (~live).sum())
    found.add(f"held: {below}", (worst[~live] < CLOSE).sum(), most=0)
    found.add("residual after the first phase", phase.end.residual.max())
    for layer in single[live.argmax()]:
        curves_panel(found, f"example {live.argmax()}", layer)
    for synapses in (False, True):
        bars_panel(found, f"{check.batch} examples", {check.name: whole}, synapses)
    found.panel(
        "example",
        "relative RMSE, worst layer",
        Curve("right output within bounds", *numbered(worst, live), "points"),
        Curve("right output held", *numbered(worst, ~live), "points"),
        Curve(
            "tolerance of the median",
            range(len(live)),
            0 * worst + CLOSE,
            "expected",
            6,
        ),
        scale="y",
        title="moving units, each example by itself",
    )
    return found


def numbered(values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(chosen), values[chosen]
