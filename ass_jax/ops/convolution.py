"""Convolution, with gradients computed in the way that is fastest for the shape and the platform.

XLA of jaxlib 0.10.2 needs this: its own filter gradients are slow on CPUs, those of dilated kernels on GPUs, and it has
no minimal filtering, and on TPUs it copies maps of few images. Measured in docs/performance/cpu.md, "1x1
convolutions", "Minimal filtering", "Strided convolutions" and "Filter gradients by products", and gpu.md, "Filter
gradients of dilated convolutions"; estimated in tpu.md, "Few images a chip".
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops import strided, winograd
from ass_jax.ops.platforms import are_few, by_platform
from ass_jax.ops.products import transposed_product
from ass_jax.ops.taps import cells, output_size, padding, phases, shifts

# All limits but the last are for CPUs. Below this many input channels, products are too small to pay.
_CHANNELS_FOR_PRODUCTS = 64
# Minimal filtering pays from this many multiplications on in each of its products for one image, and up to this share
# of the plain convolution's multiplications. The number of images does not count: it is open in exported programs.
_PRODUCT_FOR_WINOGRAD = 2**20
_SHARE_FOR_WINOGRAD = 0.45
_SHARE_FOR_STRIDED_WINOGRAD = 0.6
# Up to this many input channels, the input's gradient is faster without stride.
_CHANNELS_FOR_UNSTRIDED = 128
# Above this share of products inside the map, multiplying zeros costs less than cutting off the borders.
_SHARE_FOR_SHIFTS = 0.75
# TPU, few images: up to this many input channels, strided convolutions are faster by rows of the kernel.
_CHANNELS_FOR_ROWS = 64


class Ways(NamedTuple):
    """How a convolution and its two gradients are computed."""

    forward: str
    input_gradient: str
    kernel_gradient: str


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves with symmetric zero padding of dilation * (size - 1) // 2.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, channels, features]; rounded to the type of `x`.
      stride: in both directions.
      dilation: of the kernel, in both directions.

    Returns:
      [B, H', W', features] of the type of `x`.
    """
    return _convolve(x, kernel.astype(x.dtype), stride, dilation)


def choose(
    shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, dilation: int, dtype: jnp.dtype, platform: str
) -> Ways:
    """Returns the ways that are fastest.

    Args:
      shape: [B, H, W, channels] of the input.
      kernel_shape: [rows, columns, channels, features].
      stride: in both directions.
      dilation: of the kernel.
      dtype: of the input.
      platform: one of `ass_jax.ops.platforms.PLATFORMS`.
    """
    rows, columns, channels, features = kernel_shape
    if rows == columns == 1:
        return Ways("product", "product", "product")
    if platform == "cuda":
        has_phases = dilation > 1 and stride == 1 and rows % 2 and columns % 2
        return Ways("direct", "direct", "phases" if has_phases else "direct")
    if platform == "tpu" and are_few(shape[0]):
        if stride == 1 and rows % 2 and columns % 2:
            return Ways("taps", "taps", "direct")
        if strided.taps_without_stride(kernel_shape, stride, dilation) and channels <= _CHANNELS_FOR_ROWS:
            return Ways("rows", "rows", "rows")
    if platform != "cpu" or (stride == 1 and channels < _CHANNELS_FOR_PRODUCTS):
        return Ways("direct", "direct", "direct")
    if dtype == jnp.float32 and _winograd_pays(shape, kernel_shape, stride, dilation):
        return Ways("winograd", "winograd", "winograd")
    taps = strided.taps_without_stride(kernel_shape, stride, dilation)
    input_gradient = "unstrided" if taps == 2 and channels <= _CHANNELS_FOR_UNSTRIDED else "direct"
    if channels < _CHANNELS_FOR_PRODUCTS:
        pays = 0 < taps * stride**2 * channels <= features
        return Ways("direct", input_gradient, "unstrided" if pays else "direct")
    pads = padding(kernel_shape, dilation)
    inside = [max(0, 1 - 2 * pad / 3 / side) for pad, side in zip(pads, shape[1:3], strict=True)]
    by_shifts = stride == 1 and math.prod(inside) >= _SHARE_FOR_SHIFTS
    return Ways("direct", input_gradient, "shifts" if by_shifts else "overlaps")


def _winograd_pays(shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, dilation: int) -> bool:
    rows, columns, channels, features = kernel_shape
    if stride == 1 and rows == columns == 3:
        side, most = 3, _SHARE_FOR_WINOGRAD
    elif strided.taps_without_stride(kernel_shape, stride, dilation) == 2:
        side, channels = 2, channels * stride**2
        most = _SHARE_FOR_STRIDED_WINOGRAD * (rows / (stride * side)) ** 2  # The rest of the kernel is zeros.
    else:
        return False
    height, width = output_size(shape[1:3], kernel_shape, stride, dilation)
    product = winograd.count_tiles(height, width, dilation) * channels * features
    return product >= _PRODUCT_FOR_WINOGRAD and winograd.multiplications(height, width, side, dilation) <= most


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, dilation):
    def implementation(ways: Ways):
        return functools.partial(_FORWARD[ways.forward], stride=stride, dilation=dilation)

    return by_platform(_choice(x, kernel, stride, dilation), implementation, x, kernel)


def _forward(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, residuals, gradient):
    x, kernel = residuals

    def implementation(ways: Ways):
        return functools.partial(_gradients, ways=ways, stride=stride, dilation=dilation)

    return by_platform(_choice(x, kernel, stride, dilation), implementation, x, kernel, gradient)


_convolve.defvjp(_forward, _backward)


def _choice(x, kernel, stride, dilation):
    return lambda platform: choose(x.shape, kernel.shape, stride, dilation, x.dtype, platform)


def _gradients(x, kernel, gradient, *, ways, stride, dilation):
    """Returns the gradients of x, [B, H, W, channels], and of the kernel, from that of the output."""
    settings = {"stride": stride, "dilation": dilation}
    if ways.input_gradient == "winograd":  # It shares the transformed gradient with the kernel's.
        return _gradients_by_winograd(x, kernel, gradient, **settings)
    if ways.kernel_gradient == "product":
        gradient = lax.optimization_barrier(gradient)  # XLA:CPU would compute it again for the kernel, transposed.
    of_input = _INPUT_GRADIENT[ways.input_gradient](x, kernel, gradient, **settings)
    return of_input, _KERNEL_GRADIENT[ways.kernel_gradient](x, kernel, gradient, **settings)


def _direct(x, kernel, *, stride, dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(pad, pad) for pad in padding(kernel.shape, dilation)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _direct_input_gradient(x, kernel, gradient, **settings):
    return jax.linear_transpose(lambda x: _direct(x, kernel, **settings), x)(gradient)[0]


def _direct_kernel_gradient(x, kernel, gradient, **settings):
    return jax.linear_transpose(lambda kernel: _direct(x, kernel, **settings), kernel)(gradient)[0]


def _by_taps(x, kernel, *, stride, dilation):
    """One product per tap, of each image by itself, of the padded input, shifted: XLA:TPU would copy maps for it."""
    del stride
    matrices = kernel.reshape(-1, *kernel.shape[2:])

    def convolved(image):
        taps = zip(shifts(image, kernel.shape, dilation), matrices, strict=True)
        return sum(jnp.matmul(shifted, matrix, preferred_element_type=jnp.float32) for shifted, matrix in taps)

    return jnp.concatenate([convolved(x[number : number + 1]).astype(x.dtype) for number in range(len(x))])


def _input_gradient_by_taps(x, kernel, gradient, **settings):
    del x
    return _by_taps(gradient, kernel[::-1, ::-1].swapaxes(2, 3), **settings)


def _by_rows(x, kernel, *, stride, dilation):
    del dilation
    return strided.by_rows(x, kernel, stride)


def _input_gradient_by_rows(x, kernel, gradient, *, stride, dilation):
    del dilation
    return strided.input_gradient_by_rows(x, kernel, gradient, stride)


def _kernel_gradient_by_rows(x, kernel, gradient, *, stride, dilation):
    del dilation
    return strided.kernel_gradient_by_rows(x, gradient, kernel.shape, stride)


def _product(x, kernel, *, stride, dilation):
    del dilation
    return x[:, ::stride, ::stride] @ kernel[0, 0]


def _product_input_gradient(x, kernel, gradient, *, stride, dilation):
    del dilation
    return jax.linear_transpose(lambda x: x[:, ::stride, ::stride], x)(gradient @ kernel[0, 0].T)[0]


def _product_kernel_gradient(x, kernel, gradient, *, stride, dilation):
    del dilation
    return transposed_product(x[:, ::stride, ::stride], gradient).astype(x.dtype).reshape(kernel.shape)


def _winograd(x, kernel, *, stride, dilation):
    if stride > 1:
        x, kernel = strided.without_stride(x, kernel, stride)
    return winograd.convolve(x, kernel, dilation)


def _gradients_by_winograd(x, kernel, gradient, *, stride, dilation):
    if stride == 1:
        return winograd.gradients(x, kernel, gradient, dilation)
    (x, kernel), transpose = jax.vjp(functools.partial(strided.without_stride, stride=stride), x, kernel)
    return transpose(winograd.gradients(x, kernel, gradient, dilation))


def _unstrided_input_gradient(x, kernel, gradient, *, stride, dilation):
    def forward(x):  # Of two taps, so that there is no padding.
        return _direct(*strided.without_stride(x, kernel, stride), stride=1, dilation=dilation)

    return jax.linear_transpose(forward, x)(gradient)[0]


def _unstrided_kernel_gradient(x, kernel, gradient, *, stride, dilation):
    del dilation
    return strided.kernel_gradient(x, gradient, kernel.shape, stride)


def _kernel_gradient_by_phases(x, kernel, gradient, *, stride, dilation):
    """Parts both maps by the dilation: XLA:GPU would take the whole gradient for a kernel, as large as the image."""
    return _direct_kernel_gradient(phases(x, dilation), kernel, phases(gradient, dilation), stride=stride, dilation=1)


def _kernel_gradient_by_shifts(x, kernel, gradient, *, stride, dilation):
    """One product per tap, of the padded input, shifted, and the gradient, which is transposed once for all taps."""
    del stride
    x, gradient = lax.optimization_barrier((x, gradient))
    transposed = lax.optimization_barrier(cells(gradient).T)
    taps = [
        jnp.matmul(transposed, cells(lax.optimization_barrier(shifted)), preferred_element_type=jnp.float32)
        for shifted in shifts(x, kernel.shape, dilation)
    ]
    found = lax.optimization_barrier(jnp.stack(taps)).transpose(0, 2, 1)
    return found.reshape(kernel.shape).astype(x.dtype)


def _kernel_gradient_by_overlaps(x, kernel, gradient, *, stride, dilation):
    """One product per tap, of the cells that it reads without padding."""
    x, gradient = lax.optimization_barrier((x, gradient))
    pads = padding(kernel.shape, dilation)
    taps = []
    for row in range(kernel.shape[0]):
        y_input, y_output = _overlap(row * dilation - pads[0], x.shape[1], gradient.shape[1], stride)
        for column in range(kernel.shape[1]):
            x_input, x_output = _overlap(column * dilation - pads[1], x.shape[2], gradient.shape[2], stride)
            seen = x[:, y_input, x_input], gradient[:, y_output, x_output]
            taps.append(transposed_product(*lax.optimization_barrier(seen)))
    return jnp.stack(taps).reshape(kernel.shape).astype(x.dtype)


def _overlap(offset: int, inputs: int, outputs: int, stride: int) -> tuple[slice, slice]:
    """Returns the input cells that a tap reads without padding, and the outputs that it adds them to.

    Output i reads input i * stride + offset.
    """
    first = min(max(0, -(offset // stride)), outputs)
    end = max(first, min(outputs, (inputs - 1 - offset) // stride + 1))
    start = first * stride + offset
    return slice(start, start + (end - first) * stride, stride), slice(first, end)


_FORWARD = {"product": _product, "direct": _direct, "winograd": _winograd, "taps": _by_taps, "rows": _by_rows}
_INPUT_GRADIENT = {
    "product": _product_input_gradient,
    "direct": _direct_input_gradient,
    "unstrided": _unstrided_input_gradient,
    "taps": _input_gradient_by_taps,
    "rows": _input_gradient_by_rows,
}
_KERNEL_GRADIENT = {
    "product": _product_kernel_gradient,
    "direct": _direct_kernel_gradient,
    "unstrided": _unstrided_kernel_gradient,
    "phases": _kernel_gradient_by_phases,
    "shifts": _kernel_gradient_by_shifts,
    "overlaps": _kernel_gradient_by_overlaps,
    "rows": _kernel_gradient_by_rows,
}
