"""Learning at a temperature, against the closed forms of a Gaussian law.

E = ½ sᵀAs − sᵀ(Wx + b) and C = ½‖ŷ − y‖² of the last two units, so p^β is Gaussian.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqprop as ep

from .._claim import claim, Findings
from .._common import COST, slope
from .._figure import Curve, curves, power

T, DT, BETA = 0.4, 0.25, 0.5
REPEATS = 48
"""independent repetitions; their spread is the Monte-Carlo error"""
SIGMAS = 4.5
"""standard errors by which a measured mean may miss its closed form"""
CHAINS, STEPS = (1, 8, 64), (1, 4, 12, 40)
OUTPUTS = np.eye(5)[-2:]
ONCE = {"xla_backend_optimization_level": 1}
"""the program runs once: compile it fast"""


class Gaussian(ep.AbstractEnergy):
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
class Problem:
    """A system with one example (x, y), and the closed forms."""

    A: np.ndarray
    W: np.ndarray
    b: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def system(self) -> Gaussian:
        return Gaussian(*map(jnp.asarray, (self.A, self.W, self.b)))

    def law(self, beta: float, dt: float | None = None) -> tuple[Any, Any]:
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
        """CD-k's mean gradient in b, or −∂ log p(y|x)/∂b if k is None.

        The unadjusted negative phase takes k steps towards the free mean.
        """
        free, _ = self.law(0)
        drive = self.W @ self.x + self.b
        hidden = np.linalg.solve(self.A[:3, :3], drive[:3] - self.A[:3, 3:] @ self.y)
        held = np.concatenate([hidden, self.y])
        if k is None:
            return (free - held) / T
        decay = np.linalg.matrix_power(np.eye(5) - DT * self.A, k)
        return (free + decay @ (held - free) - held) / T

    def gradients(self, rule: ep.AbstractEstimator) -> np.ndarray:
        """The gradient in b of independent repetitions."""

        def one(key):
            x, y = (jnp.asarray(v)[None] for v in (self.x, self.y))
            return rule(self.system, COST, x, y, key=key).grads.b

        call = jax.jit(jax.vmap(one), compiler_options=ONCE)
        return np.asarray(call(jax.random.split(jax.random.key(0), REPEATS)))

    def sampled_costs(
        self, betas: Any, adjusted: bool, chains: int = 2000
    ) -> np.ndarray:
        """C of independent chains, `[chains, betas]`."""
        count = len(betas) * chains
        x, y = (jnp.broadcast_to(v, (count, len(v))) for v in (self.x, self.y))

        def run(x, y, beta, key):
            options = {"cost": COST, "y": y, "beta": beta, "key": key}
            s = ep.relax(self.system, x, chain(150, adjusted), **options).state
            return jax.vmap(COST)(s[:, -2:], y)

        run = jax.jit(run, compiler_options=ONCE)
        costs = run(x, y, jnp.tile(jnp.asarray(betas), chains), jax.random.key(1))
        return np.asarray(costs).reshape(chains, len(betas))


def gaussian() -> Problem:
    """A problem of five units with random couplings."""
    random = np.random.default_rng(0)
    q, _ = np.linalg.qr(random.normal(size=(5, 5)))
    return Problem(
        A=(q * np.linspace(0.8, 3, 5)) @ q.T,
        W=random.normal(size=(5, 3)),
        b=random.normal(size=5),
        x=random.uniform(size=3),
        y=random.normal(size=2),
    )


def chain(steps: int, adjusted: bool = True) -> ep.Langevin:
    """Steps of Langevin dynamics, Metropolis-adjusted or not."""
    return ep.Langevin(dt=DT, steps=steps, temperature=T, adjusted=adjusted)


@claim(
    "A.langevin",
    shows="E[C] against β with both samplers, and the gradient's error",
    source="paper A, stochastic framework (derived)",
)
def langevin() -> Findings:
    """At a temperature T the nudge lowers E[C] at the rate Var(C)/T, and sampled phases
    give the gradient of E[C].

    Five units at T = {T}. The two phases have common or independent noise. A score is
    the distance of a mean from its closed form in standard errors.
    """
    found = Findings(T=T)
    problem, betas = gaussian(), np.linspace(-0.5, 1.5, 9)
    exact, stepped = ([problem.cost(b, dt)[0] for b in betas] for dt in (None, DT))
    adjusted, plain = (problem.sampled_costs(betas, each) for each in (True, False))
    mean, variance = problem.cost(0)
    at_zero = float(np.var(adjusted[:, np.argmin(np.abs(betas))]))
    rise = (problem.cost(1e-4)[0] - problem.cost(-1e-4)[0]) / 2e-4
    found.add("largest score, Metropolis-adjusted", score(adjusted, exact), most=SIGMAS)
    found.add("largest score, unadjusted", score(plain, stepped), most=SIGMAS)
    found.near("sampled Var(C) over its closed form", at_zero / variance, 1, 0.15)
    label = "slope of the closed form of E[C] at β = 0 over −Var(C)/T"
    found.near(label, -rise * T / variance, 1, 1e-6)
    found.panel(
        "β",
        "E[C] under p(β)",
        Curve("e^(−F/T)", betas, exact, "expected"),
        Curve("Metropolis-adjusted", betas, adjusted.mean(0)),
        Curve("law of the steps", betas, stepped, "expected"),
        Curve("unadjusted", betas, plain.mean(0)),
        Curve(
            "slope −Var(C)/T at 0",
            betas[1:5],
            mean - variance / T * betas[1:5],
            "other",
        ),
    )
    independent, common = (gradient_errors(problem, each) for each in (False, True))
    errors = {"independent noise": independent, "common noise": common}
    for name, each in errors.items():
        found.near(
            f"order of the error in chains, {name}", slope(CHAINS, each), -0.5, 0.1
        )
    gain = np.mean(independent / common) ** 2
    found.add("variance with independent noise over common noise", gain, least=2)
    line = power("slope −½", CHAINS, -0.5, (CHAINS[0], common[0]))
    lines = curves(CHAINS, errors)
    found.panel("chains", "gradient error (relative)", *lines, line, scale="xy")
    return found


def gradient_errors(problem: Problem, common: bool) -> np.ndarray:
    """The gradient's root mean square error, relative, for each number of chains."""
    exact = (problem.law(-BETA)[0] - problem.law(BETA)[0]) / (2 * BETA)
    errors = []
    for count in CHAINS:
        rule = ep.StochasticEquilibriumPropagation(
            free=chain(20),
            nudged=chain(20),
            beta=BETA,
            chains=count,
            samples=10,
            common_noise=common,
        )
        off = problem.gradients(rule) - exact
        errors.append(np.sqrt(np.mean(np.sum(off**2, 1))) / np.linalg.norm(exact))
    return np.array(errors)


@claim(
    "A.boltzmann",
    shows="sampled Boltzmann gradient, and contrastive divergence against k",
    source="paper A, table 1, at T > 0 (derived); Hinton 2002",
)
def boltzmann() -> Findings:
    """Clamped samples against free samples give the gradient of −log p(y|x);
    contrastive divergence tends to it as k grows.

    Five units at T = {T}. A score is the distance of a mean from its closed form in
    standard errors; an error is that of the mean gradient.
    """
    found = Findings(T=T)
    problem = gaussian()
    held: Any = {"chains": 40, "samples": 10}
    rule = ep.BoltzmannLearning(free=chain(40), clamped=chain(40), **held)
    learned, exact = problem.gradients(rule), problem.divergence(None)
    held |= {"free": chain(1, False), "clamped": chain(40, False)}
    divergence = {
        k: problem.gradients(ep.ContrastiveDivergence(steps=k, **held)) for k in STEPS
    }
    size, last = np.linalg.norm(exact), STEPS[-1]
    errors = [
        float(np.linalg.norm(d.mean(0) - exact) / size) for d in divergence.values()
    ]
    floor = float(np.linalg.norm(divergence[last].std(0)) / REPEATS**0.5 / size)
    scores = [score(d, problem.divergence(k)) for k, d in divergence.items()]
    found.add("score, Boltzmann", score(learned, exact), most=SIGMAS)
    found.add("largest score, CD-k", max(scores), most=SIGMAS)
    for k, error in zip(STEPS, errors, strict=True):
        most = errors[0] / 10 if k == last else None
        found.add(f"relative error, CD-{k}", error, most=most)
    found.add(f"Monte-Carlo error, CD-{last}", floor)
    units, fine = np.arange(1, 6), np.arange(1, last + 1)
    line = [np.linalg.norm(problem.divergence(k) - exact) / size for k in fine.tolist()]
    found.panel(
        "unit",
        "gradient in its bias",
        Curve("−∂ log p(y|x)/∂b", units, exact, "expected"),
        Curve("Boltzmann", units, learned.mean(0)),
        Curve("CD-1", units, divergence[1].mean(0)),
        Curve(f"CD-{last}", units, divergence[last].mean(0)),
    )
    found.panel(
        "k",
        "error of CD-k's mean (relative)",
        Curve("closed form", fine, line, "expected"),
        Curve("sampled", STEPS, errors),
        Curve("Monte-Carlo error", fine, [floor] * len(fine), "other"),
        scale="xy",
    )
    return found


def score(values: np.ndarray, exact: Any) -> float:
    """The largest |mean − exact| in standard errors of the mean."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return float(np.max(np.abs(values.mean(0) - exact) / error))
