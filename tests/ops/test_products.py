import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.ops import products

WAYS = {"cpu": products._narrower_first, "cuda": products._in_parts, "default": products._plain}


# Images, rows, columns, channels, features: parts divide the cells, or none do, or none are wanted.
SHAPES = [(1, 91, 7, 5, 3), (3, 1, 1021, 3, 5), (2, 2, 3, 2048, 1024)]


def maps(shape, dtype):
    generator = np.random.default_rng(0)
    return [jnp.array(generator.normal(size=(*shape[:3], width)), dtype) for width in shape[3:]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_way_sums_in_float32(way, shape, dtype):
    left, right = maps(shape, dtype)
    expected = np.tensordot(*(np.asarray(side, np.float64) for side in (left, right)), axes=[(0, 1, 2)] * 2)
    found = jax.jit(WAYS[way])(left, right)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("platform", "way"), [("cpu", "cpu"), ("cuda", "cuda"), ("tpu", "default")])
def test_each_platform_has_its_way(platform, way):
    left, right = maps(SHAPES[0], jnp.float32)

    def products_of(function):
        text = jax.jit(function).trace(left, right).lower(lowering_platforms=(platform,)).as_text()
        return [line.split("=")[-1] for line in text.splitlines() if "dot_general" in line]

    assert products_of(products.transposed_product) == products_of(WAYS[way])


@pytest.mark.parametrize(("batch", "parted"), [(1, "bf16[13,1127,256]"), (8, "bf16[8,14651,256]")])
def test_on_a_gpu_long_sums_are_parted_without_padding_and_no_part_reaches_over_two_images(batch, parted):
    left, right = (jax.ShapeDtypeStruct((batch, 91, 161, width), jnp.bfloat16) for width in (256, 1024))
    text = str(jax.make_jaxpr(products._in_parts)(left, right))
    assert parted in text
    assert "pad" not in text
