"""DeepLab-v2 (arXiv 1606.00915): a dilated backbone and a classifier of parallel dilated convolutions, or another head."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from ass_jax import ops
from ass_jax.models.efficientnet import EfficientNetLite0
from ass_jax.models.heads import MultilevelHead
from ass_jax.models.layers import Conv
from ass_jax.models.resnet import ResNet
from ass_jax.models.vgg import Vgg

DILATIONS = (6, 12, 18, 24)


class DeepLab(nn.Module):
    """Segmentation network; parameters lie in the scopes "backbone" and "classifier".

    Attributes:
      backbone: module that maps (images, train) to features.
      num_classes: C.
      branches: how many of `DILATIONS` DeepLab's classifier uses.
      dtype: compute type of the classifier; parameters are float32.
      head: "atrous", DeepLab's classifier, or "multilevel", which reads the backbone's `levels`.
    """

    backbone: nn.Module
    num_classes: int
    branches: int = len(DILATIONS)
    dtype: jnp.dtype = jnp.float32
    head: str = "atrous"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Segments normalised images.

        Args:
          images: [B, H, W, 3].
          train: whether batch norm uses statistics of the batch, and moves its running ones towards them.

        Returns:
          Features [B, h, w, D] in the compute type and logits [B, h, w, C] float32.
        """
        if self.head == "multilevel":
            head = MultilevelHead(self.num_classes, self.backbone.head_channels, self.dtype, name="classifier")
            return head(self.backbone.levels(images, train))
        features = self.backbone(images, train)
        classifier = Classifier(self.num_classes, self.branches, self.dtype, name="classifier")
        return features, classifier(features)


class Classifier(nn.Module):
    """Atrous spatial pyramid: the sum of 3x3 convolutions with bias at growing dilations.

    Attributes:
      num_classes: C.
      branches: how many of `DILATIONS` are used.
      dtype: compute type; parameters and the sum are float32.
    """

    num_classes: int
    branches: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features [B, h, w, D] to logits [B, h, w, C] float32."""
        dilations = DILATIONS[: self.branches]
        branch = functools.partial(Conv, self.num_classes, 3, use_bias=True, kernel_init=nn.initializers.normal(0.01))
        branches = (branch(name=f"dilation{dilation}").parameters(features.shape[-1]) for dilation in dilations)
        kernels, biases = zip(*branches, strict=True)
        return ops.atrous_sum(features.astype(self.dtype), kernels, dilations) + sum(biases)


def _resnet(model: ConfigDict, **architecture) -> ResNet:
    return ResNet(
        stride_in=model.stride_in,
        batch_norm=model.batch_norm,
        dtype=jnp.dtype(model.dtype),
        remat=_remat(model),
        **architecture,
    )


def _vgg(model: ConfigDict) -> Vgg:
    return Vgg(dtype=jnp.dtype(model.dtype), remat=_remat(model))


def _efficientnet_lite0(model: ConfigDict) -> EfficientNetLite0:
    return EfficientNetLite0(
        output_stride=model.get("output_stride", 8),  # As with `_remat`.
        batch_norm=model.batch_norm,
        dtype=jnp.dtype(model.dtype),
        remat=_remat(model),
    )


def _remat(model: ConfigDict) -> bool:
    return model.get("remat", False)  # Weights do not depend on it, so that a file of weights may leave it out.


BACKBONES: dict[str, Callable[[ConfigDict], nn.Module]] = {
    "resnet50": functools.partial(_resnet, stage_sizes=(3, 4, 6, 3)),
    "resnet101": functools.partial(_resnet, stage_sizes=(3, 4, 23, 3)),
    # Learns from random weights within minutes on a CPU; has 128 features.
    "resnet_tiny": functools.partial(
        _resnet, stage_sizes=(1, 1, 1, 1), block="basic", width=16, stem_width=16, stem_kernel=3
    ),
    "vgg16": _vgg,
    "efficientnet_lite0": _efficientnet_lite0,
}


def build_deeplab(model: ConfigDict, num_classes: int) -> DeepLab:
    """Builds the segmentation network that a configuration names.

    Args:
      model: `config.model`.
      num_classes: C.

    Returns:
      The module, without parameters.
    """
    return DeepLab(
        backbone=BACKBONES[model.backbone](model),
        num_classes=num_classes,
        head=model.get("head", "atrous"),  # As with `_remat`.
        branches=model.branches,
        dtype=jnp.dtype(model.dtype),
    )
