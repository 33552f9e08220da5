"""The teacher of ASS+: a moving average of the segmenter that labels the unlabelled images (arXiv 1703.01780).

Legend: B batch, H W pixels, h w feature cells, C classes.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from ass_jax.method.color_jitter import perturb
from ass_jax.method.mixing import REGIONS, paste
from ass_jax.method.state import Variables
from ass_jax.ops import nearest_indices, resize_bilinear

Examples = dict[str, Array]


def follow(average: Variables, segmenter: Variables, step: Array, decay: float) -> Variables:
    """Updates the moving average: `decay * average + (1 - decay) * segmenter`.

    In the first steps the decay is at most `1 - 1 / (step + 1)`, so that the random initial weights fade quickly.

    Args:
      average: before this step.
      segmenter: after this step.
      step: number of steps before this one.
      decay: `config.teacher.decay`.
    """
    current_decay = jnp.minimum(decay, 1.0 - 1.0 / (step + 1.0))
    return optax.incremental_update(segmenter, average, 1.0 - current_decay)


def pseudo_labels(logits: Array, size: tuple[int, int], threshold: float) -> tuple[Array, Array]:
    """Returns the most probable class of each pixel, and whether the pixel is confident.

    Args:
      logits: `[B, h, w, C]` of the teacher.
      size: (H, W) of the image; the logits are up-sampled to it first.
      threshold: probability from which a pixel is confident, 0 to 1.

    Returns:
      int32 `[B, H, W]` and bool `[B, H, W]`; without gradients.
    """
    probabilities = jax.nn.softmax(resize_bilinear(jax.lax.stop_gradient(logits), size))
    return jnp.argmax(probabilities, axis=-1), jnp.max(probabilities, axis=-1) >= threshold


def mixed_examples(
    key: Array, batch: dict[str, Examples], labels: Array, confident: Array, *, config: ConfigDict, num_classes: int
) -> Examples:
    """Pastes regions of source and of labelled target images onto the unlabelled ones, then perturbs the images.

    Unlabelled images take turns: every other one receives from a source image (DACS, arXiv 2007.08702), the others
    from a labelled target image (as IIDM does, arXiv 2308.15855). With one of these streams, all receive from it.

    Args:
      key: of this step.
      batch: see `ass_jax.method.train_step.train_step`.
      labels: the teacher's pseudo-labels of the unlabelled images, int `[B, H, W]`.
      confident: bool `[B, H, W]`, of `pseudo_labels`.
      config: the whole configuration; static.
      num_classes: `C`.

    Returns:
      `image` float32 `[B, H, W, 3]` of 0..255, `label` int32 `[B, H, W]` and `weight` float32 `[B, H, W]` of each
      pixel's cross-entropy: 1 where pasted, elsewhere the share of confident pixels in the image (DACS).
    """
    settings = config.teacher
    turn, lot, regions, colours = jax.random.split(key, 4)
    images = batch["unlabelled"]["image"].astype(jnp.float32)
    donor = _draw_donors(turn, lot, batch, images.shape[:3])
    weight = jnp.mean(confident.astype(jnp.float32), axis=(1, 2), keepdims=True)
    weight = jnp.broadcast_to(weight, confident.shape)
    receiver = {"image": images, "label": labels.astype(jnp.int32), "weight": weight}
    # The barrier makes XLA compute the regions once: computed twice, rounding could paste image and label differently.
    pasted = jax.lax.optimization_barrier(REGIONS[settings.mixing](regions, donor["label"], num_classes))
    mixed = paste(pasted, donor, receiver)
    return mixed | {"image": perturb(colours, mixed["image"], settings.jitter, settings.blur)}


def _draw_donors(turn: Array, lot: Array, batch: dict[str, Examples], shape: tuple[int, ...]) -> Examples:
    """Draws one labelled image for each unlabelled one and resizes it; `shape` is their `[B, H, W]`."""
    count, height, width = shape
    candidates = [
        _resize(_draw(jax.random.fold_in(lot, number), batch[stream], count), (height, width))
        for number, stream in enumerate(("source", "labelled"))
        if stream in batch
    ]
    # Who is first is random: with one image per step, both streams still take turns on average.
    turns = (jnp.arange(count) + jax.random.randint(turn, (), 0, 2)) % len(candidates)
    if len(candidates) == 1:
        return candidates[0]
    is_source = turns == 0
    return {
        name: jnp.where(is_source.reshape(-1, *(1,) * (array.ndim - 1)), array, candidates[1][name])
        for name, array in candidates[0].items()
    }


def _draw(key: Array, examples: Examples, count: int) -> Examples:
    """Draws `count` examples, without repetition as long as there are enough."""
    available = len(examples["image"])
    order = jax.random.permutation(key, available)
    chosen = order[jnp.arange(count) % available]
    return {name: examples[name][chosen] for name in ("image", "label")}


def _resize(examples: Examples, size: tuple[int, int]) -> Examples:
    """Resizes images and labels and adds a weight of 1 for every pixel."""
    images, labels = resize_bilinear(examples["image"], size), examples["label"].astype(jnp.int32)
    if labels.shape[1:] != size:
        rows, columns = (nearest_indices(size[axis], labels.shape[axis + 1]) for axis in (0, 1))
        labels = labels[:, rows[:, None], columns]
    return {"image": images, "label": labels, "weight": jnp.ones(labels.shape)}
