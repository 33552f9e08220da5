"""Matrix products of maps, whose gradients for the matrix are summed over cells as each platform does it fast."""

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.taps import cells

# Entries of a result, on a CPU, from which XLA's own product of a transposed matrix is the faster one.
_ENTRIES_FOR_PLAIN = 2**18
# Entries of a result, on a GPU, below which the sum is parted: there is too little to do at a time.
_ENTRIES = 2**21
_MOST_PARTS = 64


@jax.custom_vjp
def multiply(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies the channels of each cell by a matrix.

    Left to itself, XLA:CPU transposes the output's gradient for the matrix's, and does all that led to that gradient
    once more on the way.

    Args:
      x: [B, H, W, channels].
      matrix: [channels, features], of the same type.

    Returns:
      [B, H, W, features] of the type of `x`.
    """
    return x @ matrix


def _multiply_forward(x, matrix):
    return x @ matrix, (x, matrix)


def _multiply_backward(residuals, gradient):
    x, matrix = residuals
    gradient = lax.optimization_barrier(gradient)
    return gradient @ matrix.T, transposed_product(x, gradient).astype(x.dtype)


multiply.defvjp(_multiply_forward, _multiply_backward)


def transposed_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Sums the products of channels and features over all cells.

    Args:
      left: [B, H, W, channels].
      right: [B, H, W, features], of the same type.

    Returns:
      [channels, features] float32.
    """
    return lax.platform_dependent(left, right, cpu=_narrower_first, cuda=_in_parts, default=_plain)


def _plain(left, right):
    return jnp.matmul(cells(left).T, cells(right), preferred_element_type=jnp.float32)


def _narrower_first(left, right):
    """Transposes the narrower matrix before a product of few entries; with many, XLA:CPU's own way is faster.

    The barriers keep it from doing what led to a matrix once more, transposed, and from transposing what it likes.
    """
    left, right = lax.optimization_barrier((cells(left), cells(right)))
    if left.shape[1] * right.shape[1] >= _ENTRIES_FOR_PLAIN:
        return _plain(left, right)
    if left.shape[1] <= right.shape[1]:
        return jnp.matmul(lax.optimization_barrier(left.T), right, preferred_element_type=jnp.float32)
    product = jnp.matmul(lax.optimization_barrier(right.T), left, preferred_element_type=jnp.float32)
    return lax.optimization_barrier(product).T


def _in_parts(left, right):
    """Adds up products of equally many cells, which a GPU computes side by side.

    XLA:GPU parts long sums by itself, but by powers of two, and copies both matrices where these do not divide. No part
    reaches over two images, which may lie on different devices.
    """
    batch, count = len(left), left.shape[1] * left.shape[2]
    wanted = max(1, min(_MOST_PARTS, _ENTRIES // (left.shape[-1] * right.shape[-1])) // batch)
    parts = next((parts for parts in range(wanted, 8 * wanted) if count % parts == 0), 1)
    left, right = (maps.reshape(batch * parts, count // parts, maps.shape[-1]) for maps in (left, right))
    return jnp.einsum("pnc,pnf->pcf", left, right, preferred_element_type=jnp.float32).sum(axis=0)
