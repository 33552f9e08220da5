"""What classifies features, beside DeepLab's classifier, and maps of images that were filled up to whole patches."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ass_jax import ops
from ass_jax.models.layers import BatchNorm, Conv
from ass_jax.models.vit import padded_size


class LinearHead(nn.Module):
    """Batch norm and a 1x1 convolution, as DINOv2's linear evaluation (arXiv 2304.07193).

    Attributes:
      num_classes: C.
      dtype: compute type of the features; parameters and logits are float32.
    """

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps features of the last layer to normalised ones and logits.

        Args:
          features: [B, h, w, D].
          train: whether batch norm uses statistics of the batch, and moves its running ones towards them.

        Returns:
          Features [B, h, w, D] in the compute type and logits [B, h, w, C] float32.
        """
        channels = features.shape[-1]
        layer = BatchNorm(channels, name="norm")
        if train:
            normal, mean, variance = ops.batch_norm(features, layer.scale, layer.bias, epsilon=layer.epsilon)
            layer.update(mean, variance, features.size // channels)
        else:
            normal = layer.normalise(features, relu=False)
        normal = normal.astype(self.dtype)
        return normal, _logits(normal, self.num_classes)


class MultilevelHead(nn.Module):
    """Adds deep levels to shallow ones, from the last to the first: a light form of FPN (arXiv 1612.03144).

    Each sum is convolved, as in DPT (arXiv 2103.13413). There is no batch norm: a step has few images.

    Attributes:
      num_classes: C.
      channels: D of the result.
      dtype: compute type of the features; parameters and logits are float32.
      scale: height and width of the result over those of the first level.
    """

    num_classes: int
    channels: int
    dtype: jnp.dtype = jnp.float32
    scale: int = 1

    @nn.compact
    def __call__(self, levels: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        """Maps levels to features and logits.

        Args:
          levels: [B, h, w, any channels], the shallowest and largest first.

        Returns:
          Features [B, scale * h, scale * w, D] in the compute type and logits [B, scale * h, scale * w, C] float32.
        """
        *others, x = levels
        x = self._layer(x, 1, f"level{len(levels)}")
        for number, level in reversed(list(enumerate(others, start=1))):
            factor = self.scale if number == 1 else 1
            size = tuple(factor * length for length in level.shape[1:3])
            level = self._layer(level, 1, f"level{number}")
            x = ops.resize_bilinear(x, size) + ops.resize_bilinear(level, size)
            x = self._layer(x, 3, f"fusion{number}")
        return x, _logits(x, self.num_classes)

    def _layer(self, x: jax.Array, size: int, name: str) -> jax.Array:
        return nn.relu(Conv(self.channels, size, use_bias=True, dtype=self.dtype, name=name)(x))


def _logits(features: jax.Array, num_classes: int) -> jax.Array:
    kernel_init = nn.initializers.normal(0.01)
    return Conv(num_classes, 1, use_bias=True, kernel_init=kernel_init, name="logits")(features)


def over_image(features: jax.Array, logits: jax.Array, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Turns maps that cover an image with its padding (`padded_size`) into maps that cover the image alone.

    Both keep aligned corners, as everything that resizes maps or compares them with labels expects. Logits are resized
    to the padded image and cropped, which blurs nothing more; features, of many channels, are interpolated between the
    cells. Without padding, both are returned as they are.

    Args:
      features: [B, h, w, D].
      logits: [B, h', w', C].
      size: (H, W) of the image.

    Returns:
      Features [B, h, w, D] in their type and logits [B, H, W, C] float32; [B, h', w', C] without padding.
    """
    padded = padded_size(size)
    if padded == tuple(size):
        return features, logits
    rows, columns = (
        _shrinking_matrix(cells, (length - 1) / (whole - 1))
        for cells, length, whole in zip(features.shape[1:3], size, padded, strict=True)
    )
    shrunk = jnp.einsum("Hh,bhwd,Ww->bHWd", rows, features.astype(jnp.float32), columns, precision="highest")
    logits = ops.resize_bilinear(logits, padded)[:, : size[0], : size[1]]
    return shrunk.astype(features.dtype), logits


def _shrinking_matrix(cells: int, share: float) -> np.ndarray:
    """Returns the matrix float32 [cells, cells] that reads a share of an axis, from its first cell, bilinearly."""
    positions = np.arange(cells) * share
    distances = np.abs(positions[:, None] - np.arange(cells))
    return np.maximum(1.0 - distances, 0.0).astype(np.float32)
