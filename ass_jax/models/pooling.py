"""Max pooling, and its gradient without XLA's search for the chosen entries, which is slow on CPUs."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

_SIDE, _STRIDE = 3, 2
# The second row and column at the end are for the last window of an even size; those of an odd size do not reach them.
_PADDING = (1, 2)
# The windows, counted backwards from an even or odd row of the padded map, that see it, and their row of taps.
_SEEN_BY = (((0, 0), (1, 2)), ((0, 1),))


@jax.custom_vjp
def max_pool_ceil(x: jax.Array) -> jax.Array:
    """Max-pools with kernel 3, stride 2 and padding 1, rounding the size up as the reference does.

    Args:
      x: [B, H, W, channels].

    Returns:
      [B, H // 2 + 1, W // 2 + 1, channels]; padding never wins.
    """
    return _pool(x)


def _pool(x: jax.Array) -> jax.Array:
    padding = ((0, 0), _PADDING, _PADDING, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, _SIDE, _SIDE, 1), (1, _STRIDE, _STRIDE, 1), padding)


def _forward(x):
    y = _pool(x)
    return y, (x, y)


def _backward(residuals, gradient):
    x, y = residuals
    return (lax.platform_dependent(x, y, gradient, cpu=_gradient_by_taps, default=_gradient),)


max_pool_ceil.defvjp(_forward, _backward)


def _gradient(x, y, gradient):
    del y
    return jax.vjp(_pool, x)[1](gradient)[0]


def _gradient_by_taps(x: jax.Array, y: jax.Array, gradient: jax.Array) -> jax.Array:
    """Finds the first tap of each window that holds its maximum, then what each row and column gets from its windows.

    Args:
      x: [B, H, W, channels], the input.
      y: [B, H', W', channels], the output.
      gradient: of the output.

    Returns:
      [B, H, W, channels].
    """
    batch, height, width, channels = x.shape
    rows, columns = y.shape[1:3]
    padded = jnp.pad(x, ((0, 0), _PADDING, _PADDING, (0, 0)), constant_values=-jnp.inf)
    chosen = jnp.zeros(y.shape, jnp.int8)
    for tap in reversed(range(_SIDE**2)):
        row, column = divmod(tap, _SIDE)
        last = row + _STRIDE * rows - 1, column + _STRIDE * columns - 1
        seen = padded[:, row : last[0] : _STRIDE, column : last[1] : _STRIDE]
        chosen = jnp.where(seen == y, jnp.int8(tap), chosen)
    chosen = lax.optimization_barrier(chosen)
    parts = [_part(chosen, gradient, *by) for by in itertools.product(_SEEN_BY, _SEEN_BY)]
    parts = jnp.stack(parts, axis=3).reshape(batch, rows + 1, columns + 1, _STRIDE, _STRIDE, channels)
    found = parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, _STRIDE * (rows + 1), _STRIDE * (columns + 1), channels)
    return found[:, _PADDING[0] : _PADDING[0] + height, _PADDING[0] : _PADDING[0] + width]


def _part(chosen, gradient, by_rows, by_columns):
    """Returns [B, H' + 1, W' + 1, channels]: the gradient of every other row and column of the padded map."""
    found = []
    for (back, row), (left, column) in itertools.product(by_rows, by_columns):
        arrived = jnp.where(chosen == row * _SIDE + column, gradient, 0)
        found.append(jnp.pad(arrived, ((0, 0), (back, 1 - back), (left, 1 - left), (0, 0))))
    return functools.reduce(jnp.add, found)
