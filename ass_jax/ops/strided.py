"""Strided convolutions as convolutions without stride, of an input whose cells modulo the stride become channels."""

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.devices import as_own
from ass_jax.ops.taps import cells, output_size, padding


def taps_without_stride(kernel_shape: tuple[int, ...], stride: int, dilation: int) -> int:
    """Returns the side of the kernel of `without_stride`, 0 where there is no such kernel."""
    rows, columns = kernel_shape[:2]
    return -(-rows // stride) if rows == columns and dilation == 1 < stride else 0


def without_stride(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Returns the arguments of a convolution without stride and padding that gives the same result.

    Args:
      x: [B, H, W, channels].
      kernel: [side, side, channels, features], not dilated.
      stride: in both directions, at least 2.

    Returns:
      [B, H' + taps - 1, W' + taps - 1, stride**2 * channels], where [B, H', W', features] is the result, and
      [taps, taps, stride**2 * channels, features], where `taps` is side / stride, rounded up.
    """
    return _parts(x, kernel.shape, stride), _parted_kernel(kernel, stride)


def kernel_gradient(x: jax.Array, gradient: jax.Array, kernel_shape: tuple[int, ...], stride: int) -> jax.Array:
    """Computes the gradient of a kernel by one product for each row of taps without stride.

    It pays where channels are few and features many: there XLA:CPU's own takes twice as long for a 7x7 kernel, and its
    errors are ten times as large.

    Args:
      x: [B, H, W, channels], the input of the convolution.
      gradient: [B, H', W', features], of its output, of the same type as `x`.
      kernel_shape: (side, side, channels, features).
      stride: of the convolution, at least 2.

    Returns:
      `kernel_shape`, of the type of `x`, accumulated in float32.
    """
    _, height, width, features = gradient.shape
    maps = _parts(x, kernel_shape, stride)
    taps = maps.shape[1] - height + 1
    side_by_side = jnp.concatenate([maps[:, :, column : column + width] for column in range(taps)], axis=-1)
    side_by_side, gradient = lax.optimization_barrier((side_by_side, gradient))
    rows = [
        jnp.matmul(cells(side_by_side[:, row : row + height]).T, cells(gradient), preferred_element_type=jnp.float32)
        for row in range(taps)
    ]
    found = jnp.stack(rows).reshape(taps, taps, -1, features).astype(x.dtype)
    kernel = as_own(jnp.zeros(kernel_shape, x.dtype))  # Its values do not matter.
    return jax.vjp(lambda kernel: _parted_kernel(kernel, stride), kernel)[1](found)[0]


def _parts(x: jax.Array, kernel_shape: tuple[int, ...], stride: int) -> jax.Array:
    """Returns [B, H' + taps - 1, W' + taps - 1, stride**2 * channels] of x, [B, H, W, channels]."""
    before, _ = padding(kernel_shape, dilation=1)
    taps = taps_without_stride(kernel_shape, stride, dilation=1)
    parts = [length + taps - 1 for length in output_size(x.shape[1:3], kernel_shape, stride)]
    beyond = [stride * count - before - length for count, length in zip(parts, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((before, after, 0) for after in beyond), (0, 0, 0)])
    x = x.reshape(x.shape[0], parts[0], stride, parts[1], -1)
    return jnp.concatenate([x[:, :, row] for row in range(stride)], axis=-1)


def _parted_kernel(kernel: jax.Array, stride: int) -> jax.Array:
    """Returns [taps, taps, stride**2 * channels, features] of [side, side, channels, features]."""
    side, _, channels, features = kernel.shape
    taps = taps_without_stride(kernel.shape, stride, dilation=1)
    missing = (0, stride * taps - side)
    kernel = jnp.pad(kernel, (missing, missing, (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(taps, taps, -1, features)
