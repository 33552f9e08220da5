"""Max pooling, and its gradient without XLA's search for the chosen entries, which is slow on CPUs."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.models.taps import interleaved

_STRIDE = 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, side: int, padding: tuple[int, int] = (0, 0)) -> jax.Array:
    """Takes the maximum of every other window in both directions; padding never wins.

    Of equal entries, the first one takes the gradient.

    Args:
      x: [B, H, W, channels].
      side: height and width of a window, at least 2.
      padding: rows and columns before and after the map.

    Returns:
      [B, H', W', channels], of the windows that fit into the padded map.
    """
    return _pool(x, side, padding)


def max_pool_ceil(x: jax.Array) -> jax.Array:
    """Max-pools with kernel 3, stride 2 and padding 1, rounding the size up as the reference does.

    Args:
      x: [B, H, W, channels].

    Returns:
      [B, H // 2 + 1, W // 2 + 1, channels]; padding never wins.
    """
    # The second row at the end is for the last window of an even size; an odd one does not reach it.
    return max_pool(x, side=3, padding=(1, 2))


def _pool(x: jax.Array, side: int, padding: tuple[int, int]) -> jax.Array:
    around = ((0, 0), padding, padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, _STRIDE, _STRIDE, 1), around)


def _forward(x, side, padding):
    y = _pool(x, side, padding)
    return y, (x, y)


def _backward(side, padding, residuals, gradient):
    x, y = residuals
    by_taps = functools.partial(_gradient_by_taps, side=side, padding=padding)
    by_search = functools.partial(_gradient_by_search, side=side, padding=padding)
    return (lax.platform_dependent(x, y, gradient, cpu=by_taps, default=by_search),)


max_pool.defvjp(_forward, _backward)


def _gradient_by_search(x, y, gradient, side, padding):
    del y
    return jax.vjp(lambda x: _pool(x, side, padding), x)[1](gradient)[0]


def _gradient_by_taps(
    x: jax.Array, y: jax.Array, gradient: jax.Array, side: int, padding: tuple[int, int]
) -> jax.Array:
    """Finds the first tap of each window that holds its maximum, then what each row and column gets from its windows.

    Args:
      x: [B, H, W, channels], the input.
      y: [B, H', W', channels], the output.
      gradient: of the output.
      side: of a window.
      padding: rows and columns before and after.

    Returns:
      [B, H, W, channels].
    """
    rows, columns = y.shape[1:3]
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)), constant_values=-jnp.inf)
    chosen = jnp.zeros(y.shape, jnp.int8)
    for tap in reversed(range(side**2)):
        row, column = divmod(tap, side)
        last = row + _STRIDE * rows - 1, column + _STRIDE * columns - 1
        seen = padded[:, row : last[0] : _STRIDE, column : last[1] : _STRIDE]
        chosen = jnp.where(seen == y, jnp.int8(tap), chosen)
    chosen = lax.optimization_barrier(chosen)
    # Row `phase + _STRIDE * i` of the padded map is seen by window `i - back` with its row `phase + _STRIDE * back`.
    furthest = (side - 1) // _STRIDE
    seen_by = [[(back, row) for back, row in enumerate(range(phase, side, _STRIDE))] for phase in range(_STRIDE)]
    parts = []
    for by_rows, by_columns in itertools.product(seen_by, seen_by):
        part = jnp.zeros((), gradient.dtype)
        for (up, row), (left, column) in itertools.product(by_rows, by_columns):
            arrived = jnp.where(chosen == row * side + column, gradient, 0)
            part += jnp.pad(arrived, ((0, 0), (up, furthest - up), (left, furthest - left), (0, 0)))
        parts.append(part)
    found, before = interleaved(parts, _STRIDE), padding[0]
    ends = [
        (-before, before + wanted - length, 0) for wanted, length in zip(x.shape[1:3], found.shape[1:3], strict=True)
    ]
    return lax.pad(found, jnp.zeros((), found.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
