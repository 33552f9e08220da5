"""GTA5 to Cityscapes, 19 classes: the paper's main experiment.

Numbers are those of ASS (arXiv 2004.00794), or of AdaptSegNet (arXiv 1802.10349), on which it builds, where the paper
gives none; `configs/base.py` marks our own choices.

    python main.py --config=configs/gta5.py --workdir=runs/gta5
    python main.py --config=configs/gta5.py:adaptsegnet --workdir=runs/gta5_adaptsegnet
    python main.py --config=configs/gta5.py:ass_plus --workdir=runs/gta5_plus
    python main.py --config=configs/gta5.py:500 --workdir=runs/gta5_500
    python main.py --config=configs/gta5.py:500,target_only --workdir=runs/gta5_500_target_only

The number of labelled images is 50, 100 (the default), 200, 500, 1000 or 2975: the lists of `data/datasets/lists/`.
Name other folders of the datasets with `--config.data.source_root` and `--config.data.target_root`.

Expected time: a step is about 8.9 TFLOP, so that 150,000 steps at the full bfloat16 speed of an NVIDIA
H200 (`--config.model.dtype=bfloat16`) take half an hour; expect a small multiple of that.

Published mIoU on Cityscapes val (DeepLab-v2, ResNet-101), by number of labelled target images:

    labelled images          100   200   500  1000  2975
    target_only             41.9  47.7  55.5  58.6  65.3
    adaptsegnet             52.6  53.6  58.4  61.6  66.6
    ass                     54.2  56.0  60.2  64.5  69.1
"""

from ml_collections import ConfigDict

from configs import base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of GTA5 to Cityscapes, with the `words` applied."""
    config = base.default_config()
    config.data.source = "gta5"
    config.data.target = "cityscapes"
    config.data.source_root = "datasets/gta5"  # As downloaded and unpacked.
    config.data.target_root = "datasets/cityscapes"
    config.data.classes = "cityscapes19"
    return base.finish(config, words)
