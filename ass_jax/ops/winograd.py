"""Convolutions by minimal filtering (arXiv 1509.09308): kernels of 3x3 and 2x2, tiles of 3x3.

A tile of 3x3 outputs of a 3x3 kernel reads 5x5 inputs d. These are transformed, `V = B' d B`, and so is the kernel g,
`U = G g G'`; the tile is `A' (U * V) A`. Over all tiles and channels, the entry-wise products are 25 matrix products:
25 multiplications instead of 81. With a 2x2 kernel, a tile reads 4x4 inputs: 16 multiplications instead of 36. A
kernel dilated by n reads n * n images of every n-th row and column, and each image has tiles of its own.

Each row of the transformed tiles is one array, in which the columns lie side by side: what is read several times then
stays in a core's cache. Measured in docs/performance/cpu.md, "Minimal filtering".

Legend: B batch, H W cells, T U tiles of an image of every n-th row and column, C channels, F features, n dilation.
"""

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.taps import output_size, padding

Weights = Sequence[Sequence[float]]  # One weighted sum for each row.


class _Transformations(NamedTuple):
    """Transforms inputs, kernels and outputs along one axis: B', G and A' of the paper's section 4.1."""

    inputs: Weights
    kernels: Weights
    outputs: Weights


_TILE = 3  # Rows and columns of a tile's outputs.
# By the kernel's side. Points are 0, 1, -1 and infinity, and 2 where there are five. Tiles of 2x2 need 44 % more
# multiplications. Tiles of 4x4 save few where the images of every n-th row and column are small.
_TRANSFORMATIONS = {
    2: _Transformations(
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
        kernels=((1, 0), (1 / 2, 1 / 2), (1 / 2, -1 / 2), (0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, 1)),
    ),
    3: _Transformations(
        inputs=((2, -1, -2, 1, 0), (0, -2, -1, 1, 0), (0, 2, -3, 1, 0), (0, -1, 0, 1, 0), (0, 2, -1, -2, 1)),
        kernels=((1 / 2, 0, 0), (-1 / 2, -1 / 2, -1 / 2), (-1 / 6, 1 / 6, -1 / 6), (1 / 6, 1 / 3, 2 / 3), (0, 0, 1)),
        outputs=((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1)),
    ),
}


def multiplications(height: int, width: int, side: int, dilation: int) -> float:
    """Returns the multiplications over those of the plain convolution.

    Args:
      height: of the output.
      width: of the output.
      side: of the kernel.
      dilation: of the kernel.

    Returns:
      25/81 for a side of 3 and 16/36 for one of 2, where no tile is cut off.
    """
    return len(_TRANSFORMATIONS[side].kernels) ** 2 * count_tiles(height, width, dilation) / (side**2 * height * width)


def count_tiles(height: int, width: int, dilation: int) -> int:
    """Returns how many tiles cover an output of this size."""
    return dilation**2 * _tiles(height, dilation) * _tiles(width, dilation)


def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Convolves with a stride of 1 and the zero padding of `ass_jax.ops.taps.padding`.

    Args:
      x: [B, H, W, C].
      kernel: [side, side, C, F], of side 2 or 3.
      dilation: of the kernel.

    Returns:
      [B, H', W', F]; with a side of 3 of the size of x, with one of 2 smaller by the dilation modulo 2.
    """
    height, width = output_size(x.shape[1:3], kernel.shape, dilation=dilation)
    pairs = zip(_transformed_inputs(x, kernel, dilation), _transformed_kernel(kernel), strict=True)
    return _outputs([inputs @ taps for inputs, taps in pairs], (x.shape[0], height, width), len(kernel), dilation)


def gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array, dilation: int) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of both arguments of `convolve`, by transposing its steps.

    With the output's gradient y, the input's is `B (U * A y A') B'`, added up where tiles overlap, and the kernel's
    `G' (V * A y A') G`, summed over all tiles. Both share the transformed gradient; U is that of `convolve`.

    Args:
      x: [B, H, W, C], the input.
      kernel: [side, side, C, F], of side 2 or 3.
      gradient: [B, H', W', F], of the output.
      dilation: of the kernel.

    Returns:
      [B, H, W, C] and [side, side, C, F].
    """
    x, gradient = lax.optimization_barrier((x, gradient))
    outputs = lax.optimization_barrier(_transformed_gradient(gradient, len(kernel), dilation))
    inputs = lax.optimization_barrier(_transformed_inputs(x, kernel, dilation))
    on_inputs = [jnp.einsum("enf,ecf->enc", *pair) for pair in zip(outputs, _transformed_kernel(kernel), strict=True)]
    on_kernel = [jnp.einsum("enc,enf->ecf", *pair) for pair in zip(inputs, outputs, strict=True)]
    return _inputs(on_inputs, x, kernel, dilation), _kernel(on_kernel, len(kernel))


def _tiles(cells: int, dilation: int) -> int:
    """Returns how many tiles cover every `dilation`-th of the cells."""
    return -(-cells // (_TILE * dilation))


def _tiled(x: jax.Array, axis: int, tiles: int, dilation: int) -> jax.Array:
    """Splits the cells of an axis into [tiles, rows of a tile, images of every `dilation`-th cell]."""
    return x.reshape(*x.shape[:axis], tiles, _TILE, dilation, *x.shape[axis + 1 :])


def _transformed(
    maps: jax.Array, weights: Weights, tiles: Sequence[int], dilation: int, before: int
) -> list[jax.Array]:
    """Returns the rows of all transformed tiles, each [columns of a tile, B * T * n * U * n, channels].

    Args:
      maps: [B, H, W, channels].
      weights: [entries of a transformed tile, entries that it reads]; entries after the third are the first ones of
        the next tile.
      tiles: T and U.
      dilation: of the kernel.
      before: zeros above and to the left.
    """
    channels = maps.shape[-1]
    rows, columns = tiles
    seen = [divmod(entry, _TILE) for entry in range(len(weights[0]))]
    more, _ = seen[-1]
    beyond = [
        dilation * _TILE * (count + more) - before - cells for count, cells in zip(tiles, maps.shape[1:3], strict=True)
    ]
    padded = jnp.pad(maps, ((0, 0), (before, beyond[0]), (before, beyond[1]), (0, 0)))
    tiled = _tiled(padded, 1, rows + more, dilation)

    def along_columns(row: jax.Array) -> jax.Array:
        tiled = _tiled(row, 3, columns + more, dilation)  # [B, T, n, U + more, 3, n, channels]
        entries = [tiled[:, :, :, next_tile : next_tile + columns, column] for next_tile, column in seen]
        return jnp.stack(_combined(weights, entries)).reshape(len(weights), -1, channels)

    entries = [tiled[:, next_tile : next_tile + rows, row] for next_tile, row in seen]
    return [along_columns(row) for row in _combined_apart(weights, entries)]


def _transformed_inputs(x: jax.Array, kernel: jax.Array, dilation: int) -> list[jax.Array]:
    tiles = [_tiles(cells, dilation) for cells in output_size(x.shape[1:3], kernel.shape, dilation=dilation)]
    before, _ = padding(kernel.shape, dilation)
    return _transformed(x, _TRANSFORMATIONS[len(kernel)].inputs, tiles, dilation, before)


def _transformed_gradient(gradient: jax.Array, side: int, dilation: int) -> list[jax.Array]:
    tiles = [_tiles(cells, dilation) for cells in gradient.shape[1:3]]
    return _transformed(gradient, _transposed(_TRANSFORMATIONS[side].outputs), tiles, dilation, before=0)


def _transformed_kernel(kernel: jax.Array) -> list[jax.Array]:
    """Returns the rows of the transformed kernel, each [columns, C, F]."""
    weights = _TRANSFORMATIONS[len(kernel)].kernels
    return [jnp.stack(_combined(weights, row)) for row in _combined(weights, kernel)]


def _outputs(products: Sequence[jax.Array], size: tuple[int, ...], side: int, dilation: int) -> jax.Array:
    """Transforms products to tiles of outputs, and puts these together to [B, H', W', F].

    Args:
      products: one for each row of the transformed tiles, each [columns, B * T * n * U * n, F].
      size: B, H' and W'.
      side: of the kernel.
      dilation: of the kernel.
    """
    batch, height, width = size
    rows, columns = _tiles(height, dilation), _tiles(width, dilation)
    weights = _TRANSFORMATIONS[side].outputs

    def along_columns(row: jax.Array) -> jax.Array:
        row = row.reshape(len(row), batch, rows, dilation, columns, dilation, -1)
        return lax.optimization_barrier(jnp.stack(_combined(weights, row), axis=4))  # [B, T, n, U, 3, n, F]

    tiled = jnp.stack(_combined(weights, [along_columns(row) for row in products]), axis=2)
    return tiled.reshape(batch, _TILE * rows * dilation, _TILE * columns * dilation, -1)[:, :height, :width]


def _inputs(products: Sequence[jax.Array], x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Transforms products to tiles of the input's gradient, and adds these up to [B, H, W, C] where they overlap.

    Args:
      products: one for each row of the transformed tiles, each [columns, B * T * n * U * n, C].
      x: [B, H, W, C], the input; its size alone is used.
      kernel: [side, side, C, F]; its side alone is used.
      dilation: of the kernel.
    """
    batch, height, width, _ = x.shape
    rows, columns = (_tiles(cells, dilation) for cells in output_size((height, width), kernel.shape, dilation=dilation))
    weights = _transposed(_TRANSFORMATIONS[len(kernel)].inputs)
    before, _ = padding(kernel.shape, dilation)

    def along_columns(row: jax.Array) -> jax.Array:
        row = row.reshape(len(row), batch, rows, dilation, columns, dilation, -1)
        return lax.optimization_barrier(_overlapping(_combined(weights, row), 3))  # [B, T, n, U + 1, 3, n, C]

    tiled = _overlapping(_combined(weights, [along_columns(row) for row in products]), 1)
    padded = tiled.reshape(batch, _TILE * (rows + 1) * dilation, _TILE * (columns + 1) * dilation, -1)
    return padded[:, before : before + height, before : before + width]


def _overlapping(entries: Sequence[jax.Array], axis: int) -> jax.Array:
    """Adds a tile's entries after the third to the first ones of the next tile, and stacks the three after `axis`."""

    def beside(entry: jax.Array, before: int, after: int) -> jax.Array:
        return jnp.pad(entry, [(before, after) if along == axis else (0, 0) for along in range(entry.ndim)])

    found = [beside(entry, 0, 1) for entry in entries[:_TILE]]
    for index, entry in enumerate(entries[_TILE:]):
        found[index] += beside(entry, 1, 0)
    return jnp.stack(found, axis + 1)


def _kernel(products: Sequence[jax.Array], side: int) -> jax.Array:
    """Transforms products, [columns, C, F] for each row of the tiles, to the kernel's gradient, [side, side, C, F]."""
    weights = _transposed(_TRANSFORMATIONS[side].kernels)
    rows = [lax.optimization_barrier(jnp.stack(_combined(weights, row))) for row in products]
    return jnp.stack(_combined(weights, rows))


def _combined_apart(weights: Weights, arrays: Iterable[jax.Array]) -> list[jax.Array]:
    """Acts as `_combined`, and stores the results.

    Without the barriers, each entry of a tile would be computed from up to 16 inputs.
    """
    return [lax.optimization_barrier(found) for found in _combined(weights, arrays)]


def _combined(weights: Weights, arrays: Iterable[jax.Array]) -> list[jax.Array]:
    """Returns one weighted sum of the arrays for each row of the weights."""
    return [_weighted_sum(row, arrays) for row in weights]


def _weighted_sum(weights: Sequence[float], arrays: Iterable[jax.Array]) -> jax.Array:
    terms = [array if weight == 1 else weight * array for weight, array in zip(weights, arrays, strict=True) if weight]
    return functools.reduce(operator.add, terms)


def _transposed(weights: Weights) -> Weights:
    return tuple(zip(*weights, strict=True))
