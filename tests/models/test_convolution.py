import jax
import jax.numpy as jnp
import numpy as np

from ass_jax.models.convolution import Conv
from ass_jax.ops import reference


def test_module_adds_bias_and_computes_in_its_type(random_variables):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    module = Conv(4, 3, stride=2, use_bias=True, dtype=jnp.bfloat16)
    params = random_variables(module, x)["params"]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), params) == {
        "kernel": ((3, 3, 3, 4), "float32"),
        "bias": ((4,), "float32"),
    }
    y = jax.jit(module.apply)({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    expected = reference.conv2d(x, params["kernel"], 2) + params["bias"]
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=0.05)
