"""Paper D's figures: the toy network, the bars of six networks, the convolutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ._demonstration import Curve, Demonstration, Panel
from ._images import images
from ._steps import (
    bars_panel,
    Check,
    compare,
    convolutional,
    curves_panel,
    first_phase,
    Layer,
    second_phase,
    thinner,
)

TOY = Check("toy", (5, 50, 10), dt=0.08, beta=0.01, T=5000, K=80)
HIDDEN = 512
NETS = (
    Check("EB-1h", (784, HIDDEN, 10), dt=0.08, beta=0.001, T=800, K=80, batch=20),
    Check("EB-2h", (784, HIDDEN, HIDDEN, 10), 0.08, 0.01, 5000, 150, 20),
    Check("EB-3h", (784, HIDDEN, HIDDEN, HIDDEN, 10), 0.08, 0.02, 30000, 200, 20),
    Check("P-1h", (784, HIDDEN, 10), dt=1.0, beta=0.01, T=150, K=10, batch=20),
    Check("P-2h", (784, HIDDEN, HIDDEN, 10), 1.0, 0.01, 1500, 40),
    Check("P-3h", (784, HIDDEN, HIDDEN, HIDDEN, 10), 1.0, 0.015, 5000, 40),
)
EXACT, EXACT_DEEP, NEAR = 0.02, 0.05, 0.7
"""largest mean RMSE of a layer: the toy, energy-based networks, prototypical ones"""
CLOSE, FAR = 0.2, 1.0
"""the same of the convolutional network: median within bounds, and over all examples"""
CONV = Check("P-conv", convolutional(5, (32, 64)), 1.0, 0.02, 5000, 10, batch=20)


def toy(*, quick: bool = False) -> Demonstration:
    """Figure 2: step-by-step curves of the toy network, a gradient of Φ."""
    del quick  # seconds as it is
    with jax.enable_x64(True):
        x, y = jax.random.split(jax.random.key(3))
        data = jax.random.uniform(x, (1, 5)), jax.random.uniform(y, (1, 10))
        layers, residual = compare(TOY, *data)
    worst, ratio = _worst(layers), _ratios(layers)
    return Demonstration(
        claim="In the toy network EP's updates are BPTT's gradients, step by step",
        source="paper D, figure 2",
        panels=tuple(curves_panel("", layer) for layer in layers),
        findings={
            **{f"rmse {layer.name}": layer.rmse for layer in layers},
            **_between("rmse at β over rmse at β/2", ratio),
            "last step of the first phase": residual,
        },
        holds=bool(worst < EXACT and _halves(ratio)),
        words=(
            f"10-50-5, tanh, ε = {TOY.dt}, β = {TOY.beta}, T = {TOY.T}, K = {TOY.K}, "
            f"random input. The theorem's own case, exact as β → 0: relative RMSE at "
            f"most {worst:.1e} (tolerance {EXACT}), and half of β makes it "
            f"{min(ratio):.2f} to {max(ratio):.2f} times smaller (2 expected)."
        ),
        rows=2,
    )


def bars(*, quick: bool = False) -> Demonstration:
    """Figure 3: relative RMSE per layer of EB-1h, 2h, 3h and P-1h, 2h, 3h."""
    found: dict[str, list[Layer]] = {}
    residuals = {}
    with jax.enable_x64(True):
        data = images(20)
        used = tuple(map(_smaller, NETS)) if quick else NETS
        for check in used:
            batch = data.flat[: check.batch], data.y[: check.batch]
            found[check.name], residuals[check.name] = compare(check, *batch)
    energies = {name: v for name, v in found.items() if name.startswith("EB")}
    maps = {name: v for name, v in found.items() if name.startswith("P")}
    worst = {name: _worst(layers) for name, layers in found.items()}
    exact = [r for layers in energies.values() for r in _ratios(layers)]
    other = [r for layers in maps.values() for r in _ratios(layers)]
    largest = max(worst[name] for name in energies), max(worst[name] for name in maps)
    panels = [
        bars_panel(title, nets, synapses)
        for title, nets in (
            ("energy-based: exact as β → 0", energies),
            ("prototypical: σ outside of Φ, not exact", maps),
        )
        for synapses in (False, True)
    ]
    panels += [
        _overview(name, layers, synapses)
        for name, layers in found.items()
        for synapses in (False, True)
    ]
    return Demonstration(
        claim="EP's updates are BPTT's gradients in energy-based networks, and follow "
        "them, not exactly, in prototypical ones",
        source="paper D, figure 3 (and 8 to 13)",
        panels=tuple(panels),
        findings={
            **{
                f"rmse {name} {layer.name}": layer.rmse
                for name, layers in found.items()
                for layer in layers
            },
            **_between("energy-based: rmse at β over rmse at β/2", exact),
            **_between("prototypical: rmse at β over rmse at β/2", other),
            **{
                f"last step of the first phase, {name}": residual
                for name, residual in residuals.items()
            },
        },
        holds=bool(
            largest[0] < EXACT_DEEP and _halves(exact, 0.2) and largest[1] < NEAR
        ),
        words=(
            f"{data.name}, first examples. Energy-based networks, the theorem's own "
            f"case: relative RMSE at most {largest[0]:.2g} (tolerance {EXACT_DEEP}), "
            f"{min(exact):.2f} to {max(exact):.2f} times smaller at half of β (2 "
            "expected: exact in the limit). Prototypical networks, where σ outside of "
            f"Φ breaks exactness: at most {largest[1]:.2g} (tolerance {NEAR}), and "
            f"{min(other):.2f} to {max(other):.2f} times smaller at half of β, which "
            "would halve an error of order β. Neurons count example by example (the "
            "released code sums them over the batch). "
            + "; ".join(map(_settings, zip(used, residuals.values(), strict=True)))
            + "."
        ),
        rows=4,
    )


def _settings(net: tuple[Check, float]) -> str:
    """T, K, β, batch, and how far the first phase was from settled."""
    check, residual = net
    step = f"ε = {check.dt}, " if check.name.startswith("EB") else ""
    return (
        f"{check.name}: {step}β = {check.beta}, T = {check.T}, K = {check.K}, batch "
        f"{check.batch}, last step of the first phase {residual:.0e}"
    )


def convolution(*, quick: bool = False) -> Demonstration:
    """Figures 4 and 16: curves and relative RMSE of the convolutional network.

    A hard sigmoid is a projection: within its bounds the map is the gradient of Φ, and
    an error travels by EP as by BPTT.  But an output that it holds at 0 gives BPTT no
    way back, while EP's nudge moves it: examples with the right output held differ.
    """
    check = CONV
    if quick:
        check = dataclasses.replace(CONV, sizes=convolutional(5, (4, 8)), T=300)
    with jax.enable_x64(True):
        data, network = images(check.batch), check.network()
        phase = first_phase(check, network, data.x)
        right = np.asarray(jnp.sum(phase.end.state[-1] * data.y, axis=1))
        residual = float(phase.end.residual.max())

        def layers(chosen: np.ndarray) -> list[Layer]:
            batch = data.x[chosen], data.y[chosen]
            return second_phase(check, network, *batch, phase.of(chosen))

        whole = layers(np.arange(check.batch))
        single = [layers(np.array([k])) for k in range(check.batch)]
    live = (right > 0) & (right < 1)
    worst = np.array([max(layer.moving for layer in one) for one in single])
    half = np.array([max(layer.moving_half for layer in one) for one in single])
    first, median = int(live.argmax()), np.median(worst[live])
    return Demonstration(
        claim="In the convolutional network EP's updates follow BPTT's gradients, but "
        "where the hard sigmoid holds the right output",
        source="paper D, figures 4 and 16",
        panels=(
            *(curves_panel(f"example {first}", layer) for layer in single[first]),
            bars_panel(f"{check.batch} examples", {check.name: whole}, False),
            bars_panel(f"{check.batch} examples", {check.name: whole}, True),
            _examples(worst, live),
        ),
        findings={
            **{f"rmse {layer.name}": layer.rmse for layer in whole},
            **{f"rmse, moving {layer.name}": layer.moving for layer in whole},
            **{f"largest rmse, moving, example {k}": v for k, v in enumerate(worst)},
            **{f"the same at β/2, example {k}": v for k, v in enumerate(half)},
            **{f"right output, example {k}": v for k, v in enumerate(right)},
            "last step of the first phase": residual,
        },
        holds=bool(
            median < CLOSE
            and (half[live] < CLOSE).all()
            and (worst[~live] > CLOSE).all()
            and max(layer.rmse for layer in whole) < FAR
        ),
        words=(
            f"{data.name}; β = {check.beta}, T = {check.T}, K = {check.K}. Over "
            f"{check.batch} examples the relative RMSE is "
            f"{min(layer.rmse for layer in whole):.2f} to {_worst(whole):.2f} "
            f"(tolerance {FAR}), a unit that a bound holds counting as 1. One by one, "
            "its largest over the layers' moving units has the median "
            f"{median:.2g} (tolerance {CLOSE}) where the right output is within "
            f"the hard sigmoid's bounds, {live.sum()} examples of which "
            f"{(worst[live] < CLOSE).sum()} are below {CLOSE}, and at β/2 "
            f"{(half[live] < CLOSE).sum()}, with a median of "
            f"{np.median(half[live]):.2g} (a larger nudge can take a unit to a bound, "
            "or a pooling window to another maximum); of the others "
            f"{(worst[~live] < CLOSE).sum()} of {(~live).sum()} are (none expected): "
            "σ′ = 0 at an output held at 0 stops BPTT's error and not EP's."
        ),
        rows=3,
    )


def _examples(worst: np.ndarray, live: np.ndarray) -> Panel:
    """The largest RMSE of each example over its layers."""
    curves = [
        Curve(name, np.flatnonzero(chosen), worst[chosen], "points")
        for name, chosen in (
            ("right output within bounds", live),
            ("right output held", ~live),
        )
    ]
    line = Curve("tolerance of the median", range(len(live)), [CLOSE] * len(live))
    line = dataclasses.replace(line, kind="expected", color=6)
    title = "moving units, each example by itself"
    label = "relative RMSE, worst layer"
    return Panel("example", label, (*curves, line), "y", title=title)


def _smaller(check: Check) -> Check:
    """Narrow layers, a short first phase and four examples at most."""
    sizes = tuple(32 if size == HIDDEN else size for size in check.sizes)
    batch, T = min(check.batch, 4), min(check.T, 2000)
    return dataclasses.replace(check, sizes=sizes, T=T, batch=batch)


def _overview(name: str, layers: list[Layer], synapses: bool) -> Panel:
    """One unit of each layer, scaled to a largest gradient of 1."""
    curves = []
    chosen = [layer for layer in layers if layer.synapses == synapses]
    for color, layer in enumerate(chosen):
        size = np.abs(layer.bptt[:, :1]).max()
        scaled = {"bptt": layer.bptt / size, "ep": layer.ep / size}
        layer = thinner(dataclasses.replace(layer, **scaled), 1)
        for curve in curves_panel("", layer, 60).curves:
            label = layer.name if curve.kind == "dashed" else ""
            curves.append(dataclasses.replace(curve, label=label, color=color))
    what = "synapse of each layer, sum" if synapses else "neuron of each layer"
    title = f"{name}: −∇ BPTT solid, Δ EP dashed"
    return Panel("t (steps)", f"{what} (scaled)", tuple(curves), title=title)


def _worst(layers: list[Layer]) -> float:
    return max(layer.rmse for layer in layers)


def _ratios(layers: list[Layer]) -> list[float]:
    """How much smaller the RMSE is at β/2: 2 where it is of order β."""
    return [layer.rmse / layer.half for layer in layers]


def _halves(ratios: list[float], tolerance: float = 0.1) -> bool:
    return all(abs(ratio - 2) < tolerance for ratio in ratios)


def _between(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}, least": min(values), f"{name}, most": max(values)}


ITEMS = {"D.fig2": toy, "D.fig3": bars, "D.fig4": convolution}
