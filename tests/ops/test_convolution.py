import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.ops.convolution import CHANNELS_FOR_TAPS, _convolve, convolve
from ass_jax.ops.reference import conv2d
from ass_jax.ops.taps import phases

# Rows, columns, channels, features, kernel, stride, dilation.
CASES = [
    (5, 7, 3, 4, 1, 1, 1),
    (6, 7, 3, 4, 1, 2, 1),
    (5, 6, 3, 4, 3, 1, 1),
    (6, 5, 3, 4, 3, 2, 1),
    (5, 9, 3, 4, 3, 1, 2),
    (5, 9, 3, 4, 3, 1, 6),  # The outer rows of the kernel lie in the padding.
    (5, 9, 3, 4, 3, 1, 12),  # Only its centre does not.
    (9, 8, 3, 4, 7, 2, 1),
    (9, 8, 1, 16, 7, 2, 1),
    (8, 6, 3, 4, 4, 2, 1),
    (5, 7, CHANNELS_FOR_TAPS, 2, 3, 1, 1),
    (6, 9, CHANNELS_FOR_TAPS, 2, 3, 2, 1),
    (5, 9, CHANNELS_FOR_TAPS, 2, 3, 1, 4),
    (5, 9, CHANNELS_FOR_TAPS, 2, 3, 1, 6),
    (5, 9, CHANNELS_FOR_TAPS, 33, 3, 1, 4),
    (5, 9, CHANNELS_FOR_TAPS, 33, 3, 1, 6),
    (5, 7, CHANNELS_FOR_TAPS, 2, 4, 2, 1),
    (2, 3, CHANNELS_FOR_TAPS, 2, 4, 2, 1),
    (9, 8, CHANNELS_FOR_TAPS, 2, 4, 1, 2),
    (9, 8, CHANNELS_FOR_TAPS, 2, 4, 1, 1),  # The result is smaller.
    (1, 8, 3, 4, 3, 2, 1),  # The kernel that is left has one row.
    (9, 1, CHANNELS_FOR_TAPS, 2, 3, 2, 1),
    (2, 9, 3, 4, 7, 2, 1),
]


def example(rows, columns, channels, features, size):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, rows, columns, channels)).astype(np.float32)
    kernel = generator.normal(size=(size, size, channels, features)).astype(np.float32) / np.sqrt(channels)
    return x, kernel


def convolve_by_loop(x, kernel, stride, dilation):
    """Sums the taps of every output cell in float64."""
    size = kernel.shape[0]
    padding = dilation * (size - 1) // 2
    x = np.pad(x.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((length - dilation * (size - 1) - 1) // stride + 1 for length in x.shape[1:3])
    result = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i, j in np.ndindex(height, width):
        for row, column in np.ndindex(size, size):
            cell = x[:, i * stride + row * dilation, j * stride + column * dilation]
            result[:, i, j] += cell @ kernel[row, column]
    return result


@pytest.mark.parametrize(("rows", "columns", "channels", "features", "size", "stride", "dilation"), CASES)
def test_value_equals_loop_and_gradients_equal_plain(rows, columns, channels, features, size, stride, dilation):
    x, kernel = example(rows, columns, channels, features, size)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, x, kernel):
        value, transpose = jax.vjp(lambda x, kernel: function(x, kernel, stride, dilation), x, kernel)
        return value, *transpose(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    value, *gradients = value_and_gradients(convolve, x, kernel)
    np.testing.assert_allclose(value, convolve_by_loop(x, kernel, stride, dilation), atol=1e-5)
    for gradient, expected in zip(gradients, value_and_gradients(conv2d, x, kernel)[1:], strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_gradients():
    x, kernel = example(5, 9, CHANNELS_FOR_TAPS, 4, 3)

    @jax.jit
    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, 1, 2))), (0, 1))(x, kernel)

    half = gradients(jnp.array(x, jnp.bfloat16), jnp.array(kernel, jnp.bfloat16))
    for gradient, expected in zip(half, gradients(x, kernel), strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(gradient, np.float32), expected, atol=0.05 * np.std(expected) * 4)


@pytest.mark.parametrize(("platform", "count"), [("cpu", 2), ("cuda", 3), ("tpu", 3)])
def test_only_on_a_cpu_are_there_matrix_products_instead(platform, count):
    x, kernel = example(5, 9, CHANNELS_FOR_TAPS, 4, 3)
    gradients = jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel))), (0, 1)))
    text = gradients.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == count  # Forward, input, filter.


def test_on_a_gpu_no_convolution_takes_a_gradient_as_large_as_the_image_for_its_kernel():
    x, kernel = example(9, 10, CHANNELS_FOR_TAPS, 4, 3)
    gradients = jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, 1, 2))), (0, 1)))
    strides = {
        platform: gradients.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text().count("stride = [2, 2]")
        for platform in ("cuda", "tpu")
    }
    assert strides == {"cuda": 0, "tpu": 1}  # XLA:GPU knows a filter gradient only where the stride is 1.


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (1, 3), (5, 3)])
@pytest.mark.parametrize("dilation", [2, 5])
def test_the_filter_gradient_in_phases_is_that_in_the_whole(rows, columns, dilation):
    x = np.random.default_rng(1).normal(size=(3, 21, 16, 5)).astype(np.float32)
    shape = (rows, columns, 5, 4)

    def gradient(x, dilation, y):
        way = functools.partial(_convolve, x, stride=1, dilation=dilation)
        return jax.linear_transpose(lambda kernel: way(kernel), jnp.zeros(shape))(y)[0]

    y = np.random.default_rng(2).normal(size=(3, 21, 16, 4)).astype(np.float32)
    found = gradient(phases(x, dilation), 1, phases(y, dilation))
    np.testing.assert_allclose(found, gradient(x, dilation, y), atol=1e-4)
