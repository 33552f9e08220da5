"""Depthwise convolution: on CPUs as a sum over the taps of the kernel, and so are its gradients.

XLA of jaxlib 0.10.2 needs this: on CPUs its grouped convolutions and their gradients are ten to a hundred times slower.
Measured in docs/performance/cpu.md, "Depthwise convolutions".
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ass_jax.ops import reference
from ass_jax.ops.platforms import by_platform
from ass_jax.ops.taps import interleaved

Padding = Sequence[tuple[int, int]]  # Rows above and below, columns left and right.


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves each channel with a kernel of its own, padded with zeros as TensorFlow's "SAME".

    Where the number of rows to add is odd, one more is added below than above, and so for columns: with a stride, an
    even size is padded otherwise than an odd one.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, 1, channels]; rounded to the type of `x`.
      stride: in both directions.
      dilation: of the kernel, in both directions.

    Returns:
      [B, H / stride, W / stride, channels], rounded up, of the type of `x`. Sums are float32.
    """
    if stride == 1:
        rows, columns = (
            _acting(side, length, dilation) for side, length in zip(kernel.shape[:2], x.shape[1:3], strict=True)
        )
        kernel = kernel[rows, columns]
    return _convolve(x, kernel.astype(x.dtype), stride, dilation)


def _acting(side: int, length: int, dilation: int) -> slice:
    """Returns the taps along one axis, without outer ones that read padding alone on a map of this length."""
    outer = side // 2
    idle = max(0, outer - (length - 1) // dilation)
    return slice(idle, side - idle)


def choose(platform: str) -> str:
    """Returns "by_taps" for CPUs, else "direct"."""
    return "by_taps" if platform == "cpu" else "direct"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, dilation):
    def implementation(way: str):
        return functools.partial(_FORWARD[way], stride=stride, dilation=dilation)

    return by_platform(choose, implementation, x, kernel)


def _forward(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, residuals, gradient):
    def implementation(way: str):
        return functools.partial(_GRADIENTS[way], stride=stride, dilation=dilation)

    return by_platform(choose, implementation, *residuals, gradient)


_convolve.defvjp(_forward, _backward)


def _direct_gradients(x, kernel, gradient, *, stride, dilation):
    convolve = functools.partial(reference.depthwise_conv2d, stride=stride, dilation=dilation)
    return jax.vjp(convolve, x, kernel)[1](gradient)


def _by_taps(x, kernel, *, stride, dilation):
    padded = _padded(x, _padding(x.shape, kernel.shape, stride, dilation))
    size = [-(-length // stride) for length in x.shape[1:3]]
    terms = (
        _read(padded, row * dilation, column * dilation, size, stride) * _wide(kernel[row, column, 0])
        for row, column in np.ndindex(kernel.shape[:2])
    )
    return functools.reduce(operator.add, terms).astype(x.dtype)


def _gradients_by_taps(x, kernel, gradient, *, stride, dilation):
    x, gradient = lax.optimization_barrier((x, gradient))
    settings = {"stride": stride, "dilation": dilation}
    return _input_gradient(x.shape, kernel, gradient, **settings), _kernel_gradient(x, kernel, gradient, **settings)


def _input_gradient(shape, kernel, gradient, *, stride, dilation):
    """Sums for each cell what the outputs that read it send back.

    Rows and columns of the padded input modulo the stride are computed apart: cell `phase + stride * i` is read with
    tap `t` by output `i - (t * dilation - phase) / stride`, where that is whole.
    """
    padding = _padding(shape, kernel.shape, stride, dilation)
    counts = [-(-(length + sum(pads)) // stride) for length, pads in zip(shape[1:3], padding, strict=True)]
    furthest = [(side - 1) * dilation // stride for side in kernel.shape[:2]]
    # Outputs at negative places, and beyond the last, send nothing back.
    beyond = [max(0, count - length) for count, length in zip(counts, gradient.shape[1:3], strict=True)]
    padded = _padded(gradient, list(zip(furthest, beyond, strict=True)))
    parts = []
    for phases in np.ndindex(stride, stride):
        readers = (
            [(tap, back) for tap in range(side) for back, rest in [divmod(tap * dilation, stride)] if rest == phase]
            for side, phase in zip(kernel.shape[:2], phases, strict=True)
        )
        terms = (
            _read(padded, furthest[0] - up, furthest[1] - left, counts) * _wide(kernel[row, column, 0])
            for (row, up), (column, left) in itertools.product(*readers)
        )
        zeros = jnp.zeros((shape[0], *counts, shape[-1]), jnp.float32)
        parts.append(functools.reduce(operator.add, terms, zeros))
    found = interleaved(parts, stride) if stride > 1 else parts[0]
    (above, _), (left, _) = padding
    return found[:, above : above + shape[1], left : left + shape[2]].astype(gradient.dtype)


def _kernel_gradient(x, kernel, gradient, *, stride, dilation):
    """Sums over the columns of each row of the map first: one pass over both maps for each row of taps."""
    padded, size = _padded(x, _padding(x.shape, kernel.shape, stride, dilation)), gradient.shape[1:3]
    gradient = _wide(gradient)
    rows, columns = kernel.shape[:2]
    found = []
    for row in range(rows):
        products = tuple(
            _read(padded, row * dilation, column * dilation, size, stride) * gradient for column in range(columns)
        )
        zeros = (jnp.zeros((), jnp.float32),) * columns
        sums = lax.reduce(products, zeros, lambda left, right: tuple(map(operator.add, left, right)), (2,))
        found += [jnp.sum(sums_of_tap, axis=(0, 1)) for sums_of_tap in lax.optimization_barrier(sums)]
    return jnp.stack(found).reshape(kernel.shape).astype(kernel.dtype)


def _padding(shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, dilation: int) -> Padding:
    """Returns the zeros to add around [B, H, W, channels]."""
    spans = [dilation * (side - 1) + 1 for side in kernel_shape[:2]]
    rows, columns = lax.padtype_to_pads(shape[1:3], spans, (stride, stride), "SAME")
    return rows, columns


def _padded(x: jax.Array, padding: Padding) -> jax.Array:
    """Adds zeros around a map, by concatenation, which copies whole rows where XLA:CPU's padding copies by value."""
    for axis, (before, after) in zip((2, 1), reversed(padding), strict=True):
        first, last = (jnp.zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype) for count in (before, after))
        x = jnp.concatenate([first, x, last], axis)
    return lax.optimization_barrier(x)  # Or XLA would ask at each tap whether it reads the padding.


def _read(x: jax.Array, row: int, column: int, size: Sequence[int], stride: int = 1) -> jax.Array:
    """Returns every `stride`-th cell from a first one on, [B, *size, channels] float32."""
    rows, columns = (
        slice(first, first + (count - 1) * stride + 1, stride) for first, count in zip((row, column), size, strict=True)
    )
    return _wide(x[:, rows, columns])


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


_FORWARD: dict[str, Callable] = {"by_taps": _by_taps, "direct": reference.depthwise_conv2d}
_GRADIENTS: dict[str, Callable] = {"by_taps": _gradients_by_taps, "direct": _direct_gradients}
