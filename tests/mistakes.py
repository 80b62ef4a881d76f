"""Models with one mistake each, for `eqprop train --system mistakes.py:NAME`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqprop as ep

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
Y = X[:, :2]
W = jnp.ones((2, 3))


class Quadratic(ep.AbstractEnergy):
    """The model without a mistake: it settles at s = W x."""

    weight: jax.Array
    stiffness: float = eqx.field(static=True, default=1.0)

    def init_state(self, x):
        return jnp.zeros(2)

    def energy(self, x, s):
        return 0.5 * self.stiffness * jnp.sum((s - self.weight @ x) ** 2)

    def readout(self, s):
        return s


class Field(ep.AbstractVectorField):
    weight: jax.Array

    def init_state(self, x):
        return jnp.zeros(2)

    def velocity(self, x, s):
        return self.weight @ x - s

    def readout(self, s):
        return s


def problem(system=None, cost=None, x=X, y=Y):
    """The problem without a mistake, and one thing changed."""
    system = Quadratic(W) if system is None else system
    return system, ep.SquaredError() if cost is None else cost, x, y


def changed(base=Quadratic, **methods):
    """The problem with another method."""
    return problem(type("Changed", (base,), methods)(W))


def good():
    print("a word of the model")
    return problem()


# --- what the function does and returns


def raises():
    raise RuntimeError("no luck today")


class Stop(BaseException):
    """What `except Exception` does not catch."""


def stops():
    raise Stop("enough")


def leaves():
    raise SystemExit(3)


def nothing():
    return None


def three():
    return problem()[:3]


def argument(needed):
    return problem(needed)


def no_system():
    return problem(system=len)


def a_class():
    return problem(system=Quadratic)


def no_cost():
    return problem(cost="squared")


def cost_class():
    return problem(cost=ep.SquaredError)


# --- examples


def unbatched():
    return problem(x=X[0], y=Y[0])


def scalar():
    return problem(x=np.float32(1))


def not_a_number():
    return problem(x=X * np.nan)


def infinite():
    return problem(y=Y + np.inf)


def empty():
    return problem(x=X[:0], y=Y[:0])


def lengths():
    return problem(y=Y[:10])


def text():
    return problem(x=X.astype(str))


def lists():
    return problem(x=X.tolist())


def no_x():
    return (*problem()[:2], None, Y)


def other_x():
    return problem(x=X[:, :2])


def other_y():
    return problem(y=Y[:, :1])


def labels():
    return problem(y=np.arange(30) % 2)


# --- the system


def velocity_shape():
    return changed(Field, velocity=lambda self, x, s: jnp.zeros(5))


def velocity_tree():
    return changed(Field, velocity=lambda self, x, s: (s,))


def energy_vector():
    return changed(energy=lambda self, x, s: (s - self.weight @ x) ** 2)


def energy_none():
    return changed(energy=lambda self, x, s: None)


def energy_integer():
    return changed(energy=lambda self, x, s: 3)


def energy_attribute():
    return changed(energy=lambda self, x, s: self.wieght @ x)


def energy_branch():
    return changed(energy=lambda self, x, s: s[0] if s[0] > 0 else s[1])


def integer_state():
    return changed(init_state=lambda self, x: jnp.zeros(2, int))


def no_state():
    return changed(init_state=lambda self, x: ())


def readout_tuple():
    return changed(readout=lambda self, s: (s,))


def projected():
    return changed(project=lambda self, s: s[:1])


def no_parameters():
    return problem(Quadratic(jnp.ones((2, 3), int)))


def bad_parameters():
    return problem(Quadratic(W * jnp.nan))


def cost_vector():
    return problem(cost=lambda prediction, y: (prediction - y) ** 2)


def cost_name():
    return problem(cost=lambda prediction, y: undefined)


# --- what goes wrong while it runs


def stiff():
    return problem(Quadratic(W, 100.0))


def logarithm():
    return changed(energy=lambda self, x, s: jnp.sum(jnp.log(s) * self.weight[0, 0]))


def cost_nan():
    return problem(cost=lambda prediction, y: jnp.nan * jnp.sum(prediction - y))
