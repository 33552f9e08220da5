"""The user's own data: folders of images, and of labels with the same names, as `config.data.custom` says."""

import dataclasses
import functools
from pathlib import Path

from ml_collections import ConfigDict

from configs.user_error import UserError
from data.classes import custom_colours, custom_ids
from data.datasets.spec import DatasetSpec, Split, domain_of
from data.raw import image_files, pairs
from data.raw.label_rules import COLOURS, LabelRules

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Part of a run -> the keys of its folders in `config.data.custom`.
_FOLDERS = {
    "source_train": ("source_images", "source_labels"),
    "target_train": ("target_images", "target_labels"),
    "target_validation": ("validation_images", "validation_labels"),
}
# `config.data.custom.source_encoding` and `target_encoding` -> encoding of the label files.
ENCODINGS = {"indices": "any indices", "binary": "binary", "colours": COLOURS}
_EXPECTED = f"one of {', '.join(IMAGE_ENDINGS)}; image and label have the same name, in UTF-8, but for that ending"


def from_settings(data_config: ConfigDict, domain: str) -> DatasetSpec:
    """Returns the spec of one domain, which has its own folders and raw ids.

    Raises:
      UserError: raw ids or colours are not valid, do not fit the encoding, or name a class not in `custom.names`.
    """
    custom = data_config.custom
    raw_ids = custom_ids(custom, domain)
    encoding = custom[f"{domain}_encoding"]
    if encoding == "binary" and (others := set(raw_ids) - set(image_files.BINARY_IDS)):
        raise UserError(
            f"data.custom.{domain}_ids: expected raw ids 0 and 255, since data.custom.{domain}_encoding is 'binary', "
            f"found {min(others)}."
        )
    splits = {part: split for part, split in SPEC.splits.items() if domain_of(part) == domain}
    tree = ["FOLDER/"]
    for part in splits:
        images, labels = (custom[key] for key in _FOLDERS[part])
        tree += [f"  {images}/*.png, *.jpg ...   (data.custom.{_FOLDERS[part][0]})"]
        if labels:
            tree += [f"  {labels}/*.png ...   (data.custom.{_FOLDERS[part][1]}; classes, names as above)"]
    # One of 256 raw ids must be left for images without a label.
    values = 256 if max(raw_ids) < 256 and len(raw_ids) < 256 else 65536
    return dataclasses.replace(
        SPEC,
        splits=splits,
        labels=LabelRules(ENCODINGS[encoding], raw_ids, None, values, custom_colours(custom, domain)),
        tree="\n".join(tree),
        find=functools.partial(_find, custom=custom, domain=domain),
        from_settings=None,
    )


def _find(root: Path, split: str, *, custom: ConfigDict, domain: str) -> pairs.SplitFiles:
    labels_needed = SPEC.splits[split].labels == "all"
    for key in _FOLDERS[split][: 1 + labels_needed]:
        if not custom[key]:
            raise UserError(f"data.custom.{key} is empty; expected a folder in data.{domain}_root.")
    image_key, label_key = _FOLDERS[split]
    images, labels = root / custom[image_key], root / custom[label_key] if custom[label_key] else None

    def name(file: Path, folder: Path) -> str | None:
        name = file.relative_to(folder).with_suffix("").as_posix()
        # Python stands surrogates for bytes that are no UTF-8; records could not hold them.
        whole = not any("\ud800" <= sign <= "\udfff" for sign in name)
        return name if whole and file.suffix.lower() in IMAGE_ENDINGS else None

    found = pairs.match_pairs(
        images,
        labels,
        functools.partial(name, folder=images),
        functools.partial(name, folder=labels or root),
        expected=_EXPECTED,
        deep=True,
        labels_needed=labels_needed,
    )
    unusable = [fault for fault in found.others if fault.file.suffix.lower() in IMAGE_ENDINGS]  # Names no UTF-8.
    others = tuple(fault for fault in found.others if fault not in unusable)
    return found._replace(faults=[*found.faults, *unusable], others=others)


SPEC = DatasetSpec(
    name="custom",
    splits={
        "source_train": Split("source_train"),
        "target_train": Split("target_train", labels="some"),
        "target_validation": Split("target_validation"),
    },
    labels=LabelRules(ENCODINGS["indices"], raw_ids={}, known_ids=None),
    from_settings=from_settings,
)
