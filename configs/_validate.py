"""Checks a configuration once, where a run begins: every range and choice, and what settings demand of each other.

Code inside trusts the configuration. Types are checked by the command line and by `ConfigDict` itself. Imports neither
JAX nor TensorFlow, so that mistakes are reported at once.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import base
from configs._variants import VARIANTS
from configs.user_error import UserError
from data import streams
from data.classes import class_table
from data.datasets.custom import ENCODINGS
from data.datasets.registry import SPECS, find_spec, names_with
from data.datasets.spec import domain_of

_INFINITY = float("inf")
_STRIDED = ("efficientnet_lite0",)  # Backbones whose output stride can be chosen.
_TRANSFORMERS = ("vit_tiny", "dinov2_s", "dinov2_b", "dinov2_l")
_LEVELLED = ("efficientnet_lite0", *_TRANSFORMERS)  # Backbones that a multi-level head can read.
# Keys of config.model that belong to weights.
OF_WEIGHTS = ("pixel_order", "pixel_mean", "pixel_deviation", "stride_in", "branches", "registers")
_BLOCKS = {  # Blocks or stages that model.frozen_blocks counts.
    "resnet50": 4,
    "resnet101": 4,
    "resnet_tiny": 4,
    "vgg16": 5,
    "efficientnet_lite0": 7,
    "vit_tiny": 4,
    "dinov2_s": 12,
    "dinov2_b": 12,
    "dinov2_l": 24,
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The values that a key may have.

    Attributes:
      expected: in words.
      allows: whether a value is one of them.
      choices: all of them, where they are few.
    """

    expected: str
    allows: Callable[[Any], bool]
    choices: tuple = ()


def _choice(*choices: str | int) -> Rule:
    return Rule(f"one of {', '.join(map(str, choices))}", lambda value: value in choices, choices)


def _at_least(low: float, unit: str = "", zero: str = "") -> Rule:
    expected = f"0 ({zero}) or more" if zero else f"{low} or more"
    return Rule(f"{expected}{unit and ' '}{unit}", lambda value: low <= value < _INFINITY)


def _between(low: float, high: float) -> Rule:
    return Rule(f"{low} to {high}", lambda value: low <= value <= high)


def _share(zero: str = "") -> Rule:
    return Rule(f"0{zero and f' ({zero})'} to less than 1", lambda value: 0 <= value < 1)


def _is_size(value: tuple) -> bool:
    return len(value) == 2 and all(isinstance(length, int) and length > 0 for length in value)


_POSITIVE = Rule("more than 0", lambda value: 0 < value < _INFINITY)
_WEIGHT = _at_least(0, zero="off")
_BETAS = Rule("two numbers of 0 to less than 1", lambda value: all(0 <= each < 1 for each in value))
_SIZE = Rule("a positive height and width", _is_size)
_SIZE_OR_OFF = Rule(
    "a positive height and width, or (0, 0): off", lambda value: _is_size(value) or tuple(value) == (0, 0)
)

RULES: dict[str, Rule] = {
    "variant": _choice(*VARIANTS),
    "init_keeps": Rule(
        f"names of {', '.join(OF_WEIGHTS)}", lambda value: all(each in OF_WEIGHTS for each in value), OF_WEIGHTS
    ),
    "steps": _at_least(1),
    "data.source": _choice(*SPECS),
    "data.target": _choice(*SPECS),
    "data.labelled_count": Rule("1 or more, or -1 for all", lambda value: value == -1 or value >= 1),
    "data.held_out": _at_least(0, "images"),
    "data.rare_class_temperature": _WEIGHT,
    "data.rejected_limit": _at_least(0, "files"),
    "data.undecodable_limit": _at_least(0, "images"),
    "data.source_size": _SIZE,
    "data.target_size": _SIZE,
    "data.readers": _at_least(1, "threads"),
    "data.prefetch": _at_least(1, "batches"),
    "data.decoded_memory": _at_least(0, "MiB"),
    "data.batch.source": _at_least(0, "images"),
    "data.batch.labelled": _at_least(0, "images"),
    "data.batch.unlabelled": _at_least(0, "images"),
    "data.toy.height": _at_least(16, "pixels"),  # In smaller images most objects are single pixels.
    "data.toy.width": _at_least(16, "pixels"),
    "data.toy.source_count": _at_least(0, "images"),
    "data.toy.target_count": _at_least(0, "images"),
    "data.toy.validation_count": _at_least(0, "images"),
    "data.toy.seed": _at_least(0),
    "data.toy.shift": _at_least(0),
    "data.toy.label_shift": _between(0, 1),
    "data.custom.source_encoding": _choice(*ENCODINGS),
    "data.custom.target_encoding": _choice(*ENCODINGS),
    "augment.scale": Rule(
        "a smallest and a largest factor, 0 < smallest <= largest",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] < _INFINITY,
    ),
    "augment.crop": _SIZE_OR_OFF,
    "augment.class_crop": _between(0, 1),
    "augment.brightness": _between(0, 1),
    "augment.contrast": _between(0, 1),
    "augment.saturation": _between(0, 1),
    "augment.hue": _between(0, 0.5),
    "augment.gamma": _at_least(0, zero="off"),
    "model.backbone": _choice(*_BLOCKS),
    "model.output_stride": _choice(8, 16),
    "model.head": _choice("atrous", "linear", "multilevel"),
    "model.branches": _choice(1, 2, 3, 4),
    "model.frozen_blocks": Rule("0 (none) or more, or -1 for the whole backbone", lambda value: value >= -1),
    "model.registers": _at_least(0),
    "model.stochastic_depth": _share("off"),
    "model.stride_in": _choice("1x1", "3x3"),
    "model.batch_norm": _choice("batch", "frozen"),
    "model.running_statistics": _choice("by_domain", "shared"),
    "model.dtype": _choice("float32", "bfloat16"),
    "model.pixel_order": _choice("bgr", "rgb"),
    "model.pixel_deviation": Rule("numbers above 0", lambda value: all(each > 0 for each in value)),
    "loss.global_weight": _WEIGHT,
    "loss.global_kind": _choice("bce", "least_squares"),
    "loss.semantic_weight": _WEIGHT,
    "loss.semantic_input": _choice("features", "logits"),
    "loss.semantic_outputs": _choice("binary", "class_domain"),
    "loss.dice_weight": _WEIGHT,
    "loss.warmup_steps": _at_least(0, zero="none"),
    "teacher.decay": _share("off"),
    "teacher.mixed_weight": _WEIGHT,
    "teacher.threshold": _between(0, 1),
    "teacher.mixing": _choice("class", "cut"),
    "teacher.jitter": _between(0, 1),
    "discriminator.global_width": _at_least(1),
    "discriminator.semantic_width": _at_least(1),
    "discriminator.global_learning_rate": _at_least(0),
    "discriminator.semantic_learning_rate": _at_least(0),
    "discriminator.betas": _BETAS,
    "optimizer.kind": _choice("sgd", "adamw"),
    "optimizer.betas": _BETAS,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.classifier_factor": _at_least(0),
    "optimizer.momentum": _share("none"),
    "optimizer.weight_decay": _at_least(0, zero="none"),
    "optimizer.decay_steps": _at_least(1),
    "optimizer.warmup_steps": _at_least(0, zero="none"),
    "optimizer.decay_power": _at_least(0, zero="no decay"),
    "optimizer.clip_norm": _at_least(0, zero="no clip"),
    "evaluation.batch": _at_least(1, "images"),
    "evaluation.every": _at_least(0, zero="only the last step"),
    "evaluation.pictures": _at_least(0, "images"),
    "evaluation.checkpoint": _choice("last", "selected", "best"),
    "evaluation.split": _choice("validation", "test", "source"),
    "evaluation.test_size": _SIZE,
    "evaluation.scales": Rule(
        "one or more factors above 0", lambda value: len(value) > 0 and all(0 < each < _INFINITY for each in value)
    ),
    "evaluation.window": _SIZE_OR_OFF,
    "evaluation.stride": _SIZE_OR_OFF,
    "verify": _choice("auto", "always", "never"),
    "skipped_limit": _at_least(1, "updates"),
    "distributed.processes": _at_least(0),
    "log_every": _at_least(1),
    "checkpoint.every": _at_least(1),
    "checkpoint.keep": _at_least(1),
    "checkpoint.metric": _choice("mean_iou", "dice_by_image", "dice_by_volume"),
}


def validate(config: ConfigDict) -> None:
    """Checks a configuration.

    Args:
      config: the whole configuration.

    Raises:
      UserError: a setting cannot be used; the message names its key, its value, and what is expected.
    """
    valid = dict(flatten(base.default_config()))
    unknown = [key for key, _ in flatten(config) if key not in valid]
    if unknown:
        close = difflib.get_close_matches(unknown[0], valid, 1)
        raise UserError(f"There is no setting {unknown[0]}.{f' Did you mean {close[0]}?' if close else ''}")
    for key, rule in RULES.items():
        value = get_value(config, key)
        if not rule.allows(value):
            raise _mistake(key, value, rule.expected)
    for check in _CHECKS:
        for key, expected in check(config):
            raise _mistake(key, get_value(config, key), expected)


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every full key, such as "data.batch.source" after the prefix, and its value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def get_value(config: ConfigDict, key: str) -> Any:
    """Returns the value of a full key, such as "data.batch.source"."""
    for name in key.split("."):
        config = config[name]
    return config


def _mistake(key: str, value: Any, expected: str) -> UserError:
    shown = repr(value) if isinstance(value, str) else value
    return UserError(f"{key} is {shown}; expected {expected}.")


# Checks of several settings; each yields the key that is wrong and what is expected of it.
Mistakes = Iterator[tuple[str, str]]


def _network(config: ConfigDict) -> Mistakes:
    if config.model.output_stride != 8 and config.model.backbone not in _STRIDED:
        yield "model.output_stride", f"8; only {', '.join(_STRIDED)} has other strides"
    if config.model.head == "multilevel" and config.model.backbone not in _LEVELLED:
        yield "model.head", f"'atrous'; only {', '.join(_LEVELLED)} have levels"
    blocks = _BLOCKS[config.model.backbone]
    if config.model.frozen_blocks > blocks:
        yield "model.frozen_blocks", f"at most {blocks}, of {config.model.backbone}; -1 freezes the whole backbone"
    if config.model.backbone not in _TRANSFORMERS:
        names = f"only the transformers {', '.join(_TRANSFORMERS)} have it"
        for key in ("model.registers", "model.stochastic_depth"):
            if get_value(config, key):
                yield key, f"0; {names}"


def _terms(config: ConfigDict) -> Mistakes:
    """Every term of the loss needs the streams that it reads."""
    images = streams.streams(config)
    for key, groups in streams.READ.items():
        weight = get_value(config, key)
        missing = [group for group in groups if not any(name in images for name in group)]
        if weight > 0 and missing:
            first, *others = missing[0]
            beside = "".join(f" (or data.batch.{name})" for name in others)
            hint = "Change either, or the variant after the colon of the configuration file"
            yield f"data.batch.{first}", f"1 or more{beside}, since {key} is {weight}. {hint}"
    if not images:
        yield "data.batch.source", "1 or more images of a stream that a term of the loss reads, or there is no training"


def _semantic(config: ConfigDict) -> Mistakes:
    """The semantic term has the streams that it reads beside those of `streams.READ`."""
    if streams.semantic_reads_unlabelled(config) and not config.data.batch.unlabelled:
        yield "data.batch.unlabelled", "1 or more, since loss.semantic_unlabelled is True"


def _teacher(config: ConfigDict) -> Mistakes:
    weight = config.teacher.mixed_weight
    if weight > 0 and not config.teacher.decay:
        yield (
            "teacher.decay",
            f"more than 0, since teacher.mixed_weight is {weight} and the moving average labels the unlabelled images",
        )


def _labelled_images(config: ConfigDict) -> Mistakes:
    data = config.data
    if data.labelled_list and VARIANTS[config.variant].target_labels == "all":
        yield "data.labelled_list", f"none, since the variant {config.variant} labels all target images"
    if data.held_out and not data.labelled_list and -1 < data.labelled_count <= data.held_out:
        count = data.labelled_count
        yield "data.held_out", f"0 to {count - 1}, fewer than the {count} image{'s' * (count > 1)} with labels"


def _datasets(config: ConfigDict) -> Mistakes:
    """Datasets have the parts that a run reads, and labels of the classes of the run."""
    table = class_table(config.data.classes, config.data.custom)
    for part in streams.parts(config):
        domain = domain_of(part)
        name = config.data[domain]
        if part not in SPECS[name].splits:
            if part == "target_test":
                yield "evaluation.split", f"'validation', since the dataset {name} has no test images"
            yield f"data.{domain}", f"one of {', '.join(names_with(part))}, which have a split for {part}"
        spec = find_spec(config.data, domain)
        if spec.is_generated and not spec.splits[part].count:
            yield f"data.toy.{'validation' if part == 'target_validation' else domain}_count", f"1 or more for {part}"
        if not any(map(table.class_of, spec.labels.raw_ids.values())):
            yield (
                "data.classes",
                f"a table that fits data.{domain}: no label of {name} holds any of its classes "
                f"({', '.join(table.names)})",
            )


def _augmentation(config: ConfigDict) -> Mistakes:
    settings = config.augment
    if settings.class_crop and tuple(settings.crop) == (0, 0) and tuple(settings.scale) == (1.0, 1.0):
        yield "augment.class_crop", "0, since augment.crop and augment.scale are off, so that nothing is cropped"


def _evaluation(config: ConfigDict) -> Mistakes:
    if config.checkpoint.metric == "dice_by_volume" and not SPECS[config.data.target].labels.is_volume:
        yield "checkpoint.metric", f"another score, since the images of {config.data.target} are no slices of volumes"
    window, stride = tuple(config.evaluation.window), tuple(config.evaluation.stride)
    if any(length > limit for length, limit in zip(stride, window, strict=True)):
        yield (
            "evaluation.stride",
            f"at most evaluation.window = {window}, or some pixels would not be covered; or (0, 0): half a window",
        )


def _distributed(config: ConfigDict) -> Mistakes:
    settings = config.distributed
    if settings.coordinator and settings.processes < 1:
        yield "distributed.processes", "1 or more, since distributed.coordinator is set"
    if settings.coordinator and not 0 <= settings.index < settings.processes:
        yield "distributed.index", f"0 to {settings.processes - 1}, since distributed.coordinator is set"


_CHECKS = (
    _network,
    _terms,
    _semantic,
    _teacher,
    _labelled_images,
    _datasets,
    _augmentation,
    _evaluation,
    _distributed,
)
