import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ass_jax.models.discriminators import GlobalDiscriminator, SemanticDiscriminator


def initial(module, shape):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_global_number_of_parameters():
    layers = [(19, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    expected = sum(16 * channels * features + features for channels, features in layers)
    assert count(initial(GlobalDiscriminator(64), (1, 64, 64, 19))) == expected == 2_781_121


@pytest.mark.parametrize(
    ("size", "cells"),
    [((512, 1024), (16, 32)), ((720, 1280), (22, 40)), ((64, 128), (2, 4)), ((32, 63), (1, 1))],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_global_shapes(size, cells, dtype):
    module = GlobalDiscriminator(4, dtype)
    variables = initial(module, (2, *size, 7))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    maps = jax.ShapeDtypeStruct((2, *size, 7), jnp.float32)
    logits = jax.eval_shape(module.apply, variables, maps)
    assert (logits.shape, logits.dtype) == ((2, *cells, 1), jnp.float32)


@pytest.mark.parametrize("size", [(31, 64), (64, 31)])
def test_global_refuses_small_maps(size):
    with pytest.raises(ValueError, match=f"at least 32x32 pixels, found {size[0]}x{size[1]}"):
        initial(GlobalDiscriminator(4), (1, *size, 3))


def test_global_equals_its_definition(random_variables):
    maps = np.random.default_rng(1).uniform(size=(2, 40, 64, 3)).astype(np.float32)
    module = GlobalDiscriminator(3)
    variables = random_variables(module, maps)

    def definition(params, x):
        for index, name in enumerate(["conv1", "conv2", "conv3", "conv4", "logits"]):
            if index > 0:
                x = jnp.where(x > 0, x, 0.2 * x)
            x = params[name]["bias"] + lax.conv_general_dilated(
                x, params[name]["kernel"], (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x

    expected = jax.jit(definition)(variables["params"], maps)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, maps), expected, atol=1e-5)


def test_semantic_number_of_parameters():
    expected = (2048 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 19 + 19)
    assert count(initial(SemanticDiscriminator(1024, 19), (1, 2048))) == expected


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_semantic_keeps_leading_axes(dtype):
    module = SemanticDiscriminator(4, 6, dtype)
    variables = initial(module, (8,))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct((2, 5, 8), jnp.float32))
    assert (logits.shape, logits.dtype) == ((2, 5, 6), jnp.float32)


def test_semantic_by_hand():
    params = {
        "hidden1": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.0, 1.0])},
        "hidden2": {"kernel": jnp.array([[1.0, 0.0], [1.0, 2.0]]), "bias": jnp.array([0.0, -1.0])},
        "logits": {"kernel": jnp.array([[10.0], [1.0]]), "bias": jnp.array([0.5])},
    }
    # 3: hidden (3, -5 -> -1), then (2, -3 -> -0.6); -1: hidden (-1 -> -0.2, 3), then (2.8, 5).
    logits = SemanticDiscriminator(2, 1).apply({"params": params}, jnp.array([[3.0], [-1.0]]))
    np.testing.assert_allclose(logits, [[19.9], [33.5]], rtol=1e-6)
