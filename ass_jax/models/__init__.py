"""The networks of the method, built from a configuration."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from ass_jax.models.deeplab import build_deeplab
from ass_jax.models.discriminators import GlobalDiscriminator, SemanticDiscriminator


@dataclasses.dataclass(frozen=True)
class Networks:
    """The modules that a training step applies; None where the loss that needs one has weight 0."""

    segmenter: nn.Module
    global_discriminator: nn.Module | None
    semantic_discriminator: nn.Module | None


def build_networks(config: ConfigDict, num_classes: int) -> Networks:
    """Builds the segmenter, and each discriminator whose loss has a weight above 0.

    Args:
      config: of `configs/base.py`.
      num_classes: C.

    Returns:
      Modules without parameters.
    """
    segmenter = build_deeplab(config.model, num_classes)
    outputs = semantic_outputs(config.loss.semantic_outputs, num_classes)
    dtype = jnp.dtype(config.model.dtype)
    global_discriminator = semantic_discriminator = None
    if config.loss.global_weight > 0:
        global_discriminator = GlobalDiscriminator(config.discriminator.global_width, dtype)
    if config.loss.semantic_weight > 0:
        semantic_discriminator = SemanticDiscriminator(config.discriminator.semantic_width, outputs, dtype)
    return Networks(segmenter, global_discriminator, semantic_discriminator)


def semantic_outputs(kind: str, num_classes: int) -> int:
    """Counts the logits of the semantic discriminator.

    Args:
      kind: `config.loss.semantic_outputs`.
      num_classes: C.

    Returns:
      Logits for each vector.
    """
    return {"binary": 1, "class_domain": 2 * num_classes}[kind]
