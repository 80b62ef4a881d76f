"""Paper D's figures 2 to 4: EP's updates against BPTT's gradients, step by step.

Of the T steps of the first phase the last K are taped: ∇^BPTT(t) belongs to step T − t,
and Δ^EP(t) to step t of the second phase, which starts from s_T.  Where the dynamics is
the gradient of a Φ (the energies, Φ = ½‖s‖² − ε E) the two are equal as β → 0; for the
prototypical networks, with σ outside of Φ, they are not, whatever β.

Ours differs from the released code, of which the paper's figures are: ρ′(s⁰) stands at
the layered energies' output too, without which they would be no gradients; x, not ρ(x),
drives the first layer; neurons are compared for every example, where that code sums
them over the batch; the toy's weights are Glorot's, without biases at the start.
Prototypical steps are dt = 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from ..costs import SquaredError
from ..relaxations import Equilibrium, Euler, relax
from ..systems import (
    AbstractSystem,
    Convolution,
    fan_in_uniform,
    hard_sigmoid,
    HopfieldEnergy,
    PrototypicalNetwork,
    tanh,
    toy_network,
)
from ..verification import bptt_process, ep_process, Process
from ..verification._metrics import process_rmse
from ._demonstration import Curve, Panel

COST = SquaredError()
SHOWN = 5
"""neurons and synapses of a layer that a figure shows"""


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

    def network(self, seed: int = 0) -> Any:
        """The network with its initial weights; 5-50-10 is the toy, fully connected."""
        key = jax.random.key(seed)
        if self.name == "toy":
            inputs, hidden, outputs = self.sizes
            return toy_network(key=key, inputs=inputs, hidden=hidden, outputs=outputs)
        kind = HopfieldEnergy if self.exact else PrototypicalNetwork
        rho = hard_sigmoid if self.name == "P-conv" else tanh
        return kind(self.sizes, key=key, activation=rho, initializer=fan_in_uniform)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer's processes, of a few units for a figure, and its relative RMSE.

    −∇^BPTT and Δ^EP: `[times, shown]`, of synapses the sums up to t; `rmse` is the mean
    over the layer, `spread` its standard deviation, `moving` the mean over the units
    that move in EP, and `half` and `moving_half` the same at β/2.
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
        """Whether these are weights, not neurons."""
        return self.name.startswith("W")


@dataclasses.dataclass(frozen=True)
class Group:
    """How a layer is taken from a process; EP's first `silent` entries are set to 0."""

    name: str
    take: Callable[[Process], Array]
    silent: int


class FirstPhase(NamedTuple):
    """The states at T − K, where the tape begins, and the settled ones at T."""

    before: Any
    end: Equilibrium

    def of(self, chosen: Any) -> "FirstPhase":
        """Some of the examples."""
        return jax.tree.map(lambda leaf: leaf[chosen], self)


def first_phase(check: Check, network: Any, x: Array) -> FirstPhase:
    """T steps, of which nothing is kept but the state before the last K."""
    before = relax(network, x, Euler(dt=check.dt, steps=check.T - check.K)).state
    return FirstPhase(
        before, relax(network, x, Euler(dt=check.dt, steps=check.K), state=before)
    )


def compare(check: Check, x: Array, y: Array) -> tuple[list[Layer], float]:
    """Every layer of a network, and the longest last step of its first phase."""
    network = check.network()
    phase = first_phase(check, network, x)
    layers = second_phase(check, network, x, y, phase)
    return layers, float(phase.end.residual.max())


def second_phase(
    check: Check, network: Any, x: Array, y: Array, phase: FirstPhase
) -> list[Layer]:
    """EP's K steps against the K steps on tape, layer by layer."""
    options: dict[str, Any] = {"dt": check.dt, "steps": check.K}
    options["free"] = Euler(dt=check.dt, steps=0)
    groups = _groups(network, check)
    whole = bptt_process(network, COST, x, y, state=phase.before, **options)
    bptt = [_taken(group, whole, check.K) for group in groups]
    measured = {}
    for beta in (check.beta, check.beta / 2):
        process = ep_process(
            *(network, COST, x, y),
            state=phase.end.state,
            beta=beta,
            nudging="one-sided",
            **options,
        )
        measured[beta] = [
            _measured(group, _taken(group, process, check.K), b)
            for group, b in zip(groups, bptt, strict=True)
        ]
    return [
        dataclasses.replace(layer, half=half.rmse, moving_half=half.moving)
        for layer, half in zip(*measured.values(), strict=True)
    ]


def _groups(network: AbstractSystem, check: Check) -> list[Group]:
    """Layers counted from the output, as in the paper: s⁰ is the prediction."""
    if check.name == "toy":
        return _toy_groups(*check.sizes)
    # The released code's convolutional network sets nothing to zero.
    late = check.name != "P-conv"
    depth = len(network.weights)  # type: ignore[attr-defined]
    groups = []
    for i in range(depth):
        k = depth - 1 - i
        groups.append(
            Group(f"s{i}", lambda p, k=k: p.states[k], i if late else 0)  # type: ignore[index]
        )
    for i in range(depth):
        k = depth - 1 - i
        groups.append(
            Group(
                f"W{i},{i + 1}",
                lambda p, k=k: p.grads.weights[k],
                i + 1 if late else 0,
            )
        )
    return groups


def _toy_groups(inputs: int, hidden: int, outputs: int) -> list[Group]:
    """The toy's blocks: its state is one vector, hidden units first."""
    at = slice(inputs, inputs + hidden)
    before, after = slice(inputs), slice(inputs + hidden, None)
    return [
        Group("s0", lambda p: p.states[..., hidden:], 0),  # type: ignore[index]
        Group("s1", lambda p: p.states[..., :hidden], 1),  # type: ignore[index]
        Group("W0,1", lambda p: p.grads.weight[:, at, after], 1),
        Group("W0,x", lambda p: p.grads.weight[:, before, after], 1),
        Group("W1,x", lambda p: p.grads.weight[:, before, at], 2),
    ]


def _taken(group: Group, process: Process, steps: int) -> np.ndarray:
    """Neurons at t = 0…K − 1, synapses' sums over the first 0…K steps."""
    values = np.asarray(group.take(process))
    return values if group.name.startswith("W") else values[:steps]


def _measured(group: Group, ep: np.ndarray, bptt: np.ndarray) -> Layer:
    ep = np.array(ep)
    ep[: group.silent] = 0  # the error cannot have arrived: zero but for rounding
    rmse = process_rmse(ep, bptt)
    moves = np.any(ep != 0, axis=0)
    chosen = _chosen(bptt, group)
    return Layer(
        group.name,
        *(-_flat(values)[:, chosen] for values in (bptt, ep)),
        rmse=float(rmse.mean()),
        spread=float(rmse.std()),
        moving=float(rmse[moves].mean()) if moves.any() else 0.0,
    )


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _chosen(bptt: np.ndarray, group: Group) -> np.ndarray:
    """A few units at random: of neurons the first example's, and none that is dead."""
    values = _flat(bptt if group.name.startswith("W") else bptt[:, :1])
    alive = np.flatnonzero(np.any(values != 0, axis=0))
    random = np.random.default_rng(0)
    return random.choice(alive, min(SHOWN, len(alive)), replace=False)


def curves_panel(title: str, layer: Layer, points: int = 80) -> Panel:
    """Solid −∇BPTT, dashed Δ^EP of the shown units, at most `points` each."""
    steps = np.unique(np.linspace(0, len(layer.ep) - 1, points).round().astype(int))
    curves = []
    for unit in range(layer.ep.shape[1]):
        for name, values, kind in (
            ("−∇ BPTT", layer.bptt, "solid"),
            ("Δ EP", layer.ep, "dashed"),
        ):
            label = name if unit == 0 else ""
            column: Any = [float(f"{v:.6g}") for v in values[steps, unit]]
            curves.append(Curve(label, steps, column, kind, unit))  # type: ignore[arg-type]
    what = "sum up to t" if layer.synapses else "at t"
    return Panel("t (steps)", f"{layer.name}: {what}", tuple(curves), title=title)


def thinner(layer: Layer, shown: int) -> Layer:
    """The same layer with fewer units to show."""
    few = {"bptt": layer.bptt[:, :shown], "ep": layer.ep[:, :shown]}
    return dataclasses.replace(layer, **few)


def bars_panel(title: str, found: dict[str, list[Layer]], synapses: bool) -> Panel:
    """Mean RMSE over each layer, a colour for each network (figures 3 and 16)."""
    chosen = {
        name: [layer for layer in layers if layer.synapses == synapses]
        for name, layers in found.items()
    }
    names = [layer.name for layer in max(chosen.values(), key=len)]
    return Panel(
        "layer, counted from the output",
        f"relative RMSE, {'synapses' if synapses else 'neurons'}",
        tuple(
            Curve(
                name,
                range(len(layers)),
                [layer.rmse for layer in layers],
                spread=[layer.spread for layer in layers],
            )
            for name, layers in chosen.items()
        ),
        title=title,
        bars=tuple(names),
    )


def convolutional(kernel: int, channels: tuple[int, int]) -> tuple[Any, ...]:
    """Figure 4's network: two convolutions with 2 x 2 max pooling and 10 outputs."""
    layers = (Convolution(count, kernel, pool="max") for count in channels)
    return ((28, 28, 1), *layers, 10)
