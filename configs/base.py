"""Every setting, its default and its reason; the other files in `configs/` change only what differs.

The defaults are the numbers of the paper's set-up (ASS, arXiv 2004.00794; AdaptSegNet, arXiv
1802.10349). Where neither gives one, the comment says that the choice is ours.

`--config=configs/toy.py:adaptsegnet,smoke` applies words after the colon, in any order: one of `VARIANTS` (which
terms of the method act), a number (so many labelled target images, as in `configs/gta5.py:500`) and `smoke` (a
size that only shows that all of it runs).
"""

import re
from collections.abc import Callable

from ml_collections import ConfigDict


def get_config(words: str = "") -> ConfigDict:
    """Returns the paper's defaults, with the `words` applied."""
    return finish(default_config(), words)


def default_config() -> ConfigDict:
    """Returns every setting at its default."""
    config = ConfigDict()
    config.variant = "ass"  # Set by the word; recorded in reports.
    config.seed = 0  # Initial weights, order of the data, augmentation.
    config.init = ""  # Weight file to start from, see ass_jax/weights/pretrained.py; empty: random weights.
    config.steps = 150_000  # Training stops here; the schedule is as long as optimizer.decay_steps.

    config.data = ConfigDict()
    config.data.directory = ""  # Prepared data sets; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data.source = "toy"  # Data set of the source domain; names: data/pipeline.py.
    config.data.target = "toy"  # Data set of the target domain.
    config.data.source_root = ""  # Folder of the source data set as downloaded and unpacked.
    config.data.target_root = ""  # The same of the target data set.
    config.data.classes = "toy"  # Class table of data/classes.py.
    config.data.labelled_count = 100  # Labelled target images; -1 takes all.
    config.data.labelled_seed = 0  # Which ones: lists of one seed are nested.
    config.data.labelled_list = ""  # File that names them, one a line; empty: chosen by count and seed.
    config.data.held_out = 0  # So many of them are not trained on, but pick the selected checkpoint.
    config.data.rare_class_temperature = 0.01  # ASS+ draws images for their rare classes, as DAFormer; 0: off.
    config.data.full_size = False  # Prepare images at their own size: slower, for random scale and crop.
    config.data.rejected_limit = 20  # Preparation stops when more files than these are unusable.
    config.data.undecodable_limit = 20  # Training stops when more images than these turn out not to decode.
    config.data.source_size = (720, 1280)  # Height, width that source images are resized to.
    config.data.target_size = (512, 1024)  # Height, width that target images are resized to.
    config.data.readers = 4  # Threads that decode and augment; the batches do not depend on it.
    config.data.prefetch = 2  # Batches prepared ahead.
    config.data.decoded_memory = 256  # MiB: a stream whose images take no more when decoded is decoded once.

    config.data.batch = ConfigDict()  # Images per step over all devices.
    config.data.batch.source = 1
    config.data.batch.labelled = 1
    config.data.batch.unlabelled = 1

    config.data.toy = ConfigDict()  # The generated data set (data/toy/builder.py); other data sets ignore it.
    config.data.toy.height = 64  # Pixels.
    config.data.toy.width = 128
    config.data.toy.source_count = 400
    config.data.toy.target_count = 400
    config.data.toy.validation_count = 100
    config.data.toy.seed = 0  # Of the scenes; config.seed does not change the images.
    config.data.toy.shift = 1.0  # 0: target rendered as source; 1: the documented default.

    config.data.custom = ConfigDict()  # The data set "custom": a user's own images; configs/custom.py is an example.
    config.data.custom.names = ()  # Classes, in the order of their train ids.
    config.data.custom.palette = ()  # Colour (red, green, blue) of each of them.
    config.data.custom.source_ids = ()  # (Raw id in the source label files, class); other raw ids are ignored.
    config.data.custom.target_ids = ()  # The same of the target's label files.
    config.data.custom.source_images = ""  # Folders below data.source_root.
    config.data.custom.source_labels = ""
    config.data.custom.target_images = ""  # Folders below data.target_root.
    config.data.custom.target_labels = ""
    config.data.custom.validation_images = ""
    config.data.custom.validation_labels = ""

    config.augment = ConfigDict()  # Training only. The reference only resizes: all off.
    config.augment.flip = False  # Left-right mirror of half of the images.
    config.augment.scale = (1.0, 1.0)  # Range of the random resize factor; (1, 1): none.
    config.augment.crop = (0, 0)  # Height, width of a random crop after scaling; 0: whole image.
    config.augment.brightness = 0.0  # Largest shift, as a share of 255.
    config.augment.contrast = 0.0  # Factor in [1 - c, 1 + c].
    config.augment.saturation = 0.0  # Factor in [1 - s, 1 + s].
    config.augment.hue = 0.0  # Largest turn, as a share of the circle; at most 0.5.

    config.model = ConfigDict()
    config.model.backbone = "resnet101"  # Names: ass_jax/models/deeplab.py.
    config.model.branches = 4  # Of the dilations 6, 12, 18, 24; AdaptSegNet's released weights act with 2.
    config.model.stride_in = "1x1"  # Where a block strides: "1x1" as Caffe, "3x3" as torchvision.
    config.model.batch_norm = "batch"  # "batch": statistics of each stream; "frozen": running ones.
    config.model.train_norm_affine = False  # The reference freezes scale and offset of batch norm.
    config.model.dtype = "float32"  # Compute type; "bfloat16" for TPU and GPU. Parameters stay float32.
    config.model.remat = False  # Compute activations again in the backward pass: less memory, about a third more time.
    config.model.pixel_order = "bgr"  # Or "rgb": belongs to the initial weights, like mean and deviation.
    config.model.pixel_mean = (104.00698793, 116.66876762, 122.67891434)  # In pixel order, of 0..255.
    config.model.pixel_deviation = (1.0, 1.0, 1.0)

    config.loss = ConfigDict()  # A weight of 0 removes the term and all work that only it needs.
    config.loss.global_weight = 0.001  # AdaptSegNet; 0.01 with least squares.
    config.loss.global_kind = "bce"  # "bce" or "least_squares".
    config.loss.semantic_weight = 0.001  # Ours: the paper's value is not recoverable.
    config.loss.semantic_input = "features"  # Map that is averaged by class: "features" or "logits".
    config.loss.semantic_outputs = "binary"  # "binary", "per_class" or "class_domain".
    config.loss.mixed_weight = 1.0  # Cross-entropy of mixed images, labelled by the average's help: ASS+, ours.
    config.loss.semantic_unlabelled = False  # In ASS+: unlabelled images, where labels are sure, have class vectors.
    config.loss.warmup_steps = 0  # Both adversarial weights rise linearly from 0 over these; ours.

    config.mixing = ConfigDict()  # ASS+: regions of labelled images are pasted onto unlabelled ones.
    config.mixing.kind = "class"  # Regions: half of an image's classes ("class"), or a rectangle ("cut").
    config.mixing.threshold = 0.968  # Probability from which a label of the average counts as sure; DACS, DAFormer.
    config.mixing.weighting = "image"  # Weight of such pixels: the image's share of sure ones, or 0 or 1 by "pixel".
    config.mixing.jitter = 0.2  # Largest change of brightness, contrast, saturation and hue of mixed images.
    config.mixing.blur = True  # Blur half of them.

    config.discriminator = ConfigDict()
    config.discriminator.global_width = 64  # Channels of the first of its five convolutions.
    config.discriminator.semantic_width = 1024  # Of both hidden layers.
    config.discriminator.global_learning_rate = 1e-4
    config.discriminator.semantic_learning_rate = 1e-4
    config.discriminator.betas = (0.9, 0.99)  # Adam.

    config.optimizer = ConfigDict()  # SGD of the segmenter.
    config.optimizer.learning_rate = 2.5e-4
    config.optimizer.classifier_factor = 10.0  # The classifier learns this much faster.
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_biases = True  # The reference decays all that is trained.
    config.optimizer.decay_steps = 250_000  # Length of the polynomial decay, discriminators included.
    config.optimizer.decay_power = 0.9
    config.optimizer.clip_norm = 0.0  # Largest global gradient norm of the segmenter; 0: no clip.

    config.average_decay = 0.999  # Moving average of the segmenter: the teacher of ASS+, evaluated beside it; 0: off.

    config.evaluation = ConfigDict()
    config.evaluation.batch = 1  # Images per evaluation step over all devices.
    config.evaluation.every = 5_000  # Steps; the last step is always evaluated. 0: only the last.
    config.evaluation.pictures = 4  # Images in the prediction strip; at most as many mixed ones in theirs.
    config.evaluation.checkpoint = "last"  # That --mode=eval scores: "last", "selected" (data.held_out) or "best".
    config.evaluation.split = "validation"  # Or "test": its images have no labels; --mode=eval only writes predictions.
    config.evaluation.test_size = (1024, 2048)  # Height, width of those predictions: what Cityscapes' server takes.
    config.evaluation.scales = (1.0,)  # Factors of data.target_size whose probabilities are averaged.
    config.evaluation.flip = False  # Average with the mirrored image's.
    config.evaluation.window = (0, 0)  # Height, width of sliding windows in the scaled image; 0: the whole image.
    config.evaluation.stride = (0, 0)  # Of the windows; 0: half a window.

    # Compares the first step of a training, and one in --mode=check, with the same step in plain operations, and does
    # not train on a difference: "auto" (networks of up to 2 million weights: seconds), "always" or "never".
    config.verify = "auto"
    config.skipped_limit = 10  # So many updates in a row that are not finite, and so skipped, end the run.
    config.distributed = ConfigDict()  # A run of several processes; each is started with the same configuration.
    config.distributed.coordinator = ""  # HOST:PORT of process 0, the same for all; empty: one process.
    config.distributed.processes = 0  # How many there are.
    config.distributed.index = -1  # Which one this is, from 0: the only key that differs.
    config.distributed.detect = False  # Find all three out by oneself: on TPU, Slurm, Kubernetes.

    config.resume_with_changes = False  # Go on from a checkpoint although settings differ from its own.
    config.log_every = 50  # Steps between lines on the console, in TensorBoard and metrics.jsonl.

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5_000  # Most steps that a kill costs: saves go on beside steps, and begin twice as often.
    config.checkpoint.keep = 3  # Latest ones kept; the selected and the best one beside them.
    return config


# Which parts of the method act in each variant: source labels, target labels ("few": data.labelled_count
# of them), the global term, the semantic term, and teacher, mixing and rare-class sampling.
VARIANTS = {
    "source_only": (True, "none", False, False, False),
    "target_only": (False, "few", False, False, False),
    "joint": (True, "few", False, False, False),
    "adaptsegnet": (True, "few", True, False, False),
    "semantic": (True, "few", False, True, False),
    "ass": (True, "few", True, True, False),
    "teacher": (True, "few", False, False, True),
    "adaptsegnet_plus": (True, "few", True, False, True),
    "ass_plus": (True, "few", True, True, True),
    "oracle": (False, "all", False, False, False),
    "ass_all": (True, "all", True, True, False),
}


# Target data set -> the numbers of labelled images that are words, where only some are: those of its lists.
LISTED_COUNTS = {"cityscapes": (50, 100, 200, 500, 1000, 2975)}


def finish(config: ConfigDict, words: str, smoke: Callable[[ConfigDict], None] | None = None) -> ConfigDict:
    """Applies comma-separated words to a configuration.

    Args:
      config: changed in place.
      words: at most one name of `VARIANTS` (default "ass"), at most one number of labelled target images and,
        optionally, "smoke".
      smoke: shrinks the configuration for the word "smoke"; default: `shrink`.

    Returns:
      The configuration.

    Raises:
      ValueError: a word is unknown, two variants or two numbers are named, or a number beside a variant that
        labels all images.
    """
    given = [word for word in words.split(",") if word]
    counts = [word for word in given if _is_count(word, config.data.target)]
    unknown = [word for word in given if word not in VARIANTS and word != "smoke" and word not in counts]
    if unknown and re.fullmatch(r"0+|-[0-9]+", unknown[0]):
        raise ValueError(
            f"Expected a number of labelled target images of 1 or more after the file's colon, found {unknown[0]}. "
            "The variant source_only needs none; oracle and ass_all take all."
        )
    if unknown:
        valid = valid_words(config.data.target)
        raise ValueError(f"Unknown word {unknown[0]!r} after the file's colon. Valid: {valid}.")
    variants = [word for word in given if word in VARIANTS] or ["ass"]
    if len(variants) > 1:
        raise ValueError(f"Expected one variant after the file's colon, found {', '.join(variants)}.")
    if len(counts) > 1:
        raise ValueError(f"Expected one number of labelled images after the file's colon, found {', '.join(counts)}.")
    if counts and VARIANTS[variants[0]][1] == "all":
        raise ValueError(
            f"{variants[0]} labels all target images: expected no number beside it after the file's colon, "
            f"found {counts[0]}. Remove either."
        )
    if counts:
        config.data.labelled_count = int(counts[0])
    _set_variant(config, variants[0])
    if "smoke" in given:
        (smoke or shrink)(config)
    return config


def valid_words(target: str) -> str:
    """Returns the words that may follow the colon of a configuration whose target data set is `target`."""
    counts = ", ".join(map(str, LISTED_COUNTS.get(target, ()))) or "any number of labelled target images"
    return ", ".join([*VARIANTS, "smoke", counts])


def _is_count(word: str, target: str) -> bool:
    """Returns whether a word is a number of labelled images that the target data set has."""
    if not (word.isascii() and word.isdigit()) or int(word) < 1:
        return False
    return target not in LISTED_COUNTS or int(word) in LISTED_COUNTS[target]


def _set_variant(config: ConfigDict, name: str) -> None:
    """Switches terms and streams; every variant sees as many labelled images per step as the full method."""
    source, target, global_term, semantic_term, teacher = VARIANTS[name]
    batch = config.data.batch
    config.variant = name
    if not source:
        batch.labelled, batch.source = batch.labelled + batch.source, 0
    if target == "none":
        batch.source, batch.labelled = batch.source + batch.labelled, 0
    if target == "all":
        config.data.labelled_count = -1
        if source:
            # Where all target images have labels the larger share of a step is theirs; ours.
            batch.source, batch.labelled = sorted((batch.source, batch.labelled))
    if not global_term:
        config.loss.global_weight = 0.0
        if not teacher:
            batch.unlabelled = 0
    if not semantic_term:
        config.loss.semantic_weight = 0.0
    if not teacher:
        config.loss.mixed_weight = 0.0
        config.average_decay = 0.0
        config.data.rare_class_temperature = 0.0


def shrink(config: ConfigDict) -> None:
    """Makes every part tiny, so that a run shows in seconds that all of them work together."""
    config.steps = 6
    config.data.labelled_count = min(config.data.labelled_count, 4)
    config.data.source_size = (64, 128)
    config.data.target_size = (64, 128)
    config.data.toy.update(height=64, width=128, source_count=12, target_count=12, validation_count=5)
    config.augment.crop = (0, 0)
    config.model.backbone = "resnet_tiny"
    config.discriminator.update(global_width=8, semantic_width=32)
    config.evaluation.update(batch=2, every=3, pictures=2)
    config.log_every = 1
    config.checkpoint.every = 3
    config.verify = "never"  # Takes longer than the six steps.
