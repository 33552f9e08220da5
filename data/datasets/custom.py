"""Own data: folders of images, and of labels with the same names, as `config.data.custom` says."""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from data.raw import pairs
from data.raw.label_rules import LabelRules
from data.classes import custom_ids
from data.raw.layout import Layout

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Split -> the keys of its folders in `config.data.custom`.
FOLDERS = {
    "source_train": ("source_images", "source_labels"),
    "target_train": ("target_images", "target_labels"),
    "target_validation": ("validation_images", "validation_labels"),
}
_EXPECTED = f"one of {', '.join(IMAGE_ENDINGS)}; image and label have the same name, in UTF-8, but for that ending"


def layout(custom: ConfigDict, domain: str) -> Layout:
    """Returns the layout of own data.

    Args:
      custom: `config.data.custom`.
      domain: "source" or "target"; each has folders and raw ids of its own.

    Raises:
      ValueError: raw ids are out of range or name a class that is not in `custom.names`.
    """
    raw_ids = custom_ids(custom, domain)
    splits = [split for split in FOLDERS if split.startswith(domain)]
    tree = ["FOLDER/"]
    for split in splits:
        images, labels = (custom[key] for key in FOLDERS[split])
        tree += [f"  {images}/*.png, *.jpg ...   (data.custom.{FOLDERS[split][0]})"]
        if labels:
            tree += [f"  {labels}/*.png ...   (data.custom.{FOLDERS[split][1]}; numbers of classes, names as above)"]

    def find(root: Path, split: str) -> pairs.Found:
        labels_needed = split != "target_train"
        for key in FOLDERS[split][: 1 + labels_needed]:
            if not custom[key]:
                raise ValueError(f"data.custom.{key} is empty; expected a folder in data.{domain}_root.")
        return _find(root, *(custom[key] for key in FOLDERS[split]), labels_needed=labels_needed)

    return Layout(
        name="custom",
        domain=domain,
        labels=LabelRules(
            encoding="any indices", raw_ids=raw_ids, known_ids=None, values=256 if max(raw_ids) < 256 else 65536
        ),
        splits=dict.fromkeys(splits, 0),
        unlabelled=frozenset({"target_train"} & set(splits)),
        sizes=frozenset(),
        page="",
        archives={},
        tree="\n".join(tree),
        find=find,
    )


def _find(root: Path, image_folder: str, label_folder: str, *, labels_needed: bool) -> pairs.Found:
    label_root = root / label_folder if label_folder else None

    def name(file: Path, folder: Path) -> str | None:
        name = file.relative_to(folder).with_suffix("").as_posix()
        # Python stands surrogates for bytes that are no UTF-8; records could not hold them.
        whole = not any("\ud800" <= sign <= "\udfff" for sign in name)
        return name if whole and file.suffix.lower() in IMAGE_ENDINGS else None

    return pairs.find(
        root / image_folder,
        label_root,
        functools.partial(name, folder=root / image_folder),
        functools.partial(name, folder=label_root),
        expected=_EXPECTED,
        deep=True,
        labels_needed=labels_needed,
    )
