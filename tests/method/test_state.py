"""Checks the first state: what it holds, and which weights each network starts with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, abstract_segmenter, create_state, separates_domains
from ass_jax.models import Networks, build_networks
from configs.base import get_config

CLASSES = 3


class Segmenter(nn.Module):
    """A minimal segmentation network, with or without batch norm."""

    batch_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        features = nn.Conv(5, (1, 1), (8, 8), name="backbone")(images)
        if self.batch_norm:
            features = nn.BatchNorm(use_running_average=not train, name="norm")(features)
        return features, nn.Dense(CLASSES, name="classifier")(features)


def make_config(**changes) -> ConfigDict:
    config = get_config("ass,smoke")
    config.data.target_size = (32, 32)
    config.update_from_flattened_dict(changes)
    return config


def create(config: ConfigDict, networks: Networks) -> TrainState:
    """Creates a state as the training loop does."""
    return jax.jit(initialise(config, networks), compiler_options={"xla_backend_optimization_level": 0})()


def initialise(config: ConfigDict, networks: Networks) -> functools.partial:
    return functools.partial(
        create_state, networks=networks, optimizer=make_optimizer(config), config=config, num_classes=CLASSES
    )


def assert_trees_equal(found: object, expected: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_networks_are_initialised_independently():
    """A run without a discriminator starts from the same weights; another seed gives others."""
    both = create(make_config(seed=1), Networks(Segmenter(), nn.Dense(1), nn.Dense(2)))
    assert both.params.keys() == {"segmenter", "global_discriminator", "semantic_discriminator"}
    assert both.step == 0
    for networks in (Networks(Segmenter(), None, None), Networks(Segmenter(), None, nn.Dense(2))):
        state = create(make_config(seed=1), networks)
        assert ("semantic_discriminator" in state.params) == (networks.semantic_discriminator is not None)
        assert_trees_equal(state.params, {name: both.params[name] for name in state.params})
        assert_trees_equal(state.batch_stats, both.batch_stats)
    other = create(make_config(seed=2), networks)
    for name, params in other.params.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if path[-1].key == "kernel":
                assert np.all(leaf != functools.reduce(lambda tree, entry: tree[entry.key], path, both.params[name]))


def test_shapes_are_known_without_weights():
    config = make_config(**{"teacher.decay": 0.9})
    networks = Networks(Segmenter(), None, nn.Dense(2))
    compiled, shapes = create(config, networks), jax.eval_shape(initialise(config, networks))
    assert jax.tree.structure(compiled) == jax.tree.structure(shapes)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), compiled) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    assert shapes.step.dtype == jnp.int32


def test_average_starts_as_a_copy():
    networks = Networks(Segmenter(), None, None)
    assert jax.eval_shape(initialise(make_config(), networks)).average is None
    state = create(make_config(**{"teacher.decay": 0.9}), networks)
    assert_trees_equal(state.average, state.segmenter)
    assert state.segmenter.keys() == {"params", "batch_stats"}

    # One buffer cannot be donated twice. Compiled functions never return one twice; plain ones may.
    state = initialise(make_config(**{"teacher.decay": 0.9}), Networks(Segmenter(batch_norm=False), None, None))()
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.segmenter, state.average))]
    assert len(set(buffers)) == len(buffers)


def test_without_batch_norm_there_are_no_statistics():
    networks = Networks(Segmenter(batch_norm=False), None, None)
    state = jax.eval_shape(initialise(make_config(**{"teacher.decay": 0.9}), networks))
    assert state.batch_stats == state.average["batch_stats"] == {}
    assert abstract_segmenter(networks, make_config())["batch_stats"] == {}


@pytest.mark.parametrize(("read", "depth"), [("features", 2048), ("logits", CLASSES)])
def test_shapes_of_the_real_networks(read, depth):
    config = make_config()
    config.model.backbone = "resnet50"
    config.loss.update(semantic_input=read, semantic_outputs="class_domain")
    networks = build_networks(config, CLASSES)
    state = jax.eval_shape(initialise(config, networks))
    assert state.params.keys() == {"segmenter", "global_discriminator", "semantic_discriminator"}
    assert state.params["segmenter"].keys() == {"backbone", "classifier"}
    assert state.batch_stats.keys() == {"backbone"}
    semantic = state.params["semantic_discriminator"]
    assert semantic["hidden1"]["kernel"].shape == (depth, 32)
    assert semantic["logits"]["kernel"].shape == (32, 2 * CLASSES)
    assert state.params["global_discriminator"]["conv1"]["kernel"].shape == (4, 4, CLASSES, 8)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    assert abstract_segmenter(networks, config) == state.segmenter


@pytest.mark.parametrize(
    ("variant", "settings", "expected"),
    [
        ("source_only", {}, False),
        ("target_only", {}, False),
        ("source_adabn", {}, True),
        ("joint", {}, True),
        ("ass_plus", {}, True),
        ("joint", {"model.running_statistics": "shared"}, False),
        ("joint", {"model.batch_norm": "frozen"}, False),  # None moves.
        ("adaptsegnet", {"data.batch.labelled": 0}, True),
        ("adaptsegnet", {"data.batch.labelled": 0, "loss.global_weight": 0.0}, False),  # No target image passes.
    ],
)
def test_domains_have_separate_statistics_where_both_pass(variant, settings, expected):
    config = get_config(variant)
    config.update_from_flattened_dict(settings)
    assert separates_domains(config) == expected
