"""Weight files of other projects with few channels, and the real networks with as few."""

import functools

import numpy as np
import pytest
import safetensors.numpy

from ass_jax.method.state import abstract_segmenter
from ass_jax.models import build_networks, deeplab, vgg
from ass_jax.weights.pretrained import open_weights
from configs import base

STAGES = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
VGG_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21))
NARROW = 2  # Channels of the first stage of the narrow networks, instead of 64.


def resnet_shapes(stages, width):
    """Returns names and shapes of a ResNet without its last layer, as torchvision and AdaptSegNet have them."""
    shapes = {}

    def add(conv, norm, features, channels, size):
        shapes[f"{conv}.weight"] = (features, channels, size, size)
        shapes.update({f"{norm}.{leaf}": (features,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{norm}.num_batches_tracked"] = ()

    add("conv1", "bn1", width, 3, 7)
    channels = width
    for stage, count in enumerate(stages):
        inner = width * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            add(f"{name}.conv1", f"{name}.bn1", inner, channels, 1)
            add(f"{name}.conv2", f"{name}.bn2", inner, inner, 3)
            add(f"{name}.conv3", f"{name}.bn3", 4 * inner, inner, 1)
            if block == 0:
                add(f"{name}.downsample.0", f"{name}.downsample.1", 4 * inner, channels, 1)
            channels = 4 * inner
    return shapes


def vgg_shapes(width, last_block, head=()):
    """Returns names and shapes of VGG-16's convolutions."""
    shapes, channels = {}, 3
    places = [(place, width * 2**block) for block, found in enumerate(VGG_BLOCKS) for place in found]
    places += [(place, 8 * width) for place in last_block] + [(place, 16 * width) for place in head]
    for position, features in places:
        shapes |= {f"features.{position}.weight": (features, channels, 3, 3), f"features.{position}.bias": (features,)}
        channels = features
    return shapes


def linear(name, features, channels):
    return {f"{name}.weight": (features, channels), f"{name}.bias": (features,)}


def pyramid(name, classes, channels):
    branches = [f"{name}.conv2d_list.{branch}" for branch in range(4)]
    return {f"{branch}.weight": (classes, channels, 3, 3) for branch in branches} | {
        f"{branch}.bias": (classes,) for branch in branches
    }


def draw(shapes, dtype=np.float32):
    generator = np.random.default_rng(0)
    return {
        name: np.array(5, np.int64) if shape == () else generator.standard_normal(shape).astype(dtype)
        for name, shape in shapes.items()
    }


@pytest.fixture
def narrow(monkeypatch):
    """Gives the real networks few channels."""
    for name, stages in STAGES.items():
        backbone = functools.partial(deeplab._resnet, stage_sizes=stages, width=NARROW, stem_width=NARROW)
        monkeypatch.setitem(deeplab.BACKBONES, name, backbone)
    blocks = tuple((count, channels * NARROW // 64, dilation) for count, channels, dilation in vgg.BLOCKS)
    monkeypatch.setattr(vgg, "BLOCKS", blocks)
    monkeypatch.setattr(vgg, "HEAD", (16 * NARROW,) * 2)


def segmenter(backbone, classes=19, **settings):
    config = base.get_config()
    config.data.target_size = (64, 64)
    config.model.backbone = backbone
    config.model.update(settings)
    return abstract_segmenter(build_networks(config, classes), config)


def opened(path, arrays):
    """Writes arrays with foreign names in the format of the file's extension and opens the file."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path, metadata={"format": "pt", "model": "resnet"})
    else:
        torch = pytest.importorskip("torch", minversion="2.10")
        torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in arrays.items()}}, path)
    return open_weights(path)
