"""What a configuration asks of the data, without importing TensorFlow: streams, and checks of settings."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from data.sampling import labelled_subset

STREAMS = ("source", "labelled", "unlabelled")
# What the term of each weight reads: one or more streams of each group.
READ = {
    "loss.global_weight": (("source",), ("unlabelled",)),
    "loss.semantic_weight": (("source",), ("labelled",)),
    "teacher.mixed_weight": (("unlabelled",), ("source", "labelled")),
}
MIXING_KINDS = ("class", "cut")  # Values of teacher.mixing and verify that ass_jax/ knows.
VERIFYING = ("auto", "always", "never")
PARTS = {"source": "source_train", "labelled": "target_train", "unlabelled": "target_train"}  # Of a run's data.


def streams(config: ConfigDict) -> dict[str, int]:
    """Returns the images per step, over all hosts, of every stream that a term of the loss needs.

    Args:
      config: the whole configuration.

    Returns:
      Stream name to images per step, in the order of `STREAMS`. Streams of no images are absent, and so is
      the unlabelled one where no term reads it.

    Raises:
      ValueError: a setting of the data is out of its range, a term lacks a stream, or no stream is left.
    """
    check(config)
    unlabelled = config.loss.global_weight > 0 or config.teacher.mixed_weight > 0
    needed = {"source": True, "labelled": True, "unlabelled": unlabelled}
    images = {name: config.data.batch[name] for name in STREAMS if needed[name] and config.data.batch[name]}
    for key, groups in READ.items():
        group, name = key.split(".")
        weight = config[group][name]
        missing = [group for group in groups if not any(name in images for name in group)]
        if weight > 0 and missing:
            raise ValueError(
                f"{key} is {weight}, and so "
                f"{' or '.join(f'data.batch.{name}' for name in missing[0])} must be 1 or more images; found 0. Change "
                "either, or the variant after the configuration file's colon."
            )
    if not images:
        raise ValueError("Nothing to train on: data.batch asks for no images of any stream that a term needs.")
    return images


def shapes(config: ConfigDict) -> dict[str, tuple[int, int, int, bool]]:
    """Returns the images per step, their height and width and whether they have labels, of each stream needed.

    Raises:
      ValueError: as for `streams`.
    """
    crop = tuple(config.augment.crop)
    found = {}
    for name, images in streams(config).items():
        size = config.data.source_size if name == "source" else config.data.target_size
        height, width = crop if any(crop) else size
        found[name] = (images, height, width, name != "unlabelled")
    return found


def parts(config: ConfigDict) -> list[str]:
    """Returns the parts of the data that a run reads, such as "source_train", each once.

    Raises:
      ValueError: as for `streams`.
    """
    held_out = ["target_train"] if config.data.held_out else []
    needed = [PARTS[name] for name in streams(config)] + held_out + [f"target_{config.evaluation.split}"]
    return list(dict.fromkeys(needed))


def reads_target_labels(config: ConfigDict) -> bool:
    """Returns whether a run reads labels of target training images."""
    return "labelled" in streams(config) or bool(config.data.held_out)


def check(config: ConfigDict) -> None:
    """Raises ValueError if a setting cannot be used; those of the networks are left to `ass_jax.models`."""
    data, augment = config.data, config.augment
    counts = {"steps": config.steps, "log_every": config.log_every}
    counts |= {f"checkpoint.{name}": config.checkpoint[name] for name in ("every", "keep")}
    for name, value in counts.items():
        _expect(value >= 1, name, value, "1 or more")
    _expect(config.evaluation.every >= 0, "evaluation.every", config.evaluation.every, "0 (only the last step) or more")
    _expect(config.verify in VERIFYING, "verify", repr(config.verify), f"one of {', '.join(VERIFYING)}")
    rate, deviation = config.optimizer.learning_rate, tuple(config.model.pixel_deviation)
    _expect(0 < rate < float("inf"), "optimizer.learning_rate", rate, "more than 0")
    _expect(all(value > 0 for value in deviation), "model.pixel_deviation", deviation, "numbers above 0")
    for name in STREAMS:
        _expect(data.batch[name] >= 0, f"data.batch.{name}", data.batch[name], "0 or more images")
    for name in ("source_size", "target_size"):
        _expect(_is_size(data[name]), f"data.{name}", data[name], "a positive height and width")
    _expect(data.readers >= 1, "data.readers", data.readers, "1 or more threads")
    _expect(data.prefetch >= 1, "data.prefetch", data.prefetch, "1 or more batches")
    _expect(data.decoded_memory >= 0, "data.decoded_memory", data.decoded_memory, "0 or more MiB")
    temperature = data.rare_class_temperature
    _expect(0 <= temperature < float("inf"), "data.rare_class_temperature", temperature, "0 (off) or more")
    _check_evaluation(config.evaluation)
    _check_mixing(config)
    _expect(
        len(augment.scale) == 2 and 0 < augment.scale[0] <= augment.scale[1],
        "augment.scale",
        augment.scale,
        "a smallest and a largest factor, 0 < smallest <= largest",
    )
    _expect(
        _is_size(augment.crop) or tuple(augment.crop) == (0, 0),
        "augment.crop",
        augment.crop,
        "a positive height and width, or (0, 0)",
    )
    for name in ("brightness", "contrast", "saturation"):
        _expect(0 <= augment[name] <= 1, f"augment.{name}", augment[name], "0 to 1")
    _expect(0 <= augment.hue <= 0.5, "augment.hue", augment.hue, "0 to 0.5")
    labelled_subset.check(config)


def host_share(name: str, images: int, hosts: int) -> int:
    """Returns how many of the `images` per step each host takes; ValueError if they do not divide.

    Args:
      name: the setting that holds `images`, for the message.
      images: images per step over all hosts.
      hosts: number of hosts.
    """
    if images % hosts:
        raise ValueError(f"{name} is {images}, which {hosts} hosts cannot share evenly.")
    return images // hosts


def _check_evaluation(evaluation: ConfigDict) -> None:
    """Raises ValueError if a setting of `config.evaluation` is out of its range."""
    _expect(evaluation.batch >= 1, "evaluation.batch", evaluation.batch, "1 or more images")
    for name, valid in {"checkpoint": ("last", "selected", "best"), "split": ("validation", "test")}.items():
        _expect(evaluation[name] in valid, f"evaluation.{name}", repr(evaluation[name]), f"one of {', '.join(valid)}")
    _expect(_is_size(evaluation.test_size), "evaluation.test_size", evaluation.test_size, "a positive height and width")
    scales = evaluation.scales
    _expect(len(scales) > 0 and min(scales) > 0, "evaluation.scales", scales, "one or more factors above 0")
    window, stride = tuple(evaluation.window), tuple(evaluation.stride)
    off = (0, 0)
    _expect(
        _is_size(window) or window == off, "evaluation.window", window, "a positive height and width, or (0, 0): off"
    )
    _expect(
        stride == off or (_is_size(stride) and stride[0] <= window[0] and stride[1] <= window[1]),
        "evaluation.stride",
        stride,
        f"a positive height and width of at most evaluation.window = {window}, or every pixel would not be covered; "
        "or (0, 0): half a window",
    )


def _check_mixing(config: ConfigDict) -> None:
    """Raises ValueError if a setting of the teacher or of the mixed images is out of its range."""
    teacher = config.teacher
    weight, decay = teacher.mixed_weight, teacher.decay
    _expect(0 <= weight < float("inf"), "teacher.mixed_weight", weight, "0 (off) or more")
    _expect(0 <= decay < 1, "teacher.decay", decay, "0 (off) to less than 1")
    _expect(
        decay > 0 or weight == 0,
        "teacher.decay",
        decay,
        f"more than 0, since teacher.mixed_weight is {weight} and the moving average labels the unlabelled images",
    )
    valid = ", ".join(MIXING_KINDS)
    _expect(teacher.mixing in MIXING_KINDS, "teacher.mixing", repr(teacher.mixing), f"one of {valid}")
    for name in ("threshold", "jitter"):
        _expect(0 <= teacher[name] <= 1, f"teacher.{name}", teacher[name], "0 to 1")


def _is_size(size: Sequence[int]) -> bool:
    return len(size) == 2 and all(isinstance(length, int) and length > 0 for length in size)


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; expected {expected}.")
