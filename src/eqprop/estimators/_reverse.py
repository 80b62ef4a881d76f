"""First derivatives in reverse mode only: what `ep.settle` supports, said in words.

`reverse_only` marks what enters the layer.  Its tangent passes through a linear
primitive that can be transposed (reverse mode) and not evaluated (forward mode).
`first_order` marks what enters the backward pass, which is not differentiated again.
"""

from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

SUPPORTED = (
    "ep.settle supports first derivatives in reverse mode (jax.grad, jax.vjp, "
    "jax.jacrev), as a learning rule gives vector-Jacobian products of the layer and "
    "no others"
)
FORWARD = (
    f"{SUPPORTED}. This is a derivative in forward mode (jax.jvp, jax.jacfwd, "
    "jax.linearize, jax.hessian): use jax.grad, or differentiate ep.Euler's steps "
    "themselves, ep.relax with tol=None"
)
SECOND = (
    f"{SUPPORTED}. This is a derivative of that gradient (a Hessian, or jax.grad of "
    "jax.grad): difference the gradients of two parameters a small step apart"
)


def reverse_only(tree: Any) -> Any:
    """`tree`, whose tangents may be transposed but not evaluated."""
    return _on_numbers(_reverse_only, tree)


def first_order(tree: Any) -> Any:
    """`tree`, whose derivative is an error."""
    return _on_numbers(_first_order, tree)


def _on_numbers(function: Any, tree: Any) -> Any:
    numbers, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(function, numbers), rest)


def _refuse(*_, **__):
    raise NotImplementedError(FORWARD)


_tangent_p = Primitive("settle_tangent")
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda t: t)
ad.deflinear2(_tangent_p, lambda cotangent, _: [cotangent])
batching.defvectorized(_tangent_p)
mlir.register_lowering(_tangent_p, _refuse)


@jax.custom_jvp
def _reverse_only(leaf):
    return leaf


@_reverse_only.defjvp
def _(primals, tangents):
    return primals[0], _tangent_p.bind(tangents[0])


@jax.custom_jvp
def _first_order(leaf):
    return leaf


@_first_order.defjvp
def _(primals, tangents):
    raise NotImplementedError(SECOND)
