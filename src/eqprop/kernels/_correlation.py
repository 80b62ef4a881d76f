"""Cross-correlation of an image with a kernel, in the fastest of three forms.

Only this module chooses the form.  Accelerators use XLA's own convolution and its
derivatives (cuDNN).  On CPUs XLA's convolution reaches half the rate of its matrix
products, so this module uses patches or Winograd's algorithm there.  Measured on two
cores, milliseconds for one forward pass and one pass back to the image (every step of
a relaxation needs both):

=====================  ====================  ====  =======  ========
image (batch)          kernel                XLA*  patches  Winograd
=====================  ====================  ====  =======  ========
12 x 12 x 32 (20)      5 x 5 x 32 x 64        3.8      2.9       1.2
18 x 18 x 128 (64)     3 x 3 x 128 x 256      209      143        64
10 x 10 x 256 (8)      3 x 3 x 256 x 512       17       14       9.7
6 x 6 x 512 (8)        3 x 3 x 512 x 512       13      8.9        14
=====================  ====================  ====  =======  ========

(* XLA's convolution forward, patches back: patches are faster than XLA's own way back.)

- *patches*: lay the windows side by side and multiply by the kernel as a matrix
  (im2col).
- *Winograd*: compute tiles of outputs from products of polynomial values (Toom and
  Cook's algorithm, Winograd 1980; for networks Lavin & Gray 2016).  A 5 x 5 kernel
  takes 64 products for a tile of 4 x 4 outputs instead of 400.  The rounding error in
  float32 is 5e-6 of the largest output; the other forms have 1e-6.

Every form computes derivatives in the kernel as products of patches: XLA's own are up
to 30 times slower inside a loop.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Inexact

Image = Inexact[Array, "height width channels"]
Kernel = Inexact[Array, "kernel kernel n_in n_out"]

TILE = 4
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
KERNELS = (3, 4, 5)
FEW_CHANNELS = 16


class Prepared(NamedTuple):
    """A kernel, and its values at the points of Winograd's form."""

    kernel: Kernel
    values: Inexact[Array, "a a n_in n_out"]


def prepare(kernel: Kernel) -> Kernel | Prepared:
    """Return the kernel with what every correlation with it needs, computed once.

    XLA moves this work out of a loop only if the loop's body contains it once.
    """
    if not _has_points(kernel):
        return kernel
    return Prepared(kernel, _kernel_values(kernel))


def correlate(stride: int, image: Image, kernel: Kernel | Prepared) -> Image:
    """Σ_{i,j,c} image[p·stride + i, q·stride + j, c] kernel[i, j, c, :]."""
    values = None
    if isinstance(kernel, Prepared):
        kernel, values = kernel
    return _correlate(stride, image, kernel, values)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _correlate(stride: int, image: Image, kernel: Kernel, values: Any) -> Image:
    if _tiled(stride, image, kernel):
        return _winograd(image, _kernel_values(kernel) if values is None else values)
    few = image.shape[-1] < FEW_CHANNELS and not jnp.iscomplexobj(image)
    return (_patches if _on_cpu() and not few else _convolve)(stride, image, kernel)


def _correlate_jvp(stride: int, primals, tangents):
    # Values at points follow from the kernel, which carries the whole tangent.
    (image, kernel, values), (image_dot, kernel_dot, _) = primals, tangents
    form = _patches if _on_cpu() else _convolve
    apply = functools.partial(form, stride, kernel=kernel)
    if _tiled(stride, image, kernel):
        if values is None:
            values = _kernel_values(kernel)  # once for both directions
        apply = functools.partial(_winograd, kernels=values)
        value = apply(image)
    else:
        value = _correlate(stride, image, kernel, values)
    along = jnp.zeros_like(value)
    if not isinstance(image_dot, SymbolicZero):
        along = along + apply(image_dot)
    if not isinstance(kernel_dot, SymbolicZero):
        along = along + _apart(form(stride, image, kernel_dot))
    return value, along


_correlate.defjvp(_correlate_jvp, symbolic_zeros=True)


def _apart(z: Image) -> Image:
    """Return z; keep XLA from fusing z's cotangent into the product with patches.

    With that fusion a training step of 3 x 3 kernels takes 49 ms instead of 38, and one
    of `mnist-conv` 40 instead of 36.  XLA does not fuse a product with the identity.
    """
    if not _on_cpu():
        return z
    return jnp.matmul(z, jnp.eye(z.shape[-1], dtype=z.dtype), precision="highest")


def windows(image: Image, size: int, stride: int) -> list[Image]:
    """Return the values in all windows of each place of a window, in reading order."""
    height, width = ((n - size) // stride + 1 for n in image.shape[:2])
    if stride == size:  # a split's derivative is a concatenation, a slice's a sum
        image = image[: height * size, : width * size]
        rows = _split(image.reshape(height, size, width, size, -1), 1)
        return [place for row in rows for place in _split(row, 2)]
    height, width = ((n - 1) * stride + 1 for n in (height, width))
    return [
        image[i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _has_points(kernel: Kernel) -> bool:
    """Say whether Winograd's form exists for this kernel and pays (many channels)."""
    return (
        _on_cpu()
        and kernel.shape[0] in KERNELS
        and kernel.shape[2] >= FEW_CHANNELS
        and kernel.dtype == jnp.float32
    )


def _tiled(stride: int, image: Image, kernel: Kernel) -> bool:
    """Say whether Winograd's form is the fastest: it needs more than one tile."""
    return (
        _has_points(kernel)
        and stride == 1
        and image.dtype == jnp.float32
        and min(image.shape[:2]) - kernel.shape[0] + 1 > TILE
    )


def _convolve(stride: int, image: Image, kernel: Kernel) -> Image:
    return jax.lax.conv_general_dilated(
        image[None],
        kernel,
        window_strides=(stride, stride),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


def _patches(stride: int, image: Image, kernel: Kernel) -> Image:
    patches = jnp.concatenate(windows(image, kernel.shape[0], stride), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _winograd(image: Image, kernels: Inexact[Array, "a a n_in n_out"]) -> Image:
    """Compute TILE x TILE outputs at a time from a x a inputs, a = TILE + kernel − 1.

    Transform the rows, then the columns, of the tiles to values at a points, multiply
    matrices at each pair of points, and transform back.  The short sums are written
    out, so that XLA makes one pass over memory.  The pieces are split, not indexed:
    the derivative of a split is a concatenation.
    """
    count = len(kernels)
    overlap = count - TILE
    inputs, _, outputs = _transforms(count)
    height, width = (n - overlap for n in image.shape[:2])
    missing = [(0, -n % TILE + TILE - overlap) for n in (height, width)]
    image = jnp.pad(image, (*missing, (0, 0)))
    # [point, row of tiles, width, channels], then [point, point, row, column, channels]
    tall = jnp.stack(_sums(inputs, _pieces(image, 0, overlap)))
    values = jnp.stack(_sums(inputs, _pieces(tall, 2, overlap)), axis=1)
    products = jax.lax.dot_general(values, kernels, (((4,), (2,)), ((0, 1), (0, 1))))
    # [point, row, place in it, column, channels], then both places beside their tile
    tall = jnp.stack(_sums(outputs, _split(products, 0)), axis=2)
    whole = jnp.stack(_sums(outputs, _split(tall, 0)), axis=3)
    rows, _, columns, _, channels = whole.shape
    return whole.reshape(rows * TILE, columns * TILE, channels)[:height, :width]


def _kernel_values(kernel: Kernel) -> Inexact[Array, "a a n_in n_out"]:
    """Return the kernel's values at each pair of points."""
    both = _kernel_transform(TILE + len(kernel) - 1, np.dtype(kernel.dtype))
    return jax.lax.dot_general(both, kernel, (((2, 3), (0, 1)), ((), ())))


def _sums(matrix: np.ndarray, pieces: Sequence[Array]) -> list[Array]:
    """Return matrix · pieces; skip the matrix's zeros."""
    return [
        sum(float(c) * piece for c, piece in zip(row, pieces, strict=True) if c)  # type: ignore[misc]
        for row in matrix
    ]


def _pieces(image: Array, axis: int, overlap: int) -> list[Array]:
    """Return, for each place of a tile, its values in all tiles, along one pixel axis.

    A tile is a block of TILE pixels and the first `overlap` pixels of the next block.
    """
    blocks = image.shape[axis] // TILE
    shape = (*image.shape[:axis], blocks, TILE, *image.shape[axis + 1 :])
    places = _split(image.reshape(shape), axis + 1)
    part = functools.partial(jax.lax.slice_in_dim, axis=axis)
    return [part(place, 0, blocks - 1) for place in places] + [
        part(place, 1, blocks) for place in places[:overlap]
    ]


def _split(array: Array, axis: int) -> list[Array]:
    parts = jax.lax.split(array, (1,) * array.shape[axis], axis)
    return [jnp.squeeze(part, axis) for part in parts]


@functools.cache
def _kernel_transform(count: int, dtype: np.dtype) -> np.ndarray:
    """Return the transform of both axes as one array.

    One array lets the compiler recognise equal products in a loop.
    """
    _, weights, _ = _transforms(count)
    return np.einsum("pi,qj->pqij", weights, weights).astype(dtype)


@functools.cache
def _transforms(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices of one axis: for an input tile, a kernel, and the outputs.

    A polynomial of `count` coefficients is given by its values at count − 1 points and
    at infinity; the values of a product are the products of the values.  Correlation is
    the transposed map.  The rows are scaled so that no input is enlarged.
    """

    def values(terms: int) -> np.ndarray:
        powers = np.vander(POINTS[: count - 1], terms, increasing=True)
        return np.vstack([powers, np.eye(terms)[-1]])

    inputs = np.linalg.inv(values(count)).T
    inputs = np.where(np.abs(inputs) > 1e-12, inputs, 0)
    scale = np.abs(inputs).max(axis=1, keepdims=True)
    return inputs / scale, scale * values(count - TILE + 1), values(TILE).T
