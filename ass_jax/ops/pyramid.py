"""The sum of dilated convolutions; to few features, one product for all taps, whose results are shifted and added."""

import collections
import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.convolution import convolve
from ass_jax.ops.products import transposed_product
from ass_jax.ops.taps import cells

# Features up to which it pays: the products of all taps take memory.
_MOST_FEATURES = 32

Offsets = tuple[tuple[int, int], ...]  # Rows and columns from a cell to the one that a tap reads.


def convolve_pyramid(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Adds up convolutions of stride 1, padded with zeros so that they keep the size.

    Taps that read the same cell, as the centres of all kernels do, are one tap; those that read padding only, none.

    Args:
      x: [B, H, W, channels].
      kernels: each [3, 3, channels, features], of the same type as `x`.
      dilations: of each kernel.

    Returns:
      [B, H, W, features] float32, summed in float32 whatever the type of `x`.
    """
    if kernels[0].shape[-1] > _MOST_FEATURES:
        maps = (convolve(x, kernel, 1, dilation) for kernel, dilation in zip(kernels, dilations, strict=True))
        return sum(branch.astype(jnp.float32) for branch in maps)
    taps = collections.defaultdict(list)
    for kernel, dilation in zip(kernels, dilations, strict=True):
        for row, column in itertools.product(range(3), range(3)):
            offset = ((row - 1) * dilation, (column - 1) * dilation)
            if all(abs(moved) < length for moved, length in zip(offset, x.shape[1:3], strict=True)):
                taps[offset].append(kernel[row, column])
    if x.dtype == jnp.float32:  # Of a shorter type, the sum would lose bits.
        taps = {offset: [functools.reduce(operator.add, matrices)] for offset, matrices in taps.items()}
    offsets = tuple(offset for offset, matrices in taps.items() for _ in matrices)
    return _sum_of_taps(x, jnp.concatenate([matrix for matrices in taps.values() for matrix in matrices], 1), offsets)


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
    # What each cell's products have been added to: the taps, seen from the other side.
    seen = jnp.concatenate([_moved(gradient, (-rows, -columns)) for rows, columns in offsets], axis=-1)
    seen = lax.optimization_barrier(cells(seen))
    of_matrix = transposed_product(x, seen.reshape(*x.shape[:3], -1))
    return (seen @ matrix.T).reshape(x.shape), of_matrix.astype(matrix.dtype)


_sum_of_taps.defvjp(_forward, _backward)
