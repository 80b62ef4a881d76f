"""The arithmetic of matrix products: float32, tf32 or bf16.

`float32` is meant literally: left to itself, JAX multiplies float32 matrices in tf32
on NVIDIA's GPUs and in bfloat16 on TPUs.  In `tf32` (10 bits of mantissa) and `bf16`
(7 bits) the operands of every matrix product and convolution are rounded, gradients'
products included; sums, states, parameters and all else stay float32, and so does a
product of precision "highest", by which sums are written that are fast as products.
The rounding is written into the program, so that the numbers are the same on every
machine up to the order of sums: on an accelerator its own fast product follows and
finds nothing left to round; on a CPU the product stays a float32 one, and only the cost
in accuracy is real.
"""

from collections.abc import Callable
from typing import Any, get_args, Literal

import jax
import numpy as np
from jax.extend import core

Precision = Literal["float32", "tf32", "bf16"]
"""operands of matrix products; everything else is float32"""

PRECISIONS: tuple[str, ...] = get_args(Precision)
MANTISSA = {"tf32": 10, "bf16": 7}
_ALGORITHM = {
    "float32": "float32",
    "tf32": "tensorfloat32",
    "bf16": "BF16_BF16_F32",
}
_PRODUCTS = (core.primitives.dot_general_p, core.primitives.conv_general_dilated_p)


def check_precision(precision: str) -> None:
    """A `ValueError` for a word that is none of the three."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}"
        )


def rounded(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """`function` of trees of arrays, with its products in that precision.

    **Raises:** `ValueError`, when it is traced, for a product of complex numbers.
    """

    def computed(*arguments: Any) -> Any:
        with jax.default_matmul_precision(_ALGORITHM[precision]):
            if precision == "float32":
                return function(*arguments)
            traced, out = jax.make_jaxpr(function, return_shape=True)(*arguments)
            known: dict[int, core.Jaxpr] = {}
            program = _round(traced.jaxpr, MANTISSA[precision], known)
            leaves = jax.tree.leaves(arguments)
            closed = core.ClosedJaxpr(program, traced.consts)
            found = core.jaxpr_as_fun(closed)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(out), found)

    return computed


def _round(jaxpr: core.Jaxpr, bits: int, known: dict[int, core.Jaxpr]) -> core.Jaxpr:
    """The same program, loops and branches included, with its operands rounded."""
    if id(jaxpr) not in known:
        equations = []
        for equation in jaxpr.eqns:
            if equation.primitive in _PRODUCTS and not _is_exact(equation):
                *before, product = _round_operands(equation, bits)
                equations += [*before, product]
                continue
            params = {k: _inside(v, bits, known) for k, v in equation.params.items()}
            equations.append(equation.replace(params=params))
        known[id(jaxpr)] = jaxpr.replace(eqns=equations)
    return known[id(jaxpr)]


def _is_exact(product: core.JaxprEqn) -> bool:
    """Whether this product was asked for at the highest precision."""
    highest = jax.lax.Precision.HIGHEST
    return product.params["precision"] == (highest, highest)


def _round_operands(equation: core.JaxprEqn, bits: int) -> list[core.JaxprEqn]:
    """A product, preceded by the rounding of what it multiplies."""
    equations, operands = [], []
    for operand in equation.invars:
        kind = operand.aval.dtype  # type: ignore[attr-defined]
        if kind in (np.complex64, np.complex128, np.float64):
            raise ValueError(
                f"precision: this program multiplies {kind} matrices; tf32 and bf16 "
                "are for float32 ones. Use --precision float32"
            )
        if kind == np.float32:
            exact, operand = operand, core.Var(operand.aval)
            how = {"exponent_bits": 8, "mantissa_bits": bits}
            equations.append(
                core.new_jaxpr_eqn(
                    [exact], [operand], jax.lax.reduce_precision_p, how, core.no_effects
                )
            )
        operands.append(operand)
    return [*equations, equation.replace(invars=operands)]


def _inside(value: Any, bits: int, known: dict[int, core.Jaxpr]) -> Any:
    """The programs within an equation's parameter: of a loop, a branch, a call."""
    if isinstance(value, core.ClosedJaxpr):
        return value.replace(jaxpr=_round(value.jaxpr, bits, known))
    if isinstance(value, core.Jaxpr):
        return _round(value, bits, known)
    if type(value) in (tuple, list):
        return type(value)(_inside(item, bits, known) for item in value)
    return value
