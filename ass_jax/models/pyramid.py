"""The sum of dilated convolutions to few features: one product for all taps, whose results are shifted and added."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.models.products import transposed_product
from ass_jax.models.taps import cells, shifts, without_idle_taps

# Features up to which it pays: the products of all taps take memory.
MOST_FEATURES = 32

Branches = tuple[tuple[tuple[int, ...], int], ...]  # Shape of each kernel, and its dilation.


def convolve_pyramid(x: jax.Array, kernels: Sequence[jax.Array], dilations: Sequence[int]) -> jax.Array:
    """Adds up convolutions of stride 1, padded with zeros so that they keep the size.

    Args:
      x: [B, H, W, channels].
      kernels: each [3, 3, channels, features], of the same type as `x`.
      dilations: of each kernel.

    Returns:
      [B, H, W, features] float32, summed in float32 whatever the type of `x`.
    """
    branches, matrices = [], []
    for kernel, dilation in zip(kernels, dilations, strict=True):
        kernel = without_idle_taps(kernel, x.shape[1:3], dilation)
        branches.append((kernel.shape, dilation))
        matrices.append(kernel.transpose(2, 0, 1, 3).reshape(x.shape[-1], -1))
    return _sum_of_taps(x, jnp.concatenate(matrices, axis=1), tuple(branches))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sum_of_taps(x: jax.Array, matrix: jax.Array, branches: Branches) -> jax.Array:
    """Maps [B, H, W, channels] by [channels, taps * features], the kernels side by side."""
    products = jnp.matmul(cells(x), matrix, preferred_element_type=jnp.float32).reshape(*x.shape[:3], -1)
    total, start = 0.0, 0
    for shape, dilation in branches:
        rows, columns, _, features = shape
        of_branch = products[..., start : start + rows * columns * features]
        for tap, shifted in enumerate(shifts(of_branch, shape, dilation)):
            total += shifted[..., tap * features : (tap + 1) * features]
        start += rows * columns * features
    return total


def _forward(x, matrix, branches):
    return _sum_of_taps(x, matrix, branches), (x, matrix)


def _backward(branches, residuals, gradient):
    x, matrix = residuals
    gradient = gradient.astype(x.dtype)
    # What each cell's products have been added to: the taps, seen from the other side.
    seen = [shifted for shape, dilation in branches for shifted in shifts(gradient, shape, dilation)[::-1]]
    seen = lax.optimization_barrier(cells(jnp.concatenate(seen, axis=-1)))
    of_matrix = transposed_product(x, seen.reshape(*x.shape[:3], -1))
    return (seen @ matrix.T).reshape(x.shape), of_matrix.astype(matrix.dtype)


_sum_of_taps.defvjp(_forward, _backward)
