import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.models import strided
from ass_jax.models.convolution import CHANNELS_FOR_UNSTRIDING, convolve
from tests.models.test_convolution import plain

SIZES = [(8, 8), (9, 8), (7, 5), (12, 13), (4, 6)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [2, 3])
def test_equals_the_plain_gradient(size, side, stride):
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(side, side, 3, 5)).astype(np.float32)
    x = jnp.zeros((2, *size, 3))
    forward = functools.partial(plain, kernel=kernel, stride=stride, dilation=1)
    gradient = generator.normal(size=forward(x).shape).astype(np.float32)
    expected = jax.linear_transpose(forward, x)(gradient)[0]
    np.testing.assert_allclose(strided.input_gradient(gradient, kernel, stride, size), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "change", "dilates"),
    [
        ("cpu", {}, False),
        ("cuda", {}, True),
        ("tpu", {}, True),
        ("cpu", {"channels": CHANNELS_FOR_UNSTRIDING + 1}, True),
        ("cpu", {"dilation": 2}, True),
    ],
)
def test_is_used_on_a_cpu_where_it_pays(platform, change, dilates):
    case = {"channels": 3, "dilation": 1} | change
    x, kernel = jnp.ones((1, 8, 8, case["channels"])), jnp.ones((4, 4, case["channels"], 5))

    def loss(x):
        return jnp.sum(jnp.sin(convolve(x, kernel, 2, case["dilation"])))

    text = jax.jit(jax.grad(loss)).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("lhs_dilate = [2, 2]" in text) == dilates
