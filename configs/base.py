"""Every setting with its default; the other files in `configs/` change only what differs.

Defaults are the numbers of the papers: Alleviating Semantic-level Shift (ASS, arXiv 2004.00794) and AdaptSegNet (arXiv
1802.10349), on which it builds. Comments mark our own choices. `configs/_validate.py` has the valid values.

`--config=configs/toy.py:adaptsegnet,smoke` applies the words after the colon, in any order: a variant of
`configs/_variants.py`, a backbone of `configs/backbones.py`, a number of labelled target images as in
`configs/gta5.py:500`, and `smoke`, which makes everything tiny, to see in seconds that it runs.
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
    config.variant = "ass"  # Set by the word after the colon; recorded in reports.
    config.seed = 0  # Of initial weights, order of the data and augmentation.
    config.init = ""  # Weights to start from: a file, or a name of ass_jax/weights/packages.py; empty: random.
    # Keys of config.model that stay as they are, whatever the weights expect, as ("branches",); the command line adds
    # those that it sets.
    config.init_keeps = ()
    config.steps = 150_000  # Training stops here; the schedule is as long as optimizer.decay_steps.

    config.data = ConfigDict()
    config.data.directory = ""  # Prepared datasets; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data.source = "toy"  # Dataset of the source domain; names: data/datasets/registry.py.
    config.data.target = "toy"  # Dataset of the target domain.
    config.data.source_root = ""  # Folder of the source dataset as downloaded and unpacked.
    config.data.target_root = ""  # Folder of the target dataset.
    config.data.classes = "toy"  # Class table of data/classes.py.
    config.data.labelled_count = 100  # Labelled target images; -1: all.
    config.data.labelled_seed = 0  # Chooses which ones; lists of one seed are nested.
    config.data.labelled_list = ""  # File of their names, one a line; empty: chosen by count and seed.
    config.data.held_out = 0  # How many of them are held out from training to select a checkpoint.
    config.data.rare_class_temperature = 0.01  # ASS+ draws images by their rare classes, as DAFormer; 0: off.
    config.data.full_size = False  # Prepare images at their own size, for random scale and crop; slower.
    config.data.rejected_limit = 20  # Preparation stops if more files are unusable.
    config.data.trust_raw_ids = False  # Train although the labels of a split look like train ids of Cityscapes.
    config.data.undecodable_limit = 20  # Training stops if more images do not decode.
    config.data.source_size = (720, 1280)  # Height, width that source images are resized to.
    config.data.target_size = (512, 1024)  # Height, width that target images are resized to.
    config.data.readers = 4  # Threads that decode and augment; batches do not depend on them.
    config.data.prefetch = 2  # Batches prepared ahead.
    config.data.decoded_memory = 256  # MiB; a stream that fits when decoded is decoded only once.

    config.data.batch = ConfigDict()  # Images per step over all devices.
    config.data.batch.source = 1
    config.data.batch.labelled = 1
    config.data.batch.unlabelled = 1

    config.data.toy = ConfigDict()  # The generated dataset "toy".
    config.data.toy.height = 64  # Pixels.
    config.data.toy.width = 128
    config.data.toy.source_count = 400
    config.data.toy.target_count = 400
    config.data.toy.validation_count = 100
    config.data.toy.seed = 0  # Of the scenes, independent of config.seed.
    config.data.toy.shift = 1.0  # Between the looks of the domains; 0: none.
    config.data.toy.label_shift = 0.0  # Between shares and places of their classes; 0: none, 1: city and suburb.

    config.data.custom = ConfigDict()  # The dataset "custom": your own images; configs/custom.py is an example.
    config.data.custom.names = ()  # Classes, in the order of their train ids.
    config.data.custom.palette = ()  # Colour (red, green, blue) of each class.
    config.data.custom.source_ids = ()  # (raw id or colour in source label files, class); others are ignored.
    config.data.custom.target_ids = ()  # The same for target label files.
    # Label files hold raw ids ("indices"); or "binary": masks of two values, with the raw ids 0 and 255 whatever the
    # file holds; or "colours": (red, green, blue) take the place of raw ids; without any, those of the palette count.
    config.data.custom.source_encoding = "indices"
    config.data.custom.target_encoding = "indices"
    config.data.custom.source_images = ""  # Folders below data.source_root.
    config.data.custom.source_labels = ""
    config.data.custom.target_images = ""  # Folders below data.target_root.
    config.data.custom.target_labels = ""
    config.data.custom.validation_images = ""
    config.data.custom.validation_labels = ""

    config.augment = ConfigDict()  # Training only. Off, as the reference implementation only resizes.
    config.augment.flip = False  # Mirror half of the images, left to right.
    config.augment.flip_vertical = False  # Turn half of them upside down, for images without an upright position.
    config.augment.scale = (1.0, 1.0)  # Range of the random resize factor; (1, 1): none.
    config.augment.crop = (0, 0)  # Height, width of a random crop after scaling; 0: whole image.
    # Share of the crops that hold a pixel of a class drawn from those of the image but the background (nnU-Net: 0.33).
    config.augment.class_crop = 0.0
    config.augment.brightness = 0.0  # Largest shift, as a share of 255.
    config.augment.contrast = 0.0  # Factor in [1 - c, 1 + c].
    config.augment.saturation = 0.0  # Factor in [1 - s, 1 + s].
    config.augment.hue = 0.0  # Largest turn, as a share of the circle.
    config.augment.gamma = 0.0  # Exponent of values from 0 to 1, in [1 / (1 + g), 1 + g].

    config.model = ConfigDict()
    config.model.backbone = "resnet101"  # Names: ass_jax/models/deeplab.py.
    config.model.output_stride = 8  # Pixels between cells of the features; 16, only of efficientnet_lite0, is faster.
    config.model.head = "atrous"  # What classifies the features: "atrous" (DeepLab-v2), "linear", "multilevel" (ViT).
    config.model.branches = 4  # How many of the dilations 6, 12, 18, 24; AdaptSegNet's own weights use 2.
    config.model.stride_in = "1x1"  # Convolution of a block that strides: "1x1" as in Caffe, "3x3" as in torchvision.
    config.model.batch_norm = "batch"  # "batch": statistics of each stream; "frozen": running statistics.
    # Evaluation normalises by running statistics of the target ("by_domain"; of the source where no target image is
    # passed), or, as the reference implementation, by those that images of both domains move ("shared").
    config.model.running_statistics = "by_domain"
    config.model.adapt_statistics = False  # Pass unlabelled images for the statistics alone: source_adabn.
    config.model.train_norm_affine = False  # The reference implementation freezes scale and offset of batch norm.
    # How many blocks of a ViT, or stages of another backbone, keep their initial weights, and what lies before them;
    # 0: none, -1: the whole backbone.
    config.model.frozen_blocks = 0
    config.model.registers = 0  # Register tokens of a ViT: 4 in DINOv2's weights "_reg4".
    config.model.stochastic_depth = 0.0  # Of a ViT: share of the last block's branches that are left out in training.
    config.model.dtype = "float32"  # Of computation; "bfloat16" for GPU and TPU. Parameters stay float32.
    config.model.remat = False  # Recompute activations in the backward pass: less memory, a third more time.
    config.model.pixel_order = "bgr"  # Or "rgb"; belongs to the initial weights, as mean and deviation do.
    config.model.pixel_mean = (104.00698793, 116.66876762, 122.67891434)  # In pixel order, in 0..255.
    config.model.pixel_deviation = (1.0, 1.0, 1.0)

    config.loss = ConfigDict()  # A weight of 0 removes the term and the work that only it needs.
    config.loss.global_weight = 0.001  # AdaptSegNet; 0.01 with least squares.
    config.loss.global_kind = "bce"  # "bce" or "least_squares".
    config.loss.semantic_weight = 0.001  # Ours: the paper's value is not recoverable.
    config.loss.semantic_input = "features"  # Map that is averaged: "features" or "logits".
    # What the discriminator of class means answers: the domain ("binary"), or domain and class ("class_domain").
    config.loss.semantic_outputs = "binary"
    # Class means of unlabelled images take part, weighted by the probabilities of the teacher, where one acts, or else
    # of the segmenter; the paper has those of labelled images alone. Chosen in docs/results/semantic.md.
    config.loss.semantic_unlabelled = True
    config.loss.dice_weight = 0.0  # Of the soft Dice loss beside the cross-entropy of labelled images; ours.
    config.loss.warmup_steps = 0  # Over which both adversarial weights rise linearly from 0; ours.

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
    config.discriminator.semantic_width = 1024  # Channels of both hidden layers.
    config.discriminator.global_learning_rate = 1e-4
    config.discriminator.semantic_learning_rate = 1e-4
    config.discriminator.betas = (0.9, 0.99)  # Adam.

    config.optimizer = ConfigDict()  # Of the segmenter.
    config.optimizer.kind = "sgd"  # "sgd" or "adamw"; the papers use SGD.
    config.optimizer.learning_rate = 2.5e-4
    config.optimizer.classifier_factor = 10.0  # Learning rate of the classifier, relative.
    config.optimizer.momentum = 0.9  # Of SGD.
    config.optimizer.betas = (0.9, 0.999)  # Of AdamW.
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_biases = True  # The reference implementation decays all trained parameters.
    config.optimizer.decay_steps = 250_000  # Length of the polynomial decay of all learning rates.
    config.optimizer.decay_power = 0.9
    config.optimizer.warmup_steps = 0  # Over which all learning rates rise linearly from 0; 0: none.
    config.optimizer.clip_norm = 0.0  # Largest global gradient norm of the segmenter; 0: no clip.

    config.evaluation = ConfigDict()
    config.evaluation.batch = 1  # Images per evaluation step over all devices.
    config.evaluation.every = 5_000  # Steps; 0: only the last one, which is always evaluated.
    config.evaluation.pictures = 4  # Images in the picture of predictions; at most as many in that of mixed images.
    config.evaluation.checkpoint = "last"  # Scored by --mode=eval: "last", "selected" (data.held_out) or "best".
    # "validation"; for --mode=eval also "test" (of images without labels, it only writes predictions), or "source": the
    # training images of the source, by its own running statistics.
    config.evaluation.split = "validation"
    config.evaluation.test_size = (
        1024,
        2048,
    )  # Height, width of predictions without labels, as the Cityscapes server expects.
    config.evaluation.scales = (1.0,)  # Factors of data.target_size over which probabilities are averaged.
    config.evaluation.flip = False  # Average with the probabilities of the mirrored image.
    config.evaluation.window = (0, 0)  # Height, width of sliding windows in the scaled image; 0: the whole image.
    config.evaluation.stride = (0, 0)  # Of the windows; 0: half a window.

    # Compare the first step with the same step in plain operations, also in --mode=check, and stop if they differ:
    # "auto" (networks of up to 2 million weights, which takes seconds), "always" or "never".
    config.verify = "auto"
    config.skipped_limit = 10  # Training stops after so many updates in a row that are not finite.
    config.distributed = ConfigDict()  # A run of several processes, each started with the same configuration.
    config.distributed.coordinator = ""  # HOST:PORT of process 0; empty: one process.
    config.distributed.processes = 0  # Number of processes.
    config.distributed.index = -1  # Number of this process, from 0: the only key that differs.
    config.distributed.detect = False  # Detect all three; on TPU, Slurm and Kubernetes.

    config.resume_with_changes = False  # Resume from a checkpoint although settings differ.
    config.log_every = 50  # Steps between lines on the console, in TensorBoard and metrics.jsonl.

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5_000  # Largest number of steps that a kill costs; saving starts twice as often.
    config.checkpoint.keep = 3  # Latest checkpoints to keep, beside the selected and the best one.
    config.checkpoint.metric = "mean_iou"  # Score by which those two are chosen; or "dice_by_image", "dice_by_volume".
    return config
