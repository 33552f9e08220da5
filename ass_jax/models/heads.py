"""Heads that read several levels of a backbone. DeepLab's own classifier, which reads the last one, is in `deeplab`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops
from ass_jax.models.layers import Conv


class MultilevelHead(nn.Module):
    """Adds coarse maps to finer ones, from the last level to the first: a light form of FPN (arXiv 1612.03144).

    Each sum is convolved, as in DPT (arXiv 2103.13413). There is no batch norm: a step has few images.

    Attributes:
      num_classes: C.
      channels: of the features.
      dtype: compute type; parameters and logits are float32.
    """

    num_classes: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Maps levels, [B, h1, w1, D1] the finest, to features [B, h1, w1, channels] and logits [B, h1, w1, C]."""
        *finer, x = levels
        x = self._layer(x, 1, f"level{len(levels)}")
        for number, level in reversed(list(enumerate(finer, start=1))):
            x = ops.resize_bilinear(x, level.shape[1:3]) + self._layer(level, 1, f"level{number}")
            x = self._layer(x, 3, f"fusion{number}")
        classifier = Conv(self.num_classes, 1, use_bias=True, kernel_init=nn.initializers.normal(0.01), name="logits")
        return x, classifier(x)

    def _layer(self, x: jax.Array, size: int, name: str) -> jax.Array:
        return nn.relu(Conv(self.channels, size, use_bias=True, dtype=self.dtype, name=name)(x))
