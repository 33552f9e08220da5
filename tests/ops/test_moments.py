import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.ops import moments


@pytest.fixture
def x():
    generator = np.random.default_rng(0)
    values, mixing = generator.normal(2.0, 1.0, (2, 5, 7, 4)), generator.normal(size=(4, 4))
    return (values @ mixing).astype(np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mean_and_covariance_are_those_of_numpy(x, dtype):
    x = jnp.array(x, dtype)
    cells = np.asarray(x, np.float64).reshape(-1, 4)
    mean, covariance = moments.moments(x)
    assert mean.dtype == covariance.dtype == jnp.float32
    np.testing.assert_allclose(mean, cells.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(cells.T, bias=True), rtol=1e-5, atol=1e-5)


def test_both_ways_agree(x):
    mean = x.mean((0, 1, 2))
    np.testing.assert_allclose(moments._of_values(x, mean), moments._of_distances(x, mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_accelerators_subtract_the_mean_of_float32_before_they_multiply(x, platform, dtype):
    lowered = jax.jit(moments.moments).trace(jnp.array(x, dtype)).lower(lowering_platforms=(platform,)).as_text()
    before = platform != "cpu" and dtype == jnp.float32
    lines = [line for line in lowered.splitlines() if "stablehlo.subtract" in line]
    assert len(lines) == 1
    assert ("2x5x7x4" in lines[0]) == before
