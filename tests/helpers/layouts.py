"""The layouts of the miniature data sets."""

from configs import base
from data.datasets import cityscapes, custom, gta5, synthia
from data.raw.layout import Layout
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


def layout_of(data_set: str, domain: str = "source") -> tuple[Layout, str]:
    """Returns the layout of a miniature data set, and its training split."""
    if data_set == "custom":
        return custom.layout(own_settings(base.default_config()).data.custom, domain), f"{domain}_train"
    return {"gta5": gta5, "synthia": synthia, "cityscapes": cityscapes}[data_set].layout(), "train"
