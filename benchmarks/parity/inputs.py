"""Weights and inputs of the parity tests, the same in every framework: they depend only on names and seeds."""

import functools
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ass_jax.method.losses import domain_loss, segmentation_loss
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import TrainState, Variables, abstract_segmenter, create_state
from ass_jax.models import Networks, build_networks
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear
from ass_jax.weights.names import adaptsegnet_name, efficientnet_name, find_source
from ass_jax.weights.pretrained import Pretrained, flatten, place, to_foreign
from configs import base

SIZES = {"odd": (65, 97), "even": (64, 96)}  # Height and width of the images of the forward passes.
FEATURE_STEP = 64  # One in so many channels of the features is stored.
SAMPLES = 200  # Values of each parameter that are stored after training.
STEPS = 10
NUM_CLASSES = 7
VARIANTS = ("joint", "adaptsegnet", "ass")
# Height and width of the images whose gradients are compared: none is a power of two in both directions.
GRADIENT_SIZES = (
    (33, 47),
    (41, 97),
    (48, 61),
    (65, 97),
    (75, 50),
    (72, 120),
    (90, 160),
    (96, 128),
    (97, 131),
    (129, 257),
)
GRADIENT_SAMPLES = 24  # Values of each gradient that are stored.
IMAGE_SIZES = {"source": (64, 96), "labelled": (64, 80), "unlabelled": (64, 80)}


def draws(name: str) -> np.random.Generator:
    """Returns the random generator of a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def segmenter_arrays(networks: Networks, config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns random weights and statistics of a segmenter under AdaptSegNet's names and in PyTorch's layouts.

    With them, the activations of a deep network stay within a few powers of ten.
    """
    found = {}
    for path, leaf in flatten(abstract_segmenter(networks, config)):
        name = adaptsegnet_name(path, config.model.backbone)
        shape = to_foreign(path, np.empty(leaf.shape, np.bool_)).shape
        found[name] = _draw(name, path, shape)
    return found


def efficientnet_config(output_stride: int) -> ConfigDict:
    """Returns a configuration of EfficientNet-Lite0 with the pixels that its weights expect."""
    config = base.get_config("joint")
    config.model.update(backbone="efficientnet_lite0", output_stride=output_stride)
    config.model.update(pixel_order="rgb", pixel_mean=(127.0,) * 3, pixel_deviation=(128.0,) * 3)
    config.data.target_size = SIZES["even"]
    return config


def efficientnet_arrays() -> dict[str, np.ndarray]:
    """Returns random weights and statistics of EfficientNet-Lite0 under the names of its package."""
    config = efficientnet_config(8)
    found = {}
    for path, leaf in flatten(abstract_segmenter(build_networks(config, NUM_CLASSES), config)):
        name = efficientnet_name(path)
        if name is not None:
            found[name] = _draw(name, path, to_foreign(path, np.empty(leaf.shape, np.bool_)).shape)
    return found


def placed(networks: Networks, config: ConfigDict) -> Variables:
    """Returns the variables of the segmenter, filled by the import of foreign weights."""
    arrays = segmenter_arrays(networks, config)
    pretrained = Pretrained("golden", find_source(arrays), arrays, {}, {})
    variables, placement = place(pretrained, abstract_segmenter(networks, config))
    assert not placement.random
    return variables


def initial_state(config: ConfigDict, variables: Variables | None = None) -> TrainState:
    """Returns the state before the first step.

    Args:
      config: see `training_config`.
      variables: of the segmenter; default: those of `segmenter_arrays`.
    """
    networks, optimizer = build_networks(config, NUM_CLASSES), make_optimizer(config)
    create = functools.partial(create_state, networks=networks, optimizer=optimizer, config=config)
    shapes = jax.eval_shape(functools.partial(create, num_classes=NUM_CLASSES))
    variables = placed(networks, config) if variables is None else variables
    params = {"segmenter": variables["params"]}
    for name in ("global", "semantic"):
        key = f"{name}_discriminator"
        if key in shapes.params:
            params[key] = discriminator_arrays(name, shapes.params[key])
    params, batch_stats = jax.tree.map(jnp.asarray, (params, variables["batch_stats"]))
    return shapes.replace(
        step=jnp.zeros((), jnp.int32), params=params, batch_stats=batch_stats, optimizer_state=optimizer.init(params)
    )


def discriminator_arrays(prefix: str, shapes: Mapping) -> dict:
    """Returns random parameters in our layouts for the shapes of a discriminator's parameters."""

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return (scale * draws(name).standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images(name: str, count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns images uint8 [count, *size, 3]: blocks of one colour under noise, so that neighbouring cells agree."""
    generator = draws(f"images {name}")
    coarse = generator.integers(0, 256, (count, -(-size[0] // 8), -(-size[1] // 8), 3))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : size[0], : size[1]]
    return np.clip(smooth + generator.integers(-40, 41, smooth.shape), 0, 255).astype(np.uint8)


def labels(name: str, count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns labels uint8 [count, *size] in blocks; some are ignored, and the last class is absent."""
    generator = draws(f"labels {name}")
    coarse = generator.integers(0, NUM_CLASSES, (count, -(-size[0] // 16), -(-size[1] // 16)))
    coarse = np.where(coarse == NUM_CLASSES - 1, 255, coarse)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]].astype(np.uint8)


def forward_config(branches: int = 4) -> ConfigDict:
    """Returns the configuration of the forward passes: the ResNet-101 of AdaptSegNet."""
    config = base.get_config("joint")
    config.model.branches = branches
    config.data.target_size = SIZES["even"]
    return config


def training_config(variant: str, backbone: str = "resnet_tiny") -> ConfigDict:
    """Returns a configuration with momentum, weight decay, classifier factor and learning rate decay."""
    config = base.get_config(variant)
    config.model.backbone = backbone
    config.data.source_size, config.data.target_size = IMAGE_SIZES["source"], IMAGE_SIZES["labelled"]
    config.optimizer.update(learning_rate=1e-3, decay_steps=20, weight_decay=5e-3)
    weight = {name: 0.1 if config.loss[f"{name}_weight"] else 0.0 for name in ("global", "semantic")}
    config.loss.update(global_weight=weight["global"], semantic_weight=weight["semantic"])
    config.discriminator.update(global_width=8, semantic_width=32)
    config.discriminator.update(global_learning_rate=1e-3, semantic_learning_rate=1e-3)
    # As in the paper, and with the statistics of the reference implementation.
    config.loss.semantic_unlabelled = False
    config.model.update(pixel_mean=(127.5,) * 3, pixel_deviation=(64.0,) * 3, running_statistics="shared")
    return config


def training_batch(step: int, streams: tuple[str, ...], sizes: Mapping[str, tuple[int, int]]) -> dict:
    """Returns the batch of a step: two images a stream, and labels if the stream has them."""
    batch = {}
    for stream in streams:
        name = f"{stream} {step}"
        batch[stream] = {"image": images(name, 2, sizes[stream])}
        if stream != "unlabelled":
            batch[stream]["label"] = labels(name, 2, sizes[stream])
    return batch


def gradient_config(backbone: str) -> ConfigDict:
    """Returns the configuration of the gradient comparison; batch norm's scale and offset are trained as well."""
    config = training_config("adaptsegnet", backbone)
    config.model.train_norm_affine = True
    return config


def gradient_batch(size: tuple[int, int], draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two images uint8 [2, H, W, 3] and labels uint8 [2, H, W] of one of `GRADIENT_SIZES`."""
    name = f"gradients {size[0]}x{size[1]} {draw}"
    return images(name, 2, size), labels(name, 2, size)


def sample(array: np.ndarray, count: int = SAMPLES) -> np.ndarray:
    """Returns up to `count` evenly spaced values of an array."""
    flat = np.asarray(array).reshape(-1)
    return flat[:: -(-flat.size // count)]


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def gradients(config: ConfigDict, params: dict, batch_stats: dict, pixels: jax.Array, labels: jax.Array) -> dict:
    """Returns the gradients of `make_golden.gradients`, under the parameter names of this project."""
    networks, images = build_networks(config, NUM_CLASSES), normalise(pixels, config)

    def loss(params: dict) -> jax.Array:
        variables = {"params": params["segmenter"], "batch_stats": batch_stats}
        (_, logits), _ = networks.segmenter.apply(variables, images, train=True, mutable=["batch_stats"])
        scores = resize_bilinear(logits, images.shape[1:3])
        discriminator = {"params": params["global_discriminator"]}
        judged = networks.global_discriminator.apply(discriminator, jax.nn.softmax(scores))
        return segmentation_loss(scores, labels) + domain_loss(judged, 0)

    return jax.grad(loss)(params)


def named_gradients(gradients: Mapping, config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns gradients of {"segmenter": ..., "global_discriminator": ...} under PyTorch's names and in its layouts."""
    found = {}
    for path, leaf in flatten({"params": gradients["segmenter"]}):
        found[f"segmenter/{adaptsegnet_name(path, config.model.backbone)}"] = to_foreign(path, np.asarray(leaf))
    for layer, leaves in gradients["global_discriminator"].items():
        found[f"global/{layer}.weight"] = np.asarray(leaves["kernel"]).transpose(3, 2, 0, 1)
        found[f"global/{layer}.bias"] = np.asarray(leaves["bias"])
    return found


def final_samples(state: TrainState, config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns samples of all parameters and statistics under the names of `make_golden.training`."""
    found = {}
    for path, leaf in flatten({"params": state.params["segmenter"], "batch_stats": state.batch_stats}):
        name = adaptsegnet_name(path, config.model.backbone)
        found[f"segmenter/{name}"] = sample(to_foreign(path, np.asarray(leaf)))
    for name in ("global", "semantic"):
        for layer, leaves in state.params.get(f"{name}_discriminator", {}).items():
            kernel = np.asarray(leaves["kernel"])
            kernel = kernel.transpose((3, 2, 0, 1) if kernel.ndim == 4 else (1, 0))
            found[f"{name}/{layer}.weight"] = sample(kernel)
            found[f"{name}/{layer}.bias"] = sample(leaves["bias"])
    return found


def _draw(name: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = draws(name)
    if path.endswith("/kernel"):
        return (np.sqrt(2 / np.prod(shape[1:])) * generator.standard_normal(shape, np.float32)).astype(np.float32)
    if path.endswith(("/scale", "/var")):
        # The last norm of a block is small, or the sum over the blocks would grow without bound.
        low = 0.1 if any(f"{layer}_norm/scale" in path for layer in ("expand", "second", "project")) else 0.8
        return generator.uniform(low, low + 0.4, shape).astype(np.float32)
    return generator.uniform(-0.2, 0.2, shape).astype(np.float32)
