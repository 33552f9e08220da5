"""Batch normalisation that keeps the running statistics of the reference."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ass_jax import ops


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) as PyTorch computes it.

    The running variance takes up the unbiased variance of the batch, while the batch itself is normalised by the
    biased one; Flax's own takes up the latter, which evaluation would show where batches are small.

    Attributes:
      use_running_average: normalises by the running statistics instead of those of the batch.
      momentum: share of the running statistics that a batch leaves in place.
      epsilon: added to the variance.
      relu: whether to rectify the result.
      dtype: of the result; parameters and statistics are float32.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    relu: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, matrix: jax.Array | None = None) -> jax.Array:
        """Normalises `x`, or `x @ matrix`, over all but the channels; on several devices, over the whole batch.

        Args:
          x: [B, H, W, inputs].
          matrix: [inputs, channels] float32, the kernel of a 1x1 convolution that has not been done yet.

        Returns:
          [B, H, W, channels] in the compute type; without a matrix, there are as many channels as inputs.
        """
        shape = (x.shape[-1] if matrix is None else matrix.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        offset = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.use_running_average:
            mean, variance = running_mean.value, running_variance.value
            factor = scale * jax.lax.rsqrt(variance + self.epsilon)
            if matrix is None:
                y = ops.normalise(x, mean, factor, offset)
            else:
                y = ops.matmul(x, (matrix * factor).astype(x.dtype)) + (offset - mean * factor)
            return (nn.relu(y) if self.relu else y).astype(self.dtype)
        if matrix is None:
            y, mean, variance = ops.batch_norm(x, scale, offset, self.epsilon, self.relu)
        else:
            y, mean, variance = ops.matmul_batch_norm(x, matrix, scale, offset, self.epsilon)
            y = nn.relu(y) if self.relu else y
        if not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = variance * (count / max(count - 1, 1))
            running_mean.value += (1.0 - self.momentum) * (mean - running_mean.value)
            running_variance.value += (1.0 - self.momentum) * (unbiased - running_variance.value)
        return y.astype(self.dtype)
