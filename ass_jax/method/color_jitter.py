"""Random changes of colour and sharpness of image batches, on the device.

Legend: B batch, H W pixels. Images are float32 RGB in 0..255, before and after.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

JITTERED, BLURRED = 0.8, 0.5  # Shares of the images that are changed; DAFormer (arXiv 2111.14887), DACS.
SMALLEST_SIGMA, LARGEST_SIGMA = 0.15, 1.15  # Pixels; DACS (arXiv 2007.08702).
BLUR_RADIUS = 4  # Pixels: 3.5 times the largest sigma.

# RGB to luma and two colour differences (YIQ); rotating the last two changes the hue.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_FROM_YIQ = np.linalg.inv(_TO_YIQ).astype(np.float32)


def perturb(key: Array, images: Array, jitter: float, blur: bool) -> Array:
    """Jitters the colours of most images and blurs half of them, independently.

    Args:
      key: of `jax.random`.
      images: float32 `[B, H, W, 3]`.
      jitter: largest change of brightness, contrast and saturation, as a share; of the hue, half a circle's share.
      blur: whether to blur.
    """
    keys = jax.random.split(key, 4)
    batch = len(images)
    changes = jax.random.uniform(keys[0], (4, batch), minval=-jitter, maxval=jitter)
    changes *= jax.random.bernoulli(keys[1], JITTERED, (batch,))
    images = jitter_colours(images, *changes)
    if not blur:
        return images
    sigmas = jax.random.uniform(keys[2], (batch,), minval=SMALLEST_SIGMA, maxval=LARGEST_SIGMA)
    blurred = jax.random.bernoulli(keys[3], BLURRED, (batch,))
    return jnp.where(blurred[:, None, None, None], gaussian_blur(images, sigmas), images)


def jitter_colours(images: Array, brightness: Array, contrast: Array, saturation: Array, hue: Array) -> Array:
    """Scales brightness, contrast about the mean luma and saturation, rotates the hue and clips at 0 and 255.

    Args:
      images: float32 `[B, H, W, 3]`.
      brightness: `[B]`; the pixels are multiplied by 1 + brightness.
      contrast: `[B]`; distances from the image's mean luma are multiplied by 1 + contrast.
      saturation: `[B]`; the two colour differences of YIQ are multiplied by 1 + saturation.
      hue: `[B]`; the colour differences are rotated by this share of half a circle.
    """
    brightness, contrast, saturation, hue = (
        jnp.asarray(change)[:, None, None, None] for change in (brightness, contrast, saturation, hue)
    )
    yiq = jnp.einsum("bhwk,ck->bhwc", images, _TO_YIQ, precision="highest") * (1.0 + brightness)
    luma, first, second = yiq[..., :1], yiq[..., 1:2], yiq[..., 2:]
    middle = jnp.mean(luma, axis=(1, 2), keepdims=True)
    luma = middle + (1.0 + contrast) * (luma - middle)
    gain = (1.0 + contrast) * (1.0 + saturation)
    sine, cosine = gain * jnp.sin(jnp.pi * hue), gain * jnp.cos(jnp.pi * hue)
    yiq = jnp.concatenate([luma, cosine * first - sine * second, sine * first + cosine * second], axis=-1)
    return jnp.clip(jnp.einsum("bhwk,ck->bhwc", yiq, _FROM_YIQ, precision="highest"), 0.0, 255.0)


def gaussian_blur(images: Array, sigmas: Array) -> Array:
    """Blurs with a Gaussian cut off at `BLUR_RADIUS`; border pixels are repeated outwards.

    Args:
      images: float32 `[B, H, W, 3]`.
      sigmas: `[B]`, pixels.
    """
    offsets = jnp.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    weights = jnp.exp(-0.5 * jnp.square(offsets / sigmas[:, None]))
    weights /= jnp.sum(weights, axis=1, keepdims=True)  # [B, taps]
    for axis in (1, 2):
        cells = images.shape[axis]
        padding = [(BLUR_RADIUS, BLUR_RADIUS) if number == axis else (0, 0) for number in range(4)]
        padded = jnp.pad(images, padding, mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, tap, tap + cells, axis=axis) for tap in range(len(offsets)))
        images = sum(weights[:, tap, None, None, None] * part for tap, part in enumerate(shifted))  # type: ignore[assignment]
    return images
