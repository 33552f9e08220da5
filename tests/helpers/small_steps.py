"""A small network, odd batches and first states for tests of whole steps."""

import functools
import math

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from ass_jax.method import train_step
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, create_state
from ass_jax.models import Networks
from ass_jax.models.deeplab import DeepLab
from ass_jax.models.layers import Conv, conv_bn
from configs.base import get_config

CLASSES = 4
SIZES = {"source": (32, 96), "labelled": (32, 64), "unlabelled": (48, 64)}
COUNTS = {"source": 4, "labelled": 4, "unlabelled": 8}
# Optimising the tiny programs takes longer than running them.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Backbone(nn.Module):
    """A minimal backbone: stride 8, and batch norm after the first convolution."""

    batch_norm: str = "batch"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        running = not train or self.batch_norm == "frozen"
        x = conv_bn(images, 4, 3, stride=4, train=not running, name="stem")
        return nn.relu(Conv(6, 3, stride=2, name="top")(x))


def make_config(variant: str = "ass") -> ConfigDict:
    """Returns a configuration in which both adversaries weigh as much as the labels."""
    config = get_config(variant)
    config.data.target_size = (32, 64)
    config.loss.semantic_outputs = "class_domain"
    for weight in ("global_weight", "semantic_weight"):
        config.loss[weight] = float(config.loss[weight] > 0)
    config.loss.warmup_steps = 2
    config.teacher.decay = 0.9 if variant == "ass" or config.teacher.mixed_weight else 0.0
    config.optimizer.update(learning_rate=0.01, decay_steps=10)
    config.model.pixel_deviation = (64.0, 64.0, 64.0)
    return config


def make_networks(config: ConfigDict) -> Networks:
    """Returns networks of few layers in place of the real ones."""
    return Networks(
        DeepLab(Backbone(config.model.batch_norm), CLASSES, branches=1),
        nn.Conv(1, (4, 4), strides=4) if config.loss.global_weight > 0 else None,
        nn.Dense(2 * CLASSES) if config.loss.semantic_weight > 0 else None,
    )


def make_batch(seed: int = 0) -> dict:
    """Returns images whose labels lie unevenly: each image has its own classes and share of ignored pixels."""
    random = np.random.default_rng(seed)
    batch = {}
    for stream in SIZES:
        shape = (COUNTS[stream], *SIZES[stream])
        brightness = random.uniform(0.3, 1, (COUNTS[stream], 1, 1, 3))
        batch[stream] = {"image": (brightness * random.integers(0, 256, (*shape, 3))).astype(np.uint8)}
        classes = {"source": ([255], [0], [1, 2, 255], [0, 1, 2, 3]), "labelled": ([3, 1], [1], [255], [2, 255, 255])}
        if stream in classes:
            chosen = [random.choice(each, shape[1:]) for each in classes[stream]]
            batch[stream]["label"] = np.stack(chosen).astype(np.uint8)
    return batch


def make_first(config: ConfigDict) -> TrainState:
    """Returns a first state; networks and optimisers that two variants share start with equal values."""
    shared = {"networks": make_networks(config), "config": config, "optimizer": make_optimizer(config)}
    shapes = jax.eval_shape(functools.partial(create_state, num_classes=CLASSES, **shared))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    random = np.random.default_rng(0)

    def draw(path: tuple, leaf: np.ndarray) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return np.ones_like(leaf)
        # He-normal kernels; the rest starts at zero.
        spread = np.sqrt(2 / max(math.prod(leaf.shape[:-1]), 1)) if path[-1].key == "kernel" else 0
        return random.normal(scale=spread, size=leaf.shape).astype(np.float32)

    names = sorted(state.params, key="segmenter".__ne__)
    params = {name: jax.tree_util.tree_map_with_path(draw, state.params[name]) for name in names}
    batch_stats = jax.tree_util.tree_map_with_path(draw, state.batch_stats)
    average = None if state.average is None else {"params": params["segmenter"], "batch_stats": batch_stats}
    source_stats = None if state.source_stats is None else batch_stats
    return state.replace(params=params, batch_stats=batch_stats, average=average, source_stats=source_stats)


def make_step(config: ConfigDict, mesh: jax.sharding.Mesh | None = None) -> functools.partial:
    shared = {"networks": make_networks(config), "config": config, "optimizer": make_optimizer(config)}
    return functools.partial(train_step.train_step, **shared, mesh=mesh)


def assert_trees_equal(found: object, expected: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def largest_error(found: object, expected: object) -> float:
    """Largest distance of two leaves relative to the leaf's norm: single entries may be sums that cancel."""
    found, expected = jax.device_get((found, expected))

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(np.float64(a) - b) / max(np.linalg.norm(np.float64(b)), 1e-30))

    return max(jax.tree.leaves(jax.tree.map(error, found, expected)))
