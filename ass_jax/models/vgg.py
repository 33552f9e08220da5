"""VGG-16 (arXiv 1409.1556) as DeepLab uses it: its last two pools removed, its last layers dilated."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops
from ass_jax.models.layers import Conv

# Convolutions, channels and dilation of each block. The first three end in a pool: stride 8.
BLOCKS = ((2, 64, 1), (2, 128, 1), (3, 256, 1), (3, 512, 1), (3, 512, 2))
POOLED = 3
HEAD = (1024, 1024)  # Channels of the two convolutions that replace the fully connected layers.
HEAD_DILATION = 4


class Vgg(nn.Module):
    """VGG-16 without batch norm and classifier; kernels start He-normal over their inputs.

    Attributes:
      dtype: compute type; parameters are float32.
      remat: whether the backward pass computes the inside of each block again instead of storing it.
    """

    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Maps normalised images [B, H, W, 3] to features [B, H // 8, W // 8, 1024]."""
        del train  # There is no batch norm.
        x = images
        block = nn.remat(Vgg._block, static_argnums=2) if self.remat else Vgg._block
        for number in range(len(BLOCKS)):
            x = block(self, x, number)
        for index, channels in enumerate(HEAD):
            x = nn.relu(self._conv(channels, HEAD_DILATION, f"head_conv{index + 1}")(x))
        return x

    def _block(self, x: jax.Array, number: int) -> jax.Array:
        count, channels, dilation = BLOCKS[number]
        for index in range(count):
            name = f"block{number + 1}_conv{index + 1}"
            x = nn.relu(self._conv(channels, dilation, name)(x))
        return ops.max_pool(x, side=2) if number < POOLED else x

    def _conv(self, channels: int, dilation: int, name: str) -> Conv:
        return Conv(channels, 3, dilation=dilation, use_bias=True, dtype=self.dtype, name=name)
