"""Every setting, its default and its reason; the other files in `configs/` change only what differs.

The defaults are the numbers of the paper's set-up (ASS, arXiv 2004.00794; AdaptSegNet, arXiv
1802.10349). Where neither gives one, the comment says that the choice is ours.

`--config=configs/toy.py:adaptsegnet,smoke` applies words after the colon, in any order: one of `VARIANTS` (which
terms of the method act), a number (so many labelled target images, as in `configs/gta5.py:500`) and `smoke` (a
size that only shows that all of it runs).
"""

from ml_collections import ConfigDict

from configs._variants import finish

__all__ = ["default_config", "finish", "get_config"]


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
    config.data.directory = ""  # Prepared datasets; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data.source = "toy"  # Data set of the source domain; names: data/pipeline.py.
    config.data.target = "toy"  # Data set of the target domain.
    config.data.source_root = ""  # Folder of the source dataset as downloaded and unpacked.
    config.data.target_root = ""  # The same of the target dataset.
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

    config.data.toy = ConfigDict()  # The generated dataset (data/toy/builder.py); other datasets ignore it.
    config.data.toy.height = 64  # Pixels.
    config.data.toy.width = 128
    config.data.toy.source_count = 400
    config.data.toy.target_count = 400
    config.data.toy.validation_count = 100
    config.data.toy.seed = 0  # Of the scenes; config.seed does not change the images.
    config.data.toy.shift = 1.0  # 0: target rendered as source; 1: the documented default.

    config.data.custom = ConfigDict()  # The dataset "custom": a user's own images; configs/custom.py is an example.
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
    config.loss.semantic_outputs = "binary"  # "binary" or "class_domain".
    config.loss.warmup_steps = 0  # Both adversarial weights rise linearly from 0 over these; ours.

    # ASS+: a moving average of the segmenter labels the unlabelled images; regions of labelled ones are pasted on them.
    config.teacher = ConfigDict()
    config.teacher.decay = 0.999  # Of the moving average, which is also evaluated beside the segmenter; 0: no teacher.
    config.teacher.mixed_weight = 1.0  # Weight of the cross-entropy of mixed images; ours.
    config.teacher.threshold = 0.968  # Probability from which a pixel's label is confident; DACS, DAFormer.
    config.teacher.mixing = "class"  # Regions: half of an image's classes ("class") or a rectangle ("cut").
    config.teacher.jitter = 0.2  # Largest change of brightness, contrast, saturation and hue of mixed images.
    config.teacher.blur = True  # Blur half of them.

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
