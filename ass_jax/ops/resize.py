"""Resizing with aligned corners: the centres of the corner cells of both grids coincide."""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes maps bilinearly with aligned corners.

    Output cell i of N reads position i * (n - 1) / (N - 1) of n input cells, and position 0 where N is 1.

    Args:
      x: [B, h, w, K] of any floating-point type.
      size: (H, W) of the result.

    Returns:
      [B, H, W, K] float32, accumulated in float32; the values of `x` themselves where the size is the same.
    """
    x = x.astype(jnp.float32)
    height, width = size
    # Columns first: the map is still low when it is transposed. The rows' matrix is repeated for each image, so that
    # the product has the layout of the result. Measured in docs/performance/cpu.md, "Resizing".
    if width != x.shape[2]:
        x = jnp.einsum("Ww,bhwk->bhWk", interpolation_matrix(x.shape[2], width), x, precision="highest")
    if height != x.shape[1]:
        matrix = jnp.asarray(interpolation_matrix(x.shape[1], height))
        matrices = jnp.broadcast_to(matrix, (x.shape[0], *matrix.shape))
        x = jnp.einsum("bHh,bhWk->bHWk", matrices, x, precision="highest")
    return x


def nearest_indices(small: int, large: int) -> np.ndarray:
    """Finds, for each cell of a small grid, the nearest cell of a large one with aligned corners.

    Args:
      small: cells of the small grid.
      large: cells of the large grid.

    Returns:
      int32 [small]: i * (large - 1) / (small - 1), halves rounded up; 0 where `small` is 1.
    """
    if small == 1:
        return np.zeros(1, np.int32)
    # In integers, so that exact halves do not depend on floating-point error.
    steps = small - 1
    return ((2 * np.arange(small) * (large - 1) + steps) // (2 * steps)).astype(np.int32)


def interpolation_matrix(cells: int, size: int) -> np.ndarray | jax.Array:
    """Returns the matrix that resizes an axis of `cells` cells to `size` cells with aligned corners.

    Returns:
      float32 [size, cells], whose rows hold the two weights of each output cell.
    """
    # A constant where the sizes are known; exported programs may have symbolic sizes.
    known = isinstance(cells, int) and isinstance(size, int)
    numbers = np if known else jnp
    positions = numbers.arange(size) * (cells - 1) / numbers.maximum(size - 1, 1)
    distances = numbers.abs(positions[:, None] - numbers.arange(cells)[None, :])
    return numbers.maximum(1.0 - distances, 0.0).astype(numbers.float32)
