"""Paper D's theorem step by step: EP's updates against BPTT's gradients.

The last K of the T steps of the first phase are taped: ∇^BPTT(t) belongs to step T − t,
and Δ^EP(t) to step t of the second phase, which starts from s_T. The two are equal as
β → 0 if the dynamics is the gradient of a Φ (the energies, Φ = ½‖s‖² − ε E). They
differ at any β in prototypical networks, where σ is outside of Φ.

Four things differ from the released code, which made the paper's figures. The layered
energies have ρ′(s⁰) at the output too, because otherwise they are no gradients. The
first layer is driven by x, not ρ(x). Neurons are compared for every example; that code
sums them over the batch. The toy's weights are Glorot's, without biases at the start.
Prototypical steps are dt = 1.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

import eqprop as ep

from ...theory import process_rmse
from .._claim import Findings
from .._common import COST, flat, network
from .._figure import Curve

SHOWN = 5
"""number of neurons and synapses of a layer that a figure shows"""


@dataclasses.dataclass(frozen=True)
class Check:
    """A row of paper D's table of theorem checks (README of its code)."""

    name: str
    sizes: tuple[Any, ...]
    dt: float
    beta: float
    T: int
    K: int
    batch: int = 1

    @property
    def exact(self) -> bool:
        """Whether the dynamics is the gradient of a primitive function."""
        return not self.name.startswith("P")

    def network(self) -> Any:
        """The network with its initial weights; the toy is fully connected."""
        if self.name == "toy":
            inputs, hidden, outputs = self.sizes
            sizes = {"inputs": inputs, "hidden": hidden, "outputs": outputs}
            return ep.toy_network(key=jax.random.key(0), **sizes)
        kind = ep.HopfieldEnergy if self.exact else ep.PrototypicalNetwork
        rho = ep.hard_sigmoid if self.name == "P-conv" else ep.tanh
        return network(self.sizes, rho, kind=kind)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer's processes, of a few units for a figure, and its relative RMSE.

    `bptt` and `ep` are −∇^BPTT and Δ^EP, for synapses the sums up to t. `rmse` is the
    mean over the layer, `spread` its standard deviation, `moving` the mean over the
    units that move in EP; `half` and `moving_half` are the same at β/2.
    """

    name: str
    bptt: Float[np.ndarray, "times shown"]
    ep: Float[np.ndarray, "times shown"]
    rmse: float
    spread: float
    moving: float
    half: float = float("nan")
    moving_half: float = float("nan")

    @property
    def synapses(self) -> bool:
        """Whether the units are weights, not neurons."""
        return self.name.startswith("W")

    @property
    def ratio(self) -> float:
        """How many times smaller the RMSE is at β/2: 2 if it is of order β."""
        return self.rmse / self.half


@dataclasses.dataclass(frozen=True)
class Units:
    """The part of a process that a layer is; EP's first `silent` entries count as 0."""

    name: str
    take: Callable[[ep.Process], Array]
    silent: int

    def of(self, process: ep.Process, steps: int) -> np.ndarray:
        """Neurons at t = 0…K − 1, or synapses' sums over the first 0…K steps."""
        values = np.asarray(self.take(process))
        return values if self.name.startswith("W") else values[:steps]


class FirstPhase(NamedTuple):
    """The states at T − K, where the tape begins, and the settled ones at T."""

    before: Any
    end: ep.Equilibrium

    def of(self, chosen: Any) -> "FirstPhase":
        """Some of the examples."""
        return jax.tree.map(lambda leaf: leaf[chosen], self)


def first_phase(check: Check, net: Any, x: Array) -> FirstPhase:
    """T steps; only the state before the last K is kept."""
    before = ep.relax(net, x, ep.Euler(dt=check.dt, steps=check.T - check.K)).state
    last = ep.Euler(dt=check.dt, steps=check.K)
    return FirstPhase(before, ep.relax(net, x, last, state=before))


def compare(check: Check, x: Array, y: Array) -> tuple[list[Layer], float]:
    """Every layer of a network, and the largest residual after its first phase."""
    net = check.network()
    phase = first_phase(check, net, x)
    return second_phase(check, net, x, y, phase), float(phase.end.residual.max())


def second_phase(
    check: Check, net: Any, x: Array, y: Array, phase: FirstPhase
) -> list[Layer]:
    """EP's K steps against the K steps on tape, layer by layer."""
    options: dict[str, Any] = {"dt": check.dt, "steps": check.K}
    options["free"] = ep.Euler(dt=check.dt, steps=0)
    layers = units(net, check)
    tape = ep.bptt_process(net, COST, x, y, state=phase.before, **options)
    bptt = [each.of(tape, check.K) for each in layers]
    options |= {"state": phase.end.state, "nudging": "one-sided"}
    found = []
    for beta in (check.beta, check.beta / 2):
        process = ep.ep_process(net, COST, x, y, beta=beta, **options)
        pairs = zip(layers, bptt, strict=True)
        found.append([measure(each, each.of(process, check.K), b) for each, b in pairs])
    return [
        dataclasses.replace(layer, half=half.rmse, moving_half=half.moving)
        for layer, half in zip(*found, strict=True)
    ]


def units(net: Any, check: Check) -> list[Units]:
    """Layers counted from the output, as in the paper: s⁰ is the prediction."""
    if check.name == "toy":
        return toy_units(*check.sizes)
    depth = len(net.weights)
    # The released code's convolutional network sets nothing to zero.
    late = check.name != "P-conv"
    neurons = [
        Units(f"s{i}", lambda p, k=depth - 1 - i: p.states[k], i if late else 0)
        for i in range(depth)
    ]
    return neurons + [
        Units(
            f"W{i},{i + 1}",
            lambda p, k=depth - 1 - i: p.grads.weights[k],
            i + 1 if late else 0,
        )
        for i in range(depth)
    ]


def toy_units(inputs: int, hidden: int, outputs: int) -> list[Units]:
    """The toy's blocks: its state is one vector, hidden units first."""
    before, at = slice(inputs), slice(inputs, inputs + hidden)
    after = slice(inputs + hidden, None)
    return [
        Units("s0", lambda p: p.states[..., hidden:], 0),
        Units("s1", lambda p: p.states[..., :hidden], 1),
        Units("W0,1", lambda p: p.grads.weight[:, at, after], 1),
        Units("W0,x", lambda p: p.grads.weight[:, before, after], 1),
        Units("W1,x", lambda p: p.grads.weight[:, before, at], 2),
    ]


def measure(layer: Units, found: np.ndarray, bptt: np.ndarray) -> Layer:
    """The relative RMSE of a layer, and a few of its units."""
    found = np.array(found)
    found[: layer.silent] = 0  # no error can have arrived: rounding only
    rmse = process_rmse(found, bptt)
    moves = np.any(found != 0, axis=0)
    # Units at random: for neurons the first example's; none that is dead.
    values = flat(bptt if layer.name.startswith("W") else bptt[:, :1])
    alive = np.flatnonzero(np.any(values != 0, axis=0))
    random = np.random.default_rng(0)
    chosen = random.choice(alive, min(SHOWN, len(alive)), replace=False)
    return Layer(
        layer.name,
        -flat(bptt)[:, chosen],
        -flat(found)[:, chosen],
        rmse=float(rmse.mean()),
        spread=float(rmse.std()),
        moving=float(rmse[moves].mean()) if moves.any() else 0.0,
    )


def curves_panel(found: Findings, title: str, layer: Layer) -> None:
    """Draw the units of a layer: solid −∇BPTT and dashed Δ^EP."""
    lines = []
    for unit in range(layer.ep.shape[1]):
        labels = ("", "") if unit else ("−∇ BPTT", "Δ EP")
        lines += pair(layer, unit, 80, labels, color=unit)
    until = "sum up to t" if layer.synapses else "at t"
    found.panel("t (steps)", f"{layer.name}: {until}", *lines, title=title)


def pair(
    layer: Layer, unit: int, points: int, labels: tuple[str, str], color: int
) -> list[Curve]:
    """The two curves of a unit, at most `points` each: solid BPTT, dashed EP."""
    steps = np.unique(np.linspace(0, len(layer.ep) - 1, points).round().astype(int))
    # Six digits are enough for a figure, and keep records small.
    bptt, ep = (
        [float(f"{value:.6g}") for value in each[steps, unit]]
        for each in (layer.bptt, layer.ep)
    )
    solid = Curve(labels[0], steps, bptt, "solid", color)
    return [solid, Curve(labels[1], steps, ep, "dashed", color)]


def overview(found: Findings, name: str, layers: list[Layer], synapses: bool) -> None:
    """Draw one unit of each layer, scaled to a largest gradient of 1."""
    lines = []
    chosen = [layer for layer in layers if layer.synapses == synapses]
    for color, layer in enumerate(chosen):
        size = np.abs(layer.bptt[:, :1]).max()
        scaled = {"bptt": layer.bptt / size, "ep": layer.ep / size}
        layer = dataclasses.replace(layer, **scaled)
        lines += pair(layer, 0, 60, ("", layer.name), color)
    units = "synapse of each layer, sum" if synapses else "neuron of each layer"
    title = f"{name}: −∇ BPTT solid, Δ EP dashed"
    found.panel("t (steps)", f"{units} (scaled)", *lines, title=title)


def bars_panel(
    found: Findings, title: str, nets: Mapping[str, Sequence[Layer]], synapses: bool
) -> None:
    """Draw the mean RMSE over each layer, a colour a network (figures 3 and 16)."""
    lines, bars = [], ()
    for name, layers in nets.items():
        chosen = [layer for layer in layers if layer.synapses == synapses]
        rmse, spread = zip(*((each.rmse, each.spread) for each in chosen), strict=True)
        lines.append(Curve(name, range(len(chosen)), rmse, spread=spread))
        bars = max(bars, tuple(layer.name for layer in chosen), key=len)
    y = f"relative RMSE, {'synapses' if synapses else 'neurons'}"
    found.panel("layer, counted from the output", y, *lines, title=title, bars=bars)
