"""The one convolution that all networks use, and its gradients."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops import strided, winograd
from ass_jax.ops.products import multiply, transposed_product
from ass_jax.ops.taps import cells, output_size, padding, phases, shifts, without_idle_taps

# Found on CPUs. Input channels from which the products of `_filter_gradient_by_products` are large enough to pay.
CHANNELS_FOR_TAPS = 64
# Multiplications, of each of its products for one image and as a share of the plain convolution's, for which Winograd's
# way pays. The number of images does not count: memory could not be told from that of one, nor programs be exported.
PRODUCT_FOR_WINOGRAD = 2**20
SHARE_FOR_WINOGRAD = 0.45
SHARE_FOR_STRIDED_WINOGRAD = 0.6
# Input channels up to which it pays to compute a strided convolution's gradient for the input without stride.
CHANNELS_FOR_UNSTRIDING = 128
# Share of products outside the padding from which it costs less to multiply zeros than to cut the borders off.
WORTH_PADDING = 0.75


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves with symmetric zero padding of dilation * (size - 1) // 2.

    Args:
      x: [B, H, W, channels].
      kernel: [size, size, channels, features], of the same type as `x`.
      stride: in both directions.
      dilation: of the kernel, in both directions.

    Returns:
      [B, H', W', features] of the type of `x`.
    """
    kernel = without_idle_taps(kernel, x.shape[1:3], dilation)
    if kernel.shape[:2] == (1, 1):
        # XLA:CPU's filter gradient of a matrix product is several times as fast as that of a convolution.
        return multiply(x[:, ::stride, ::stride], kernel[0, 0])
    if x.shape[-1] < CHANNELS_FOR_TAPS and stride == 1:
        return _convolve(x, kernel, stride, dilation)
    return _convolve_with_own_gradient(x, kernel, stride, dilation)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(pad, pad) for pad in padding(kernel.shape, dilation)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_with_own_gradient(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Acts as `_convolve`; where that is faster, it and its gradients are computed otherwise, on a CPU and on a GPU."""
    plain = functools.partial(_convolve, stride=stride, dilation=dilation)
    if not _suits_winograd(x, kernel.shape, stride, dilation):
        return plain(x, kernel)
    by_winograd = functools.partial(_by_winograd, stride=stride, dilation=dilation)
    return lax.platform_dependent(x, kernel, cpu=by_winograd, default=plain)


def _by_winograd(x, kernel, stride, dilation):
    if stride > 1:
        x, kernel = strided.without_stride(x, kernel, stride)
    return winograd.convolve(x, kernel, dilation)


def _forward(x, kernel, stride, dilation):
    return _convolve_with_own_gradient(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, residuals, gradient):
    x, kernel = residuals
    if not _suits_winograd(x, kernel.shape, stride, dilation):
        return _gradients(x, kernel, gradient, stride, dilation)
    by_winograd = functools.partial(_gradients_by_winograd, stride=stride, dilation=dilation)
    plain = functools.partial(_gradients, stride=stride, dilation=dilation)
    return lax.platform_dependent(x, kernel, gradient, cpu=by_winograd, default=plain)


def _gradients_by_winograd(x, kernel, gradient, stride, dilation):
    if stride == 1:
        return winograd.gradients(x, kernel, gradient, dilation)
    (x, kernel), transpose = jax.vjp(functools.partial(strided.without_stride, stride=stride), x, kernel)
    return transpose(winograd.gradients(x, kernel, gradient, dilation))


def _gradients(x, kernel, gradient, stride, dilation):
    """Returns the gradients of x, [B, H, W, channels], and of the kernel, by that of [B, H', W', features]."""

    def of_input(kernel, gradient):
        return jax.linear_transpose(lambda x: _convolve(x, kernel, stride, dilation), x)(gradient)[0]

    def of_input_unstrided(kernel, gradient):
        def forward(x):
            return _convolve(*strided.without_stride(x, kernel, stride), stride=1, dilation=1)

        return jax.linear_transpose(forward, x)(gradient)[0]

    def of_kernel(x, gradient, dilation=dilation):
        return jax.linear_transpose(lambda kernel: _convolve(x, kernel, stride, dilation), kernel)(gradient)[0]

    def of_kernel_by_phases(x, gradient):
        # XLA:GPU would take the gradient for a kernel, as large as the image.
        return of_kernel(phases(x, dilation), phases(gradient, dilation), dilation=1)

    def of_kernel_unstrided(x, gradient):
        return strided.kernel_gradient(x, gradient, kernel.shape, stride)

    def of_kernel_by_products(x, gradient):
        x, gradient = lax.optimization_barrier((x, gradient))
        return _filter_gradient_by_products(x, gradient, kernel.shape, stride, dilation)

    taps = strided.taps_without_stride(kernel.shape, stride, dilation)
    unstrided = taps == 2 and x.shape[-1] <= CHANNELS_FOR_UNSTRIDING
    input_on_cpu = of_input_unstrided if unstrided else of_input
    x_gradient = lax.platform_dependent(kernel, gradient, cpu=input_on_cpu, default=of_input)
    has_phases = dilation > 1 and stride == 1 and all(side % 2 for side in kernel.shape[:2])
    kernel_on_gpu = of_kernel_by_phases if has_phases else of_kernel
    side_by_side = taps * stride**2 * x.shape[-1]  # Channels that `of_kernel_unstrided` puts there.
    kernel_of_few = of_kernel_unstrided if 0 < side_by_side <= kernel.shape[-1] else of_kernel
    kernel_on_cpu = of_kernel_by_products if x.shape[-1] >= CHANNELS_FOR_TAPS else kernel_of_few
    kernel_gradient = lax.platform_dependent(x, gradient, cpu=kernel_on_cpu, cuda=kernel_on_gpu, default=of_kernel)
    return x_gradient, kernel_gradient


_convolve_with_own_gradient.defvjp(_forward, _backward)


def _suits_winograd(x: jax.Array, kernel_shape: tuple[int, ...], stride: int, dilation: int) -> bool:
    if x.dtype != jnp.float32:  # Its sums would lose bits of bfloat16.
        return False
    *sides, channels, features = kernel_shape
    if stride == 1 and sides == [3, 3]:
        side, most = 3, SHARE_FOR_WINOGRAD
    elif strided.taps_without_stride(kernel_shape, stride, dilation) == 2:
        side, channels = 2, channels * stride**2
        most = SHARE_FOR_STRIDED_WINOGRAD * (sides[0] / (stride * side)) ** 2  # Of a kernel filled up with zeros.
    else:
        return False
    size = output_size(x.shape[1:3], kernel_shape, stride, dilation)
    product = winograd.count_tiles(*size, dilation) * channels * features
    return product >= PRODUCT_FOR_WINOGRAD and winograd.multiplications(*size, side, dilation) <= most


def _filter_gradient_by_products(
    x: jax.Array, gradient: jax.Array, kernel_shape: tuple[int, ...], stride: int, dilation: int
) -> jax.Array:
    """Computes the gradient of a kernel by matrix products, in the way that suits its shape.

    Args:
      x: [B, H, W, channels], the input of the convolution.
      gradient: [B, H', W', features], of its output.
      kernel_shape: (rows, columns, channels, features).
      stride: of the convolution.
      dilation: of its kernel.

    Returns:
      `kernel_shape`, of the type of `x`, accumulated in float32.
    """
    pads = padding(kernel_shape, dilation)
    # Share of the products that do not fall on padding, where the outer taps' kernel is dilated past the border.
    valid = (1 - 2 * pads[0] / 3 / x.shape[1]) * (1 - 2 * pads[1] / 3 / x.shape[2])
    if stride > 1 or valid < WORTH_PADDING:
        found = _by_overlaps(x, gradient, kernel_shape, stride, dilation)
    else:
        found = _by_shifts(x, gradient, kernel_shape, dilation)
    return found.astype(x.dtype)


def _by_overlaps(x, gradient, kernel_shape, stride, dilation):
    """One product per tap, of the cells that it reads without padding."""
    pads = padding(kernel_shape, dilation)
    taps = []
    for row in range(kernel_shape[0]):
        y_input, y_output = _overlap(row * dilation - pads[0], x.shape[1], gradient.shape[1], stride)
        for column in range(kernel_shape[1]):
            x_input, x_output = _overlap(column * dilation - pads[1], x.shape[2], gradient.shape[2], stride)
            seen = x[:, y_input, x_input], gradient[:, y_output, x_output]
            taps.append(transposed_product(*lax.optimization_barrier(seen)))
    return jnp.stack(taps).reshape(kernel_shape)


def _by_shifts(x, gradient, kernel_shape, dilation):
    """One product per tap, of the padded input, shifted, and the gradient, which is transposed once for all."""
    transposed = lax.optimization_barrier(cells(gradient).T)
    taps = [
        jnp.matmul(transposed, cells(lax.optimization_barrier(shifted)), preferred_element_type=jnp.float32)
        for shifted in shifts(x, kernel_shape, dilation)
    ]
    return lax.optimization_barrier(jnp.stack(taps)).transpose(0, 2, 1).reshape(kernel_shape)


def _overlap(offset: int, inputs: int, outputs: int, stride: int) -> tuple[slice, slice]:
    """Returns the input cells that a tap reads without padding, and the outputs that it adds them to.

    Output i reads input i * stride + offset.
    """
    first = max(0, -(offset // stride))
    end = max(first, min(outputs, (inputs - 1 - offset) // stride + 1))
    start = first * stride + offset
    return slice(start, start + (end - first) * stride, stride), slice(first, end)
