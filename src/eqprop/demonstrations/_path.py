"""Rules that learn along the nudged path, and weights that align: what they claim."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from .. import data
from ..costs import SquaredError
from ..estimators import (
    ContinualEquilibriumPropagation,
    KolenPollackEquilibriumPropagation,
    SpikeTimingDependentPlasticity,
    VectorFieldEquilibriumPropagation,
)
from ..relaxations import Euler
from ..systems import HopfieldEnergy, LeakyIntegrator, tanh
from ..training import fit, Observer, Optimizer
from ..verification import bptt_process, ep_process
from ._demonstration import Curve, Demonstration, Panel

SETTLE = Euler(dt=0.2, steps=3000, tol=1e-13)


def continual_steps(*, quick: bool = False) -> Demonstration:
    """C-EP's cumulated updates against EP's and BPTT's, t = 0…K, and over η."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        problem = _problem()
        dt, count, beta = 0.2, 24, 1e-3
        options: dict[str, Any] = {"free": SETTLE, "dt": dt, "steps": count}
        ep = _flat(ep_process(*problem, **options, beta=beta, nudging="one-sided"))
        bptt = _flat(bptt_process(*problem, **options))
        etas = 10.0 ** np.arange(-9, -4)
        nudged = Euler(dt=dt, steps=count)
        paths = [
            ContinualEquilibriumPropagation(
                SETTLE,
                nudged,
                beta,
                learning_rate=jnp.asarray(eta),  # type: ignore[arg-type]
            ).path(*problem)
            for eta in etas
        ]
        paths = [_flat(path) for path in paths]
    scale = np.abs(ep).max()
    errors = [float(np.abs(path - ep).max() / scale) for path in paths]
    slope = float(np.polyfit(np.log10(etas), np.log10(errors), 1)[0])
    distance = float(np.abs(paths[0] - bptt).max() / scale)
    steps = range(len(ep))
    curves = []
    for layer, weight in enumerate(_shown(problem[0])):
        curves += [
            _curve(f"C-EP, layer {layer + 1}", steps, paths[0][:, weight]),
            _curve(f"EP, layer {layer + 1}", steps, ep[:, weight], "other"),
            _curve(f"BPTT, layer {layer + 1}", steps, bptt[:, weight], "expected"),
        ]
    line = _curve("slope 1", etas, errors[0] * etas / etas[0], "expected")
    return Demonstration(
        claim="Continual EP's updates are EP's and BPTT's, step by step, as η → 0",
        source="Ernoult et al. 2020, arXiv 2005.04168",
        panels=(
            Panel("step t of the nudged phase", "cumulated update Θ̃_t", tuple(curves)),
            Panel(
                "learning rate η",
                "largest error, relative",
                (_curve("C-EP − EP", etas, errors), line),
                "xy",
            ),
        ),
        findings={"slope": slope, "distance_to_bptt": distance, "beta": beta},
        holds=abs(slope - 1) < 0.05 and distance < 0.01,
        words=(
            "5-8-3, tanh, settings of ours (the paper's: item C-EP.theorem). "
            f"C-EP's updates differ from EP's by an error of order {slope:.3f} in η, "
            f"and at η = {etas[0]:.0e}, β = {beta} from BPTT's by {100 * distance:.2g} "
            "% of the largest."
        ),
    )


def spike_timing(*, quick: bool = False) -> Demonstration:
    """∫ρdρ, ∫ρdu and the contrast along the path; their ratio against ρ′."""
    del quick  # the same: seconds
    beta, dt = 0.05, 0.2
    steps = 24
    with jax.enable_x64(True):
        problem = _problem(batch=1)
        contrast = ep_process(
            *problem,
            free=SETTLE,
            dt=dt,
            steps=steps,
            beta=beta,
            nudging="one-sided",
        )
        nudged = Euler(dt=dt, steps=steps)
        rates, potentials = (
            SpikeTimingDependentPlasticity(
                SETTLE, nudged, beta, "one-sided", rule
            ).path(*problem)
            for rule in ("rates", "potentials")
        )
        hidden = np.asarray(rates.equilibrium.state[0][0])
        # An input does not move: only the synapse onto the hidden unit learns.
        ratio = np.asarray(rates.grads.weights[0] / potentials.grads.weights[0])[-1, 0]
        shown = _shown(problem[0])[1]
        lines = [_flat(found)[:, shown] for found in (contrast, rates, potentials)]
        whole = [_flat(found) for found in (contrast, rates, potentials)]
    slope = 1 - np.tanh(hidden) ** 2
    order = np.argsort(slope)
    size = np.abs(whole[0]).max()
    exact = float(np.abs(whole[1] - whole[0]).max() / size)
    apart = float(np.abs(whole[2] - whole[0]).max() / size)
    factor = float(np.abs(ratio / slope - 1).max())
    times = dt * np.arange(steps + 1)
    return Demonstration(
        claim="∫ρ(u_i)dρ(u_j) along the nudged phase, of both directions of a "
        "synapse, is EP's contrast; ∫ρ(u_i)du_j lacks the factor ρ′(u_j)",
        source="Scellier & Bengio 2017, eqs 10–14",
        panels=(
            Panel(
                "time of the nudged phase",
                "gradient of one weight",
                (
                    _curve("−∫ρ dρ / β", times, lines[1]),
                    _curve("−∫ρ du / β", times, lines[2]),
                    _curve("contrast of the ends", times, lines[0], "expected"),
                ),
            ),
            Panel(
                "ρ′(u_j) at the free state",
                "∫ρ dρ over ∫ρ du, input to hidden",
                (
                    _curve("hidden units", slope[order], ratio[order]),
                    _curve("ρ′(u_j)", slope[order], slope[order], "expected"),
                ),
            ),
        ),
        findings={
            "rates_from_contrast": exact,
            "potentials_from_contrast": apart,
            "ratio_from_slope": factor,
        },
        holds=exact < 1e-9 and factor < 0.02 and apart > 10 * factor,
        words=(
            f"The integral of ρ dρ is the contrast to {exact:.1g}; that of ρ du is off "
            f"by {100 * apart:.0f} %, and their ratio is ρ′(u_j) to "
            f"{100 * factor:.1g} %."
        ),
    )


class _Alignment(Observer):
    """W and B of the last layer at the start and after every epoch."""

    def __init__(self, system: LeakyIntegrator):
        self.pairs = [_pair(system)]

    def on_epoch(self, state, record):
        self.pairs.append(_pair(state.system))


def kolen_pollack(
    epochs: int = 20, examples: int = 500, decay: float = 0.1, *, quick: bool = False
) -> Demonstration:
    """Angle of independent W and B over the epochs, with and without the rule."""
    del quick  # the same: seconds
    images, labels = data.digits()
    x = jnp.asarray(images[:examples].reshape(-1, 64), jnp.float32)
    y = jax.nn.one_hot(labels[:examples], 10)
    free, nudged = Euler(dt=0.5, steps=30), Euler(dt=0.5, steps=15)
    rate, batch_size = 0.05, 10
    angles, traces, errors, gaps = {}, {}, {}, {}
    for name, rule in {
        "KP-VF": KolenPollackEquilibriumPropagation(free, nudged, 0.3, decay=decay),
        "VF": VectorFieldEquilibriumPropagation(free, nudged, 0.3),
    }.items():
        system = LeakyIntegrator((64, 64, 10), key=jax.random.key(0), angle=None)
        seen = _Alignment(system)
        fitted = fit(
            *(system, SquaredError(), x, y),
            estimator=rule,
            optimizer=Optimizer("sgd", (rate,)),
            epochs=epochs,
            batch_size=batch_size,
            observer=seen,
        )
        products = [float(np.sum(w * b)) for w, b in seen.pairs]
        sizes = [float(np.linalg.norm(w) * np.linalg.norm(b)) for w, b in seen.pairs]
        cosines = np.clip(np.divide(products, sizes), -1, 1)
        angles[name] = np.degrees(np.arccos(cosines))
        traces[name] = products
        errors[name] = [100 * record["train_error"] for record in fitted.history]
        gaps[name] = [float(np.linalg.norm(w - b)) for w, b in seen.pairs]
    updates = -(-examples // batch_size)
    count = np.arange(epochs + 1)
    expected = gaps["KP-VF"][0] * (1 - rate * decay) ** (updates * count)
    deviation = float(np.max(np.abs(np.divide(gaps["KP-VF"], expected) - 1)))
    kp, vf = (float(angles[name][-1]) for name in ("KP-VF", "VF"))

    def panel(label, found, x, *more, scale: Literal["", "y"] = ""):
        curves = tuple(_curve(name, x, found[name]) for name in found)
        return Panel("epoch", label, (*curves, *more), scale)

    shrink = _curve("(1 − η decay)^updates", count, expected, "expected")
    return Demonstration(
        claim="Kolen–Pollack updates make forward and backward weights parallel; by "
        "the vector-field rule alone they align slowly",
        source="Laborieux et al. 2021, KP-VF",
        panels=(
            panel("angle between W and B (degrees)", angles, count),
            panel("trace(W Bᵀ)", traces, count),
            panel("‖W − B‖", gaps, count, shrink, scale="y"),
            panel("error while training (%)", errors, count[1:]),
        ),
        findings={
            "angle_kolen_pollack": kp,
            "angle_vector_field": vf,
            "error_kolen_pollack": errors["KP-VF"][-1],
            "error_vector_field": errors["VF"][-1],
            "gap_deviation": deviation,
        },
        holds=kp < 10
        and 45 < vf < float(angles["VF"][0])
        and deviation < 0.01
        and errors["KP-VF"][-1] < 15,
        words=(
            f"From {angles['VF'][0]:.0f}° the angle falls in {epochs} epochs to "
            f"{kp:.1f}° with Kolen–Pollack (tolerance 10°) and to {vf:.1f}° without, "
            f"at a training error of {errors['KP-VF'][-1]:.1f} % and "
            f"{errors['VF'][-1]:.1f} %; W − B shrinks as (1 − η decay)^updates, as it "
            f"must, to {100 * deviation:.1g} %."
        ),
    )


def _problem(batch: int = 8):
    """A layered Hopfield network with ρ = tanh, and random examples."""
    keys = jax.random.split(jax.random.key(0), 3)
    system = HopfieldEnergy((5, 8, 3), key=keys[0], activation=tanh)
    x = jax.random.uniform(keys[1], (batch, 5))
    return system, SquaredError(), x, 0.5 * jax.random.normal(keys[2], (batch, 3))


def _curve(label: str, x: Any, y: Any, kind: Any = "measured") -> Curve:
    return Curve(label, list(x), list(y), kind)


def _flat(found) -> np.ndarray:
    """Gradients along t as one matrix [times, parameters]."""
    leaves = [np.asarray(g) for g in jax.tree.leaves(found.grads)]
    return np.concatenate([g.reshape(len(g), -1) for g in leaves], axis=1)


def _shown(system: HopfieldEnergy) -> list[int]:
    """The place in `_flat` of the first weight of every layer."""
    sizes = [weight.size for weight in system.weights]
    return [int(sum(sizes[:layer])) for layer in range(len(sizes))]


def _pair(system) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array(leaf) for leaf in (system.weights[1], system.backward[0]))  # type: ignore[return-value]


ITEMS = {
    "C-EP.steps": continual_steps,
    "A.stdp": spike_timing,
    "C.kolen-pollack": kolen_pollack,
}
