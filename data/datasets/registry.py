"""All datasets by name. To add one, write its spec in a file of this folder and add a line to `SPECS`."""

from ml_collections import ConfigDict

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
    return spec.from_settings(data_config, domain) if spec.from_settings else spec


def names_with(part: str) -> list[str]:
    """Returns the names of the datasets that have a part of a run, such as "source_train"."""
    return [name for name, spec in SPECS.items() if part in spec.splits]


def evaluation_has_labels(config: ConfigDict) -> bool:
    """Returns whether the images that a run scores have labels; test images may have none."""
    part = evaluation_part(config)
    return find_spec(config.data, domain_of(part)).splits[part].labels != "none"
