"""The types of a step in bfloat16, and that it transposes no map, read from the program for a GPU."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import create_state
from ass_jax.method.train_step import train_step
from ass_jax.models import build_networks, deeplab
from configs.base import get_config

CLASSES, SIZE = 4, (64, 96)
# Operation, and the types of its operands and result.
OPERATION = re.compile(r"stablehlo\.(\w+)\b.*: \(((?:tensor<[^>]*>(?:, )?)+)\) -> tensor<([^>]*)>")


@pytest.fixture(scope="module")
def lowered():
    """Returns the shapes of the next state and metrics, and the operations as (name, operands, result)."""
    config = get_config("ass")
    config.model.dtype = "bfloat16"
    config.data.target_size = SIZE
    config.discriminator.update(global_width=2, semantic_width=4)
    with pytest.MonkeyPatch.context() as patch:
        tiny = functools.partial(deeplab._resnet, stage_sizes=(1, 1, 1, 1), width=2, stem_width=4)
        patch.setitem(deeplab.BACKBONES, "resnet101", tiny)
        networks = build_networks(config, CLASSES)
    shared = {"networks": networks, "config": config, "optimizer": make_optimizer(config)}
    state = jax.eval_shape(functools.partial(create_state, num_classes=CLASSES, **shared))
    image = {"image": jax.ShapeDtypeStruct((2, *SIZE, 3), np.uint8)}
    labelled = image | {"label": jax.ShapeDtypeStruct((2, *SIZE), np.uint8)}
    batch = {"source": labelled, "labelled": labelled, "unlabelled": image}
    traced = jax.jit(functools.partial(train_step, **shared)).trace(state, batch)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    found = []
    for name, operands, result in OPERATION.findall(text):
        found.append((name, re.findall(r"tensor<([^>]*)>", operands), result))
    return traced.out_info, found


def dtype(tensor):
    return tensor.split("x")[-1]


def shape(tensor):
    return tuple(int(length) for length in tensor.split("x")[:-1])


def test_every_convolution_is_in_bfloat16(lowered):
    types = collections.Counter(
        (*map(dtype, operands), dtype(result)) for name, operands, result in lowered[1] if name == "convolution"
    )
    assert set(types) == {("bf16",) * 3}
    assert types.total() > 50


def test_parameters_statistics_and_metrics_are_float32(lowered):
    state, metrics = lowered[0]
    kept = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, metrics))}
    assert kept == {jnp.dtype("float32")}


def test_sums_are_float32(lowered):
    """Losses, statistics and gradients of biases, over pixels, cells and images."""
    sums = [(operands[0], result) for name, operands, result in lowered[1] if name == "reduce"]
    large = [pair for pair in sums if math.prod(shape(pair[0])) > 1000 * math.prod(shape(pair[1]))]
    assert large
    assert {dtype(tensor) for pair in large for tensor in pair} <= {"f32", "i32", "i1"}


def test_class_means_are_summed_in_float32(lowered):
    products = [
        (*map(dtype, operands), dtype(result))
        for name, operands, result in lowered[1]
        if name == "dot_general" and shape(result)[:2] == (2, CLASSES)
    ]
    assert ("bf16", "bf16", "f32") in products


def test_no_map_is_transposed(lowered):
    transposed = [result for name, _, result in lowered[1] if name == "transpose"]
    assert transposed  # Kernels, and the low-resolution maps between the two products of a resize.
    assert not [each for each in transposed if dtype(each) == "bf16" and len(shape(each)) == 4 and shape(each)[0] == 2]
    assert max(math.prod(shape(each)) for each in transposed) < 2 * math.prod(SIZE) * CLASSES


def test_scores_are_resized_once_per_stream(lowered):
    resized = [
        result
        for name, _, result in lowered[1]
        if name == "dot_general" and result == f"2x{SIZE[0]}x{SIZE[1]}x{CLASSES}xf32"
    ]
    assert len(resized) == 3
