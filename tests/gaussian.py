"""Closed forms of the quadratic energy's law at a temperature, without eqprop.

For E = ½ sᵀAs − sᵀ(Wx + b) and C = ½‖Rs − y‖² the law p^β is Gaussian, with
precision (A + β RᵀR)/T; an unadjusted chain's is Gaussian too.
"""

import jax.numpy as jnp
import numpy as np

T = 0.4
SELECT = np.eye(5)[-2:]


def law(system, x, y, beta, temperature=T, dt=None):
    """Mean and covariance of p^β; with dt those of the unadjusted chain."""
    a = np.asarray(system.A) + beta * SELECT.T @ SELECT
    drive = np.asarray(system.W) @ x + np.asarray(system.b) + beta * SELECT.T @ y
    k, vectors = np.linalg.eigh(a)
    variance = temperature / (k if dt is None else k * (1 - k * dt / 2))
    return np.linalg.solve(a, drive), (vectors * variance) @ vectors.T


def moments(system, x, y, beta, **options):
    """Means over the batch of C, ∂E/∂A, ∂E/∂W and ∂E/∂b under p^β."""
    rows = []
    for one, target in zip(np.asarray(x), np.asarray(y), strict=True):
        mean, covariance = law(system, one, target, beta, **options)
        off = SELECT @ mean - target
        cost = 0.5 * off @ off + 0.5 * np.trace(SELECT @ covariance @ SELECT.T)
        second = 0.5 * (np.outer(mean, mean) + covariance)
        rows.append(
            np.concatenate(
                [[cost], second.ravel(), -np.outer(mean, one).ravel(), -mean]
            )
        )
    return np.mean(rows, 0)


def contrast(system, x, y, beta, other, **options):
    """The exact EP gradient in A, W, b at a finite β."""
    up, down = (moments(system, x, y, b, **options)[1:] for b in (beta, other))
    return (up - down) / (beta - other)


def objective(system, x, y):
    """J̃ = E_{p⁰}[C], for autodiff."""
    a = (system.A + system.A.T) / 2
    mean = jnp.linalg.solve(a, (x @ system.W.T + system.b).T).T
    noise = 0.5 * T * jnp.trace(jnp.linalg.inv(a)[-2:, -2:])
    return jnp.mean(0.5 * jnp.sum((mean[:, -2:] - y) ** 2, 1)) + noise


def surprise(system, x, y):
    """−log p(y|x) up to a constant, for autodiff."""
    a = (system.A + system.A.T) / 2
    mean = jnp.linalg.solve(a, (x @ system.W.T + system.b).T).T
    spread = T * jnp.linalg.inv(a)[-2:, -2:]
    off = mean[:, -2:] - y
    square = jnp.einsum("bi,ij,bj->b", off, jnp.linalg.inv(spread), off)
    return 0.5 * jnp.mean(square) + 0.5 * jnp.linalg.slogdet(spread)[1]
