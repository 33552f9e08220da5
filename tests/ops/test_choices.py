"""Which way each operation takes, by shape, type and platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ass_jax import ops
from ass_jax.ops import atrous, conv_batch_norm, convolution, depthwise, normalisation, platforms, pooling, products
from ass_jax.ops.convolution import Ways

PRODUCT, DIRECT, WINOGRAD = (Ways(way, way, way) for way in ("product", "direct", "winograd"))
TAPS, ROWS = Ways("taps", "taps", "direct"), Ways("rows", "rows", "rows")
LARGE = {"size": (12, 16), "channels": 256, "features": 256, "side": 3, "stride": 1, "dilation": 2}
STRIDED = LARGE | {"side": 4, "stride": 2, "dilation": 1}
STEM = {"size": (64, 128), "channels": 3, "features": 64, "side": 7, "stride": 2, "dilation": 1}
SMALL = {"size": (9, 17), "channels": 64, "features": 64, "side": 3, "stride": 1, "dilation": 2}


@pytest.mark.parametrize(
    ("platform", "case", "expected"),
    [
        *((platform, LARGE | {"side": 1, "dilation": 1}, PRODUCT) for platform in platforms.PLATFORMS),
        ("cpu", LARGE, WINOGRAD),  # 24 tiles * 256 * 256 multiplications: just above 2**20.
        ("cpu", LARGE | {"channels": 128}, Ways("direct", "direct", "shifts")),
        ("cpu", LARGE | {"features": 128}, Ways("direct", "direct", "shifts")),
        ("cpu", LARGE | {"dtype": jnp.bfloat16}, Ways("direct", "direct", "shifts")),  # Would lose bits.
        ("cpu", LARGE | {"size": (12, 4)}, Ways("direct", "direct", "overlaps")),  # Of 6 tiled columns, 2 are missing.
        ("cpu", STRIDED, WINOGRAD),  # 6 tiles * 1024 * 256.
        ("cpu", STRIDED | {"channels": 128}, Ways("direct", "unstrided", "overlaps")),
        ("cpu", STRIDED | {"channels": 129}, Ways("direct", "direct", "overlaps")),
        ("cpu", STRIDED | {"side": 3}, Ways("direct", "direct", "overlaps")),  # More zeros than are saved.
        ("cpu", STEM, Ways("direct", "direct", "unstrided")),
        ("cpu", STEM | {"features": 47}, DIRECT),  # 4 * 4 * 3 = 48 channels would lie side by side.
        ("cpu", STEM | {"side": 3}, Ways("direct", "unstrided", "unstrided")),
        ("cpu", STEM | {"dilation": 2}, DIRECT),
        ("cpu", SMALL, Ways("direct", "direct", "shifts")),
        ("cpu", SMALL | {"dilation": 4}, Ways("direct", "direct", "overlaps")),  # 0.75 of the products are inside.
        ("cpu", SMALL | {"channels": 63}, DIRECT),
        ("cpu", SMALL | {"channels": 63, "size": (256, 256)}, DIRECT),
        ("cuda", LARGE, Ways("direct", "direct", "phases")),
        ("cuda", LARGE | {"dilation": 1}, DIRECT),
        ("cuda", LARGE | {"side": 4}, DIRECT),
        ("cuda", STRIDED, DIRECT),
        ("tpu", LARGE, TAPS),
        ("tpu", LARGE | {"dtype": jnp.bfloat16, "images": 4}, TAPS),
        ("tpu", LARGE | {"images": 5}, DIRECT),
        ("tpu", LARGE | {"images": export.symbolic_shape("images")[0]}, DIRECT),
        ("tpu", LARGE | {"dilation": 1}, TAPS),
        ("tpu", LARGE | {"side": 4}, DIRECT),
        ("tpu", LARGE | {"stride": 2}, DIRECT),
        ("tpu", STEM, ROWS),
        ("tpu", STEM | {"channels": 64, "images": 4}, ROWS),
        ("tpu", STEM | {"channels": 65}, DIRECT),
        ("tpu", STEM | {"images": 5}, DIRECT),
        ("tpu", STEM | {"dilation": 2}, DIRECT),
        ("tpu", STEM | {"stride": 1}, TAPS),
        ("default", LARGE, DIRECT),
        ("default", STRIDED, DIRECT),
    ],
)
def test_convolution(platform, case, expected):
    shape, kernel_shape = (
        (case.get("images", 1), *case["size"], case["channels"]),
        (case["side"],) * 2 + (case["channels"], case["features"]),
    )
    dtype = jnp.dtype(case.get("dtype", "float32"))
    assert convolution.choose(shape, kernel_shape, case["stride"], case["dilation"], dtype, platform) == expected


@pytest.mark.parametrize(
    ("platform", "channels", "features", "expected"),
    [
        ("cpu", 512, 511, "narrower_first"),
        ("cpu", 512, 512, "behind_barrier"),
        ("cuda", 64, 256, "in_parts"),
        ("default", 64, 256, "plain"),
    ],
)
def test_sums_of_products(platform, channels, features, expected):
    assert products.choose((1, 3, 5, channels), (1, 3, 5, features), platform) == expected


@pytest.mark.parametrize(
    ("platform", "dtype", "expected"),
    [
        ("cpu", "float32", ("distances", "separate")),
        ("cpu", "bfloat16", ("rounded_input", "separate")),
        ("cuda", "float32", ("input", "in_pairs")),
        ("cuda", "bfloat16", ("input", "in_pairs")),
        ("default", "float32", ("input", "separate")),
    ],
)
def test_batch_norm(platform, dtype, expected):
    assert normalisation.choose(jnp.dtype(dtype), platform) == expected


@pytest.mark.parametrize(
    ("kernel_shape", "stride", "dtype", "platform", "expected"),
    [
        ((1, 1, 64, 256), 1, "float32", "cpu", "values"),
        ((1, 1, 64, 256), 1, "bfloat16", "cuda", "values"),
        ((1, 1, 64, 256), 1, "float32", "cuda", "distances"),
        ((1, 1, 64, 256), 1, "float32", "default", "distances"),
        ((1, 1, 64, 255), 1, "float32", "cpu", "direct"),
        ((1, 1, 64, 256), 2, "float32", "cpu", "direct"),
        ((3, 3, 64, 256), 1, "float32", "cpu", "direct"),
    ],
)
def test_convolution_with_batch_norm(kernel_shape, stride, dtype, platform, expected):
    assert conv_batch_norm.choose(kernel_shape, stride, jnp.dtype(dtype), platform) == expected


@pytest.mark.parametrize(("images", "on_tpu"), [(1, "by_taps"), (4, "by_taps"), (5, "by_search")])
def test_max_pool(images, on_tpu):
    assert {platform: pooling.choose(images, platform) for platform in platforms.PLATFORMS} == {
        "cpu": "by_taps",
        "cuda": "by_search",
        "tpu": on_tpu,
        "default": "by_search",
    }


def test_sums_over_cells():
    chosen = {
        (platform, dtype): products.choose_sum(jnp.dtype(dtype), platform)
        for platform in platforms.PLATFORMS
        for dtype in ("float32", "bfloat16")
    }
    assert [case for case, way in chosen.items() if way == "product"] == [("tpu", "bfloat16")]


def test_depthwise_convolution():
    assert [depthwise.choose(platform) for platform in platforms.PLATFORMS] == ["by_taps", "direct", "direct", "direct"]


@pytest.mark.parametrize(
    ("side", "length", "dilation", "taps"),
    [(5, 9, 4, (0, 5)), (5, 8, 4, (1, 4)), (5, 4, 4, (2, 3)), (3, 4, 4, (1, 2)), (3, 5, 4, (0, 3)), (3, 1, 1, (1, 2))],
)
def test_taps_of_a_depthwise_convolution_that_read_more_than_padding(side, length, dilation, taps):
    assert depthwise._acting(side, length, dilation) == slice(*taps)


def test_atrous_sum():
    assert [atrous.choose((3, 3, 2048, features)) for features in (32, 33)] == ["one_product", "convolutions"]


def lowered(function, platform, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_a_program_holds_the_ways_of_its_platform_alone(platform):
    """Each way leaves its mark in the program."""
    x, kernel = jnp.ones((1, 12, 16, 64)), jnp.ones((3, 3, 64, 256))
    vector = jnp.ones(256)

    def loss(x, kernel):
        y, *_ = ops.conv2d_batch_norm(x, kernel, vector, vector, dilation=2, relu=True)
        return jnp.sum(jnp.sin(ops.max_pool(y, 3, (1, 2))))

    text = lowered(jax.grad(loss, (0, 1)), platform, x, kernel)
    products = text.count("stablehlo.dot_general")  # Nine for the kernel's gradient, or for map and map's gradient.
    gradient_strides = "stride = [2, 2]" in text  # The whole gradient is a dilated kernel's.
    sums_in_pairs = text.count("across dimensions = [0, 1, 2] ") == 2  # Forward and backward.
    searches = "select_and_scatter" in text
    expected = {
        "cpu": (9, False, False, False),
        "cuda": (0, False, True, True),
        "rocm": (0, True, False, True),
        "tpu": (18, True, False, False),  # Few images: the pool is by taps, too.
    }
    assert (products, gradient_strides, sums_in_pairs, searches) == expected[platform]


def test_on_a_gpu_long_sums_have_parts_of_equal_size_within_an_image():
    for batch, parts in ((1, "bf16[13,1127,256]"), (8, "bf16[8,14651,256]")):
        left, right = (jax.ShapeDtypeStruct((batch, 91, 161, width), jnp.bfloat16) for width in (256, 1024))
        text = str(jax.make_jaxpr(products._in_parts)(left, right))
        assert parts in text
        assert "pad" not in text


def test_a_product_is_not_read_for_its_statistics():
    """The product itself is read once, where the bias is added."""
    x, kernel, vector = jnp.ones((2, 3, 5, 2)), jnp.ones((1, 1, 2, 8)), np.ones(8, np.float32)
    jaxpr = jax.make_jaxpr(lambda x: ops.conv2d_batch_norm(x, kernel, vector, vector)[0])(x)
    text = str(jaxpr)
    name = next(line.split(":")[0].strip() for line in text.splitlines() if ":f32[2,3,5,8] = dot_general" in line)
    assert sum(name in line.split("=")[-1].split() for line in text.splitlines()) == 1
