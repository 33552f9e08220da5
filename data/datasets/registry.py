"""All datasets by name. To add one, write its spec in a file of this folder and add a line to `SPECS`."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from data.classes import IGNORED, ClassTable, class_table
from data.datasets import (
    brats2018,
    camvid,
    cityscapes,
    custom,
    cvc_clinicdb,
    cvc_endoscenestill,
    gta5,
    kvasir_seg,
    synthia,
    toy,
    vessels,
)
from data.datasets.spec import DatasetSpec, domain_of
from data.streams import evaluation_part

SPECS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        toy.SPEC,
        gta5.SPEC,
        synthia.SPEC,
        cityscapes.SPEC,
        *camvid.SPECS,
        *kvasir_seg.SPECS,
        cvc_clinicdb.SPEC,
        cvc_endoscenestill.SPEC,
        *vessels.SPECS,
        *brats2018.SPECS,
        custom.SPEC,
    )
}


def find_spec(data_config: ConfigDict, domain: str) -> DatasetSpec:
    """Returns the dataset of a domain.

    Args:
      data_config: `config.data`.
      domain: "source" or "target".

    Raises:
      UserError: settings of the user's own data are out of range.
    """
    spec = SPECS[data_config[domain]]
    if spec.from_settings:
        return spec.from_settings(data_config, domain)
    if data_config.trust_raw_ids:
        return dataclasses.replace(spec, labels=spec.labels._replace(trusted=True))
    return spec


def scored_classes(config: ConfigDict) -> ClassTable:
    """Returns the class table of a run; its `raw_ids` are those of the label files of the images that are scored.

    Of several raw ids of a class, it is the smallest. Where a class has none below 256, or label files hold colours,
    they are the train ids (None).

    Args:
      config: the whole configuration.

    Raises:
      UserError: the table is unknown, or not valid.
    """
    table = class_table(config.data.classes, config.data.custom)
    labels = find_spec(config.data, domain_of(evaluation_part(config))).labels
    smallest: dict[str | None, int] = {}
    for raw_id, name in sorted(labels.raw_ids.items(), reverse=True):
        smallest[table.class_of(name)] = raw_id
    written = [smallest.get(name, IGNORED + 1) for name in table.names]
    raw_ids = np.array(written, np.uint8) if max(written) <= IGNORED and not labels.colours else None
    return dataclasses.replace(table, raw_ids=raw_ids)


def names_with(part: str) -> list[str]:
    """Returns the names of the datasets that have a part of a run, such as "source_train"."""
    return [name for name, spec in SPECS.items() if part in spec.splits]


def evaluation_has_labels(config: ConfigDict) -> bool:
    """Returns whether the images that a run scores have labels; test images may have none."""
    part = evaluation_part(config)
    return find_spec(config.data, domain_of(part)).splits[part].labels != "none"
