"""Toy streets: generated scenes of two domains, with labels in the train ids of the class table "toy"."""

import dataclasses

from ml_collections import ConfigDict

from data.classes import CLASS_TABLES
from data.datasets.spec import DatasetSpec, Split
from data.raw.label_rules import LabelRules


def from_settings(data_config: ConfigDict, domain: str) -> DatasetSpec:
    """Returns the spec with the numbers of images of `config.data.toy`; both domains are in it."""
    del domain
    settings = data_config.toy
    counts = (settings.source_count, settings.target_count, settings.validation_count)
    splits = {part: Split(part, count) for part, count in zip(SPEC.splits, counts, strict=True)}
    return dataclasses.replace(SPEC, splits=splits)


SPEC = DatasetSpec(
    name="toy",
    splits={part: Split(part) for part in ("source_train", "target_train", "target_validation")},
    labels=LabelRules(encoding="indices", raw_ids=dict(enumerate(CLASS_TABLES["toy"].names)), known_ids=None),
    from_settings=from_settings,
)
