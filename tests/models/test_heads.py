"""The multi-level head against plain loops, and on its backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.models.deeplab import build_deeplab
from ass_jax.models.heads import MultilevelHead
from ass_jax.ops.resize import interpolation_matrix
from configs import base

CLASSES = 3


def convolved(x, layer):
    """A convolution with stride 1 and zeros around the map."""
    kernel, bias = np.float64(layer["kernel"]), np.float64(layer["bias"])
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1:3]
    return bias + sum(
        padded[:, row : row + height, column : column + width] @ kernel[row, column]
        for row in range(len(kernel))
        for column in range(len(kernel))
    )


def resized(x, size):
    rows, columns = (interpolation_matrix(cells, length) for cells, length in zip(x.shape[1:3], size, strict=True))
    return np.einsum("Hh,bhwc,Ww->bHWc", rows, x, columns)


def reference(levels, params):
    x = None
    for number in range(len(levels), 0, -1):
        level = np.maximum(convolved(np.float64(levels[number - 1]), params[f"level{number}"]), 0)
        if x is None:
            x = level
            continue
        x = np.maximum(convolved(resized(x, level.shape[1:3]) + level, params[f"fusion{number}"]), 0)
    return x, convolved(x, params["logits"])


@pytest.mark.parametrize("sizes", [[(9, 13), (5, 7), (3, 4), (3, 4)], [(4, 1), (2, 1)], [(5, 6)]])
def test_multilevel_head(sizes, random_variables):
    generator = np.random.default_rng(0)
    levels = [
        generator.normal(size=(2, *size, channels)).astype(np.float32)
        for size, channels in zip(sizes, (4, 6, 8, 5), strict=False)
    ]
    module = MultilevelHead(CLASSES, 7, jnp.float32)
    variables = random_variables(module, levels)
    features, logits = jax.jit(module.apply)(variables, levels)
    expected_features, expected_logits = reference(levels, variables["params"])
    np.testing.assert_allclose(features, expected_features, atol=1e-4)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)


def test_bfloat16(random_variables):
    levels = [np.random.default_rng(0).normal(size=(1, *size, 8)).astype(np.float32) for size in ((8, 8), (4, 4))]
    variables = random_variables(MultilevelHead(CLASSES, 16, jnp.float32), levels)
    found = jax.jit(MultilevelHead(CLASSES, 16, jnp.bfloat16).apply)(variables, levels)
    assert [x.dtype for x in found] == [jnp.bfloat16, jnp.float32]
    expected = reference(levels, variables["params"])[1]
    assert np.sqrt(np.mean((found[1] - expected) ** 2)) < 0.02 * np.std(expected)


@pytest.mark.parametrize(("backbone", "strides"), [("efficientnet_lite0", (4, 8, 16, 16))])
def test_levels_of_backbones(backbone, strides):
    model = base.default_config().model
    model.update(backbone=backbone, head="multilevel", output_stride=16)
    module = build_deeplab(model, CLASSES)
    images = jax.ShapeDtypeStruct((2, 100, 132, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    assert set(variables["params"]) == {"backbone", "classifier"}
    levels = jax.eval_shape(
        lambda v, x: module.apply(v, x, method=lambda module, x: module.backbone.levels(x, False)), variables, images
    )
    assert [level.shape[1:3] for level in levels] == [(-(-100 // stride), -(-132 // stride)) for stride in strides]
    features, logits = jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, images)
    assert features.shape == (2, 25, 33, 64)
    assert logits.shape == (2, 25, 33, CLASSES)
    kernels = [variables["params"]["classifier"][f"level{number}"]["kernel"].shape for number in (1, 2, 3, 4)]
    assert [kernel[2] for kernel in kernels] == [level.shape[3] for level in levels]
