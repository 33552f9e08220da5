"""A strided convolution as one without stride: of the input's rows and columns modulo the stride, as if channels."""

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.models.taps import padding

SIDE = 2  # Of the kernel that is left.


def has_form_without_stride(kernel_shape: tuple[int, ...], stride: int, dilation: int) -> bool:
    """Returns whether `without_stride` knows convolutions of this kind."""
    rows, columns = kernel_shape[:2]
    return rows == columns and stride < rows <= SIDE * stride and dilation == 1


def without_stride(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Returns the arguments of a convolution without stride and padding that has the same result.

    Args:
      x: [B, H, W, channels].
      kernel: [side, side, channels, features]; one that `has_form_without_stride`.
      stride: in both directions.

    Returns:
      [B, H' + 1, W' + 1, stride**2 * channels], where [B, H', W', features] is the result, and
      [2, 2, stride**2 * channels, features].
    """
    side, _, channels, features = kernel.shape
    before, _ = padding(kernel.shape, dilation=1)
    parts = [(length + 2 * before - side) // stride + SIDE for length in x.shape[1:3]]
    beyond = [stride * count - before - length for count, length in zip(parts, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((before, after, 0) for after in beyond), (0, 0, 0)])
    x = x.reshape(len(x), parts[0], stride, parts[1], stride * channels)
    x = jnp.concatenate([x[:, :, row] for row in range(stride)], axis=-1)
    missing = (0, SIDE * stride - side)
    kernel = jnp.pad(kernel, (missing, missing, (0, 0), (0, 0)))
    kernel = kernel.reshape(SIDE, stride, SIDE, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return x, kernel.reshape(SIDE, SIDE, -1, features)
