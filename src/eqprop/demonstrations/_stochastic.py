"""Learning at a temperature, against the closed forms of a Gaussian law.

E = ½ sᵀAs − sᵀ(Wx + b), C = ½‖ŷ − y‖² of the last two units: p^β is Gaussian.
"""

import dataclasses
from collections.abc import Callable

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

    def clamped(self) -> np.ndarray:
        """The mean state with the outputs held at y."""
        drive = self.W @ self.x + self.b
        hidden = np.linalg.solve(self.A[:3, :3], drive[:3] - self.A[:3, 3:] @ self.y)
        return np.concatenate([hidden, self.y])

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


def _chain(steps: int, adjusted: bool = True) -> Langevin:
    return Langevin(DT, steps, T, adjusted)


def langevin() -> Demonstration:
    """E[C] against β by both samplers, and what the gradient's error depends on."""
    with jax.enable_x64(True):
        problem = _problem()
        betas = np.linspace(-0.5, 1.5, 9)
        costs = {a: _sampled_costs(problem, betas, a) for a in (True, False)}
        errors = {c: _errors(problem, c) for c in (True, False)}
    mean, variance = problem.cost(0)
    findings = {}
    for adjusted, name in ((True, "adjusted"), (False, "unadjusted")):
        dt = None if adjusted else DT
        exact = np.array([problem.cost(b, dt)[0] for b in betas])
        findings[f"{name}: worst z-score"] = _worst(costs[adjusted], exact)
    at_zero = costs[True][:, np.argmin(np.abs(betas))]
    slope = -variance / T
    findings["slope −Var(C)/T, sampled / exact"] = -np.var(at_zero) / T / slope
    chains, common = errors[True]
    fit = {c: np.polyfit(np.log(chains), np.log(e[1]), 1)[0] for c, e in errors.items()}
    findings["order in chains, common noise"] = fit[True]
    findings["order in chains, independent noise"] = fit[False]
    gain = float(np.mean(errors[False][1] / common) ** 2)
    findings["variance, independent / common"] = gain
    values = list(findings.values())
    holds = max(values[:2]) < SIGMAS and abs(values[2] - 1) < 0.1
    holds &= all(abs(order + 0.5) < 0.1 for order in fit.values()) and gain > 2
    curves = [
        Curve("e^{−F/T}", betas, [problem.cost(b)[0] for b in betas], "expected"),
        Curve("Metropolis-adjusted", betas, costs[True].mean(0)),
        Curve(
            "law of the steps",
            betas,
            [problem.cost(b, DT)[0] for b in betas],
            "expected",
        ),
        Curve("unadjusted", betas, costs[False].mean(0)),
        Curve("slope −Var(C)/T at 0", betas[1:5], mean + slope * betas[1:5], "other"),
    ]
    guide = common[0] * np.sqrt(chains[0] / np.asarray(chains))
    return Demonstration(
        claim="At a temperature the nudge lowers E[C] at the rate Var(C)/T, and "
        "sampled phases give the gradient of E[C]",
        source="paper A, stochastic framework (derived)",
        panels=(
            Panel("β", "E[C] under p^β", tuple(curves)),
            Panel(
                "chains",
                "gradient error (relative)",
                (
                    Curve("independent noise", *errors[False]),
                    Curve("common noise", chains, common),
                    Curve("slope −½", chains, guide, "expected"),
                ),
                "xy",
            ),
        ),
        findings=findings,
        holds=bool(holds),
        words=f"All means within {max(values[:2]):.1f} standard errors of their closed "
        f"forms; the errors fall as chains^{fit[True]:.2f}; common random numbers "
        f"divide the variance by {gain:.1f}.",
    )


def _sampled_costs(problem, betas, adjusted, chains=2000) -> np.ndarray:
    """C of independent chains, `[chains, betas]`."""
    x, y = (
        jnp.broadcast_to(jnp.asarray(v), (len(betas) * chains, len(v)))
        for v in (problem.x, problem.y)
    )
    beta = jnp.tile(jnp.asarray(betas), chains)

    def run(x, y, beta, key):
        options = {"cost": COST, "y": y, "beta": beta, "key": key}
        s = relax(problem.system, x, _chain(60, adjusted), **options).state
        return jax.vmap(COST)(s[:, -2:], y)

    run = jax.jit(run, compiler_options=_quick)
    costs = run(x, y, beta, jax.random.key(1))
    return np.asarray(costs).reshape(chains, len(betas))


def _errors(problem, common: bool) -> tuple[tuple[int, ...], np.ndarray]:
    """Numbers of chains, and the gradient's root mean square error, relative."""
    exact = (problem.law(-BETA)[0] - problem.law(BETA)[0]) / (2 * BETA)
    chains, errors = (1, 8, 64), []
    for count in chains:
        rule = StochasticEquilibriumPropagation(
            *(_chain(20), _chain(20), BETA),
            chains=count,
            samples=10,
            common_noise=common,
        )
        off = problem.gradients(rule) - exact
        errors.append(np.sqrt(np.mean(np.sum(off**2, 1))) / np.linalg.norm(exact))
    return chains, np.array(errors)


def boltzmann() -> Demonstration:
    """The sampled Boltzmann gradient, and contrastive divergence against k."""
    ks = (1, 4, 12, 40)
    with jax.enable_x64(True):
        problem = _problem()
        rule = BoltzmannLearning(_chain(40), _chain(40), chains=40, samples=10)
        learned = problem.gradients(rule)
        divergence = []
        for k in ks:
            phases = (_chain(1, False), _chain(40, False))
            rule = ContrastiveDivergence(*phases, k, 40, 10)
            divergence.append(problem.gradients(rule))
    free, held = problem.law(0)[0], problem.clamped()
    exact = (free - held) / T
    decay = np.eye(5) - DT * problem.A

    def expected(k) -> np.ndarray:
        """CD-k's mean: the negative phase is k steps on its way to the free mean."""
        return (free + np.linalg.matrix_power(decay, k) @ (held - free) - held) / T

    size = np.linalg.norm(exact)
    worst = max(_worst(d, expected(k)) for k, d in zip(ks, divergence, strict=True))
    bias = [float(np.linalg.norm(d.mean(0) - exact) / size) for d in divergence]
    findings = {
        "Boltzmann: worst z-score": _worst(learned, exact),
        "CD-k: worst z-score": worst,
        **{f"CD-{k}: relative error": b for k, b in zip(ks, bias, strict=True)},
    }
    fine = np.arange(1, ks[-1] + 1)
    curve = [np.linalg.norm(expected(k) - exact) / size for k in fine]
    floor = float(np.linalg.norm(divergence[-1].std(0)) / np.sqrt(REPEATS) / size)
    findings["Monte-Carlo error of CD-40"] = floor
    units = np.arange(1, 6)
    return Demonstration(
        claim="Clamped against free samples give the gradient of −log p(y|x); "
        "contrastive divergence tends to it as k grows",
        source="paper A, table 1 and section 4 (Boltzmann machine, derived)",
        panels=(
            Panel(
                "unit",
                "gradient in its bias",
                (
                    Curve("−∂ log p(y|x)/∂b", units, exact, "expected"),
                    Curve("Boltzmann", units, learned.mean(0)),
                    Curve("CD-1", units, divergence[0].mean(0)),
                    Curve(f"CD-{ks[-1]}", units, divergence[-1].mean(0)),
                ),
            ),
            Panel(
                "k",
                "error of CD-k's mean (relative)",
                (
                    Curve("closed form", fine, curve, "expected"),
                    Curve("sampled", ks, bias),
                    Curve("Monte-Carlo error", fine, [floor] * len(fine), "other"),
                ),
                "xy",
            ),
        ),
        findings=findings,
        holds=bool(
            max(findings["Boltzmann: worst z-score"], worst) < SIGMAS
            and bias[0] > 10 * bias[-1]
        ),
        words=f"Boltzmann within {findings['Boltzmann: worst z-score']:.1f} and CD-k "
        f"within {worst:.1f} standard errors of their closed forms; CD-1 is off by "
        f"{bias[0]:.0%}, CD-{ks[-1]} by {bias[-1]:.1%}.",
    )


def _worst(values: np.ndarray, exact: np.ndarray) -> float:
    """The largest |mean − exact| in standard errors of the mean."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return float(np.max(np.abs(values.mean(0) - exact) / error))


ITEMS: dict[str, Callable[[], Demonstration]] = {
    "A.langevin": langevin,
    "A.boltzmann": boltzmann,
}
