"""Variants of the method, and the words that follow the colon of a configuration file."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from ml_collections import ConfigDict

from configs.backbones import BACKBONES
from configs.user_error import UserError
from data.datasets.registry import SPECS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """The parts of the method that act.

    Attributes:
      source_labels: source images are trained on with their labels.
      target_labels: target images with labels: none, "few" (`data.labelled_count` of them) or all.
      global_term: the adversary on segmentation maps (AdaptSegNet).
      semantic_term: the adversary on class means (ASS).
      teacher: moving average, mixed images and rare-class sampling (ASS+).
    """

    source_labels: bool = True
    target_labels: Literal["none", "few", "all"] = "few"
    adapts_statistics: bool = False
    global_term: bool = False
    semantic_term: bool = False
    teacher: bool = False


VARIANTS = {
    "source_only": Variant(target_labels="none"),
    "source_adabn": Variant(target_labels="none", adapts_statistics=True),
    "target_only": Variant(source_labels=False),
    "target_teacher": Variant(source_labels=False, teacher=True),
    "joint": Variant(),
    "adaptsegnet": Variant(global_term=True),
    "semantic": Variant(semantic_term=True),
    "ass": Variant(global_term=True, semantic_term=True),
    "teacher": Variant(teacher=True),
    "adaptsegnet_plus": Variant(global_term=True, teacher=True),
    "ass_plus": Variant(global_term=True, semantic_term=True, teacher=True),
    "oracle": Variant(source_labels=False, target_labels="all"),
    "joint_all": Variant(target_labels="all"),
    "adaptsegnet_all": Variant(target_labels="all", global_term=True),
    "ass_all": Variant(target_labels="all", global_term=True, semantic_term=True),
}


def finish(
    config: ConfigDict,
    words: str,
    smoke: Callable[[ConfigDict], None] | None = None,
    own: Mapping[str, Callable[[ConfigDict], None]] | None = None,
) -> ConfigDict:
    """Applies comma-separated words to a configuration.

    Args:
      config: changed in place.
      words: at most one name of `VARIANTS` (default "ass"), one of `BACKBONES` and one number of labelled target
        images, and, optionally, "smoke".
      smoke: shrinks the configuration for the word "smoke"; default: `shrink`.
      own: words of the file itself, of which at most one may be named, and what each does; the first is the default.

    Returns:
      The configuration.

    Raises:
      UserError: a word is unknown, two variants, backbones, numbers or own words are named, or a number beside a
        variant that labels all images.
    """
    given = [word for word in words.split(",") if word]
    own = own or {}
    chosen = [word for word in given if word in own]
    if len(chosen) > 1:
        raise UserError(f"Expected one of {', '.join(own)} after the file's colon, found {', '.join(chosen)}.")
    if own:  # Before the numbers, which depend on the target.
        own[chosen[0] if chosen else next(iter(own))](config)
    counts = [word for word in given if _is_count(word, config.data.target)]
    known = {*VARIANTS, *BACKBONES, "smoke", *counts, *own}
    unknown = [word for word in given if word not in known]
    if unknown and re.fullmatch(r"0+|-[0-9]+", unknown[0]):
        raise UserError(
            f"Expected a number of labelled target images of 1 or more after the file's colon, found {unknown[0]}. "
            "The variant source_only needs none; oracle and those that end in _all take all."
        )
    if unknown:
        valid = valid_words(config.data.target, own)
        hint = ""
        if unknown[0].isascii() and unknown[0].isdigit():
            hint = f" Any other number of labelled images: --config.data.labelled_count={unknown[0]}."
        raise UserError(f"Unknown word {unknown[0]!r} after the file's colon. Valid: {valid}.{hint}")
    variants = [word for word in given if word in VARIANTS] or ["ass"]
    if len(variants) > 1:
        raise UserError(f"Expected one variant after the file's colon, found {', '.join(variants)}.")
    backbones = [word for word in given if word in BACKBONES]
    if len(backbones) > 1:
        raise UserError(f"Expected one backbone after the file's colon, found {', '.join(backbones)}.")
    if len(counts) > 1:
        raise UserError(f"Expected one number of labelled images after the file's colon, found {', '.join(counts)}.")
    if counts and VARIANTS[variants[0]].target_labels == "all":
        raise UserError(
            f"{variants[0]} labels all target images: expected no number beside it after the file's colon, "
            f"found {counts[0]}. Remove either."
        )
    if counts:
        config.data.labelled_count = int(counts[0])
    for backbone in backbones:
        BACKBONES[backbone](config)
    _set_variant(config, variants[0])
    if "smoke" in given:
        (smoke or shrink)(config)
    return config


def valid_words(target: str, own: Iterable[str] = ()) -> str:
    """Returns the words that may follow the colon of a configuration.

    Args:
      target: its target dataset.
      own: words of the file itself.
    """
    counts = ", ".join(map(str, _valid_counts(target))) or "any number of labelled target images"
    return ", ".join([*own, *VARIANTS, *BACKBONES, "smoke", counts])


def _is_count(word: str, target: str) -> bool:
    """Returns whether a word is a number of labelled images that the target dataset has."""
    if not (word.isascii() and word.isdigit()) or int(word) < 1:
        return False
    return int(word) in (_valid_counts(target) or (int(word),))


def _valid_counts(target: str) -> tuple[int, ...]:
    """Returns the only numbers of labelled images that are valid words for a dataset; none where all are."""
    return SPECS[target].listed_counts if target in SPECS and not SPECS[target].other_counts else ()


def _set_variant(config: ConfigDict, name: str) -> None:
    """Switches terms and streams; every variant trains on as many labelled images per step as the full method."""
    variant, batch = VARIANTS[name], config.data.batch
    by_semantic = variant.semantic_term and config.loss.semantic_unlabelled
    config.variant = name
    if not variant.source_labels:
        batch.labelled, batch.source = batch.labelled + batch.source, 0
    if variant.target_labels == "none":
        batch.source, batch.labelled = batch.source + batch.labelled, 0
    if variant.target_labels == "all":
        config.data.labelled_count = -1
        if variant.source_labels:
            # Where all target images have labels, the larger share of a step is theirs; ours.
            batch.source, batch.labelled = sorted((batch.source, batch.labelled))
    if not variant.global_term:
        config.loss.global_weight = 0.0
        if not (variant.teacher or variant.adapts_statistics or by_semantic):
            batch.unlabelled = 0
    config.model.adapt_statistics = variant.adapts_statistics
    if variant.adapts_statistics:
        config.model.batch_norm = "batch"  # Frozen statistics could not adapt.
    if not variant.semantic_term:
        config.loss.semantic_weight = 0.0
    if not variant.teacher:
        config.teacher.mixed_weight = 0.0
        config.teacher.decay = 0.0
        config.data.rare_class_temperature = 0.0


def shrink(config: ConfigDict) -> None:
    """Makes everything tiny, so that a run shows in seconds that all parts work together."""
    config.steps = 6
    config.data.labelled_count = min(config.data.labelled_count, 4)
    config.data.source_size = (64, 128)
    config.data.target_size = (64, 128)
    config.data.toy.update(height=64, width=128, source_count=12, target_count=12, validation_count=5)
    config.augment.crop = (0, 0)
    config.init = ""
    config.model.update(backbone="resnet_tiny", head="atrous", output_stride=8, batch_norm="batch")
    config.model.update(frozen_blocks=0, registers=0, stochastic_depth=0.0)
    config.discriminator.update(global_width=8, semantic_width=32)
    config.evaluation.update(batch=2, every=3, pictures=2)
    config.log_every = 1
    config.checkpoint.every = 3
    config.verify = "never"  # Takes longer than the six steps.
