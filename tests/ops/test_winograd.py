import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ass_jax.ops import winograd
from ass_jax.ops.convolution import PRODUCT_FOR_WINOGRAD, SHARE_FOR_WINOGRAD, convolve
from ass_jax.ops.reference import conv2d as plain

# Images, rows, columns, channels, features, dilation.
CASES = [
    (1, 2, 2, 1, 1, 1),
    (2, 4, 6, 3, 5, 1),
    (2, 5, 7, 3, 5, 1),  # Tiles reach past the border.
    (1, 8, 12, 3, 5, 2),
    (3, 7, 9, 3, 5, 2),
    (1, 1, 5, 2, 3, 4),
    (2, 16, 24, 8, 4, 4),
]


def example(images, rows, columns, channels, features, side=3):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(images, rows, columns, channels)).astype(np.float32)
    kernel = generator.normal(size=(side, side, channels, features)).astype(np.float32) / np.sqrt(side**2 * channels)
    gradient = generator.normal(size=(images, rows, columns, features)).astype(np.float32)
    return x, kernel, gradient


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize(("images", "rows", "columns", "channels", "features", "dilation"), CASES)
def test_equals_the_plain_convolution(images, rows, columns, channels, features, dilation, side):
    x, kernel, gradient = example(images, rows, columns, channels, features, side)
    expected, transpose = jax.vjp(functools.partial(plain, stride=1, dilation=dilation), x, kernel)
    gradient = gradient[:, : expected.shape[1], : expected.shape[2]]
    np.testing.assert_allclose(winograd.convolve(x, kernel, dilation), expected, atol=1e-5)
    of_input, of_kernel = transpose(gradient)
    found_of_input, found_of_kernel = winograd.gradients(x, kernel, gradient, dilation)
    np.testing.assert_allclose(found_of_input, of_input, atol=1e-5)
    np.testing.assert_allclose(found_of_kernel, of_kernel, atol=1e-5 * np.std(of_kernel))  # A sum over all cells.


@pytest.mark.parametrize(
    ("size", "side", "dilation", "share"),
    [
        ((6, 9), 3, 1, 25 / 81),
        ((12, 24), 3, 4, 25 / 81),
        ((5, 7), 3, 1, 25 / 81 * 54 / 35),
        ((6, 9), 2, 1, 16 / 36),
        ((5, 7), 2, 1, 16 / 36 * 54 / 35),
    ],
)
def test_multiplications(size, side, dilation, share):
    assert winograd.multiplications(*size, side, dilation) == pytest.approx(share)


@pytest.mark.parametrize(
    ("platform", "change", "convolutions", "products"),
    [
        ("cpu", {}, 0, 15),  # Five times five forward, for the input and for the kernel.
        ("cuda", {}, 3, 0),
        ("tpu", {}, 3, 0),
        ("cpu", {"dtype": jnp.bfloat16}, 2, 9),
        ("cpu", {"stride": 2}, 2, 9),
        ("cpu", {"channels": 128}, 2, 9),
        ("cpu", {"features": 128}, 2, 9),
        ("cpu", {"columns": 4}, 2, 9),  # Of six columns that are tiled two do not exist.
        ("cpu", {"side": 4, "stride": 2, "dilation": 1}, 0, 12),
        ("cpu", {"side": 4, "stride": 2, "dilation": 1, "channels": 128}, 2, 16),
        ("cpu", {"side": 3, "stride": 2, "dilation": 1}, 2, 9),  # More zeros than are saved.
        ("cuda", {"side": 4, "stride": 2, "dilation": 1}, 3, 0),
    ],
)
def test_is_used_on_a_cpu_where_it_pays(platform, change, convolutions, products):
    assert 24 * 256 * 128 < PRODUCT_FOR_WINOGRAD <= 24 * 256 * 256  # 24 tiles.
    assert 6 * 512 * 256 < PRODUCT_FOR_WINOGRAD <= 6 * 1024 * 256  # 6 without stride.
    setting = {"rows": 12, "columns": 16, "channels": 256, "features": 256, "side": 3, "stride": 1, "dilation": 2}
    setting |= {"dtype": jnp.float32} | change
    size = [1, setting["rows"], setting["columns"], setting["channels"]]
    x = jax.ShapeDtypeStruct(size, setting["dtype"])
    kernel = jax.ShapeDtypeStruct([setting["side"]] * 2 + [size[-1], setting["features"]], setting["dtype"])

    def loss(x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, setting["stride"], setting["dilation"])))

    text = jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == products


def test_gradients_of_wide_convolutions_equal_plain():
    """At the size from which a CPU takes this way; the values' spread is about 1, that of the kernel's gradient 7."""
    x, kernel, gradient = example(1, 12, 12, 256, 256)
    assert winograd.multiplications(12, 12, 3, 1) <= SHARE_FOR_WINOGRAD
    assert winograd.count_tiles(12, 12, 1) * 256 * 256 >= PRODUCT_FOR_WINOGRAD

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, x, kernel):
        value, transpose = jax.vjp(function, x, kernel)
        return value, *transpose(gradient)

    found = value_and_gradients(convolve, x, kernel)
    for array, expected in zip(
        found, value_and_gradients(functools.partial(plain, stride=1, dilation=1), x, kernel), strict=True
    ):
        np.testing.assert_allclose(array, expected, atol=1e-5 * np.std(expected) * 4)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (4, 2)])
def test_number_of_images_may_be_left_open(side, stride):
    """As in exported programs."""
    x, kernel, _ = example(2, 24, 24, 128, 128, side)
    assert winograd.count_tiles(24 // stride, 24 // stride, 1) * stride**2 * 128 * 128 >= PRODUCT_FOR_WINOGRAD
    images = jax.ShapeDtypeStruct(export.symbolic_shape("images, 24, 24, 128"), jnp.float32)
    exported = export.export(jax.jit(lambda x: convolve(x, kernel, stride)))(images)
    assert "stablehlo.convolution" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(x), plain(x, kernel, stride, 1), atol=4e-5)
