"""Learning at a temperature, against the closed forms of a Gaussian law.

E = ½ sᵀAs − sᵀ(Wx + b), C = ½‖ŷ − y‖² of the last two units: p^β is Gaussian.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..costs import SquaredError
from ..estimators import (
    AbstractEstimator,
    BoltzmannLearning,
    ContrastiveDivergence,
    StochasticEquilibriumPropagation,
)
from ..relaxations import Langevin, relax
from ..systems import AbstractEnergy
from ._demonstration import Curve, Demonstration, Panel

T, DT, BETA = 0.4, 0.25, 0.5
COST = SquaredError()
REPEATS = 48
"""independent repetitions, of which the spread is the Monte-Carlo error"""
SIGMAS = 4.5
"""standard errors by which a measured mean may miss its closed form"""
CHAINS, STEPS = (1, 8, 64), (1, 4, 12, 40)
OUTPUTS = np.eye(5)[-2:]
_quick = {"xla_backend_optimization_level": 1}  # compiled for a single call


class Gaussian(AbstractEnergy):
    """E = ½ sᵀAs − sᵀ(Wx + b)."""

    A: Array
    W: Array
    b: Array

    def init_state(self, x):
        return jnp.zeros_like(self.b)

    def energy(self, x, s):
        return 0.5 * s @ self.A @ s - s @ (self.W @ x + self.b)

    def readout(self, s):
        return s[-2:]


@dataclasses.dataclass(frozen=True)
class _Problem:
    """One example (x, y), and what is known of it."""

    A: np.ndarray
    W: np.ndarray
    b: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def system(self) -> Gaussian:
        return Gaussian(*map(jnp.asarray, (self.A, self.W, self.b)))

    def law(self, beta: float, dt: float | None = None) -> tuple:
        """Mean and covariance of p^β, or of the chain of unadjusted steps dt."""
        a = self.A + beta * OUTPUTS.T @ OUTPUTS
        drive = self.W @ self.x + self.b + beta * OUTPUTS.T @ self.y
        k, vectors = np.linalg.eigh(a)
        variance = T / (k if dt is None else k * (1 - k * dt / 2))
        return np.linalg.solve(a, drive), (vectors * variance) @ vectors.T

    def cost(self, beta: float, dt: float | None = None) -> tuple[float, float]:
        """Mean and variance of C under that law."""
        mean, covariance = self.law(beta, dt)
        off = OUTPUTS @ mean - self.y
        s = OUTPUTS @ covariance @ OUTPUTS.T
        mean = 0.5 * (off @ off + np.trace(s))
        return mean, float(0.5 * np.trace(s @ s) + off @ s @ off)

    def divergence(self, k: int | None) -> np.ndarray:
        """CD-k's mean gradient in b; −∂ log p(y|x)/∂b where k is None.

        The unadjusted negative phase is k steps on its way to the free mean.
        """
        free, _ = self.law(0)
        drive = self.W @ self.x + self.b
        hidden = np.linalg.solve(self.A[:3, :3], drive[:3] - self.A[:3, 3:] @ self.y)
        held = np.concatenate([hidden, self.y])
        if k is None:
            return (free - held) / T
        decay = np.linalg.matrix_power(np.eye(5) - DT * self.A, k)
        return (free + decay @ (held - free) - held) / T

    def gradients(self, rule: AbstractEstimator, repeats: int = REPEATS) -> np.ndarray:
        """The gradient in b of independent repetitions."""

        def one(key):
            x, y = (jnp.asarray(v)[None] for v in (self.x, self.y))
            return rule(self.system, COST, x, y, key=key).grads.b

        call = jax.jit(jax.vmap(one), compiler_options=_quick)
        return np.asarray(call(jax.random.split(jax.random.key(0), repeats)))


def _problem() -> _Problem:
    random = np.random.default_rng(0)
    q, _ = np.linalg.qr(random.normal(size=(5, 5)))
    return _Problem(
        (q * np.linspace(0.8, 3, 5)) @ q.T,
        random.normal(size=(5, 3)),
        random.normal(size=5),
        random.uniform(size=3),
        random.normal(size=2),
    )


def _curve(label: str, x: Any, y: Any, kind: Any = "measured") -> Curve:
    return Curve(label, np.asarray(x).tolist(), np.asarray(y).tolist(), kind)


def _chain(steps: int, adjusted: bool = True) -> Langevin:
    return Langevin(dt=DT, steps=steps, temperature=T, adjusted=adjusted)


def langevin(*, quick: bool = False) -> Demonstration:
    """E[C] against β by both samplers, and what the gradient's error depends on."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        problem = _problem()
        betas = np.linspace(-0.5, 1.5, 9)
        costs = {a: _sampled_costs(problem, betas, a) for a in (True, False)}
        errors = {c: _errors(problem, c) for c in (True, False)}
    worst = {
        adjusted: _worst(
            costs[adjusted],
            np.array([problem.cost(b, None if adjusted else DT)[0] for b in betas]),
        )
        for adjusted in (True, False)
    }
    at_zero = costs[True][:, np.argmin(np.abs(betas))]
    variance = float(np.var(at_zero)) / problem.cost(0)[1]
    rise = (problem.cost(1e-4)[0] - problem.cost(-1e-4)[0]) / 2e-4
    slope = -rise * T / problem.cost(0)[1]
    order = {
        common: float(np.polyfit(np.log(CHAINS), np.log(error), 1)[0])
        for common, error in errors.items()
    }
    gain = float(np.mean(errors[False] / errors[True]) ** 2)
    return Demonstration(
        claim="At a temperature the nudge lowers E[C] at the rate Var(C)/T, and "
        "sampled phases give the gradient of E[C]",
        source="paper A, stochastic framework (derived)",
        panels=(_cost_panel(problem, betas, costs), _error_panel(errors)),
        findings={
            "adjusted: worst z-score": worst[True],
            "unadjusted: worst z-score": worst[False],
            "Var(C) at β = 0, sampled / exact": variance,
            "slope of the closed form of E[C] at β = 0 over −Var(C)/T": slope,
            "order in chains, common noise": order[True],
            "order in chains, independent noise": order[False],
            "variance, independent / common": gain,
        },
        holds=bool(
            max(worst.values()) < SIGMAS
            and abs(slope - 1) < 1e-6
            and abs(variance - 1) < 0.15
            and all(abs(found + 0.5) < 0.1 for found in order.values())
            and gain > 2
        ),
        words=f"All means are within {max(worst.values()):.1f} standard errors of "
        f"their closed forms, whose slope at β = 0 is −Var(C)/T to "
        f"{abs(slope - 1):.0e} (Var(C), sampled, is {variance:.2f} times its closed "
        f"form); the errors fall as chains^{order[True]:.2f}; common random numbers "
        f"divide the variance by {gain:.1f}.",
    )


def _cost_panel(problem, betas, costs) -> Panel:
    mean, variance = problem.cost(0)
    exact, steps = ([problem.cost(b, dt)[0] for b in betas] for dt in (None, DT))
    near = betas[1:5]
    curves = (
        _curve("e^(−F/T)", betas, exact, "expected"),
        _curve("Metropolis-adjusted", betas, costs[True].mean(0)),
        _curve("law of the steps", betas, steps, "expected"),
        _curve("unadjusted", betas, costs[False].mean(0)),
        _curve("slope −Var(C)/T at 0", near, mean - variance / T * near, "other"),
    )
    return Panel("β", "E[C] under p(β)", curves)


def _error_panel(errors) -> Panel:
    guide = errors[True][0] * np.sqrt(CHAINS[0] / np.asarray(CHAINS))
    curves = (
        _curve("independent noise", CHAINS, errors[False]),
        _curve("common noise", CHAINS, errors[True]),
        _curve("slope −½", CHAINS, guide, "expected"),
    )
    return Panel("chains", "gradient error (relative)", curves, "xy")


def _sampled_costs(problem, betas, adjusted, chains=2000) -> np.ndarray:
    """C of independent chains, `[chains, betas]`."""
    x, y = (
        jnp.broadcast_to(jnp.asarray(v), (len(betas) * chains, len(v)))
        for v in (problem.x, problem.y)
    )
    beta = jnp.tile(jnp.asarray(betas), chains)

    def run(x, y, beta, key):
        options = {"cost": COST, "y": y, "beta": beta, "key": key}
        s = relax(problem.system, x, _chain(150, adjusted), **options).state
        return jax.vmap(COST)(s[:, -2:], y)

    run = jax.jit(run, compiler_options=_quick)
    costs = run(x, y, beta, jax.random.key(1))
    return np.asarray(costs).reshape(chains, len(betas))


def _errors(problem, common: bool) -> np.ndarray:
    """The gradient's root mean square error, relative, for each number of chains."""
    exact = (problem.law(-BETA)[0] - problem.law(BETA)[0]) / (2 * BETA)
    errors = []
    for count in CHAINS:
        rule = StochasticEquilibriumPropagation(
            free=_chain(20),
            nudged=_chain(20),
            beta=BETA,
            chains=count,
            samples=10,
            common_noise=common,
        )
        off = problem.gradients(rule) - exact
        errors.append(np.sqrt(np.mean(np.sum(off**2, 1))) / np.linalg.norm(exact))
    return np.array(errors)


def boltzmann(*, quick: bool = False) -> Demonstration:
    """The sampled Boltzmann gradient, and contrastive divergence against k."""
    del quick  # the same: seconds
    with jax.enable_x64(True):
        problem = _problem()
        rule = BoltzmannLearning(
            free=_chain(40), clamped=_chain(40), chains=40, samples=10
        )
        learned = problem.gradients(rule)
        divergence = [problem.gradients(_divergence(k)) for k in STEPS]
    exact = problem.divergence(None)
    size = np.linalg.norm(exact)
    bias = [float(np.linalg.norm(d.mean(0) - exact) / size) for d in divergence]
    floor = float(np.linalg.norm(divergence[-1].std(0)) / REPEATS**0.5 / size)
    scores = [
        _worst(d, problem.divergence(k)) for k, d in zip(STEPS, divergence, strict=True)
    ]
    score = _worst(learned, exact)
    units, fine = np.arange(1, 6), np.arange(1, STEPS[-1] + 1)
    curve = [
        np.linalg.norm(problem.divergence(k) - exact) / size for k in fine.tolist()
    ]
    components = (
        _curve("−∂ log p(y|x)/∂b", units, exact, "expected"),
        _curve("Boltzmann", units, learned.mean(0)),
        _curve("CD-1", units, divergence[0].mean(0)),
        _curve(f"CD-{STEPS[-1]}", units, divergence[-1].mean(0)),
    )
    errors = (
        _curve("closed form", fine, curve, "expected"),
        _curve("sampled", STEPS, bias),
        _curve("Monte-Carlo error", fine, [floor] * len(fine), "other"),
    )
    return Demonstration(
        claim="Clamped against free samples give the gradient of −log p(y|x); "
        "contrastive divergence tends to it as k grows",
        source="paper A, table 1, at T > 0 (derived); Hinton 2002",
        panels=(
            Panel("unit", "gradient in its bias", components),
            Panel("k", "error of CD-k's mean (relative)", errors, "xy"),
        ),
        findings={
            "Boltzmann: worst z-score": score,
            "CD-k: worst z-score": max(scores),
            **{f"CD-{k}: error": b for k, b in zip(STEPS, bias, strict=True)},
            f"CD-{STEPS[-1]}: Monte-Carlo error": floor,
        },
        holds=bool(max(score, *scores) < SIGMAS and bias[0] > 10 * bias[-1]),
        words=f"Boltzmann is within {score:.1f} and CD-k within {max(scores):.1f} "
        f"standard errors of their closed forms; CD-1 is off by {bias[0]:.0%}, "
        f"CD-{STEPS[-1]} by {bias[-1]:.1%}.",
    )


def _divergence(k: int) -> ContrastiveDivergence:
    return ContrastiveDivergence(
        free=_chain(1, False),
        clamped=_chain(40, False),
        steps=k,
        chains=40,
        samples=10,
    )


def _worst(values: np.ndarray, exact: np.ndarray) -> float:
    """The largest |mean − exact| in standard errors of the mean."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return float(np.max(np.abs(values.mean(0) - exact) / error))


ITEMS: dict[str, Callable[[], Demonstration]] = {
    "A.langevin": langevin,
    "A.boltzmann": boltzmann,
}
