"""Strided convolutions as others: without stride, of cells modulo the stride as channels, or by rows of the kernel."""

import functools

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


def by_rows(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves by one product for each `stride` rows of the kernel, in which all columns and channels are added up.

    It pays on TPUs where images and channels are few: XLA:TPU pads channels to 128 and copies such maps several times.

    Args:
      x: [B, H, W, channels].
      kernel: [side, side, channels, features], not dilated, of the type of `x`.
      stride: in both directions, at least 2.

    Returns:
      [B, H', W', features] of the type of `x`, accumulated in float32.
    """
    read, matrices = _read_by_rows(x, kernel.shape, stride), _row_matrices(kernel, stride)
    height = read.shape[1] - len(matrices) + 1
    products = [
        jnp.einsum("bhkw,kf->bhwf", read[:, row : row + height], matrix, preferred_element_type=jnp.float32)
        for row, matrix in enumerate(matrices)
    ]
    return functools.reduce(jnp.add, products).astype(x.dtype)


def input_gradient_by_rows(x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int) -> jax.Array:
    """Computes the gradient of the input of `by_rows` by one product.

    Args:
      x: [B, H, W, channels], the input; its shape and type alone count.
      kernel: [side, side, channels, features], of the type of `x`.
      gradient: [B, H', W', features], of the output, of the type of `x`.
      stride: in both directions.

    Returns:
      [B, H, W, channels] of the type of `x`.
    """
    matrices = _row_matrices(kernel, stride)
    last = len(matrices) - 1
    side_by_side = [jnp.pad(gradient, ((0, 0), (row, last - row), (0, 0), (0, 0))) for row in range(last + 1)]
    matrix = matrices.swapaxes(1, 2).reshape(-1, matrices.shape[1])
    arrived = jnp.einsum("bhwn,nk->bhkw", jnp.concatenate(side_by_side, axis=-1), matrix)
    return jax.linear_transpose(lambda x: _read_by_rows(x, kernel.shape, stride), x)(arrived)[0]


def kernel_gradient_by_rows(x: jax.Array, gradient: jax.Array, kernel_shape: tuple[int, ...], stride: int) -> jax.Array:
    """Computes the gradient of the kernel of `by_rows`.

    Args:
      x: [B, H, W, channels], the input.
      gradient: [B, H', W', features], of the output, of the type of `x`.
      kernel_shape: (side, side, channels, features).
      stride: in both directions.

    Returns:
      `kernel_shape`, of the type of `x`, accumulated in float32.
    """
    read, height = _read_by_rows(x, kernel_shape, stride), gradient.shape[1]
    products = [
        jnp.einsum("bhkw,bhwf->kf", read[:, row : row + height], gradient, preferred_element_type=jnp.float32)
        for row in range(read.shape[1] - height + 1)
    ]
    side, _, channels, features = kernel_shape
    found = jnp.stack(products).reshape(-1, channels, side, features)[:side]
    return found.transpose(0, 2, 1, 3).astype(x.dtype)


def _read_by_rows(x: jax.Array, kernel_shape: tuple[int, ...], stride: int) -> jax.Array:
    """Returns [B, H' + taps - 1, stride * channels * side, W'], all that a kernel's rows read of `stride` rows of x.

    A product with zeros and ones picks the columns: it is exact, and needs no copy of the map.
    """
    images, height, width, _ = x.shape
    side = kernel_shape[1]
    before, _ = padding(kernel_shape, dilation=1)
    out_height, out_width = output_size((height, width), kernel_shape, stride)
    parts = out_height + taps_without_stride(kernel_shape, stride, dilation=1) - 1
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (before, stride * parts - before - height, 0), *2 * [(0, 0, 0)]])
    columns = stride * jnp.arange(out_width) + jnp.arange(side)[:, None] - before
    picks = (jnp.arange(width)[:, None, None] == columns).astype(x.dtype)
    return jnp.einsum("bhwc,wsv->bhcsv", x, picks).reshape(images, parts, -1, out_width)


def _row_matrices(kernel: jax.Array, stride: int) -> jax.Array:
    """Returns [taps, stride * channels * side, features] of [side, side, channels, features]."""
    taps = taps_without_stride(kernel.shape, stride, dilation=1)
    kernel = jnp.pad(kernel, ((0, taps * stride - len(kernel)), (0, 0), (0, 0), (0, 0)))
    return kernel.transpose(0, 2, 1, 3).reshape(taps, -1, kernel.shape[-1])


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
