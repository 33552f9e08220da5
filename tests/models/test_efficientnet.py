import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.models import efficientnet
from ass_jax.models.efficientnet import EfficientNetLite0
from ass_jax.models.layers import conv_bn
from ass_jax.runtime import compilation

# One block a stage and few channels, a different number in each, so that no first block adds its input.
NARROW = tuple(
    (1, kernel, stride, min(expansion, 2), 5 + number)
    for number, (_, kernel, stride, expansion, _) in enumerate(efficientnet.STAGES)
)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", NARROW)
    monkeypatch.setattr(efficientnet, "STEM_WIDTH", 8)


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(2, 32, 48, 3)).astype(np.float32)


@pytest.fixture
def variables(narrow, random_variables, images):
    return random_variables(EfficientNetLite0(), images, False)


def apply(module, variables, images, train):
    return jax.jit(functools.partial(module.apply, train=train, mutable=["batch_stats"]))(variables, images)


def shapes(module, size):
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    return variables, jax.eval_shape(lambda v, x: module.apply(v, x, False, method="stages"), variables, images)


def test_number_of_parameters():
    variables, _ = shapes(EfficientNetLite0(), (64, 64))
    # 4,652,008 of the whole network, less the last convolution, its norm and the classifier.
    expected = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected


@pytest.mark.parametrize("size", [(64, 128), (65, 97), (33, 50)])
@pytest.mark.parametrize(
    ("output_stride", "strides"), [(8, (2, 2, 4, 8, 8, 8, 8, 8)), (16, (2, 2, 4, 8, 16, 16, 16, 16))]
)
def test_stages_have_names_and_strides(size, output_stride, strides):
    _, maps = shapes(EfficientNetLite0(output_stride), size)
    names = ("stem", *(f"stage{number}" for number in range(1, 8)))
    channels = (32, 16, 24, 40, 80, 112, 192, 320)
    assert {name: found.shape for name, found in maps.items()} == {
        name: (1, -(-size[0] // stride), -(-size[1] // stride), width)
        for name, stride, width in zip(names, strides, channels, strict=True)
    }


def test_dilation_keeps_what_strides_compute(variables, images):
    """Every other cell of the dilated features is a cell of the strided ones: with even sizes, the second."""
    dilated, _ = apply(EfficientNetLite0(8), variables, images, train=False)
    strided, _ = apply(EfficientNetLite0(16), variables, images, train=False)
    np.testing.assert_allclose(dilated[:, 1::2, 1::2], strided, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (7, 8)])
def test_stem_is_padded_as_by_tensorflow(size):
    x = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)

    class Stem(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            return conv_bn(x, 4, 3, 2, same=True, train=False, name="stem")

    variables = Stem().init(jax.random.key(0), x)
    kernel = variables["params"]["stem"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(Stem().apply(variables, x), expected, atol=1e-5)


def test_batch_norm_has_the_momentum_and_epsilon_of_the_weights(variables, images):
    _, updated = apply(EfficientNetLite0(), variables, images, train=True)
    layout, stem = ("NHWC", "HWIO", "NHWC"), variables["params"]["stem"]["kernel"]
    y = np.asarray(jax.lax.conv_general_dilated(images, stem, (2, 2), "SAME", dimension_numbers=layout))
    before, after = variables["batch_stats"]["stem_norm"], updated["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(after["mean"], 0.99 * before["mean"] + 0.01 * y.mean((0, 1, 2)), atol=1e-6)
    maps = EfficientNetLite0().apply(variables, images, False, method="stages")
    affine = variables["params"]["stem_norm"]
    expected = (y - before["mean"]) / np.sqrt(before["var"] + 1e-3) * affine["scale"] + affine["bias"]
    np.testing.assert_allclose(maps["stem"], np.clip(expected, 0, 6), atol=1e-5)


def test_frozen_batch_norm_uses_and_keeps_running_statistics(variables, images):
    features, updated = apply(EfficientNetLite0(batch_norm="frozen"), variables, images, train=True)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(features, apply(EfficientNetLite0(), variables, images, train=False)[0], rtol=1e-6)


def test_statistics_and_affine_parameters_are_recognisable(variables):
    flat = flax.traverse_util.flatten_dict(variables["params"])
    norms = {path for path in flat if path[-1] in ("scale", "bias")}
    assert norms == {path for path in flat if path[-2].endswith("norm")}


def test_bfloat16_computes_close_to_float32(variables, images):
    features, updated = apply(EfficientNetLite0(dtype=jnp.bfloat16), variables, images, train=True)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    expected, _ = apply(EfficientNetLite0(), variables, images, train=True)
    assert np.sqrt(np.mean((np.asarray(features, np.float32) - expected) ** 2)) < 0.1 * np.std(expected)


def test_rematerialised_blocks_change_only_memory(narrow, random_variables):
    images = np.random.default_rng(1).normal(size=(2, 128, 128, 3)).astype(np.float32)
    plain, remat = (EfficientNetLite0(remat=remat) for remat in (False, True))
    variables = random_variables(plain, images, False)

    def loss(module, params):
        given = variables | {"params": params}
        features, updated = module.apply(given, images, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(features)), updated

    found, memory = [], []
    for module in (plain, remat):
        gradients = jax.jit(jax.grad(functools.partial(loss, module), has_aux=True))
        compiled = gradients.lower(variables["params"]).compile(compiler_options=compilation.options_of_steps())
        found.append(compiled(variables["params"]))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    (gradients, updated), (again, updated_again) = found
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5 * scale)
    jax.tree.map(close, gradients, again)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), updated, updated_again)
    assert memory[1] < memory[0]
