"""Class-wise feature averages: the core of the paper (ASS, section 3.2).

Legend: B batch, H W pixels, h w feature cells, D feature channels, C classes.
"""

import jax.numpy as jnp
from jax import Array, lax

from ass_jax.ops import nearest_indices


def class_means(features: Array, labels: Array, num_classes: int) -> tuple[Array, Array]:
    """Averages the features of each image over the cells of each class.

    `f[b,k] = sum_ij 1[y_bij = k] F_bij / sum_ij 1[y_bij = k]`: a one-hot of the labels and one contraction over the
    cells, accumulated in float32 for any type of features.

    Args:
      features: `[B, h, w, D]`.
      labels: integers `[B, H, W]` or `[B, h, w]`. Of larger labels, each cell takes the nearest one, with aligned
        corners. Values outside `0..C-1` (255) belong to no class.
      num_classes: `C`.

    Returns:
      The means, float32 `[B, C, D]`, 0 for an absent class, and `present`, bool `[B, C]`.

    Raises:
      ValueError: the number of images differs, or the labels are smaller than the features.
    """
    batch, height, width, _ = features.shape
    if labels.ndim != 3 or labels.shape[0] != batch or labels.shape[1] < height or labels.shape[2] < width:
        raise ValueError(
            f"Expected labels [{batch}, H, W] with H >= {height} and W >= {width} for features of shape "
            f"{features.shape}, found {labels.shape}."
        )
    if labels.shape[1:] != (height, width):
        labels = labels[:, nearest_indices(height, labels.shape[1])[:, None], nearest_indices(width, labels.shape[2])]
    members = labels[..., None] == jnp.arange(num_classes)  # [B, h, w, C]
    counts = jnp.sum(members, axis=(1, 2), dtype=jnp.int32)  # [B, C]
    return _sums(members.astype(features.dtype), features) / jnp.maximum(counts, 1)[..., None], counts > 0


def soft_class_means(features: Array, probabilities: Array) -> tuple[Array, Array]:
    """Averages features over all cells, weighted by the probability of each class: `sum p_k F / sum p_k`.

    The contraction of `class_means`, with probabilities in the place of the one-hot labels.

    Args:
      features: `[B, h, w, D]`.
      probabilities: `[B, h, w, C]`; rounded to the type of the features.

    Returns:
      The means, float32 `[B, C, D]`, 0 for a class without probability, and `present`, bool `[B, C]`: whether the
      probabilities of a class sum up to at least one cell.
    """
    weights = probabilities.astype(features.dtype)
    mass = jnp.sum(weights, axis=(1, 2), dtype=jnp.float32)  # [B, C]; of the rounded weights, so that they sum up to 1.
    return _sums(weights, features) / jnp.maximum(mass, 1e-6)[..., None], mass >= 1.0


def _sums(weights: Array, features: Array) -> Array:
    """Sums features `[B, h, w, D]` by weights `[B, h, w, C]` of the same type: float32 `[B, C, D]`."""
    return jnp.einsum(
        "bhwc,bhwd->bcd",
        weights,
        features,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
