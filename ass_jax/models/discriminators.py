"""The two domain classifiers: one reads maps of class probabilities, the other class-wise mean vectors."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax.models.layers import Conv
from configs.user_error import UserError

SLOPE = 0.2  # Leaky ReLU, below zero.
SMALLEST_SIZE = 32  # Pixels; the global discriminator halves five times.


class GlobalDiscriminator(nn.Module):
    """Fully convolutional domain classifier of probability maps (AdaptSegNet, arXiv 1802.10349).

    Kernels start He-normal.

    Attributes:
      width: channels of the first convolution; the next three double it, the fifth has one.
      dtype: compute type; parameters are float32.
    """

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, probabilities: jax.Array) -> jax.Array:
        """Classifies the domain of overlapping windows.

        Args:
          probabilities: [B, H, W, C].

        Returns:
          Logits [B, H // 32, W // 32, 1] float32, positive for the target domain.

        Raises:
          UserError: height or width is below `SMALLEST_SIZE`.
        """
        height, width = probabilities.shape[1:3]
        if min(height, width) < SMALLEST_SIZE:
            raise UserError(
                f"The global discriminator needs maps of at least {SMALLEST_SIZE}x{SMALLEST_SIZE} pixels, "
                f"found {height}x{width}."
            )
        conv = functools.partial(Conv, kernel_size=4, stride=2, use_bias=True, dtype=self.dtype)
        x = probabilities
        for index, factor in enumerate((1, 2, 4, 8)):
            x = nn.leaky_relu(conv(factor * self.width, name=f"conv{index + 1}")(x), SLOPE)
        return conv(1, name="logits")(x).astype(jnp.float32)


class SemanticDiscriminator(nn.Module):
    """Fully connected domain classifier of class-wise mean vectors. Its layers are our choice.

    Kernels start He-normal.

    Attributes:
      width: units of both hidden layers.
      outputs: logits for each vector.
      dtype: compute type; parameters are float32.
    """

    width: int
    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        """Maps vectors [..., D] to logits [..., outputs] float32."""
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
        x = nn.leaky_relu(dense(self.width, name="hidden1")(vectors), SLOPE)
        x = nn.leaky_relu(dense(self.width, name="hidden2")(x), SLOPE)
        return dense(self.outputs, name="logits")(x).astype(jnp.float32)
