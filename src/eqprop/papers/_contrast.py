"""Rules that clamp the outputs: each descends its own contrast."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import eqprop as ep

from ._common import COST

SWEEP = ep.Sweep(300, 1e-13)


def descent(
    rule: Any, network: ep.HopfieldEnergy, x: Array, y: Array
) -> tuple[np.ndarray, np.ndarray]:
    """A rule's gradient along 12 directions, and its contrast's central differences.

    The contrast is relaxed again at θ ± δ, with the clamped values held fixed.
    """
    found = rule(network, COST, x, y)
    params, static = eqx.partition(network, eqx.is_inexact_array)
    theta, unflatten = ravel_pytree(params)
    directions = jax.random.normal(jax.random.key(0), (12, theta.size))
    directions = directions / theta.size**0.5
    o = jax.vmap(network.readout)(found.equilibrium.state)
    betas = rule.betas()
    targets = [(1 - beta) * o + beta * y for beta in betas]

    def energy(system, target):
        def one(x, target):
            clamped = system if target is None else ep.Clamped(system, target)
            end = ep.relax(clamped, x[None], SWEEP).state
            return system.potential(x, jax.tree.map(lambda leaf: leaf[0], end))

        return jnp.mean(jax.vmap(one)(x, target))

    def contrast(theta):
        system = eqx.combine(unflatten(theta), static)
        first = energy(system, targets[0])
        if len(targets) == 1:
            return (first - energy(system, None)) / betas[0]
        return (first - energy(system, targets[1])) / (betas[0] - betas[1])

    delta = 1e-4
    ends = jnp.concatenate([theta + delta * directions, theta - delta * directions])
    up, down = jnp.split(jax.jit(jax.vmap(contrast))(ends), 2)
    gradient, _ = ravel_pytree(found.grads)
    slopes, expected = directions @ gradient, (up - down) / (2 * delta)
    rank = np.argsort(expected)
    return np.asarray(slopes)[rank], np.asarray(expected)[rank]
