"""ResNet (arXiv 1512.03385) with dilated last stages, so that features lie at stride 8 (arXiv 1606.00915)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops
from ass_jax.models.convolution import Conv, Matrix
from ass_jax.models.normalisation import BatchNorm

EXPANSION = 4  # Output channels of a bottleneck block over those of its 3x3 convolution.
STAGES = ((1, 1), (2, 1), (1, 2), (1, 4))  # Stride and dilation of each stage.


class ResNet(nn.Module):
    """Residual network without the classifier.

    Kernels start He-normal over their outputs, batch norm at scale 1 and offset 0.

    Attributes:
      stage_sizes: blocks of each of the four stages.
      block: "bottleneck" or "basic".
      width: channels of the 3x3 convolutions of the first stage; doubles with each stage.
      stem_width: channels of the first convolution.
      stem_kernel: size of its kernel.
      stride_in: convolution of a bottleneck block that strides, "1x1" or "3x3".
      batch_norm: "batch" normalises by statistics of the batch in training, "frozen" by running ones.
      dtype: compute type; parameters and statistics are float32.
      remat: whether the backward pass computes the insides of each block again instead of keeping them.
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
        kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        conv = functools.partial(Conv, kernel_init=kernel_init, dtype=self.dtype)
        matrix = functools.partial(Matrix, kernel_init=kernel_init)
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train or self.batch_norm == "frozen",
            dtype=self.dtype,
        )
        kept = nn.remat if self.remat else lambda block: block
        bottleneck = functools.partial(kept(Bottleneck), matrix=matrix, stride_in=self.stride_in)
        blocks = {"bottleneck": bottleneck, "basic": kept(Basic)}
        x = conv(self.stem_width, self.stem_kernel, stride=2, name="stem")(images)
        x = norm(name="stem_norm", relu=True)(x)
        # Rounds the size up as the reference does; an odd one does not reach the second row and column after the map.
        x = ops.max_pool(x, side=3, padding=(1, 2))
        for stage, (count, (stride, dilation)) in enumerate(zip(self.stage_sizes, STAGES, strict=True)):
            for index in range(count):
                x = blocks[self.block](
                    width=self.width * 2**stage,
                    stride=stride if index == 0 else 1,
                    dilation=dilation,
                    project=index == 0,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x)
        return x


class Bottleneck(nn.Module):
    """Residual block: 1x1 to fewer channels, 3x3, 1x1 to `EXPANSION` times as many.

    Attributes:
      width: channels of the 3x3 convolution.
      stride: of the block.
      dilation: of the 3x3 convolution.
      project: whether the shortcut is a strided 1x1 convolution instead of the identity.
      conv: constructor of convolutions.
      matrix: constructor of the kernels of 1x1 convolutions that are left to a normalisation.
      norm: constructor of normalisations.
      stride_in: convolution that strides, "1x1" (the first) or "3x3".
    """

    width: int
    stride: int
    dilation: int
    project: bool
    conv: Callable[..., nn.Module]
    matrix: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    stride_in: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H', W', EXPANSION * width]."""
        reduce_stride, spatial_stride = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        y = self.conv(self.width, 1, stride=reduce_stride, name="reduce")(x)
        y = self.norm(name="reduce_norm", relu=True)(y)
        y = self.conv(self.width, 3, stride=spatial_stride, dilation=self.dilation, name="spatial")(y)
        y = self.norm(name="spatial_norm", relu=True)(y)
        y = self.norm(name="expand_norm")(y, self.matrix(EXPANSION * self.width, name="expand")(y.shape[-1]))
        if self.project:
            x = self.conv(EXPANSION * self.width, 1, stride=self.stride, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return ops.add_relu(x, y)


class Basic(nn.Module):
    """Residual block of two 3x3 convolutions.

    Attributes:
      width: channels of both convolutions.
      stride: of the first convolution.
      dilation: of both convolutions.
      project: whether the shortcut is a strided 1x1 convolution instead of the identity.
      conv: constructor of convolutions.
      norm: constructor of normalisations.
    """

    width: int
    stride: int
    dilation: int
    project: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, channels] to [B, H', W', width]."""
        y = self.conv(self.width, 3, stride=self.stride, dilation=self.dilation, name="first")(x)
        y = self.norm(name="first_norm", relu=True)(y)
        y = self.conv(self.width, 3, dilation=self.dilation, name="second")(y)
        y = self.norm(name="second_norm")(y)
        if self.project:
            x = self.conv(self.width, 1, stride=self.stride, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return ops.add_relu(x, y)
