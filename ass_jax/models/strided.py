"""The gradient for the input of a strided convolution, by one without stride.

XLA puts zeros between the entries of the output's gradient and convolves that; on a CPU most of the time goes into
products with these zeros. Here the inputs are parted by their rows and columns modulo the stride. Each part meets its
own taps of the kernel, and one convolution finds all parts as if they were channels.
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.models.taps import interleaved, padding


def input_gradient(gradient: jax.Array, kernel: jax.Array, stride: int, size: tuple[int, int]) -> jax.Array:
    """Computes the gradient of the input of a convolution, padded as `ass_jax.models.taps.padding` tells.

    Args:
      gradient: [B, H', W', features], of the output.
      kernel: [side, side, channels, features], not dilated, of the same type as `gradient`.
      stride: of the convolution, in both directions.
      size: (H, W) of the input.

    Returns:
      [B, H, W, channels].
    """
    features = gradient.shape[-1]
    side, channels = kernel.shape[0], kernel.shape[2]
    pad, taps = padding(kernel.shape, dilation=1)[0], -(-side // stride)
    beyond = (0, stride * taps - side)
    kernel = jnp.pad(kernel, (beyond, beyond, (0, 0), (0, 0)))
    # Row i + stride * m meets output m + (i + pad - p) / stride - q at tap q * stride + p. As outputs rise, q falls.
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features)[::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(taps, taps, features, -1)
    rows, columns = (-(-length // stride) for length in size)
    furthest = (stride - 1 + pad) // stride  # Output, from the first one that a row of the input may be seen by.
    around = [
        (taps - 1, length + furthest - outputs, 0)
        for length, outputs in zip((rows, columns), gradient.shape[1:3], strict=True)
    ]
    gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    parts = lax.conv_general_dilated(gradient, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    parts = parts.reshape(*parts.shape[:3], stride, stride, channels)
    first = [divmod(phase + pad, stride) for phase in range(stride)]
    found = [
        parts[:, row : row + rows, column : column + columns, tap_row, tap_column]
        for (row, tap_row), (column, tap_column) in itertools.product(first, first)
    ]
    return interleaved(found, stride)[:, : size[0], : size[1]]
