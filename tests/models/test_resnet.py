import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from ass_jax.models.layers import Conv
from ass_jax.models.resnet import ResNet
from ass_jax.runtime import compilation

TINY = {"stage_sizes": (2, 1, 1, 1), "width": 4, "stem_width": 4}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(2, 32, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(random_variables, images):
    return random_variables(ResNet(**TINY), images, False)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(module, variables, images, train):
    """Returns the features and, if `train`, the statistics."""
    return module.apply(variables, images, train, mutable=["batch_stats"] if train else False)


def shapes(module, size):
    """Returns the shapes of the variables and of the features of one image, without computing them."""
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    return variables, jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, images)


def convolutions(module, size=(64, 128)):
    """Returns (stride, dilation, kernel size, features) of every convolution, by path."""
    found = {}

    def record(call, arguments, keywords, context):
        conv = context.module
        if isinstance(conv, Conv):
            found["/".join(conv.path)] = (conv.stride, conv.dilation, conv.kernel_size, conv.features)
        return call(*arguments, **keywords)

    with nn.intercept_methods(record):
        shapes(module, size)
    return found


@pytest.mark.parametrize(("stage_sizes", "count"), [((3, 4, 6, 3), 23_508_032), ((3, 4, 23, 3), 42_500_160)])
def test_number_of_parameters_equals_torchvision(stage_sizes, count):
    variables, _ = shapes(ResNet(stage_sizes), (64, 64))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((512, 1024), (65, 129)),
        ((720, 1280), (91, 161)),
        ((513, 1025), (65, 129)),
        ((321, 321), (41, 41)),
        ((64, 128), (9, 17)),
        ((32, 33), (5, 5)),
    ],
)
@pytest.mark.parametrize(
    ("settings", "channels"),
    [({"stride_in": "1x1"}, 2048), ({"stride_in": "3x3"}, 2048), ({"block": "basic", "stem_kernel": 3}, 512)],
)
def test_features_lie_at_stride_eight(size, cells, settings, channels):
    _, features = shapes(ResNet((1, 1, 1, 1), **settings), size)
    assert features.shape == (1, *cells, channels)


@pytest.mark.parametrize(("stride_in", "reduce", "spatial"), [("1x1", 2, 1), ("3x3", 1, 2)])
def test_places_of_strides_and_dilations(stride_in, reduce, spatial):
    found = convolutions(ResNet((2, 2, 2, 2), stride_in=stride_in))
    assert found.pop("stem") == (2, 1, 7, 64)
    expected = {}
    for stage, (width, dilation) in enumerate([(64, 1), (128, 1), (256, 2), (512, 4)], start=1):
        strides = stage == 2  # Only this stage strides, in its first block.
        first, second = f"stage{stage}_block1", f"stage{stage}_block2"
        expected |= {
            f"{first}/reduce": (reduce if strides else 1, 1, 1, width),
            f"{first}/spatial": (spatial if strides else 1, dilation, 3, width),
            f"{first}/expand": (1, 1, 1, 4 * width),
            f"{first}/shortcut": (2 if strides else 1, 1, 1, 4 * width),
            f"{second}/reduce": (1, 1, 1, width),
            f"{second}/spatial": (1, dilation, 3, width),
            f"{second}/expand": (1, 1, 1, 4 * width),
        }
    assert found == expected


def test_places_of_strides_and_dilations_of_basic_blocks():
    found = convolutions(ResNet((1, 2, 1, 1), block="basic", width=4, stem_width=8, stem_kernel=3))
    expected = {"stem": (2, 1, 3, 8)}
    for stage, (width, stride, dilation) in enumerate([(4, 1, 1), (8, 2, 1), (16, 1, 2), (32, 1, 4)], start=1):
        expected |= {
            f"stage{stage}_block1/first": (stride, dilation, 3, width),
            f"stage{stage}_block1/second": (1, dilation, 3, width),
            f"stage{stage}_block1/shortcut": (stride, 1, 1, width),
        }
    expected |= {f"stage2_block2/{name}": (1, 1, 3, 8) for name in ("first", "second")}
    assert found == expected


def test_block_adds_its_shortcut(images, variables):
    """A block whose last scale is zero returns its shortcut alone."""
    params = flax.traverse_util.flatten_dict(variables["params"])
    for name in ("scale", "bias"):
        params["stage1_block2", "expand_norm", name] *= 0
    variables = variables | {"params": flax.traverse_util.unflatten_dict(params)}
    _, captured = jax.jit(lambda v, x: ResNet(**TINY).apply(v, x, train=False, capture_intermediates=True))(
        variables, images
    )
    first, second = (captured["intermediates"][f"stage1_block{index}"]["__call__"][0] for index in (1, 2))
    np.testing.assert_array_equal(first, second)


def test_no_operation_recomputes_earlier_blocks(random_variables, images):
    """Recomputing reads four more arrays for each block, and the time grows with the square of the depth."""
    network = ResNet(**TINY | {"stage_sizes": (6, 1, 1, 1)})
    variables = random_variables(network, images, False)

    @functools.partial(jax.jit, compiler_options=compilation.options_of_steps())
    def gradient(variables):
        def loss(parameters):
            return jnp.sum(network.apply(variables | {"params": parameters}, images, True, mutable=["batch_stats"])[0])

        return jax.grad(loss)(variables["params"])

    text = gradient.lower(variables).compile().as_text()
    operands = [found.count("%") for found in re.findall(r" fusion\(([^)]*)\)", text)]
    assert max(operands) < 4 * 6


def test_batch_norm_updates_running_statistics(images, variables):
    module = ResNet(**TINY)
    features, updated = apply(module, variables, images, True)
    stem = lax.conv_general_dilated(
        images,
        variables["params"]["stem"]["kernel"],
        (2, 2),
        [(3, 3), (3, 3)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    before, after = variables["batch_stats"]["stem_norm"], updated["batch_stats"]["stem_norm"]
    for name, of_batch in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2), ddof=1))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * of_batch, rtol=1e-5, atol=1e-6)
    assert not np.allclose(features, apply(module, variables, images, False))


def test_frozen_batch_norm_uses_and_keeps_running_statistics(images, variables):
    module = ResNet(**TINY, batch_norm="frozen")
    features, updated = apply(module, variables, images, True)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(features, apply(ResNet(**TINY), variables, images, False), rtol=1e-6)


def test_statistics_and_affine_parameters_are_recognisable(variables):
    flat = flax.traverse_util.flatten_dict(variables["params"])
    norms = {path for path in flat if path[-1] in ("scale", "bias")}
    assert norms == {path for path in flat if path[-2].endswith("norm")}
    statistics = flax.traverse_util.flatten_dict(variables["batch_stats"])
    assert {path[:-1] for path in statistics} == {path[:-1] for path in norms}


def test_bfloat16_computes_close_to_float32(images, variables):
    module = ResNet(**TINY, dtype=jnp.bfloat16)
    initial, _ = shapes(module, (32, 64))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    features, updated = apply(module, variables, images, True)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    expected, _ = apply(ResNet(**TINY), variables, images, True)
    difference = np.asarray(features, np.float32) - expected
    assert np.sqrt(np.mean(difference**2)) < 0.1 * np.std(expected)


@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_rematerialised_blocks_change_only_memory(random_variables, block):
    images = np.random.default_rng(1).normal(size=(2, 128, 128, 3)).astype(np.float32)
    plain, remat = (ResNet((2, 2, 2, 2), block, width=4, stem_width=4, remat=remat) for remat in (False, True))
    variables = random_variables(plain, images, False)
    assert jax.tree.structure(shapes(remat, (32, 64))[0]) == jax.tree.structure(variables)

    def loss(module, params):
        variables_of_step = variables | {"params": params}
        features, updated = module.apply(variables_of_step, images, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(features)), updated

    found, memory = [], []
    for module in (plain, remat):
        gradients = jax.grad(functools.partial(loss, module), has_aux=True)
        compiled = (
            jax.jit(gradients).lower(variables["params"]).compile(compiler_options=compilation.options_of_steps())
        )
        found.append(compiled(variables["params"]))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    (gradients, updated), (again, updated_again) = found
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * scale), gradients, again
    )
    # Statistics move once: a second update would move them further. Means are sums that may nearly cancel.
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7), updated, updated_again
    )
    assert memory[1] < 0.75 * memory[0]
