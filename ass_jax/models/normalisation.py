"""Batch normalisation that keeps the running statistics of the reference."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) as PyTorch computes it.

    The running variance takes up the unbiased variance of the batch, while the batch itself is normalised by the
    biased one; Flax's own takes up the latter, which evaluation would show where batches are small.

    Attributes:
      use_running_average: normalises by the running statistics instead of those of the batch.
      momentum: share of the running statistics that a batch leaves in place.
      epsilon: added to the variance.
      dtype: of the result; parameters and statistics are float32.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [B, H, W, channels] over all but the channels; on several devices, over the whole batch."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        offset = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.use_running_average:
            mean, variance = running_mean.value, running_variance.value
        else:
            values = x.astype(jnp.float32)
            # Both sums in one pass over the activations.
            mean = jnp.mean(values, axis=(0, 1, 2))
            variance = jnp.maximum(jnp.mean(jnp.square(values), axis=(0, 1, 2)) - jnp.square(mean), 0.0)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = variance * (count / max(count - 1, 1))
                running_mean.value += (1.0 - self.momentum) * (mean - running_mean.value)
                running_variance.value += (1.0 - self.momentum) * (unbiased - running_variance.value)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        return ((x - mean) * factor + offset).astype(self.dtype)
