"""SYNTHIA to Cityscapes: trained on the 16 classes that both have, reported on 16 and 13.

Numbers are those of ASS (arXiv 2004.00794), or of AdaptSegNet (arXiv 1802.10349), on which it builds, where the paper
gives none; `configs/base.py` marks our own choices.

    python main.py --config=configs/synthia.py --workdir=runs/synthia
    python main.py --config=configs/synthia.py:adaptsegnet --workdir=runs/synthia_adaptsegnet
    python main.py --config=configs/synthia.py:ass_plus --workdir=runs/synthia_plus
    python main.py --config=configs/synthia.py:500 --workdir=runs/synthia_500
    python main.py --config=configs/synthia.py:500,target_only --workdir=runs/synthia_500_target_only

The number of labelled images is 50, 100 (the default), 200, 500, 1000 or 2975: the lists of `data/datasets/lists/`.
Name other folders of the datasets with `--config.data.source_root` and `--config.data.target_root`.

Expected time: a step is about 8.9 TFLOP, so that 150,000 steps at the full bfloat16 speed of an NVIDIA
H200 (`--config.model.dtype=bfloat16`) take half an hour; expect a small multiple of that.

Published mIoU of 13 classes on Cityscapes val (DeepLab-v2, ResNet-101), by number of labelled target
images:

    labelled images          100   200   500  1000  2975
    target_only             53.0  58.9  61.0  67.5  72.2
    adaptsegnet             58.5  61.9  64.4  67.6  73.1
    ass                     62.1  64.8  69.8  73.0  77.1
"""

from ml_collections import ConfigDict

from configs import base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of SYNTHIA to Cityscapes, with the `words` applied."""
    config = base.default_config()
    config.data.source = "synthia"
    config.data.target = "cityscapes"
    config.data.source_root = "datasets/synthia"  # As downloaded and unpacked.
    config.data.target_root = "datasets/cityscapes"
    config.data.classes = "synthia16"
    return base.finish(config, words)
