"""Systems with known answers, written as a user would write them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqprop as ep


def flat(tree):
    """All entries as one vector; NumPy's unless JAX traces, which compiles nothing."""
    leaves = jax.tree.leaves(tree)
    library = jnp if any(isinstance(v, jax.core.Tracer) for v in leaves) else np
    return library.concatenate([library.ravel(v) for v in leaves])


class Quadratic(ep.AbstractEnergy):
    """E = ½ sᵀA s − sᵀ(W x + b): the fixed point is A⁻¹(W x + b)."""

    A: Array
    W: Array
    b: Array

    def init_state(self, x):
        return jnp.zeros_like(self.b)

    def energy(self, x, s):
        return 0.5 * s @ self.A @ s - s @ (self.W @ x + self.b)

    def readout(self, s):
        return s[-2:]


def quadratic(key=None, units=5, inputs=3):
    """A symmetric A with eigenvalues in [1, 3]; differentiate W and b."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
    q, _ = jnp.linalg.qr(jax.random.normal(keys[0], (units, units)))
    a = q @ jnp.diag(jax.random.uniform(keys[1], (units,), minval=1, maxval=3)) @ q.T
    w = jax.random.normal(keys[2], (units, inputs))
    return Quadratic((a + a.T) / 2, w, jax.random.normal(keys[3], (units,)))


class DictEnergy(ep.AbstractEnergy):
    """A dict state with a three-body coupling, and an integer constant."""

    w: Array
    t: Array
    power: Array

    def init_state(self, x):
        return {"a": jnp.zeros(4), "b": jnp.zeros((2, 2))}

    def energy(self, x, s):
        a, b = s["a"], s["b"]
        pull = 0.5 * jnp.sum(a**2) + 0.5 * jnp.sum(b**2)
        quartic = 0.1 * jnp.sum(a**self.power)
        three = jnp.einsum("ijk,i,j,k", self.t, jnp.tanh(a), b.ravel(), x)
        return pull + quartic - a @ (self.w @ x) - 0.2 * three

    def readout(self, s):
        return s["b"].ravel()[:2] + 0.5 * s["a"][:2]


def dict_energy():
    """Weak enough couplings that the free energy is convex."""
    k1, k2 = jax.random.split(jax.random.key(3))
    return DictEnergy(
        jax.random.normal(k1, (4, 3)),
        0.5 * jax.random.normal(k2, (4, 4, 3)),
        jnp.array(4),
    )


class Field(ep.AbstractVectorField):
    """μ = −A s + W x with an A that need not be symmetric (paper C)."""

    A: Array
    W: Array

    def init_state(self, x):
        return jnp.zeros(self.A.shape[0])

    def velocity(self, x, s):
        return -self.A @ s + self.W @ x

    def readout(self, s):
        return s[:2]


def field(asymmetry=0.3):
    """A = symmetric positive + asymmetry × antisymmetric."""
    k1, k2, k3 = jax.random.split(jax.random.key(5), 3)
    symmetric = jax.random.normal(k1, (4, 4))
    a = jnp.eye(4) + 0.1 * (symmetric + symmetric.T)
    antisymmetric = jax.random.normal(k2, (4, 4))
    a = a + asymmetry * (antisymmetric - antisymmetric.T) / 2
    return Field(a, jax.random.normal(k3, (4, 3)))


class Primitive(ep.AbstractPrimitive):
    """Φ = ½ sᵀM s + sᵀW x, so s ← M s + W x, convergent for ‖M‖ < 1."""

    M: Array
    W: Array

    def init_state(self, x):
        return jnp.zeros(self.M.shape[0])

    def primitive(self, x, s):
        return 0.5 * s @ self.M @ s + s @ (self.W @ x)

    def readout(self, s):
        return s[:2]


class SoftmaxReadout(eqx.Module):
    """A cost with parameters of its own: a softmax layer outside the dynamics."""

    weight: Array

    def __call__(self, prediction, y):
        return ep.CrossEntropy()(self.weight @ prediction, y)


def batch(inputs=3, outputs=2, size=6, seed=1):
    """Inputs in [0, 1] and real targets."""
    k1, k2 = jax.random.split(jax.random.key(seed))
    return jax.random.uniform(k1, (size, inputs)), jax.random.normal(
        k2, (size, outputs)
    )


def hopfield(sizes=(3, 6, 5, 2), activation=ep.tanh, output=None, seed=2, scale=1.0):
    """A layered network whose biases are not all zero."""
    net = ep.HopfieldEnergy(
        sizes,
        key=jax.random.key(seed),
        activation=activation,
        output=output,
        initializer=ep.fan_in_uniform,
    )
    return jax.tree.map(lambda p: scale * p if eqx.is_inexact_array(p) else p, net)


class Box(Field):
    """The same field in a box: units held at a bound."""

    def project(self, s):
        return jnp.clip(s, -0.3, 0.3)


def box(asymmetry=0.0):
    """`field` with several units held at ±0.3 for most inputs."""
    inner = field(asymmetry)
    return Box(inner.A, inner.W)


class TanhMap(ep.AbstractMap):
    """s ← tanh(Ms + Wx) with Φ = ½ sᵀMs + sᵀWx: paper D's prototypical setting."""

    M: Array
    W: Array

    def init_state(self, x):
        return jnp.zeros(self.M.shape[0])

    def map(self, x, s):
        return jnp.tanh(self.M @ s + self.W @ x)

    def primitive(self, x, s):
        return 0.5 * s @ self.M @ s + s @ (self.W @ x)

    def readout(self, s):
        return s[:2]


def tanh_map():
    """A symmetric M of norm below 1."""
    k1, k2 = jax.random.split(jax.random.key(7))
    m = jax.random.normal(k1, (6, 6))
    return TanhMap(0.12 * (m + m.T), 0.5 * jax.random.normal(k2, (6, 3)))


def primitive():
    """A symmetric M of norm below 1 without σ."""
    m = jnp.array([[1.0, 2, 0, 1], [2, -1, 3, 0], [0, 3, 1, 1], [1, 0, 1, 2]])
    return Primitive(0.1 * m, jax.random.normal(jax.random.key(0), (4, 3)))


def box_hopfield():
    """A hard-sigmoid network with units inside and at both ends of [0, 1]."""
    net = hopfield((3, 8, 5, 2), ep.hard_sigmoid, ep.identity, seed=4, scale=1.3)
    return eqx.tree_at(lambda n: n.biases, net, tuple(b + 0.2 for b in net.biases))
