"""The sum of dilated convolutions: one product for all taps, whose results are shifted and added.

XLA of jaxlib 0.10.2 needs this: convolutions to few features are slow, and so are their gradients. Measured in
docs/performance/cpu.md, "Classifier in one product".
"""

import collections
import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.convolution import conv2d
from ass_jax.ops.products import transposed_product
from ass_jax.ops.taps import cells

_MOST_FEATURES = 32  # The products of all taps take memory.

Offsets = tuple[tuple[int, int], ...]  # Rows and columns from a cell to the one that a tap reads.


def atrous_sum(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Adds up convolutions of stride 1, padded with zeros so that they keep the size.

    Args:
      x: [B, H, W, channels].
      kernels: each [3, 3, channels, features]; rounded to the type of `x`.
      dilations: of each kernel.

    Returns:
      [B, H, W, features] float32, summed in float32 whatever the type of `x`.
    """
    if choose(kernels[0].shape) == "convolutions":
        maps = (conv2d(x, kernel, dilation=dilation) for kernel, dilation in zip(kernels, dilations, strict=True))
        return functools.reduce(operator.add, (branch.astype(jnp.float32) for branch in maps))
    taps: dict[tuple[int, int], list[jax.Array]] = collections.defaultdict(list)
    for kernel, dilation in zip(kernels, dilations, strict=True):
        for row, column in itertools.product(range(3), range(3)):
            offset = ((row - 1) * dilation, (column - 1) * dilation)
            # The others read padding alone.
            if all(abs(moved) < length for moved, length in zip(offset, x.shape[1:3], strict=True)):
                taps[offset].append(kernel[row, column].astype(x.dtype))
    if x.dtype == jnp.float32:  # The centres of all kernels read the same cell. In bfloat16 the sum would lose bits.
        taps = {offset: [functools.reduce(operator.add, matrices)] for offset, matrices in taps.items()}
    offsets = tuple(offset for offset, matrices in taps.items() for _ in matrices)
    return _sum_of_taps(x, jnp.concatenate([matrix for matrices in taps.values() for matrix in matrices], 1), offsets)


def choose(kernel_shape: tuple[int, ...]) -> str:
    """Returns "one_product" where the kernels have few features, else "convolutions"."""
    return "one_product" if kernel_shape[-1] <= _MOST_FEATURES else "convolutions"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sum_of_taps(x: jax.Array, matrix: jax.Array, offsets: Offsets) -> jax.Array:
    """Maps [B, H, W, channels] by [channels, taps * features], the taps side by side."""
    products = jnp.matmul(cells(x), matrix, preferred_element_type=jnp.float32).reshape(*x.shape[:3], -1)
    of_taps = jnp.split(products, len(offsets), axis=-1)
    return functools.reduce(operator.add, map(_moved, of_taps, offsets))


def _moved(maps: jax.Array, offset: tuple[int, int]) -> jax.Array:
    """Returns for each cell the one at an offset from it, zeros beyond the border."""
    around = [(-moved, moved, 0) for moved in offset]
    return lax.pad(maps, jnp.zeros((), maps.dtype), [(0, 0, 0), *around, (0, 0, 0)])


def _forward(x, matrix, offsets):
    return _sum_of_taps(x, matrix, offsets), (x, matrix)


def _backward(offsets, residuals, gradient):
    x, matrix = residuals
    gradient = gradient.astype(x.dtype)
    # The gradients that reach each cell: those of the cells that have read it.
    arrived = jnp.concatenate([_moved(gradient, (-rows, -columns)) for rows, columns in offsets], axis=-1)
    arrived = lax.optimization_barrier(cells(arrived))
    of_matrix = transposed_product(x, arrived.reshape(*x.shape[:3], -1))
    return (arrived @ matrix.T).reshape(x.shape), of_matrix.astype(matrix.dtype)


_sum_of_taps.defvjp(_forward, _backward)
