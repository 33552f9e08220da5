"""Mixed images: regions of labelled images pasted onto unlabelled ones, with their labels (ASS+; not in the paper).

Legend: B batch, H W pixels, C classes. All are pure functions of their arguments, the key among them.
"""

import jax
import jax.numpy as jnp
from jax import Array

CUT_AREA = 0.5  # Share of the image that CutMix pastes, as in its use for segmentation (arXiv 1906.01916).


def class_regions(key: Array, labels: Array, num_classes: int) -> Array:
    """Chooses half of the classes of each image, rounded up, and returns where they are (ClassMix, arXiv 2007.07936).

    Args:
      key: of `jax.random`.
      labels: integers `[B, H, W]`; values outside `0..C-1` (255) belong to no class.
      num_classes: `C`.

    Returns:
      bool `[B, H, W]`: false wherever the label is ignored.
    """
    present = jnp.any(labels[..., None] == jnp.arange(num_classes), axis=(1, 2))  # [B, C]
    numbers = jnp.where(present, jax.random.uniform(key, present.shape), jnp.inf)
    count = (jnp.sum(present, axis=1) + 1) // 2  # [B]
    # The rank of each class by its random number: absent classes come last.
    ranks = jnp.sum(numbers[:, None, :] < numbers[:, :, None], axis=-1)  # [B, C]
    chosen = present & (ranks < count[:, None])
    return jnp.any((labels[..., None] == jnp.arange(num_classes)) & chosen[:, None, None, :], axis=-1)


def cut_regions(key: Array, labels: Array, num_classes: int) -> Array:
    """Chooses a rectangle of half the area, of any shape, in each image (CutMix, arXiv 1905.04899).

    Args:
      key: of `jax.random`.
      labels: integers `[B, H, W]`; values outside `0..C-1` (255) are not chosen.
      num_classes: `C`.

    Returns:
      bool `[B, H, W]`.
    """
    batch, height, width = labels.shape
    stretch, down, right = jax.random.uniform(key, (3, batch, 1))
    # Height and width are shares h and CUT_AREA / h of the image's; h is drawn evenly on a logarithmic scale.
    tall = CUT_AREA**stretch
    rows = _interval(height, tall, down)[:, :, None]
    columns = _interval(width, CUT_AREA / tall, right)[:, None, :]
    return rows & columns & (labels >= 0) & (labels < num_classes)


REGIONS = {"class": class_regions, "cut": cut_regions}


def paste(regions: Array, donor: dict[str, Array], receiver: dict[str, Array]) -> dict[str, Array]:
    """Pastes the regions of the donors onto the receivers.

    Args:
      regions: bool `[B, H, W]`.
      donor: arrays `[B, H, W, ...]`.
      receiver: the same keys, shapes and types.
    """
    return {
        name: jnp.where(regions.reshape(regions.shape + (1,) * (array.ndim - 3)), donor[name], array)
        for name, array in receiver.items()
    }


def _interval(cells: int, share: Array, place: Array) -> Array:
    """Returns which of the cells, bool `[B, cells]`, lie in an interval.

    Args:
      cells: number of cells.
      share: length of the interval as a share of them, `[B, 1]`.
      place: where it lies, `[B, 1]`: from 0, at the first cell, to 1, at the last one.
    """
    start = place * (1.0 - share) * cells
    centres = jnp.arange(cells) + 0.5
    return (centres >= start) & (centres < start + share * cells)
