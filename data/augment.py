"""Resizing and random augmentation: small functions `(example, seed) -> example`.

An example is {"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W, 1]}; the label may be absent. Every draw is a pure
function of the seed (int64 [2]). Geometry moves image and label together; colours change the image only. A function
that is switched off returns its example unchanged, at no cost.
"""

import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf
from ml_collections import ConfigDict

from data.classes import IGNORED

Example = dict[str, tf.Tensor]
Augmentation = Callable[[Example, tf.Tensor], Example]

PADDING = 115  # Mean grey of ImageNet: padding is near zero after normalisation.


def augmentations(settings: ConfigDict, size: Sequence[int], background: int | None = None) -> list[Augmentation]:
    """Returns the functions that are applied to every training example of a stream, in order.

    Args:
      settings: `config.augment`.
      size: height and width of the stream. Where `settings.crop` is (0, 0) batches have this size: a scaled
        image is then cropped or padded back to it.
      background: train id of the background; None: there is none.
    """
    crop_size = size if tuple(settings.crop) == (0, 0) else settings.crop
    return [
        functools.partial(resize, size=tuple(size), scale=tuple(settings.scale)),
        functools.partial(crop, size=tuple(crop_size), class_share=settings.class_crop, background=background),
        functools.partial(flip, active=settings.flip),
        functools.partial(brightness, largest=settings.brightness),
        functools.partial(contrast, largest=settings.contrast),
        functools.partial(saturation, largest=settings.saturation),
        functools.partial(hue, largest=settings.hue),
        # Last, so that the functions above draw the same numbers with and without them.
        functools.partial(flip, active=settings.flip_vertical, axis=0),
        functools.partial(gamma, largest=settings.gamma),
    ]


def apply(functions: Sequence[Augmentation], example: Example, seed: tf.Tensor) -> Example:
    """Applies functions in order, each with its own seed, so that their draws are independent."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, len(functions)))
    for function, own_seed in zip(functions, seeds, strict=True):
        example = function(example, own_seed)
    return example


def resize(
    example: Example, seed: tf.Tensor, *, size: tuple[int, ...], scale: tuple[float, float] = (1.0, 1.0)
) -> Example:
    """Resizes to `size` times a random factor, in one resampling.

    Images are resized bilinearly with antialiasing, labels by the nearest pixel.

    Args:
      example: image and label of any size, [Y, X, K].
      seed: of the draw.
      size: height and width at factor 1.
      scale: smallest and largest factor, drawn uniformly.
    """
    if scale != (1.0, 1.0):
        factor = tf.random.stateless_uniform([], seed, *scale)
        size = tf.maximum(tf.cast(tf.round(tf.cast(size, tf.float32) * factor), tf.int32), 1)
    return {key: _resize_one(key, tensor, size) for key, tensor in example.items()}


def _resize_one(key: str, tensor: tf.Tensor, size: tuple[int, ...] | tf.Tensor) -> tf.Tensor:
    """Resizes [Y, X, K] to [H, W, K], keeping the type."""

    def resample() -> tf.Tensor:
        if key == "label":
            return tf.image.resize(tensor, size, "nearest")
        return _to_uint8(tf.image.resize(tensor, size, "bilinear", antialias=True))

    if isinstance(size, tf.Tensor):
        return resample()
    if tensor.shape.is_fully_defined():
        return tensor if tensor.shape[:2] == size else resample()
    fits = tf.reduce_all(tf.shape(tensor)[:2] == size)
    return tf.ensure_shape(tf.cond(fits, lambda: tensor, resample), (*size, None))


def crop(
    example: Example,
    seed: tf.Tensor,
    *,
    size: tuple[int, ...],
    class_share: float = 0.0,
    background: int | None = None,
) -> Example:
    """Cuts out a window of `size` at a random place.

    Where the window is larger than the image, the image lies at a random place inside it; around it the label
    is ignored and the image is `PADDING`.

    Args:
      example: image and, maybe, label.
      seed: of the draws.
      size: height and width of the window.
      class_share: of the windows, if there is a label, that are placed around a class, as nnU-Net does
        (arXiv 1904.08128): one of the label's classes is drawn, then one of its pixels, which lies at a random place
        of the window.
      background: train id that is not drawn.
    """
    height, width = size
    if example["image"].shape[:2] == size:
        return example
    shape = tf.shape(example["image"])[:2]
    spare = shape - [height, width]
    draw = tf.random.stateless_uniform([2], seed)
    # Negative where the window starts outside the image. The cast rounds down, as draw < 1.
    low = tf.minimum(spare, 0)
    offset = low + tf.cast(tf.floor(draw * tf.cast(tf.abs(spare) + 1, tf.float32)), tf.int32)
    if class_share and "label" in example:
        offset = _around_class(example["label"][..., 0], seed, offset, size, class_share, background)
    start = tf.maximum(offset, 0)
    taken = tf.minimum(shape, [height, width])
    before = tf.maximum(-offset, 0)
    after = [height, width] - taken - before

    def window(key: str, tensor: tf.Tensor) -> tf.Tensor:
        tensor = tensor[start[0] : start[0] + taken[0], start[1] : start[1] + taken[1]]
        fill = IGNORED if key == "label" else PADDING
        around = tf.stack([[before[0], after[0]], [before[1], after[1]], [0, 0]])
        tensor = tf.pad(tensor, around, constant_values=tf.constant(fill, tensor.dtype))
        return tf.ensure_shape(tensor, (height, width, None))

    return {key: window(key, tensor) for key, tensor in example.items()}


def _around_class(
    label: tf.Tensor, seed: tf.Tensor, offset: tf.Tensor, size: tuple[int, ...], share: float, background: int | None
) -> tf.Tensor:
    """Returns where a window [2] starts, given a start `offset` that is kept in all draws but a `share` of them."""
    uniform = tf.random.stateless_uniform([5], tf.random.experimental.stateless_split(seed, 1)[0])
    counts = tf.math.bincount(tf.cast(label, tf.int32), minlength=IGNORED + 1)
    barred = [IGNORED] if background is None else [IGNORED, background]
    shown = tf.where((counts > 0) & ~tf.reduce_any(tf.range(IGNORED + 1)[:, None] == barred, axis=1))[:, 0]

    def draw_from(candidates: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        return candidates[tf.cast(number * tf.cast(tf.shape(candidates)[0], tf.float32), tf.int32)]

    def around() -> tf.Tensor:
        train_id = tf.cast(draw_from(shown, uniform[1]), label.dtype)
        pixel = tf.cast(draw_from(tf.where(label == train_id), uniform[2]), tf.int32)
        start = pixel - tf.cast(uniform[3:] * tf.cast(size, tf.float32), tf.int32)
        spare = tf.shape(label) - size
        return tf.where(spare > 0, tf.clip_by_value(start, 0, tf.maximum(spare, 0)), offset)

    return tf.cond((uniform[0] < share) & (tf.size(shown) > 0), around, lambda: offset)


def flip(example: Example, seed: tf.Tensor, *, active: bool = True, axis: int = 1) -> Example:
    """Reverses an axis in half of the draws: 1 mirrors left and right, 0 turns upside down."""
    if not active:
        return example
    mirrored = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(
        mirrored,
        lambda: {key: tf.reverse(tensor, axis=[axis]) for key, tensor in example.items()},
        lambda: dict(example),
    )


def brightness(example: Example, seed: tf.Tensor, *, largest: float) -> Example:
    """Adds a shift of up to `largest` * 255 in either direction to all values."""
    if largest == 0:
        return example
    shift = 255.0 * tf.random.stateless_uniform([], seed, -largest, largest)
    return _recolour(example, lambda pixels: pixels + shift)


def contrast(example: Example, seed: tf.Tensor, *, largest: float) -> Example:
    """Multiplies the difference from the image's mean by a factor in [1 - largest, 1 + largest]."""
    if largest == 0:
        return example
    factor = tf.random.stateless_uniform([], seed, 1 - largest, 1 + largest)

    def adjust(pixels: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(pixels)
        return mean + factor * (pixels - mean)

    return _recolour(example, adjust)


def saturation(example: Example, seed: tf.Tensor, *, largest: float) -> Example:
    """Multiplies each pixel's difference from its grey value by a factor in [1 - largest, 1 + largest]."""
    if largest == 0:
        return example
    factor = tf.random.stateless_uniform([], seed, 1 - largest, 1 + largest)

    def adjust(pixels: tf.Tensor) -> tf.Tensor:
        grey = tf.image.rgb_to_grayscale(pixels)
        return grey + factor * (pixels - grey)

    return _recolour(example, adjust)


def hue(example: Example, seed: tf.Tensor, *, largest: float) -> Example:
    """Turns the hue by up to `largest` of the circle, in either direction."""
    if largest == 0:
        return example
    turn = tf.random.stateless_uniform([], seed, -largest, largest)
    return _recolour(example, lambda pixels: tf.image.adjust_hue(pixels, turn))


def gamma(example: Example, seed: tf.Tensor, *, largest: float) -> Example:
    """Raises values of 0 to 1 to a power in [1 / (1 + largest), 1 + largest], drawn evenly on a logarithmic scale."""
    if largest == 0:
        return example
    bound = math.log1p(largest)
    power = tf.exp(tf.random.stateless_uniform([], seed, -bound, bound))
    return _recolour(example, lambda pixels: 255.0 * (pixels / 255.0) ** power)


def _recolour(example: Example, adjust: Callable[[tf.Tensor], tf.Tensor]) -> Example:
    """Applies a function of float32 pixels [H, W, 3] in 0..255 to the image."""
    return {**example, "image": _to_uint8(adjust(tf.cast(example["image"], tf.float32)))}


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.saturate_cast(tf.round(pixels), tf.uint8)
