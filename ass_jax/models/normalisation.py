"""Batch normalisation that keeps the running statistics of the reference."""

import functools

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
            factor = jax.lax.rsqrt(variance + self.epsilon) * scale
            return _affine(x, mean, factor, offset).astype(self.dtype)
        y, mean, variance = normalise_batch(x, scale, offset, self.epsilon)
        if not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = variance * (count / max(count - 1, 1))
            running_mean.value += (1.0 - self.momentum) * (mean - running_mean.value)
            running_variance.value += (1.0 - self.momentum) * (unbiased - running_variance.value)
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise_batch(
    x: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises [B, H, W, channels] by its own mean and biased variance over all but the channels.

    The gradient is written out: `a * gradient + b * (x - mean) + c` with four numbers a channel, which takes one pass
    for two sums and one for the result. No gradient passes through the statistics that are returned.

    Args:
      x: any float type; sums and result are float32.
      scale: [channels].
      offset: [channels].
      epsilon: added to the variance.

    Returns:
      The normalised values float32, mean and variance [channels].
    """
    return _normalise_forward(x, scale, offset, epsilon)[0]


def _normalise_forward(x, scale, offset, epsilon):
    values = x.astype(jnp.float32)
    # Both sums in one pass over the activations.
    mean = jnp.mean(values, axis=(0, 1, 2))
    variance = jnp.maximum(jnp.mean(jnp.square(values), axis=(0, 1, 2)) - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    return (_affine(x, mean, factor, offset), mean, variance), (x, mean, inverse, scale)


def _normalise_backward(epsilon, residuals, gradients):
    del epsilon
    x, mean, inverse, scale = residuals
    gradient, *_ = gradients
    count = x.size // x.shape[-1]
    distances = x.astype(jnp.float32) - mean
    offset_gradient = jnp.sum(gradient, axis=(0, 1, 2))
    scale_gradient = inverse * jnp.sum(gradient * distances, axis=(0, 1, 2))
    on_gradient = inverse * scale
    on_distances = -on_gradient * inverse * scale_gradient / count
    constant = -on_gradient * offset_gradient / count
    on_gradient, on_distances, constant = jax.lax.optimization_barrier((on_gradient, on_distances, constant))
    x_gradient = on_gradient * gradient + on_distances * distances + constant
    return x_gradient.astype(x.dtype), scale_gradient, offset_gradient


normalise_batch.defvjp(_normalise_forward, _normalise_backward)


def _affine(x: jax.Array, mean: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns `(x - mean) * factor + offset` in float32."""
    # Without the barrier, XLA:CPU works out all three again for every pixel.
    mean, factor, offset = jax.lax.optimization_barrier((mean, factor, offset))
    return (x - mean) * factor + offset
