"""Max pooling that stores which entry of each window is the maximum.

XLA of jaxlib 0.10.2 needs this: its own gradient searches for that entry, slowly on CPUs. Measured in
docs/performance/cpu.md, "Max pooling".
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.devices import as_own
from ass_jax.ops.platforms import are_few, by_platform
from ass_jax.ops.taps import interleaved

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


def choose(images: int, platform: str) -> str:
    """Returns "by_taps" where the forward pass stores the entry, "by_search" where the backward pass searches it."""
    return "by_taps" if platform == "cpu" or (platform == "tpu" and are_few(images)) else "by_search"


def _pool(x: jax.Array, side: int, padding: tuple[int, int]) -> jax.Array:
    around = ((0, 0), padding, padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, _STRIDE, _STRIDE, 1), around)


def _forward(x, side, padding):
    ways = {"by_taps": _pool_by_taps, "by_search": _pool_for_search}
    choose_way = functools.partial(choose, x.shape[0])
    y, chosen = by_platform(choose_way, lambda way: functools.partial(ways[way], side=side, padding=padding), x)
    return y, (x, chosen)


def _backward(side, padding, residuals, gradient):
    x, chosen = residuals
    ways = {"by_taps": _gradient_by_taps, "by_search": _gradient_by_search}
    settings = {"side": side, "padding": padding}
    choose_way = functools.partial(choose, x.shape[0])
    return (by_platform(choose_way, lambda way: functools.partial(ways[way], **settings), x, chosen, gradient),)


max_pool.defvjp(_forward, _backward)


def _pool_for_search(x, side, padding):
    y = _pool(x, side, padding)
    return y, as_own(jnp.zeros(y.shape, jnp.int8))


def _gradient_by_search(x, chosen, gradient, side, padding):
    del chosen
    return jax.vjp(lambda x: _pool(x, side, padding), x)[1](gradient)[0]


def _pool_by_taps(x: jax.Array, side: int, padding: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Finds the maximum of each window, and the first tap that holds it.

    The tap is found here and stored as an integer. The backward pass must not find it by comparing x with the maximum:
    XLA may compute either again, fused with other operations and so rounded differently, and then no tap holds it.

    Args:
      x: [B, H, W, channels].
      side: of a window.
      padding: rows and columns before and after.

    Returns:
      The maxima [B, H', W', channels], and int8 of that shape: row * side + column within the window.
    """
    # Without the barriers, XLA computes the input once per tap, and the chosen taps once per reader.
    padded = jnp.pad(lax.optimization_barrier(x), ((0, 0), padding, padding, (0, 0)), constant_values=-jnp.inf)
    rows, columns = ((length - side) // _STRIDE + 1 for length in padded.shape[1:3])

    def read_by(tap: int) -> jax.Array:
        row, column = divmod(tap, side)
        last = row + _STRIDE * rows - 1, column + _STRIDE * columns - 1
        return padded[:, row : last[0] : _STRIDE, column : last[1] : _STRIDE]

    maxima = read_by(0)
    chosen = jnp.zeros(maxima.shape, jnp.int8)
    for tap in range(1, side**2):
        seen = read_by(tap)
        chosen = jnp.where(seen > maxima, jnp.int8(tap), chosen)
        maxima = jnp.maximum(maxima, seen)  # A NaN stays one, whatever tap is chosen.
    return maxima, lax.optimization_barrier(chosen)


def _gradient_by_taps(
    x: jax.Array, chosen: jax.Array, gradient: jax.Array, side: int, padding: tuple[int, int]
) -> jax.Array:
    """Adds up, for each cell, the gradients of the windows whose maximum it is.

    Args:
      x: [B, H, W, channels], the input; its size alone is used.
      chosen: int8 [B, H', W', channels], the tap of each window that takes its gradient.
      gradient: [B, H', W', channels], of the output.
      side: of a window.
      padding: rows and columns before and after.

    Returns:
      [B, H, W, channels].
    """
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
    ends = [(-before, before + size - length, 0) for size, length in zip(x.shape[1:3], found.shape[1:3], strict=True)]
    return lax.pad(found, jnp.zeros((), found.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
