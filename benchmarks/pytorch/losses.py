"""The losses of the method in PyTorch, written as its users would. Does not need JAX."""

import torch
from torch.nn import functional

IGNORED = 255


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Up-samples logits [B, C, h, w] to the labels [B, H, W]; returns the loss and the float32 scores."""
    scores = upsample(logits, labels.shape[-2:])
    return functional.cross_entropy(scores, labels, ignore_index=IGNORED), scores


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes maps [B, K, h, w] bilinearly with aligned corners, in float32."""
    logits = logits.float()
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def global_loss(logits: torch.Tensor, domain: int) -> torch.Tensor:
    """Sigmoid cross-entropy of all logits against one domain."""
    return functional.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits.float(), float(domain)))


def semantic_loss(outputs: torch.Tensor, domain: int, present: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean over the present vectors of the loss of outputs [B, C, O]; kinds as in `config.loss.semantic_outputs`."""
    outputs = outputs.float()
    classes = outputs.shape[1]
    if kind == "class_domain":
        own = torch.arange(classes, device=outputs.device).expand(len(outputs), -1) + domain * classes
        losses = functional.cross_entropy(outputs.flatten(0, 1), own.flatten(), reduction="none").view(len(outputs), -1)
    else:
        logits = outputs[..., 0]
        losses = functional.binary_cross_entropy_with_logits(
            logits, torch.full_like(logits, float(domain)), reduction="none"
        )
    # A product instead of a selection, which would make the processor wait for the device.
    return (losses * present).sum() / present.sum().clamp(min=1)


def class_means(features: torch.Tensor, cells: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages features [B, D, h, w] by the labels of the cells [B, h, w]: means [B, C, D] and present [B, C]."""
    members = functional.one_hot(cells.where(cells < num_classes, num_classes), num_classes + 1)[..., :num_classes]
    members = members.flatten(1, 2).to(features.dtype)  # [B, hw, C]
    sums = torch.einsum("bpc,bdp->bcd", members, features.flatten(2)).float()
    counts = members.float().sum(1)
    return sums / counts.clamp(min=1)[..., None], counts > 0


def soft_class_means(features: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages features [B, D, h, w] by the probabilities of logits [B, C, h, w]: means [B, C, D], present [B, C]."""
    weights = logits.detach().float().softmax(1).flatten(2).to(features.dtype)  # [B, C, hw]
    sums = torch.einsum("bcp,bdp->bcd", weights, features.flatten(2)).float()
    mass = weights.float().sum(2)
    return sums / mass.clamp(min=1e-6)[..., None], mass >= 1


def nearest(small: int, large: int) -> list[int]:
    """Returns the cell of a large grid nearest to each cell of a small one: corners aligned, halves rounded up."""
    if small == 1:
        return [0]
    return [(2 * index * (large - 1) + small - 1) // (2 * (small - 1)) for index in range(small)]
