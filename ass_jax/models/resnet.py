"""ResNet (arXiv 1512.03385) with dilated last stages, so that features lie at stride 8 (arXiv 1606.00915)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops
from ass_jax.models.layers import conv_bn

EXPANSION = 4  # Output channels of a bottleneck block over those of its 3x3 convolution.
STAGES = ((1, 1), (2, 1), (1, 2), (1, 4))  # Stride and dilation of each stage.


class ResNet(nn.Module):
    """Residual network without the classifier.

    Attributes:
      stage_sizes: blocks of each of the four stages.
      block: "bottleneck" or "basic".
      width: channels of the 3x3 convolutions of the first stage; doubles with each stage.
      stem_width: channels of the first convolution.
      stem_kernel: size of its kernel.
      stride_in: convolution of a bottleneck block that strides, "1x1" or "3x3".
      batch_norm: "batch" normalises by statistics of the batch in training, "frozen" by running ones.
      dtype: compute type; parameters and statistics are float32.
      remat: whether the backward pass computes the inside of each block again instead of storing it.
    """

    stage_sizes: tuple[int, int, int, int]
    block: str = "bottleneck"
    width: int = 64
    stem_width: int = 64
    stem_kernel: int = 7
    stride_in: str = "1x1"
    batch_norm: str = "batch"
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Maps normalised images [B, H, W, 3] to features [B, h, w, D] at stride 8.

        D is 32 * width with bottleneck blocks and 8 * width with basic ones.
        """
        layer = functools.partial(conv_bn, train=train and self.batch_norm == "batch", dtype=self.dtype)
        remat = nn.remat if self.remat else lambda block: block
        bottleneck = functools.partial(remat(Bottleneck), stride_in=self.stride_in)
        block = {"bottleneck": bottleneck, "basic": remat(Basic)}[self.block]
        x = layer(images, self.stem_width, self.stem_kernel, 2, relu=True, name="stem")
        # Rounds the size up as the reference does; an odd one does not reach the second row and column after the map.
        x = ops.max_pool(x, side=3, padding=(1, 2))
        for stage, (count, (stride, dilation)) in enumerate(zip(self.stage_sizes, STAGES, strict=True)):
            for index in range(count):
                first = index == 0
                name = f"stage{stage + 1}_block{index + 1}"
                x = block(self.width * 2**stage, stride if first else 1, dilation, first, layer, name=name)(x)
        return x


class Bottleneck(nn.Module):
    """Residual block: 1x1 to fewer channels, 3x3, 1x1 to `EXPANSION` times as many.

    Attributes:
      width: channels of the 3x3 convolution.
      stride: of the block.
      dilation: of the 3x3 convolution.
      project: whether the shortcut is a strided 1x1 convolution instead of the identity.
      conv_bn: `ass_jax.models.layers.conv_bn` with its compute type and whether it trains.
      stride_in: convolution that strides, "1x1" (the first) or "3x3".
    """

    width: int
    stride: int
    dilation: int
    project: bool
    conv_bn: Callable[..., jax.Array]
    stride_in: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H', W', EXPANSION * width]."""
        first, second = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        y = self.conv_bn(x, self.width, 1, first, relu=True, name="reduce")
        y = self.conv_bn(y, self.width, 3, second, self.dilation, relu=True, name="spatial")
        y = self.conv_bn(y, EXPANSION * self.width, name="expand")
        if self.project:
            x = self.conv_bn(x, EXPANSION * self.width, 1, self.stride, name="shortcut")
        return ops.add_relu(x, y)


class Basic(nn.Module):
    """Residual block of two 3x3 convolutions.

    Attributes:
      width: channels of both convolutions.
      stride: of the first convolution.
      dilation: of both convolutions.
      project: whether the shortcut is a strided 1x1 convolution instead of the identity.
      conv_bn: see `Bottleneck`.
    """

    width: int
    stride: int
    dilation: int
    project: bool
    conv_bn: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H', W', width]."""
        y = self.conv_bn(x, self.width, 3, self.stride, self.dilation, relu=True, name="first")
        y = self.conv_bn(y, self.width, 3, 1, self.dilation, name="second")
        if self.project:
            x = self.conv_bn(x, self.width, 1, self.stride, name="shortcut")
        return ops.add_relu(x, y)
