"""Sums over cells: of a map, and of the product of two, which is the gradient of a 1x1 kernel or a covariance.

XLA of jaxlib 0.10.2 needs this: left to itself, it transposes the wrong matrix on CPUs and recomputes what led to it,
and on GPUs it pads long sums. Measured in docs/performance/cpu.md, "Sums of products over cells", and gpu.md, "Long
sums of matrix products". On TPUs a sum by the vector unit takes longer than to read the map: tpu.md, "Sums over cells".
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.platforms import by_platform
from ass_jax.ops.taps import cells

# CPU: from this many entries of the result on, XLA's own product of a transposed matrix is faster.
_ENTRIES_FOR_PLAIN = 2**18
# GPU: below this many entries of the result, there is too little to do in parallel, so the sum is split.
_ENTRIES_FOR_ONE_SUM = 2**21
_MOST_PARTS = 64
# TPU: of a single row, XLA would make a sum again.
_ROWS_OF_ONES = 8


def transposed_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Sums the products of channels and features over all cells.

    Args:
      left: [B, H, W, channels].
      right: [B, H, W, features], of the same type.

    Returns:
      [channels, features] float32.
    """
    return by_platform(lambda platform: choose(left.shape, right.shape, platform), _WAYS.__getitem__, left, right)


def choose(left_shape: tuple[int, ...], right_shape: tuple[int, ...], platform: str) -> str:
    """Returns the way that is fastest, one of `_WAYS`."""
    if platform == "cuda":
        return "in_parts"
    if platform != "cpu":
        return "plain"
    return "behind_barrier" if left_shape[-1] * right_shape[-1] >= _ENTRIES_FOR_PLAIN else "narrower_first"


def cell_sums(x: jax.Array) -> jax.Array:
    """Sums each channel over all cells.

    Args:
      x: [B, H, W, channels] of any float type.

    Returns:
      [channels] float32, accumulated in float32.
    """
    ways = {"sum": lambda x: jnp.sum(x, axis=(0, 1, 2), dtype=jnp.float32), "product": _product_with_ones}
    return by_platform(lambda platform: choose_sum(x.dtype, platform), ways.__getitem__, x)


def choose_sum(dtype: jnp.dtype, platform: str) -> str:
    """Returns "product" where a product with ones is faster and as exact as the sum: a TPU rounds to bfloat16."""
    return "product" if platform == "tpu" and dtype == jnp.bfloat16 else "sum"


def _product_with_ones(x):
    ones = jnp.ones((_ROWS_OF_ONES, x.size // x.shape[-1]), x.dtype)
    return jnp.matmul(ones, cells(x), preferred_element_type=jnp.float32)[0]


def _plain(left, right):
    return jnp.matmul(cells(left).T, cells(right), preferred_element_type=jnp.float32)


def _behind_barrier(left, right):
    return _plain(*lax.optimization_barrier((cells(left), cells(right))))


def _narrower_first(left, right):
    """Transposes the narrower matrix first; the barriers keep XLA from choosing another order."""
    left, right = lax.optimization_barrier((cells(left), cells(right)))
    if left.shape[1] <= right.shape[1]:
        return jnp.matmul(lax.optimization_barrier(left.T), right, preferred_element_type=jnp.float32)
    product = jnp.matmul(lax.optimization_barrier(right.T), left, preferred_element_type=jnp.float32)
    return lax.optimization_barrier(product).T


def _in_parts(left, right):
    """Sums parts of equally many cells in parallel, then the parts.

    XLA splits by powers of two, and copies both matrices where these do not divide the cells. No part reaches over two
    images, which may lie on different devices.
    """
    batch, count = len(left), math.prod(left.shape[1:3])
    fewest = max(1, min(_MOST_PARTS, _ENTRIES_FOR_ONE_SUM // (left.shape[-1] * right.shape[-1])) // batch)
    parts = next((parts for parts in range(fewest, 8 * fewest) if count % parts == 0), 1)
    left, right = (maps.reshape(batch * parts, count // parts, maps.shape[-1]) for maps in (left, right))
    return jnp.einsum("pnc,pnf->pcf", left, right, preferred_element_type=jnp.float32).sum(axis=0)


_WAYS = {
    "plain": _plain,
    "behind_barrier": _behind_barrier,
    "narrower_first": _narrower_first,
    "in_parts": _in_parts,
}
