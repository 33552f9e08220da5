"""Class probabilities of whole images, averaged over sliding windows, mirrored images and scales.

Legend: B batch, H W pixels of the image, h w feature cells, Y X pixels of the result, C classes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from ass_jax.method.state import Variables
from ass_jax.models import Networks
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear

Network = Callable[[Array], Array]  # Takes images [B, H, W, 3], returns logits [B, h, w, C].


def scores(network: Network, images: Array, settings: ConfigDict) -> Array:
    """Returns what labels are chosen by, before it is resized to the size of the labels.

    Args:
      network: returns the logits of images.
      images: `[B, H, W, 3]`.
      settings: `config.evaluation`; static.

    Returns:
      float32: the network's logits `[B, h, w, C]` of a single view (`is_single`), or else the mean of the probabilities
      of all views `[B, H, W, C]`.
    """
    single = is_single(images.shape[1:3], settings)
    return network(images) if single else probabilities(network, images, **arguments(settings))


def labels(scores: Array, size: tuple[int, ...]) -> Array:
    """Returns the class with the highest score of each pixel, uint8 `[B, *size]`.

    Args:
      scores: `[B, h, w, C]`, of `scores`; resized with aligned corners.
      size: (Y, X) of the result; static.
    """
    return jnp.argmax(resize_bilinear(scores, size), axis=-1).astype(jnp.uint8)


def is_single(image_size: tuple[int, ...], settings: ConfigDict) -> bool:
    """Returns whether the settings ask for one view of an image of this size: the whole image as it is."""
    whole = _window(image_size, settings.window) == tuple(image_size)
    return whole and not settings.flip and tuple(settings.scales) == (1.0,)


def arguments(settings: ConfigDict) -> dict[str, Any]:
    """Returns the arguments of `probabilities` that `config.evaluation` has."""
    tuples = {name: tuple(settings[name]) for name in ("window", "stride", "scales")}
    return tuples | {"flip": settings.flip}


def probabilities(
    network: Network,
    images: Array,
    *,
    window: tuple[int, ...] = (0, 0),
    stride: tuple[int, ...] = (0, 0),
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> Array:
    """Returns the mean of the class probabilities over all views of each image.

    The logits of a view are up-sampled with aligned corners before the softmax. All scales have the same weight, and so
    have all views of a pixel within a scale. Windows are averaged at the size of the scaled image, and their mean is
    resized to that of the image; whole images are up-sampled to it directly. Views are computed one after another, so
    that only a few maps of full size exist at a time.

    Args:
      network: returns the logits of images; traced once for each scale.
      images: uint8 `[B, H, W, 3]`.
      window: height, width of the windows in pixels of the scaled image, at most its size; (0, 0): the whole image.
      stride: between windows; the last ones end at the edge of the image. (0, 0): half a window.
      flip: adds the left-right mirror of every view.
      scales: factors of the image's size. For a factor other than 1, images are resized bilinearly with anti-aliasing.

    Returns:
      float32 `[B, H, W, C]`.
    """
    at_scales = [
        functools.partial(_one_scale, network, scale=scale, window=window, stride=stride, flip=flip) for scale in scales
    ]
    if len(at_scales) == 1:
        return at_scales[0](images)

    def add_scale(number: Array, total: Array) -> Array:
        return total + jax.lax.switch(number, at_scales, images)

    # Not a plain sum: XLA would merge it into one addition that needs the maps of all scales at the same time.
    total = jnp.zeros(jax.eval_shape(at_scales[0], images).shape, jnp.float32)
    return jax.lax.fori_loop(0, len(scales), add_scale, total) / len(scales)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns the starts of windows that cover `length` pixels: one every `stride`, and one that ends at the edge.

    Args:
      length: of the image, in pixels.
      window: length of a window, at most `length`.
      stride: at most `window`, so that no pixel is missed; 0: half a window.
    """
    return [*range(0, length - window, stride or max(1, window // 2)), length - window]


def _one_scale(
    network: Network,
    images: Array,
    *,
    scale: float,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    flip: bool,
) -> Array:
    """Returns the mean over the windows and mirrored views of the scaled images, float32 `[B, H, W, C]`."""
    size = images.shape[1:3]
    images = _scaled(images, scale)
    image_size = images.shape[1:3]
    window = _window(image_size, window)
    # A whole image needs no canvas of its own size, so its logits are up-sampled to the final size directly.
    whole = window == image_size
    canvas, patch_size = (size, size) if whole else (image_size, window)
    tops, lefts = (window_starts(*lengths) for lengths in zip(image_size, window, stride, strict=True))
    views = [(top, left, mirrored) for top in tops for left in lefts for mirrored in ((0, 1) if flip else (0,))]
    table = jnp.array(views, jnp.int32)

    def add_view(number: int | Array, total: Array) -> Array:
        top, left, mirrored = table[number]
        place = (0, top, left, 0)
        patch = jax.lax.dynamic_slice(images, place, (images.shape[0], *window, images.shape[3]))
        logits = network(_mirror(patch, mirrored))
        probabilities = _mirror(jax.nn.softmax(resize_bilinear(logits, patch_size)), mirrored)
        before = jax.lax.dynamic_slice(total, place, probabilities.shape)
        return jax.lax.dynamic_update_slice(total, before + probabilities, place)

    example = jax.ShapeDtypeStruct((images.shape[0], *window, images.shape[3]), images.dtype)
    classes = jax.eval_shape(network, example).shape[-1]
    total = jnp.zeros((images.shape[0], *canvas, classes), jnp.float32)
    # In a loop, the program contains the network once, however many views there are.
    total = add_view(0, total) if len(views) == 1 else jax.lax.fori_loop(0, len(views), add_view, total)
    counts = np.zeros(canvas, np.float32)
    for top, left, _ in views:
        counts[top : top + patch_size[0], left : left + patch_size[1]] += 1
    return resize_bilinear(total / counts[:, :, None], size)


def _mirror(maps: Array, mirrored: Array) -> Array:
    """Mirrors `[B, H, W, K]` from left to right if `mirrored` is not 0."""
    return jax.lax.cond(mirrored != 0, lambda x: x[:, :, ::-1], lambda x: x, maps)


def _window(image_size: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    """Returns height and width of the windows: at most those of the image; 0 stands for those of the image."""
    return tuple(min(length, pixels) or length for length, pixels in zip(image_size, window, strict=True))


def _scaled(images: Array, scale: float) -> Array:
    """Resizes images `[B, H, W, 3]` by a factor, as the input pipeline does; a factor of 1 returns them unchanged."""
    if scale == 1.0:
        return images
    height, width = (max(1, round(length * scale)) for length in images.shape[1:3])
    return jax.image.resize(images.astype(jnp.float32), (images.shape[0], height, width, images.shape[3]), "linear")


def scores_step(variables: Variables, images: Array, *, networks: Networks, config: ConfigDict) -> Array:
    """Returns the `scores` of images, by running statistics.

    Args:
      variables: of the segmenter.
      images: uint8 `[B, H, W, 3]`.
      networks: of which the segmenter is used.
      config: the whole configuration; static.
    """

    def network(pixels: Array) -> Array:
        _, logits = networks.segmenter.apply(variables, normalise(pixels, config), train=False)
        return logits

    return scores(network, images, config.evaluation)
