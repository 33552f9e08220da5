"""DeepLab-v2 (arXiv 1606.00915): a dilated backbone and a classifier of parallel dilated convolutions.

Other heads may stand for the classifier.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from ass_jax import ops
from ass_jax.models.efficientnet import EfficientNetLite0
from ass_jax.models.heads import LinearHead, MultilevelHead, over_image
from ass_jax.models.layers import Conv
from ass_jax.models.resnet import ResNet
from ass_jax.models.vgg import Vgg
from ass_jax.models.vit import Vit

DILATIONS = (6, 12, 18, 24)


class DeepLab(nn.Module):
    """Segmentation network; parameters lie in the scopes "backbone" and "classifier".

    Attributes:
      backbone: module that maps (images, train) to features.
      num_classes: C.
      branches: how many of `DILATIONS` are used.
      dtype: compute type of the classifier; parameters are float32.
      head: what the scope "classifier" holds: "atrous", a `Classifier`; "linear", a `LinearHead`; or "multilevel", a
        `MultilevelHead`, where the backbone has `levels`.
      batch_norm: of the linear head, as of the backbone: "batch" or "frozen".
    """

    backbone: nn.Module
    num_classes: int
    branches: int = len(DILATIONS)
    dtype: jnp.dtype = jnp.float32
    head: str = "atrous"
    batch_norm: str = "batch"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Segments normalised images.

        Args:
          images: [B, H, W, 3].
          train: whether batch norm uses statistics of the batch, and moves its running ones towards them.

        Returns:
          Features [B, h, w, D] in the compute type and logits [B, h, w, C] float32. Logits of a Vision Transformer have
          the size of the images where this is no multiple of the patches'.
        """
        shared = {"num_classes": self.num_classes, "dtype": self.dtype, "name": "classifier"}
        if self.head == "multilevel":
            head = MultilevelHead(channels=self.backbone.head_channels, scale=self.backbone.head_scale, **shared)
            features, logits = head(self.backbone.levels(images, train))
        elif self.head == "linear":
            features = self.backbone(images, train)
            features, logits = LinearHead(**shared)(features, train and self.batch_norm == "batch")
        else:
            features = self.backbone(images, train)
            logits = Classifier(branches=self.branches, **shared)(features)
        return over_image(features, logits, images.shape[1:3]) if isinstance(self.backbone, Vit) else (features, logits)


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


def _vit(model: ConfigDict, **architecture) -> Vit:
    return Vit(
        registers=model.get("registers", 0),
        stochastic_depth=model.get("stochastic_depth", 0.0),
        dtype=jnp.dtype(model.dtype),
        remat=_remat(model),
        **architecture,
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
    "dinov2_s": functools.partial(_vit, width=384, depth=12, heads=6),
    "dinov2_b": functools.partial(_vit, width=768, depth=12, heads=12),
    "dinov2_l": functools.partial(_vit, width=1024, depth=24, heads=16),
    "vit_tiny": functools.partial(_vit, width=96, depth=4, heads=3),  # Starts from random weights.
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
        branches=model.branches,
        dtype=jnp.dtype(model.dtype),
        head=model.get("head", "atrous"),
        batch_norm=model.batch_norm,
    )
