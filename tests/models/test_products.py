import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.models import products

WAYS = {"cpu": products._narrower_first, "cuda": products._in_parts, "default": products._plain}


@pytest.mark.parametrize("way", WAYS)
# Cells, channels, features: parts divide the cells, or none do, or none are wanted.
@pytest.mark.parametrize(("count", "channels", "features"), [(91 * 7, 5, 3), (127, 3, 5), (12, 2048, 1024)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_way_sums_in_float32(way, count, channels, features, dtype):
    generator = np.random.default_rng(0)
    left, right = (jnp.array(generator.normal(size=(count, width)), dtype) for width in (channels, features))
    expected = np.asarray(left, np.float64).T @ np.asarray(right, np.float64)
    found = jax.jit(WAYS[way])(left, right)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("platform", "way"), [("cpu", "cpu"), ("cuda", "cuda"), ("tpu", "default")])
def test_each_platform_has_its_way(platform, way):
    left, right = (jax.ShapeDtypeStruct((91 * 7, width), jnp.float32) for width in (5, 3))

    def text(function):
        text = jax.jit(function).trace(left, right).lower(lowering_platforms=(platform,)).as_text()
        return [line.split("=")[-1] for line in text.splitlines() if "dot_general" in line]

    assert text(products.transposed_product) == text(WAYS[way])


def test_on_a_gpu_long_sums_are_parted_without_padding():
    left, right = (jax.ShapeDtypeStruct((91 * 161, width), jnp.bfloat16) for width in (256, 1024))
    text = str(jax.make_jaxpr(products._in_parts)(left, right))
    assert "bf16[13,1127,256]" in text
    assert "pad" not in text
