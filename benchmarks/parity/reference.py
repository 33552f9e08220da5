"""The method written plainly in PyTorch: the reference of the parity tests. Needs PyTorch but not JAX.

Names of weights are AdaptSegNet's; a model is its state dict, and a function runs it. As in AdaptSegNet's training
script, there are separate passes, separate optimisers and `detach`.
"""

import re
from collections.abc import Mapping

import torch
from torch.nn import functional

DILATIONS = (6, 12, 18, 24)
Weights = dict[str, torch.Tensor]


def segmenter(
    weights: Weights, images: torch.Tensor, *, train: bool, branches: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps normalised images [B, 3, H, W] to features [B, D, h, w] and logits [B, C, h, w].

    With `train`, batch norm uses the statistics of the batch and updates the running ones in `weights`.
    """
    features = resnet(weights, images, train) if "conv1.weight" in weights else vgg(weights, images)
    return features, classifier(weights, features, branches)


def classifier(weights: Weights, features: torch.Tensor, branches: int) -> torch.Tensor:
    """Sums the first branches of the pyramid."""
    total, head = 0.0, "layer5" if "conv1.weight" in weights else "classifier"
    for place, dilation in enumerate(DILATIONS[:branches]):
        name = f"{head}.conv2d_list.{place}"
        total = total + functional.conv2d(
            features, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=dilation, dilation=dilation
        )
    return total


def resnet(weights: Weights, images: torch.Tensor, train: bool) -> torch.Tensor:
    """Runs a ResNet of bottleneck or basic blocks with stride 8; the first convolution of a block has the stride."""
    kernel = weights["conv1.weight"].shape[-1]
    x = functional.conv2d(images, weights["conv1.weight"], stride=2, padding=(kernel - 1) // 2)
    x = functional.relu(_norm(weights, "bn1", x, train))
    x = functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    for stage, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), start=1):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            x = _block(weights, f"layer{stage}.{block}", x, stride if block == 0 else 1, dilation, train)
            block += 1
    return x


def vgg(weights: Weights, images: torch.Tensor) -> torch.Tensor:
    """Runs VGG-16 with stride 8: without its last two pools, with dilated convolutions after them and in the head."""
    x, pooled = images, (2, 7, 14)
    for place in sorted(int(name.split(".")[1]) for name in weights if re.fullmatch(r"features\.\d+\.weight", name)):
        dilation = 4 if place >= 29 else 2 if place >= 23 else 1
        name = f"features.{place}"
        x = functional.relu(
            functional.conv2d(
                x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=dilation, dilation=dilation
            )
        )
        if place in pooled:
            x = functional.max_pool2d(x, 2)
    return x


def _block(weights: Weights, name: str, x: torch.Tensor, stride: int, dilation: int, train: bool) -> torch.Tensor:
    y, count = x, 3 if f"{name}.conv3.weight" in weights else 2
    for index in range(1, count + 1):
        weight = weights[f"{name}.conv{index}.weight"]
        spread = dilation if weight.shape[-1] == 3 else 1
        padding = spread * (weight.shape[-1] // 2)
        y = functional.conv2d(y, weight, stride=stride if index == 1 else 1, padding=padding, dilation=spread)
        y = _norm(weights, f"{name}.bn{index}", y, train)
        if index < count:
            y = functional.relu(y)
    if f"{name}.downsample.0.weight" in weights:
        x = functional.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride)
        x = _norm(weights, f"{name}.downsample.1", x, train)
    return functional.relu(x + y)


def _norm(weights: Weights, name: str, x: torch.Tensor, train: bool) -> torch.Tensor:
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return functional.batch_norm(x, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"], training=train)


def global_discriminator(weights: Weights, probabilities: torch.Tensor) -> torch.Tensor:
    """Maps probabilities [B, C, H, W] to logits [B, 1, H // 32, W // 32]."""
    x = probabilities
    for index in range(1, 5):
        x = functional.conv2d(x, weights[f"conv{index}.weight"], weights[f"conv{index}.bias"], stride=2, padding=1)
        x = functional.leaky_relu(x, 0.2)
    return functional.conv2d(x, weights["logits.weight"], weights["logits.bias"], stride=2, padding=1)


def semantic_discriminator(weights: Weights, vectors: torch.Tensor) -> torch.Tensor:
    """Maps class vectors [B, C, D] to logits [B, C, outputs]."""
    x = vectors
    for name in ("hidden1", "hidden2"):
        x = functional.leaky_relu(functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]), 0.2)
    return functional.linear(x, weights["logits.weight"], weights["logits.bias"])


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes bilinearly with aligned corners."""
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def segmentation_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the valid pixels."""
    return functional.cross_entropy(scores, labels, ignore_index=255)


def domain_loss(logits: torch.Tensor, domain: int, kind: str = "bce") -> torch.Tensor:
    """Mean loss of all logits against one domain; kinds as in `config.loss.global_kind`."""
    if kind == "least_squares":
        return torch.mean((logits - domain) ** 2)
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(domain)))


def class_means(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages features [B, D, h, w] by labels [B, H, W] at the cells' positions: [B, C, D] and present [B, C]."""
    height, width = features.shape[-2:]
    rows = _nearest(height, labels.shape[1])
    columns = _nearest(width, labels.shape[2])
    cells = labels[:, rows][:, :, columns]
    means, present = [], []
    for image in range(len(features)):
        for number in range(num_classes):
            mask = cells[image] == number
            present.append(bool(mask.any()))
            own = features[image][:, mask]
            means.append(own.mean(1) if mask.any() else torch.zeros(len(features[image])))
    shape = (len(features), num_classes)
    return torch.stack(means).reshape(*shape, -1), torch.tensor(present).reshape(shape)


def _nearest(small: int, large: int) -> torch.Tensor:
    """Returns the cell of a large grid nearest to each cell of a small one, corners aligned, halves rounded up."""
    return torch.tensor([(2 * i * (large - 1) + small - 1) // (2 * (small - 1)) for i in range(small)])


def train(
    weights: Mapping[str, Weights], batches: list[dict], settings: Mapping[str, float | str], num_classes: int
) -> list[dict[str, float]]:
    """Trains in place and returns the losses of every step.

    Args:
      weights: of "segmenter" and, for active terms, "global" and "semantic"; changed in place.
      batches: streams with normalised images [B, 3, H, W] and labels int64 [B, H, W].
      settings: `learning_rate`, `classifier_factor`, `momentum`, `weight_decay`, `decay_steps`, `decay_power`,
        `branches`, `global_kind`, and `{global,semantic}_{weight,learning_rate}` for active terms.
      num_classes: C.
    """
    net = weights["segmenter"]
    learnt = {name: value for name, value in net.items() if value.dim() == 4 or ".conv2d_list." in name}
    for value in learnt.values():
        value.requires_grad_()
    heads = [value for name, value in learnt.items() if name.startswith("layer5.")]
    backbone = [value for name, value in learnt.items() if not name.startswith("layer5.")]
    rate = settings["learning_rate"]
    sgd = torch.optim.SGD(
        [{"params": backbone, "lr": rate}, {"params": heads, "lr": rate * settings["classifier_factor"]}],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    judges, adams = {"global": global_discriminator, "semantic": semantic_discriminator}, {}
    for name in judges.keys() & weights.keys():
        for value in weights[name].values():
            value.requires_grad_()
        adams[name] = torch.optim.Adam(weights[name].values(), settings[f"{name}_learning_rate"], betas=(0.9, 0.99))
    optimizers = [sgd, *adams.values()]
    for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
        group["initial"] = group["lr"]

    history = []
    for step, batch in enumerate(batches):
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = group["initial"] * (1 - step / settings["decay_steps"]) ** settings["decay_power"]
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses, outputs = {}, {}

        # The segmenter learns; the discriminators' gradients are discarded.
        for stream in ("source", "labelled", "unlabelled"):
            if stream not in batch:
                continue
            features, logits = segmenter(net, batch[stream]["image"], train=True, branches=settings["branches"])
            scores = upsample(logits, batch[stream]["image"].shape[-2:])
            outputs[stream] = {"features": features, "probabilities": functional.softmax(scores, dim=1)}
            if "label" in batch[stream]:
                losses[f"segmentation_{stream}"] = segmentation_loss(scores, batch[stream]["label"])
                losses[f"segmentation_{stream}"].backward(retain_graph=True)
        if "global" in weights:
            judged = global_discriminator(weights["global"], outputs["unlabelled"]["probabilities"])
            losses["global"] = domain_loss(judged, 0, settings["global_kind"])
            (settings["global_weight"] * losses["global"]).backward()
        vectors = {}
        if "semantic" in weights:
            for stream in ("source", "labelled"):
                vectors[stream] = class_means(outputs[stream]["features"], batch[stream]["label"], num_classes)
            means, present = vectors["labelled"]
            losses["semantic"] = domain_loss(semantic_discriminator(weights["semantic"], means)[present], 0)
            (settings["semantic_weight"] * losses["semantic"]).backward()
        for adam in adams.values():
            adam.zero_grad()

        # The discriminators learn.
        if "global" in weights:
            total = 0.0
            for domain, stream in enumerate(("source", "unlabelled")):
                judged = global_discriminator(weights["global"], outputs[stream]["probabilities"].detach())
                loss = domain_loss(judged, domain, settings["global_kind"]) / 2
                loss.backward()
                total += loss.item()
            losses["global_discriminator"] = torch.tensor(total)
        if "semantic" in weights:
            total = 0.0
            for domain, stream in enumerate(("source", "labelled")):
                means, present = vectors[stream]
                judged = semantic_discriminator(weights["semantic"], means.detach())[present]
                loss = domain_loss(judged, domain) / 2
                loss.backward()
                total += loss.item()
            losses["semantic_discriminator"] = torch.tensor(total)
        for optimizer in optimizers:
            optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    return history
