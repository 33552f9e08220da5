"""Heads against plain loops, and maps of padded images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ass_jax.models.deeplab import DeepLab, build_deeplab
from ass_jax.models.heads import LinearHead, MultilevelHead, over_image
from ass_jax.models.vit import Vit, padded_size
from ass_jax.ops import resize_bilinear
from ass_jax.ops.resize import interpolation_matrix
from ass_jax.runtime import compilation
from configs import base

CLASSES = 5


@pytest.fixture(scope="module")
def levels():
    generator = np.random.default_rng(0)
    return tuple(generator.normal(size=(2, 3, 4, 8)).astype(np.float32) for _ in range(4))


def compiled(function):
    return jax.jit(function, compiler_options=compilation.options_of_one_use())


def apply(module, variables, x, train):
    return compiled(functools.partial(module.apply, train=train, mutable=["batch_stats"]))(variables, x)


def test_linear_head_normalises_and_multiplies(random_variables, levels):
    module, x = LinearHead(CLASSES), levels[0]
    variables = random_variables(module, x, False)
    norm, logits = variables["params"]["norm"], variables["params"]["logits"]
    statistics = variables["batch_stats"]["norm"]
    batch = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
    for train, used in ((False, statistics), (True, batch)):
        (features, found), updated = apply(module, variables, x, train)
        expected = (x - used["mean"]) / np.sqrt(used["var"] + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(features, expected, atol=1e-5)
        np.testing.assert_allclose(found, expected @ logits["kernel"][0, 0] + logits["bias"], atol=1e-5)
    moved = 0.9 * statistics["mean"] + 0.1 * batch["mean"]
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], moved, atol=1e-6)


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


def reference(levels, params, scale=1):
    x = None
    for number in range(len(levels), 0, -1):
        level = np.maximum(convolved(np.float64(levels[number - 1]), params[f"level{number}"]), 0)
        if x is None:
            x = level
            continue
        size = [(scale if number == 1 else 1) * length for length in level.shape[1:3]]
        x = np.maximum(convolved(resized(x, size) + resized(level, size), params[f"fusion{number}"]), 0)
    return x, convolved(x, params["logits"])


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("sizes", [[(9, 13), (5, 7), (3, 4), (3, 4)], 4 * [(3, 4)], [(4, 1), (2, 1)], [(5, 6)]])
def test_multilevel_head(sizes, scale, random_variables):
    generator = np.random.default_rng(0)
    levels = [
        generator.normal(size=(2, *size, channels)).astype(np.float32)
        for size, channels in zip(sizes, (4, 6, 8, 5), strict=False)
    ]
    module = MultilevelHead(CLASSES, 7, scale=scale)
    variables = random_variables(module, levels)
    features, logits = jax.jit(module.apply)(variables, levels)
    expected_features, expected_logits = reference(levels, variables["params"], scale)
    np.testing.assert_allclose(features, expected_features, atol=1e-4)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)


def test_multilevel_head_in_bfloat16(random_variables):
    levels = [np.random.default_rng(0).normal(size=(1, *size, 8)).astype(np.float32) for size in ((8, 8), (4, 4))]
    variables = random_variables(MultilevelHead(CLASSES, 16), levels)
    found = jax.jit(MultilevelHead(CLASSES, 16, jnp.bfloat16).apply)(variables, levels)
    assert [x.dtype for x in found] == [jnp.bfloat16, jnp.float32]
    expected = reference(levels, variables["params"])[1]
    assert np.sqrt(np.mean((found[1] - expected) ** 2)) < 0.02 * np.std(expected)


def test_levels_of_efficientnet():
    strides, model = (4, 8, 16, 16), base.default_config().model
    model.update(backbone="efficientnet_lite0", head="multilevel", output_stride=16)
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


def small(head, **settings):
    backbone = Vit(8, 4, 2, grid=3, dtype=settings.get("dtype", jnp.float32))
    return DeepLab(backbone, CLASSES, branches=1, head=head, **settings)


@pytest.mark.parametrize("head", ["atrous", "linear", "multilevel"])
@pytest.mark.parametrize("size", [(28, 42), (30, 41)])
def test_segmenter_has_every_head(head, size):
    module, images = small(head, dtype=jnp.bfloat16), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    assert set(variables["params"]) == {"backbone", "classifier"}
    layers = {"atrous": {"dilation6"}, "linear": {"norm", "logits"}}.get(head)
    assert layers is None or set(variables["params"]["classifier"]) == layers
    (features, logits), _ = jax.eval_shape(
        lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
    )
    cells = tuple(length // 14 * (2 if head == "multilevel" else 1) for length in padded_size(size))
    channels = 256 if head == "multilevel" else 8
    assert (features.shape, features.dtype) == ((2, *cells, channels), jnp.bfloat16)
    # The size of the images where padding is cropped.
    assert (logits.shape, logits.dtype) == ((2, *(cells if size == (28, 42) else size), CLASSES), jnp.float32)


def test_frozen_batch_norm_keeps_its_statistics():
    generator = np.random.default_rng(1)
    images = generator.normal(size=(1, 14, 28, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: small("linear").init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(lambda leaf: generator.uniform(0.2, 0.8, leaf.shape).astype(np.float32), shapes)
    mean = variables["batch_stats"]["classifier"]["norm"]["mean"]
    for batch_norm, moves in (("frozen", False), ("batch", True)):
        _, updated = apply(small("linear", batch_norm=batch_norm), variables, images, True)
        assert np.all(updated["batch_stats"]["classifier"]["norm"]["mean"] != mean) == moves
        assert np.any(updated["batch_stats"]["classifier"]["norm"]["mean"] != mean) == moves


@pytest.mark.parametrize("size", [(30, 41), (71, 99), (28, 29), (15, 28)])
@pytest.mark.parametrize("factor", [1, 2])
def test_padded_maps_lie_where_the_image_does(size, factor):
    """Maps that hold the coordinates of their pixels hold them still after cropping and resizing."""
    padded = padded_size(size)
    cells = tuple(factor * length // 14 for length in padded)

    def coordinates(cells, size):
        return np.stack(np.meshgrid(*map(np.linspace, (0, 0), (size[0] - 1, size[1] - 1), cells), indexing="ij"), -1)[
            None
        ].astype(np.float32)

    maps = coordinates(cells, padded)
    features, logits = over_image(jnp.asarray(maps), jnp.asarray(maps), size)
    assert features.shape == maps.shape
    np.testing.assert_allclose(features, coordinates(cells, size), atol=1e-4)
    np.testing.assert_allclose(logits, coordinates(size, size), atol=1e-4)
    np.testing.assert_array_equal(resize_bilinear(logits, size), logits)  # What comes after changes nothing.


def test_maps_without_padding_stay_as_they_are():
    maps = jnp.ones((1, 2, 3, 4))
    assert over_image(maps, maps, (28, 42)) == (maps, maps)


def test_program_takes_any_number_of_images():
    """As `ass_jax.weights.export` needs it."""
    config = base.default_config().model
    config.update(backbone="vit_tiny", head="multilevel", registers=4)
    module = build_deeplab(config, CLASSES)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 30, 28, 3)), train=False))
    images = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 30, 28, 3"), jnp.float32)
    _, logits = jax.eval_shape(functools.partial(module.apply, train=False), variables, images)
    assert str(logits.shape) == f"(batch, 30, 28, {CLASSES})"
