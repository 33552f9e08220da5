import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ass_jax.ops import strided
from ass_jax.ops.convolution import CHANNELS_FOR_UNSTRIDING, PRODUCT_FOR_WINOGRAD, convolve
from ass_jax.ops.reference import conv2d as plain

SIZES = [(8, 8), (9, 8), (7, 5), (12, 13), (4, 6), (2, 9)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(2, 2), (3, 2), (4, 2), (5, 2), (7, 2), (4, 3), (5, 3), (6, 3), (7, 3)])
def test_makes_the_same_result(size, side, stride):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = generator.normal(size=(side, side, 3, 5)).astype(np.float32) / side
    maps, taps = strided.without_stride(x, kernel, stride)
    count = strided.taps_without_stride(kernel.shape, stride, dilation=1)
    assert taps.shape == (count, count, stride**2 * 3, 5)
    found = lax.conv_general_dilated(maps, taps, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(found, plain(x, kernel, stride, 1), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(4, 2), (5, 2), (7, 2), (7, 3)])
def test_kernel_gradient_equals_plain(size, side, stride):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = jax.ShapeDtypeStruct((side, side, 3, 5), jnp.float32)
    forward = functools.partial(plain, x, stride=stride, dilation=1)
    gradient = generator.normal(size=jax.eval_shape(forward, kernel).shape).astype(np.float32)
    expected = jax.linear_transpose(forward, kernel)(gradient)[0]
    found = strided.kernel_gradient(x, gradient, kernel.shape, stride)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "stride", "dilation", "taps"),
    [((4, 4), 2, 1, 2), ((7, 7), 2, 1, 4), ((4, 4), 1, 1, 0), ((4, 4), 2, 2, 0), ((3, 1), 2, 1, 0)],
)
def test_which_convolutions_have_such_a_form(sides, stride, dilation, taps):
    assert strided.taps_without_stride((*sides, 3, 5), stride, dilation) == taps


@functools.partial(jax.jit, static_argnums=(0, 4))
def value_and_gradients(function, x, kernel, gradient, stride):
    value, transpose = jax.vjp(functools.partial(function, stride=stride, dilation=1), x, kernel)
    return value, *transpose(gradient)


@pytest.mark.parametrize(
    ("images", "rows", "columns", "side", "tiles"), [(1, 48, 48, 4, 64), (2, 47, 48, 4, 64), (1, 47, 55, 5, 80)]
)
def test_value_and_gradients_of_large_convolutions_equal_plain(images, rows, columns, side, tiles):
    """At the size from which a CPU takes minimal filtering; the last one's kernel is too large."""
    assert tiles * 4 * 32 * 128 >= PRODUCT_FOR_WINOGRAD
    generator = np.random.default_rng(0)
    x = generator.normal(size=(images, rows, columns, 32)).astype(np.float32)
    kernel = generator.normal(size=(side, side, 32, 128)).astype(np.float32) / np.sqrt(32 * side**2)
    gradient = generator.normal(size=jax.eval_shape(lambda: plain(x, kernel, 2, 1)).shape).astype(np.float32)
    found = value_and_gradients(convolve, x, kernel, gradient, 2)
    for array, expected in zip(found, value_and_gradients(plain, x, kernel, gradient, 2), strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-5 * max(1, np.std(expected)))


@pytest.mark.parametrize(
    ("platform", "change", "dilates"),
    [
        ("cpu", {}, False),
        ("cuda", {}, True),
        ("tpu", {}, True),
        ("cpu", {"channels": CHANNELS_FOR_UNSTRIDING + 1}, True),
        ("cpu", {"channels": CHANNELS_FOR_UNSTRIDING + 1, "features": 512}, False),
        ("cpu", {"dilation": 2}, True),
    ],
)
def test_gradients_have_no_stride_on_a_cpu_where_it_pays(platform, change, dilates):
    case = {"channels": 3, "features": 5, "dilation": 1} | change
    x, kernel = (
        jnp.ones((1, 12, 12, case["channels"])),
        jnp.ones((4, 4, case["channels"], case["features"])),
    )

    def loss(x):
        return jnp.sum(jnp.sin(convolve(x, kernel, 2, case["dilation"])))

    text = jax.jit(jax.grad(loss)).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("lhs_dilate = [2, 2]" in text) == dilates


@pytest.mark.parametrize(("platform", "features", "products"), [("cpu", 48, 4), ("cpu", 47, 0), ("cuda", 48, 0)])
def test_kernel_gradient_is_products_on_a_cpu_where_it_pays(platform, features, products):
    x, kernel = jnp.ones((1, 16, 16, 3)), jnp.ones((7, 7, 3, features))

    def loss(kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, stride=2)))

    text = jax.jit(jax.grad(loss)).trace(kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general") == products
