"""Maps as the taps of a kernel read them: padded with zeros, shifted, split and put together again."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def padding(kernel_shape: tuple[int, ...], dilation: int) -> tuple[int, int]:
    """Returns the rows above and below, and the columns left and right, that are added."""
    return dilation * (kernel_shape[0] - 1) // 2, dilation * (kernel_shape[1] - 1) // 2


def output_size(
    size: Sequence[int], kernel_shape: tuple[int, ...], stride: int = 1, dilation: int = 1
) -> tuple[int, ...]:
    """Returns the height and width of a convolution's output, for an input of that size with `padding` around it."""
    pads = padding(kernel_shape, dilation)
    return tuple(
        (length + 2 * pad - dilation * (side - 1) - 1) // stride + 1
        for length, pad, side in zip(size, pads, kernel_shape[:2], strict=True)
    )


def shifts(x: jax.Array, kernel_shape: tuple[int, ...], dilation: int) -> list[jax.Array]:
    """Returns the padded input as each tap of a kernel of stride 1 reads it.

    Args:
      x: [B, H, W, channels].
      kernel_shape: (rows, columns, ...).
      dilation: of the kernel.

    Returns:
      rows * columns times [B, H', W', channels], of the size of the result, in the order of the taps.
    """
    pads = padding(kernel_shape, dilation)
    height, width = output_size(x.shape[1:3], kernel_shape, dilation=dilation)
    padded = jnp.pad(x, ((0, 0), (pads[0], pads[0]), (pads[1], pads[1]), (0, 0)))
    return [
        padded[:, row * dilation : row * dilation + height, column * dilation : column * dilation + width]
        for row in range(kernel_shape[0])
        for column in range(kernel_shape[1])
    ]


def phases(x: jax.Array, dilation: int) -> jax.Array:
    """Splits a map by its rows and columns modulo `dilation`.

    On each part, a kernel without dilation reads the cells that the dilated one reads on the map.

    Args:
      x: [B, H, W, channels].
      dilation: of the kernel.

    Returns:
      [B * dilation**2, rows, columns, channels], zeros where `dilation` does not divide the size.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % dilation), (0, -width % dilation), (0, 0)))
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = x.reshape(batch, rows, dilation, columns, dilation, channels)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels)


def interleaved(parts: Sequence[jax.Array], stride: int) -> jax.Array:
    """Puts a map together from the parts that hold its rows and columns modulo `stride`.

    Args:
      parts: stride * stride times [B, rows, columns, channels], row by row.
      stride: in both directions.

    Returns:
      [B, rows * stride, columns * stride, channels].
    """
    batch, rows, columns, channels = parts[0].shape
    found = jnp.stack(parts, axis=3).reshape(batch, rows, columns, stride, stride, channels)
    return found.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * stride, columns * stride, channels)


def cells(x: jax.Array) -> jax.Array:
    """Returns [B, H, W, channels] as [B * H * W, channels]."""
    return x.reshape(-1, x.shape[-1])
