"""Convolution and batch normalisation of its result, which need less together than one after the other.

XLA of jaxlib 0.10.2 needs this: it does not see that the statistics of a product follow from those of its input.
Measured in docs/performance/cpu.md, "Batch norm from moments".
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.convolution import conv2d
from ass_jax.ops.devices import count_cells, count_devices, mean_over_devices, sum_over_devices
from ass_jax.ops.normalisation import EPSILON, Normalised, batch_norm, channel_sums
from ass_jax.ops.platforms import by_platform
from ass_jax.ops.products import cell_sums, transposed_product
from ass_jax.ops.relu import rectify

# Features over channels from which a 1x1 convolution is normalised by the moments of its input.
_WIDENING = 4


def conv2d_batch_norm(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    relu: bool = False,
    ceiling: float | None = None,
    epsilon: float = EPSILON,
) -> Normalised:
    """Convolves, and normalises the result by its own mean and biased variance over all but the channels.

    Args:
      x: [B, H, W, channels] of any float type.
      kernel: [size, size, channels, features] float32.
      scale: [features].
      bias: [features].
      stride: of the convolution, in both directions.
      dilation: of the kernel, in both directions.
      relu: whether to rectify the normalised values.
      ceiling: largest rectified value; None: no limit.
      epsilon: added to the variance.

    Returns:
      The normalised values [B, H', W', features] float32, mean and variance [features].
    """
    if choose(kernel.shape, stride, x.dtype, "default") != "direct":
        y, mean, variance = _product_batch_norm(x, kernel[0, 0], scale, bias, epsilon)
        return (rectify(y, ceiling) if relu else y), mean, variance
    y = conv2d(x, kernel, stride=stride, dilation=dilation)
    return batch_norm(y, scale, bias, relu=relu, ceiling=ceiling, epsilon=epsilon)


def choose(kernel_shape: tuple[int, ...], stride: int, dtype: jnp.dtype, platform: str) -> str:
    """Returns "direct", or what the covariances are computed from: "values" or "distances" from the mean.

    Accelerators round float32 before they multiply, and the mean of the rounded values is not the one to subtract.
    """
    rows, columns, channels, features = kernel_shape
    if not (rows == columns == stride == 1 and features >= _WIDENING * channels):
        return "direct"
    return "distances" if dtype == jnp.float32 and platform != "cpu" else "values"


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _product_batch_norm(x, matrix, scale, bias, epsilon):
    """Normalises `x @ matrix` by statistics that follow from mean and covariance of x.

    The gradient needs one product with x. So the wide product is written once, normalised, and neither it nor its own
    gradient is read again.
    """
    return _product_forward(x, matrix, scale, bias, epsilon)[0]


def _product_forward(x, matrix, scale, bias, epsilon):
    mean_of_x, with_covariance, mean, variance = _statistics(x, matrix)
    variance = jnp.maximum(variance, 0.0)
    inverse = lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    scaled = (matrix * factor).astype(x.dtype)
    scaled_mean = mean * factor
    if x.dtype != jnp.float32:  # The mean of the rounded matrix's product, or channels of a large mean would shift.
        scaled_mean = jnp.matmul(mean_of_x, scaled.astype(jnp.float32), precision="highest")
    y = x @ scaled + (bias - scaled_mean)
    return (y, mean, variance), (x, matrix, scaled, mean_of_x, with_covariance, mean, inverse, factor)


def _product_backward(epsilon, residuals, gradients):
    del epsilon
    x, matrix, scaled, mean_of_x, with_covariance, mean, inverse, factor = residuals
    gradient, *_ = gradients
    count = count_cells(x)
    # Both sums are of the rounded gradient: where a channel hardly varies, they have to cancel out.
    gradient = lax.optimization_barrier(gradient.astype(x.dtype))
    bias_gradient = cell_sums(gradient)
    product = transposed_product(x, gradient)
    scale_gradient = inverse * (jnp.sum(matrix * product, axis=0) - mean * bias_gradient)
    # What is returned for matrix, scale and bias is of this device's images, and so is `with_covariance`.
    total_scale_gradient, total_bias_gradient = sum_over_devices((scale_gradient, bias_gradient))
    from_covariance = inverse * total_scale_gradient
    from_statistics = with_covariance * (from_covariance / count_devices())
    matrix_gradient = factor * (product - mean_of_x[:, None] * bias_gradient - from_statistics)
    on_x = jnp.matmul((matrix * (-factor * from_covariance / count)).astype(x.dtype), matrix.T.astype(x.dtype))
    constant = factor * (from_covariance * mean - total_bias_gradient) / count
    constant = jnp.matmul(matrix, constant, precision="highest")
    x_gradient = gradient @ scaled.T + x @ on_x + constant
    return x_gradient.astype(x.dtype), matrix_gradient, scale_gradient, bias_gradient


_product_batch_norm.defvjp(_product_forward, _product_backward)


def _statistics(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns mean of x, covariance of x and the product, and mean and variance of the product, all float32.

    Of x, [B, H, W, channels], and matrix, [channels, features], they are [channels], [channels, features] and twice
    [features]. Where the batch is divided among devices, the covariance is this device's part of it: the mean over the
    devices is the whole. It is not sent, as it is many times larger than the other three.
    """
    mean_of_x, covariance = _moments(x, matrix)
    with_covariance = jnp.matmul(covariance, matrix, precision="high")
    mean, variance = channel_sums(mean_of_x[:, None] * matrix, matrix * with_covariance)
    if count_devices() == 1:
        return mean_of_x, with_covariance, mean, variance
    own_mean_of_x, own_mean = mean_of_x, mean
    mean_of_x, of_squares = mean_over_devices((own_mean_of_x, variance + jnp.square(own_mean)))
    mean = jnp.sum(mean_of_x[:, None] * matrix, axis=0)
    with_covariance += jnp.outer(own_mean_of_x - mean_of_x, own_mean - mean)
    return mean_of_x, with_covariance, mean, of_squares - jnp.square(mean)


def _moments(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of each channel, [channels], and the biased covariances, [channels, channels], float32."""
    mean = cell_sums(x) / (x.size // x.shape[-1])
    kernel_shape = (1, 1, *matrix.shape)
    ways = {"values": _covariance_of_values, "distances": _covariance_of_distances}
    return mean, by_platform(lambda platform: choose(kernel_shape, 1, x.dtype, platform), ways.__getitem__, x, mean)


def _covariance_of_values(x, mean):
    return transposed_product(x, x) / (x.size // x.shape[-1]) - jnp.outer(mean, mean)


def _covariance_of_distances(x, mean):
    distances = x - mean
    return transposed_product(distances, distances) / (x.size // x.shape[-1])
