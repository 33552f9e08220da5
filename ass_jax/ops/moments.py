"""Mean and covariance of channels over all cells."""

import jax
import jax.numpy as jnp
from jax import lax

from ass_jax.ops.products import transposed_product


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of each channel and the biased covariance of each two.

    Args:
      x: [B, H, W, channels], any float type; sums are float32.

    Returns:
      [channels] and [channels, channels], float32.
    """
    count = x.size // x.shape[-1]
    mean = jnp.sum(x.astype(jnp.float32), axis=(0, 1, 2)) / count
    if x.dtype == jnp.float32:
        return mean, lax.platform_dependent(x, mean, cpu=_of_values, default=_of_distances)
    return mean, _of_values(x, mean)


def _of_values(x, mean):
    return transposed_product(x, x) / (x.size // x.shape[-1]) - jnp.outer(mean, mean)


def _of_distances(x, mean):
    """Accelerators round float32 before they multiply, and the rounded values' mean is not the one to subtract."""
    distances = x - mean
    return transposed_product(distances, distances) / (x.size // x.shape[-1])
