"""Pixels as the initial weights expect them."""

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict


def normalise(images: Array, config: ConfigDict) -> Array:
    """RGB images of 0..255 `[B, H, W, 3]` to the float32 pixels that the segmenter's initial weights expect."""
    if config.model.pixel_order == "bgr":
        images = images[..., ::-1]
    mean, deviation = jnp.array(config.model.pixel_mean), jnp.array(config.model.pixel_deviation)
    return (images.astype(jnp.float32) - mean) / deviation
