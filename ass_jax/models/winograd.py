"""3×3 convolutions by minimal filtering F(2×2, 3×3): 16 multiplications where there were 36 (arXiv 1509.09308).

Each tile of 2×2 outputs reads 4×4 inputs. Transformed, `V = B' d B`, these meet a transformed kernel, `U = G g G'`, and
the tile is `A' (U * V) A`; over all tiles and channels, the 16 entry-wise products are 16 matrix products. A kernel
dilated by n sees n × n images of every n-th row and column, each of which is tiled by itself.

Legend: B batch, H W cells, T U tiles of an image of every n-th row and column, C channels, F features, n dilation.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

# The transformations of inputs, kernels and outputs along one axis: B', G and A' of the paper's section 4.1.
_INPUTS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNELS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUTS = ((1, 1, 1, 0), (0, 1, -1, -1))

Matrix = Sequence[Sequence[float]]
Grid = list[list[jax.Array]]
Product = Callable[[jax.Array, jax.Array], jax.Array]


def multiplications(height: int, width: int, dilation: int) -> float:
    """Returns how many multiplications it takes for each of the plain convolution; 4/9 where no tile is cut off."""
    cells = 4 * _tiles(height, dilation) * _tiles(width, dilation) * dilation**2
    return 4 / 9 * cells / (height * width)


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Convolves with a stride of 1 and a zero padding of `dilation`.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, F].
      dilation: of the kernel.

    Returns:
      [B, H, W, F].
    """
    return _filtered(jnp.matmul, x, _taps(kernel), dilation)


def input_gradient(gradient: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Computes the gradient of the input of `convolve`: a convolution with the kernel turned by half a circle.

    Its channels and features change places in the products: swapped before them, the entries of the transformed kernel
    would be gathered one by one, and the whole take two to three times as long.

    Args:
      gradient: [B, H, W, F], of the output.
      kernel: [3, 3, C, F].
      dilation: of the kernel.

    Returns:
      [B, H, W, C].
    """
    turned = [row[::-1] for row in _taps(kernel)[::-1]]
    return _filtered(functools.partial(jnp.einsum, "...nf,...cf->...nc"), gradient, turned, dilation)


def filter_gradient(x: jax.Array, gradient: jax.Array, dilation: int) -> jax.Array:
    """Computes the gradient of the kernel of `convolve`: `G' (V * A g A') G`, summed over all tiles.

    Args:
      x: [B, H, W, C], the input.
      gradient: [B, H, W, F], of the output.
      dilation: of the kernel.

    Returns:
      [3, 3, C, F].
    """
    _, height, width, features = gradient.shape
    rows, columns = _tiles(height, dilation), _tiles(width, dilation)
    beyond = (2 * rows * dilation - height, 2 * columns * dilation - width)
    padded = jnp.pad(gradient, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))
    tiled = padded.reshape(-1, rows, 2, dilation, columns, 2, dilation, features)
    outputs = [[tiled[:, :, row, :, :, column].reshape(-1, features) for column in range(2)] for row in range(2)]
    products = _products(_sum_over_tiles, _transformed_inputs(x, dilation), _transform(_transposed(_OUTPUTS), outputs))
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_KERNELS), products)])


def _tiles(cells: int, dilation: int) -> int:
    """Returns how many tiles of two cover every `dilation`-th of the cells."""
    return -(-cells // (2 * dilation))


def _taps(kernel: jax.Array) -> Grid:
    return [[kernel[row, column] for column in range(3)] for row in range(3)]


def _filtered(product: Product, x: jax.Array, taps: Grid, dilation: int) -> jax.Array:
    """Returns [B, H, W, channels]: the tiles that the products make of the transformed inputs and taps, put together.

    Args:
      product: of some entries of the transformed inputs and of the transformed taps.
      x: [B, H, W, channels].
      taps: 3×3 matrices.
      dilation: of the kernel.
    """
    batch, height, width, _ = x.shape
    rows, columns = _tiles(height, dilation), _tiles(width, dilation)
    products = _products(product, _transformed_inputs(x, dilation), _transform(_KERNELS, taps))
    shape = (batch, rows, dilation, columns, dilation, products[0][0].shape[-1])
    outputs = _transform(_OUTPUTS, [[product.reshape(shape) for product in row] for row in products])
    tiled = jnp.stack([jnp.stack(row, axis=4) for row in outputs], axis=2)  # [B, T, 2, n, U, 2, n, channels]
    return tiled.reshape(batch, 2 * rows * dilation, 2 * columns * dilation, -1)[:, :height, :width]


def _transformed_inputs(x: jax.Array, dilation: int) -> Grid:
    """Returns the 4×4 entries of all transformed input tiles, each [B * T * n * U * n, C]."""
    _, height, width, channels = x.shape
    rows, columns = _tiles(height, dilation), _tiles(width, dilation)
    beyond = (dilation * (2 * rows + 1) - height, dilation * (2 * columns + 1) - width)
    padded = jnp.pad(x, ((0, 0), (dilation, beyond[0]), (dilation, beyond[1]), (0, 0)))
    halves = padded.reshape(-1, rows + 1, 2, dilation, columns + 1, 2, dilation, channels)
    # A tile reads its own two rows and the first two of the next tile; so with columns.
    entries = [
        [
            halves[:, row // 2 : row // 2 + rows, row % 2, :, column // 2 : column // 2 + columns, column % 2]
            for column in range(4)
        ]
        for row in range(4)
    ]
    return [[entry.reshape(-1, channels) for entry in row] for row in _transform(_INPUTS, entries)]


def _transform(matrix: Matrix, grid: Grid) -> Grid:
    """Returns `matrix @ grid @ matrix.T`, where the grid's entries are arrays."""
    columns = [[_weighted_sum(weights, column) for weights in matrix] for column in zip(*grid, strict=True)]
    return [[_weighted_sum(weights, row) for weights in matrix] for row in zip(*columns, strict=True)]


def _weighted_sum(weights: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    terms = [array if weight == 1 else weight * array for weight, array in zip(weights, arrays, strict=True) if weight]
    return functools.reduce(operator.add, terms)


def _products(product: Product, left: Grid, right: Grid) -> Grid:
    """Multiplies entry by entry, a row at a time: hardly slower than one by one, and far less for XLA to compile."""
    rows = [product(jnp.stack(a), jnp.stack(b)) for a, b in zip(left, right, strict=True)]
    return [[row[entry] for entry in range(len(row))] for row in rows]


def _sum_over_tiles(inputs: jax.Array, gradients: jax.Array) -> jax.Array:
    """Returns the products [entries, C, F] of [entries, tiles, C] and [entries, tiles, F].

    Barriers part the transposition from what is before and after it: XLA:CPU's own is slower.
    """
    transposed = lax.optimization_barrier(inputs).swapaxes(1, 2)
    return lax.optimization_barrier(transposed) @ gradients


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))
