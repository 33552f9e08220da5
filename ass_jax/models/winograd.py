"""3×3 convolutions by minimal filtering F(3×3, 3×3): 25 multiplications where there were 81 (arXiv 1509.09308).

Each tile of 3×3 outputs reads 5×5 inputs. Transformed, `V = B' d B`, these meet a transformed kernel, `U = G g G'`, and
the tile is `A' (U * V) A`; over all tiles and channels, the 25 entry-wise products are 25 matrix products. A kernel
dilated by n sees n × n images of every n-th row and column, each of which is tiled by itself.

Legend: B batch, H W cells, T U tiles of an image of every n-th row and column, C channels, F features, n dilation.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

TILE = 3  # Rows and columns of a tile's outputs.
# The transformations of inputs, kernels and outputs along one axis, B', G and A' of the paper's section 4.1, for the
# points 0, 1, -1, 2 and infinity. Tiles of 2×2 need half as many multiplications again; those of 4×4 hardly fewer where
# maps of every n-th row and column are small, and longer sums to transform them.
_INPUTS = ((2, -1, -2, 1, 0), (0, -2, -1, 1, 0), (0, 2, -3, 1, 0), (0, -1, 0, 1, 0), (0, 2, -1, -2, 1))
_KERNELS = ((1 / 2, 0, 0), (-1 / 2, -1 / 2, -1 / 2), (-1 / 6, 1 / 6, -1 / 6), (1 / 6, 1 / 3, 2 / 3), (0, 0, 1))
_OUTPUTS = ((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1))

Matrix = Sequence[Sequence[float]]
Grid = list[list[jax.Array]]
Product = Callable[[jax.Array, jax.Array], jax.Array]


def multiplications(height: int, width: int, dilation: int) -> float:
    """Returns how many multiplications it takes for each of the plain convolution; 25/81 where no tile is cut off."""
    cells = TILE**2 * _tiles(height, dilation) * _tiles(width, dilation) * dilation**2
    return 25 / 81 * cells / (height * width)


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
    beyond = (TILE * rows * dilation - height, TILE * columns * dilation - width)
    padded = jnp.pad(gradient, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))
    tiled = padded.reshape(-1, rows, TILE, dilation, columns, TILE, dilation, features)
    outputs = [[tiled[:, :, row, :, :, column].reshape(-1, features) for column in range(TILE)] for row in range(TILE)]
    products = _products(_sum_over_tiles, _transformed_inputs(x, dilation), _transform(_transposed(_OUTPUTS), outputs))
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_KERNELS), products)])


def _tiles(cells: int, dilation: int) -> int:
    """Returns how many tiles cover every `dilation`-th of the cells."""
    return -(-cells // (TILE * dilation))


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
    tiled = jnp.stack([jnp.stack(row, axis=4) for row in outputs], axis=2)  # [B, T, 3, n, U, 3, n, channels]
    return tiled.reshape(batch, TILE * rows * dilation, TILE * columns * dilation, -1)[:, :height, :width]


def _transformed_inputs(x: jax.Array, dilation: int) -> Grid:
    """Returns the 5×5 entries of all transformed input tiles, each [B * T * n * U * n, C]."""
    _, height, width, channels = x.shape
    rows, columns = _tiles(height, dilation), _tiles(width, dilation)
    beyond = (dilation * (TILE * (rows + 1) - 1) - height, dilation * (TILE * (columns + 1) - 1) - width)
    padded = jnp.pad(x, ((0, 0), (dilation, beyond[0]), (dilation, beyond[1]), (0, 0)))
    parts = padded.reshape(-1, rows + 1, TILE, dilation, columns + 1, TILE, dilation, channels)
    # A tile reads its own three rows and the first two of the next tile; so with columns.
    seen = [(entry % TILE, entry // TILE) for entry in range(TILE + 2)]
    entries = [
        [parts[:, down : down + rows, row, :, right : right + columns, column] for column, right in seen]
        for row, down in seen
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
