"""The specs of the miniature datasets."""

from configs import base
from data.datasets.registry import find_spec
from data.datasets.spec import DatasetSpec
from tests.helpers.trees import OWN_IDS

# Heights and widths of the miniature images.
SIZES = {"gta5": (26, 48), "synthia": (24, 32), "cityscapes": (32, 64), "custom": (24, 40)}


def own_settings(config):
    """Sets the keys of own data to what `trees.write_custom` writes; both domains use the same folders."""
    config.data.custom.update(
        names=tuple(name for _, name in OWN_IDS),
        source_ids=OWN_IDS,
        target_ids=OWN_IDS,
        source_images="photos",
        source_labels="masks",
        target_images="photos",
        target_labels="masks",
        validation_images="photos",
        validation_labels="masks",
    )
    return config


def miniature_spec(dataset: str, domain: str = "") -> tuple[DatasetSpec, str]:
    """Returns the spec of a miniature dataset, and the name of its training split."""
    domain = domain or ("target" if dataset == "cityscapes" else "source")
    config = own_settings(base.default_config())
    config.data[domain] = dataset
    spec = find_spec(config.data, domain)
    return spec, spec.splits[f"{domain}_train"].name
