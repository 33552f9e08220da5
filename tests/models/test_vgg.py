import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from ass_jax.models import vgg
from ass_jax.models.layers import Conv
from ass_jax.models.vgg import Vgg
from ass_jax.runtime import compilation


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
        if isinstance(conv, Conv) and context.method_name == "__call__":
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


def test_equals_its_definition(monkeypatch, random_variables):
    blocks = ((1, 3, 1), (2, 3, 1), (1, 4, 1), (1, 4, 1), (1, 4, 2))
    monkeypatch.setattr(vgg, "BLOCKS", blocks)
    monkeypatch.setattr(vgg, "HEAD", (5, 6))
    images = np.random.default_rng(0).normal(size=(2, 32, 40, 3)).astype(np.float32)
    variables = random_variables(Vgg(), images, False)

    def definition(params, x):
        dilations = [(f"block{n + 1}", dilation, count) for n, (count, _, dilation) in enumerate(blocks)]
        for block, dilation, count in [*dilations, ("head", 4, 2)]:
            for index in range(count):
                layer = params[f"{block}_conv{index + 1}"]
                padding = [(dilation, dilation)] * 2
                numbers = ("NHWC", "HWIO", "NHWC")
                x = lax.conv_general_dilated(x, layer["kernel"], (1, 1), padding, (1, 1), (dilation,) * 2, numbers)
                x = jnp.maximum(x + layer["bias"], 0)
            if block in ("block1", "block2", "block3"):
                batch, height, width, channels = x.shape
                x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
        return x

    features = jax.jit(lambda v, x: Vgg().apply(v, x, train=True))(variables, images)
    np.testing.assert_allclose(features, jax.jit(definition)(variables["params"], images), rtol=1e-4, atol=1e-5)


def test_rematerialised_blocks_change_only_memory(monkeypatch, random_variables):
    monkeypatch.setattr(vgg, "BLOCKS", ((2, 4, 1), (2, 8, 1), (3, 16, 1), (3, 32, 1), (3, 32, 2)))
    monkeypatch.setattr(vgg, "HEAD", (4, 4))
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = random_variables(Vgg(), images, False)
    gradients, memory = [], []
    for module in (Vgg(), Vgg(remat=True)):
        loss = jax.jit(jax.grad(lambda v, module=module: jnp.mean(jnp.square(module.apply(v, images, train=True)))))
        compiled = loss.lower(variables).compile(compiler_options=compilation.options_of_steps())
        gradients.append(compiled(variables))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * scale), *gradients)
    assert memory[1] < 0.75 * memory[0]  # The first block, at full size, takes most of what is left.
