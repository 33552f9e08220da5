import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ass_jax.ops.pyramid import convolve_pyramid

DILATIONS = (6, 12, 18, 24)


def example(rows, columns, channels=5, features=3):
    generator = np.random.default_rng(0)
    kernels = generator.normal(size=(len(DILATIONS), 3, 3, channels, features)).astype(np.float32)
    return generator.normal(size=(2, rows, columns, channels)).astype(np.float32), list(kernels)


def plain(x, kernels, dilations):
    return sum(
        lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(dilation, dilation)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for kernel, dilation in zip(kernels, dilations, strict=True)
    )


@pytest.mark.parametrize(("rows", "columns"), [(30, 27), (13, 20), (7, 13), (1, 1)])  # From all taps to only centres.
def test_value_and_gradients_equal_those_of_convolutions(rows, columns):
    x, kernels = example(rows, columns)

    def value_and_gradients(function):
        value, transpose = jax.vjp(lambda x, kernels: function(x, kernels, DILATIONS), x, kernels)
        return value, *transpose(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    found, expected = (jax.jit(value_and_gradients, static_argnums=0)(way) for way in (convolve_pyramid, plain))
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-4)


def test_sums_of_bfloat16_are_float32():
    x, kernels = example(13, 20)
    low = [jnp.asarray(kernel, jnp.bfloat16) for kernel in kernels]
    found = convolve_pyramid(jnp.asarray(x, jnp.bfloat16), low, DILATIONS)
    assert found.dtype == jnp.float32
    rounded = plain(
        *(
            jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
            for tree in (jnp.asarray(x, jnp.bfloat16), low)
        ),
        DILATIONS,
    )
    np.testing.assert_allclose(found, rounded, atol=1e-4)  # Nothing but the inputs is rounded.
