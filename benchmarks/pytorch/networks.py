"""The networks of the method as PyTorch modules.

Names of weights are AdaptSegNet's, those of EfficientNet-Lite0 as in the package `efficientnet-lite-pytorch`. Vision
Transformers are in `benchmarks.pytorch.vit`, which needs timm.
"""

import torch
from torch import nn
from torch.nn import functional

from ass_jax.models.efficientnet import STAGES
from ass_jax.models.vit import PATCH, Vit

DILATIONS = (6, 12, 18, 24)
_STAGES = ((1, 1), (2, 1), (1, 2), (1, 4))  # Stride and dilation.
_SLOPE = 0.2

# Blocks of each stage, type of block, channels of the first stage, channels and kernel of the first convolution.
BACKBONES = {
    "resnet50": ((3, 4, 6, 3), "bottleneck", 64, 64, 7),
    "resnet101": ((3, 4, 23, 3), "bottleneck", 64, 64, 7),
    "resnet_tiny": ((1, 1, 1, 1), "basic", 16, 16, 3),
}
EFFICIENTNET = "efficientnet_lite0"
# Channels, blocks and heads of attention.
VITS = {"dinov2_s": (384, 12, 6), "dinov2_b": (768, 12, 12), "dinov2_l": (1024, 24, 16), "vit_tiny": (96, 4, 3)}


class Segmenter(nn.Module):
    """DeepLab-v2 on a ResNet of stride 8.

    Attributes:
      features: channels of the backbone's last map.
      head: name of the module that classifies.
    """

    head = "layer5"

    def __init__(self, backbone: str, num_classes: int, branches: int, stride_in: str):
        """Builds the network with random weights; the arguments are settings of `config.model`."""
        super().__init__()
        counts, kind, width, stem_width, kernel = BACKBONES[backbone]
        self.conv1 = nn.Conv2d(3, stem_width, kernel, 2, (kernel - 1) // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        channels = stem_width
        for stage, (count, (stride, dilation)) in enumerate(zip(counts, _STAGES, strict=True)):
            layers = []
            for index in range(count):
                step = stride if index == 0 else 1
                if kind == "bottleneck":
                    layers.append(Bottleneck(channels, width << stage, step, dilation, index == 0, stride_in))
                else:
                    layers.append(Basic(channels, width << stage, step, dilation, index == 0))
                channels = layers[-1].channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.features = channels
        self.layer5 = Classifier(channels, num_classes, branches)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps normalised images [B, 3, H, W] to features [B, D, h, w] and logits [B, C, h, w]."""
        x = self.pool(functional.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features, self.layer5(features)


class EfficientNetSegmenter(nn.Module):
    """DeepLab-v2 on EfficientNet-Lite0, its last stages dilated.

    Attributes:
      features: channels of the backbone's last map.
      head: name of the module that classifies.
    """

    features, head = STAGES[-1][-1], "layer5"

    def __init__(self, num_classes: int, branches: int, output_stride: int):
        """Builds the network with random weights; the arguments are settings of `config.model`."""
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2)
        self._bn0 = _lite_norm(32)
        blocks, channels, reached, dilation = [], 32, 2, 1
        for count, kernel, stride, expansion, features in STAGES:
            for index in range(count):
                step, spread = (stride, dilation) if index == 0 else (1, dilation)
                if index == 0 and reached == output_stride:
                    step, dilation = 1, dilation * stride
                reached *= step
                blocks.append(InvertedResidual(channels, features, expansion, kernel, step, spread))
                channels = features
        self._blocks = nn.ModuleList(blocks)
        self.layer5 = Classifier(channels, num_classes, branches)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps normalised images [B, 3, H, W] to features [B, D, h, w] and logits [B, C, h, w]."""
        features = functional.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            features = block(features)
        return features, self.layer5(features)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution to fewer."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, dilation: int):
        """Builds the block; kernel, stride and dilation are those of the depthwise convolution."""
        super().__init__()
        width = expansion * inputs
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self._bn0 = _lite_norm(width)
        self._depthwise_conv = SameConv(width, width, kernel, stride, dilation, groups=width)
        self._bn1 = _lite_norm(width)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = _lite_norm(outputs)
        self._widens, self._adds = expansion > 1, inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, inputs, H, W] to [B, outputs, H', W']."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._adds else y


class SameConv(nn.Conv2d):
    """A convolution that is padded as TensorFlow's "SAME"."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int = 1, groups: int = 1):
        """Builds the convolution, without bias."""
        span = dilation * (kernel - 1)
        # With stride 1 the padding is symmetric, and the convolution pads by itself.
        padding = span // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, inputs, H, W] to [B, outputs, H / stride, W / stride], rounded up."""
        stride, span = self.stride[0], self.dilation[0] * (self.kernel_size[0] - 1)
        if stride > 1:
            missing = [max(0, (-(-length // stride) - 1) * stride + span + 1 - length) for length in x.shape[:1:-1]]
            x = functional.pad(x, [side for total in missing for side in (total // 2, total - total // 2)])
        return super().forward(x)


class Bottleneck(nn.Module):
    """Residual block of three convolutions with `channels` output channels."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, project: bool, stride_in: str):
        """Builds the block; `stride_in` names the convolution that has the stride, "1x1" or "3x3"."""
        super().__init__()
        self.channels = 4 * width
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.channels)
        self.downsample = _shortcut(inputs, self.channels, stride) if project else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, inputs, H, W] to [B, channels, H', W']."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Basic(nn.Module):
    """Residual block of two convolutions with `channels` output channels."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, project: bool):
        """Builds the block."""
        super().__init__()
        self.channels = width
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride) if project else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, inputs, H, W] to [B, channels, H', W']."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Classifier(nn.Module):
    """Sum of dilated convolutions."""

    def __init__(self, inputs: int, num_classes: int, branches: int):
        """Builds the first `branches` of the pyramid."""
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(inputs, num_classes, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS[:branches]
        )
        for branch in self.conv2d_list:
            nn.init.normal_(branch.weight, std=0.01)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features [B, D, h, w] to logits [B, C, h, w]."""
        return sum(branch(features) for branch in self.conv2d_list)


class GlobalDiscriminator(nn.Module):
    """Fully convolutional domain classifier of probability maps."""

    def __init__(self, num_classes: int, width: int):
        """Builds the network; `width` is the number of channels of the first convolution."""
        super().__init__()
        channels = (num_classes, width, 2 * width, 4 * width, 8 * width)
        for index in range(4):
            self.add_module(f"conv{index + 1}", nn.Conv2d(channels[index], channels[index + 1], 4, 2, 1))
        self.logits = nn.Conv2d(channels[-1], 1, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps probabilities [B, C, H, W] to logits [B, 1, H // 32, W // 32]."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = functional.leaky_relu(conv(x), _SLOPE)
        return self.logits(x)


class SemanticDiscriminator(nn.Module):
    """Fully connected domain classifier of class vectors."""

    def __init__(self, features: int, width: int, outputs: int):
        """Builds the network; `features` is D, `outputs` the number of logits of a vector."""
        super().__init__()
        self.hidden1 = nn.Linear(features, width)
        self.hidden2 = nn.Linear(width, width)
        self.logits = nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps vectors [B, C, D] to logits [B, C, outputs]."""
        x = functional.leaky_relu(self.hidden1(x), _SLOPE)
        return self.logits(functional.leaky_relu(self.hidden2(x), _SLOPE))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _lite_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def make_segmenter(backbone: str, num_classes: int, branches: int, stride_in: str, output_stride: int) -> nn.Module:
    """Builds the segmentation network of the settings of `config.model`.

    It maps normalised images [B, 3, H, W] to features and logits, and has the attributes of `Segmenter`.
    """
    if backbone in VITS:
        from benchmarks.pytorch.vit import VitSegmenter  # Needs timm, the others do not.

        return VitSegmenter(num_classes, *VITS[backbone])
    if backbone == EFFICIENTNET:
        return EfficientNetSegmenter(num_classes, branches, output_stride)
    return Segmenter(backbone, num_classes, branches, stride_in)


def feature_cells(pixels: int, backbone: str = "resnet", output_stride: int = 8) -> int:
    """Returns the height or width of the features for an image of that height or width."""
    if backbone in VITS:
        return Vit.head_scale * -(-pixels // PATCH)
    if backbone == EFFICIENTNET:
        return -(-pixels // output_stride)
    after_pool = (pixels + 1) // 2 // 2 + 1
    return (after_pool + 1) // 2
