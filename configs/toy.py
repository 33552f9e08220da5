"""Generated streets: the whole method in minutes on the processor of a laptop, with nothing to download.

Numbers: ours, for a small network trained from scratch.

    python main.py --config=configs/toy.py --workdir=runs/toy
    python main.py --config=configs/toy.py:source_only --workdir=runs/toy_source_only
    python main.py --config=configs/toy.py:ass_plus --workdir=runs/toy_plus

`make demo` runs the first two and shows their scores side by side. On two cores either takes about a minute. Expected
mIoU, over three seeds: source_only 27.4 ± 1.9, joint 47.6 ± 1.4, adaptsegnet 52.1 ± 0.4, ass 53.0 ± 0.6, ass_plus
55.3 ± 0.9, oracle 60.0 ± 0.4; docs/results/ladder/ladder.md has the rest. Those of ass and ass_plus are with
`--config.loss.semantic_unlabelled=False`; over ten seeds, ass has 53.0 with the default (docs/results/semantic.md).
"""

from ml_collections import ConfigDict

from configs import backbones, base


def get_config(words: str = "") -> ConfigDict:
    """Returns the configuration of the generated dataset, with the `words` applied."""
    config = base.default_config()
    config.steps = 1500

    config.data.toy.target_count = 150  # So few that source images help even when all of these have labels.
    config.data.labelled_count = 8
    config.data.source_size = (64, 128)  # As generated.
    config.data.target_size = (64, 128)
    config.data.batch.update(source=4, labelled=2, unlabelled=2)

    config.augment.flip = True

    backbones.resnet_tiny(config)
    config.optimizer.decay_steps = config.steps

    config.evaluation.update(batch=20, every=500)
    config.checkpoint.every = 500
    return base.finish(config, words)
