"""DINOv2's Vision Transformers with a multi-level head as PyTorch modules.

The transformer is timm's, with its fused attention: `pip install timm==1.0.31`.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from ass_jax.models.vit import GRID, OFFSET, PATCH, Vit, level_blocks, padded_size
from benchmarks.pytorch import losses


class VitSegmenter(nn.Module):
    """A Vision Transformer whose levels pass a multi-level head.

    Attributes:
      features: channels of the head's map.
      head: name of the module that classifies.
    """

    features, head = Vit.head_channels, "classifier"

    def __init__(self, num_classes: int, width: int, depth: int, heads: int):
        """Builds the network with random weights; width is D of the tokens, depth the number of blocks."""
        super().__init__()
        self.backbone = Backbone(
            img_size=GRID * PATCH,
            patch_size=PATCH,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            init_values=1.0,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            dynamic_img_pad=True,
        )
        self.classifier = MultilevelHead(width, num_classes, self.features, Vit.head_scale)
        self._levels = [number - 1 for number in level_blocks(depth)]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps normalised images [B, 3, H, W] to features [B, D, h, w] and logits [B, C, h', w'].

        Logits have the size of the images where this is no multiple of the patches', and else that of the features.
        """
        levels = self.backbone.forward_intermediates(images, self._levels, norm=True, intermediates_only=True)
        return over_image(*self.classifier(levels), tuple(images.shape[-2:]))


class Backbone(VisionTransformer):
    """timm's network with the positions of DINOv2's own code, which timm resizes in another way."""

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Maps patches [B, h, w, D] to tokens [B, 1 + h * w, D] with their positions."""
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        tokens = x.flatten(1, 2) + _resize(grid, x.shape[1:3])
        return torch.cat([(self.cls_token + first).expand(len(x), -1, -1), tokens], dim=1)


class MultilevelHead(nn.Module):
    """Adds deep levels to shallow ones; every level and every sum is convolved and rectified."""

    def __init__(self, inputs: int, num_classes: int, channels: int, scale: int, count: int = 4):
        """Builds the head.

        Args:
          inputs: channels of each level.
          num_classes: C.
          channels: D of the result.
          scale: height and width of the result over those of the levels.
          count: number of levels.
        """
        super().__init__()
        self._count, self._scale = count, scale
        for number in range(1, count + 1):
            self.add_module(f"level{number}", nn.Conv2d(inputs, channels, 1))
        for number in range(1, count):
            self.add_module(f"fusion{number}", nn.Conv2d(channels, channels, 3, padding=1))
        self.logits = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.logits.weight, std=0.01)

    def forward(self, levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps levels [B, channels, h, w], the shallowest first, to features and logits [B, D or C, h', w']."""
        x = self._convolved(levels[-1], f"level{self._count}")
        for number in range(self._count - 1, 0, -1):
            level = self._convolved(levels[number - 1], f"level{number}")
            factor = self._scale if number == 1 else 1
            size = tuple(factor * length for length in level.shape[-2:])
            x = self._convolved(losses.upsample(x, size) + losses.upsample(level, size), f"fusion{number}")
        return x, self.logits(x)

    def _convolved(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.relu(self.get_submodule(name)(x))


def over_image(
    features: torch.Tensor, logits: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns maps of an image that was filled up to whole patches into maps of the image alone, with aligned corners.

    Args:
      features: [B, D, h, w].
      logits: [B, C, h', w'].
      size: (H, W) of the image.

    Returns:
      Features [B, D, h, w] and logits [B, C, H, W]; without padding, both as they are.
    """
    padded = padded_size(size)
    if padded == size:
        return features, logits
    rows, columns = (
        _shrinking_matrix(cells, (length - 1) / (whole - 1), features.device)
        for cells, length, whole in zip(features.shape[-2:], size, padded, strict=True)
    )
    return rows @ features @ columns.T, losses.upsample(logits, padded)[..., : size[0], : size[1]]


def _shrinking_matrix(cells: int, share: float, device: torch.device) -> torch.Tensor:
    """Returns the matrix [cells, cells] that reads a share of an axis, from its first cell, bilinearly."""
    places = torch.arange(cells, device=device)
    return (1.0 - (places[:, None] * share - places).abs()).clamp(min=0.0)


def _resize(positions: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes learnt positions [1, g * g, D] bicubically to [1, h * w, D]."""
    if tuple(size) == (GRID, GRID):
        return positions
    planes = positions.transpose(1, 2).unflatten(2, (GRID, GRID))
    factors = tuple((length + OFFSET) / GRID for length in size)
    return functional.interpolate(planes, scale_factor=factors, mode="bicubic").flatten(2).transpose(1, 2)
