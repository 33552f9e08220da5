"""EfficientNet-Lite0: EfficientNet-B0 (arXiv 1905.11946) without squeeze-and-excitation, with ReLU6, for small devices.

Its last stages are dilated instead of strided (arXiv 1606.00915). Sizes, padding ("SAME"), momentum and epsilon are
those of its authors' TensorFlow code, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
Their stochastic depth is left out.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax.models.layers import BatchNorm, conv_bn, depthwise_conv_bn

# Blocks, kernel, stride, expansion and channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_WIDTH = 32
CEILING = 6.0  # Of ReLU6.
MOMENTUM, EPSILON = 0.99, 1e-3  # Of batch norm.


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its last 1x1 convolution and classifier.

    Attributes:
      output_stride: of the features, 8 or 16; stages beyond it are dilated instead.
      batch_norm: "batch" normalises by statistics of the batch in training, "frozen" by running ones.
      dtype: compute type; parameters and statistics are float32.
      remat: whether the backward pass computes the inside of each block again instead of storing it.
    """

    output_stride: int = 8
    batch_norm: str = "batch"
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    head_channels, head_scale = 64, 1  # Of a `MultilevelHead`.

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Maps normalised images [B, H, W, 3] to features [B, h, w, 320]; h is H / output_stride, rounded up."""
        return self.stages(images, train)[f"stage{len(STAGES)}"]

    def levels(self, images: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Returns maps [B, h, w, channels] of `stages`: of stride 4, of stride 8, of stage 5, and the features."""
        maps = self.stages(images, train)
        return tuple(maps[f"stage{number}"] for number in (2, 3, 5, 7))

    @nn.compact
    def stages(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Returns the maps [B, h, w, channels] after the stem and after each stage: "stem", "stage1" to "stage7".

        `module.apply(variables, images, train=False, method="stages")` gives all of them.
        """
        shared: dict[str, Any] = {
            "ceiling": CEILING,
            "norm": functools.partial(BatchNorm, momentum=MOMENTUM, epsilon=EPSILON),
            "train": train and self.batch_norm == "batch",
            "dtype": self.dtype,
        }
        block = functools.partial(
            nn.remat(MBConv) if self.remat else MBConv,
            pointwise=functools.partial(conv_bn, **shared),
            depthwise=functools.partial(depthwise_conv_bn, **shared),
        )
        x = conv_bn(images, STEM_WIDTH, 3, 2, relu=True, same=True, name="stem", **shared)
        maps, reached, dilation = {"stem": x}, 2, 1
        for number, (count, kernel_size, stride, expansion, features) in enumerate(STAGES, start=1):
            # The first convolution in place of a strided one is not dilated yet: it reads the map at its old spacing.
            spacing = dilation
            if reached == self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            for index in range(count):
                first = index == 0
                layout = (kernel_size, stride, spacing) if first else (kernel_size, 1, dilation)
                x = block(features, expansion, *layout, name=f"stage{number}_block{index + 1}")(x)
            maps[f"stage{number}"] = x
        return maps


class MBConv(nn.Module):
    """Inverted residual block (arXiv 1801.04381): 1x1 to more channels, depthwise, 1x1 to fewer without ReLU.

    Attributes:
      features: output channels.
      expansion: channels of the depthwise convolution over those of the input; 1: without the first 1x1 convolution.
      kernel_size: of the depthwise convolution.
      stride: of the same.
      dilation: of the same.
      pointwise: `ass_jax.models.layers.conv_bn` with what all layers share.
      depthwise: `ass_jax.models.layers.depthwise_conv_bn` with the same.
    """

    features: int
    expansion: int
    kernel_size: int
    stride: int
    dilation: int
    pointwise: Callable[..., jax.Array]
    depthwise: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H / stride, W / stride, features], rounded up."""
        y = x
        if self.expansion > 1:
            y = self.pointwise(y, self.expansion * x.shape[-1], relu=True, name="expand")
        y = self.depthwise(y, self.kernel_size, self.stride, self.dilation, name="depthwise")
        y = self.pointwise(y, self.features, name="project")
        return x + y if x.shape == y.shape else y
