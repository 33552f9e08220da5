"""Heads of a Vision Transformer, and maps of padded images."""

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
from ass_jax.runtime import compilation
from configs import base

CLASSES = 5
CHANNELS = 6


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


def test_multilevel_head_fuses_from_deep_to_shallow(random_variables, levels):
    module = MultilevelHead(CLASSES, CHANNELS)
    variables = random_variables(module, levels, False)
    params, statistics = variables["params"], variables["batch_stats"]
    (features, logits), _ = apply(module, variables, levels, False)

    def project(number):
        layer = params[f"level{number}"]
        return levels[number - 1] @ layer["kernel"][0, 0] + layer["bias"]

    def fuse(x, name):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=layout)
        norm, used = params[f"{name}_norm"], statistics[f"{name}_norm"]
        return jax.nn.relu((y - used["mean"]) / np.sqrt(used["var"] + 1e-5) * norm["scale"] + norm["bias"])

    x = fuse(project(4) + project(3), "fuse3")
    x = fuse(x + project(2), "fuse2")
    x = fuse(resize_bilinear(x + project(1), (6, 8)), "fuse1")
    np.testing.assert_allclose(features, x, atol=1e-4)
    np.testing.assert_allclose(logits, x @ params["logits"]["kernel"][0, 0] + params["logits"]["bias"], atol=1e-4)


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


@pytest.mark.parametrize("head", ["linear", "multilevel"])
def test_scopes_of_batch_norm_are_recognisable(head):
    module, images = small(head), jnp.zeros((1, 14, 14, 3))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    norms = {path for path in flat if "norm" in path.split("/")[-2]}
    expected = {"linear": {"norm"}, "multilevel": {f"fuse{number}_norm" for number in (1, 2, 3)}}[head]
    assert norms == {f"classifier/{name}/{leaf}" for name in expected for leaf in ("scale", "bias")}
    assert set(variables["batch_stats"]["classifier"]) == expected


@pytest.mark.parametrize("head", ["linear", "multilevel"])
def test_frozen_batch_norm_keeps_its_statistics(head):
    images = np.random.default_rng(1).normal(size=(1, 14, 28, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: small(head).init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    _, updated = apply(small(head, batch_norm="frozen"), variables, images, True)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


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
