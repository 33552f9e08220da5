import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ass_jax.models.convolution import Conv
from ass_jax.models.vgg import Vgg


@pytest.fixture(scope="module")
def shapes():
    images = jax.ShapeDtypeStruct((1, 64, 128, 3), jnp.float32)
    return jax.eval_shape(lambda x: Vgg().init(jax.random.key(0), x, train=False), images)


def test_number_of_parameters(shapes):
    # The convolutions of torchvision's VGG-16, and fc6 and fc7 as 3x3 convolutions.
    expected = 14_714_688 + (9 * 512 * 1024 + 1024) + (9 * 1024 * 1024 + 1024)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_has_no_statistics(shapes):
    assert set(shapes) == {"params"}


@pytest.mark.parametrize(("size", "cells"), [((512, 1024), (64, 128)), ((65, 79), (8, 9))])
def test_features_lie_at_stride_eight(shapes, size, cells):
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        features = jax.eval_shape(lambda v, x, d=dtype: Vgg(d).apply(v, x, train=True), shapes, images)
        assert (features.shape, features.dtype) == ((1, *cells, 1024), dtype)


def test_channels_and_dilations():
    found = []

    def record(call, arguments, keywords, context):
        conv = context.module
        if isinstance(conv, Conv):
            found.append((conv.name, arguments[0].shape[1:3], conv.features, conv.dilation, conv.stride))
        return call(*arguments, **keywords)

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, 32, 48, 3), jnp.float32)
        jax.eval_shape(lambda x: Vgg().init(jax.random.key(0), x, train=False), images)
    blocks = [(1, 2, (32, 48), 64, 1), (2, 2, (16, 24), 128, 1), (3, 3, (8, 12), 256, 1)]
    blocks += [(4, 3, (4, 6), 512, 1), (5, 3, (4, 6), 512, 2)]
    expected = [
        (f"block{block}_conv{index + 1}", size, channels, dilation, 1)
        for block, count, size, channels, dilation in blocks
        for index in range(count)
    ]
    expected += [(f"head_conv{index}", (4, 6), 1024, 4, 1) for index in (1, 2)]
    assert found == expected


def test_every_layer_is_rectified():
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    variables = jax.jit(lambda x: Vgg().init(jax.random.key(1), x, train=False))(images)
    features = jax.jit(lambda v, x: Vgg().apply(v, x, train=False))(variables, images)
    assert np.min(features) == 0.0
    assert np.max(features) > 0.0
