"""Class probabilities of whole images, averaged over sliding windows, mirrored images and scales.

Legend: B batch, H W pixels of the image, h w feature cells, Y X pixels of the result, C classes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from ass_jax.method.state import Variables
from ass_jax.models import Networks
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear

Network = Callable[[Array], Array]  # From images [B, H, W, 3] to logits [B, h, w, C].


def predictions(network: Network, images: Array, size: tuple[int, int], settings: ConfigDict) -> Array:
    """Returns the most probable class of each pixel, uint8 `[B, *size]`.

    Args:
      network: gives the logits of images; traced once for each scale.
      images: uint8 `[B, H, W, 3]`.
      size: (Y, X) of the result; static.
      settings: `config.evaluation`: `window`, `stride`, `flip` and `scales`; static.
    """
    scales = tuple(settings.scales)
    whole = _window(images.shape[1:3], settings.window) == images.shape[1:3]
    if whole and not settings.flip and scales == (1.0,):
        scores = resize_bilinear(network(images), size)  # Nothing to average: the softmax keeps the order.
    else:
        scores = probabilities(
            network, images, size, window=settings.window, stride=settings.stride, flip=settings.flip, scales=scales
        )
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)


def probabilities(
    network: Network,
    images: Array,
    size: tuple[int, int],
    *,
    window: tuple[int, int] = (0, 0),
    stride: tuple[int, int] = (0, 0),
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> Array:
    """Returns the mean of the softmax of up-sampled (aligned corners) logits over all views of each image.

    Every scale weighs the same, and so do all views of a pixel within a scale. Windows are averaged at the size of
    the scaled image, and the mean is resized to `size`; whole images are up-sampled to `size` at once. One view is
    computed after the other, so that never more than a few maps of full size exist.

    Args:
      network: gives the logits of images; traced once for each scale.
      images: uint8 `[B, H, W, 3]`.
      size: (Y, X) of the result.
      window: height, width of the windows in pixels of the scaled image, which limits them; (0, 0): the whole image.
      stride: between windows; the last ones end with the image. (0, 0): half a window.
      flip: sees every view mirrored from left to right as well.
      scales: factors of the image's size; other than 1, images are resized bilinearly, anti-aliased.

    Returns:
      float32 `[B, *size, C]`.
    """
    found_at = [
        functools.partial(_one_scale, network, scale=scale, size=size, window=window, stride=stride, flip=flip)
        for scale in scales
    ]
    if len(found_at) == 1:
        return found_at[0](images)

    def add_scale(number: Array, total: Array) -> Array:
        return total + jax.lax.switch(number, found_at, images)

    # Written as a sum, it would be compiled to a single addition that holds the maps of all scales.
    total = jnp.zeros(jax.eval_shape(found_at[0], images).shape, jnp.float32)
    return jax.lax.fori_loop(0, len(scales), add_scale, total) / len(scales)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where windows start so that they cover `length` pixels: every `stride`, and at the very end.

    Args:
      length: of the image, in pixels.
      window: at most `length`.
      stride: at most `window`, or pixels would be missed; 0: half a window.
    """
    return [*range(0, length - window, stride or max(1, window // 2)), length - window]


def _one_scale(
    network: Network,
    images: Array,
    *,
    scale: float,
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    flip: bool,
) -> Array:
    """Returns the mean over the windows and mirrored views of the scaled images, float32 `[B, *size, C]`."""
    images = _scaled(images, scale)
    image_size = images.shape[1:3]
    window = _window(image_size, window)
    # A whole image goes to its final size at once: no window has to be put beside it.
    whole = window == image_size
    canvas, patch_size = (size, size) if whole else (image_size, window)
    tops, lefts = (window_starts(*lengths) for lengths in zip(image_size, window, stride, strict=True))
    views = [(top, left, mirrored) for top in tops for left in lefts for mirrored in ((0, 1) if flip else (0,))]
    table = jnp.array(views, jnp.int32)

    def add_view(number: int | Array, total: Array) -> Array:
        top, left, mirrored = table[number]
        place = (0, top, left, 0)
        patch = jax.lax.dynamic_slice(images, place, (len(images), *window, images.shape[3]))
        logits = network(_mirror(patch, mirrored))
        found = _mirror(jax.nn.softmax(resize_bilinear(logits, patch_size)), mirrored)
        before = jax.lax.dynamic_slice(total, place, found.shape)
        return jax.lax.dynamic_update_slice(total, before + found, place)

    example = jax.ShapeDtypeStruct((len(images), *window, images.shape[3]), images.dtype)
    classes = jax.eval_shape(network, example).shape[-1]
    total = jnp.zeros((len(images), *canvas, classes), jnp.float32)
    # A loop holds the network once in the program, however many views there are.
    total = add_view(0, total) if len(views) == 1 else jax.lax.fori_loop(0, len(views), add_view, total)
    counts = np.zeros(canvas, np.float32)
    for top, left, _ in views:
        counts[top : top + patch_size[0], left : left + patch_size[1]] += 1
    return resize_bilinear(total / counts[:, :, None], size)


def _mirror(maps: Array, mirrored: Array) -> Array:
    """Mirrors `[B, H, W, K]` from left to right if `mirrored` is not 0."""
    return jax.lax.cond(mirrored != 0, lambda x: x[:, :, ::-1], lambda x: x, maps)


def _window(image_size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of the windows: no larger than the image, which they are where they are (0, 0)."""
    return tuple(min(length, pixels) or length for length, pixels in zip(image_size, window, strict=True))


def _scaled(images: Array, scale: float) -> Array:
    """Resizes images `[B, H, W, 3]` by a factor, as the input pipeline does; by 1, they stay what they are."""
    if scale == 1.0:
        return images
    height, width = (max(1, round(length * scale)) for length in images.shape[1:3])
    return jax.image.resize(images.astype(jnp.float32), (len(images), height, width, images.shape[3]), "linear")


def prediction_step(
    variables: Variables, images: Array, *, networks: Networks, config: ConfigDict, size: tuple[int, int]
) -> Array:
    """Labels images with running statistics: logits up-sampled (aligned corners) to `size`, then argmax.

    With `window`, `flip` or `scales` of `config.evaluation`, the probabilities of all views are averaged first.

    Args:
      variables: of the segmenter.
      images: uint8 `[B, H, W, 3]`.
      networks: the segmenter is used.
      config: the whole configuration; static.
      size: height, width of the result; static.

    Returns:
      uint8 `[B, *size]`.
    """

    def network(pixels: Array) -> Array:
        _, logits = networks.segmenter.apply(variables, normalise(pixels, config), train=False)
        return logits

    return predictions(network, images, size, config.evaluation)
