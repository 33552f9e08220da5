"""Turns a pair of files into records; runs in worker processes, so it imports no TensorFlow.

Images are resized with the antialiased bilinear filter of Pillow, which agrees with `tf.image.resize(...,
antialias=True)` to one grey value. Labels take the nearest pixel, as `tf.image.resize(..., "nearest")` does.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.raw import train_ids
from data.raw.faults import BadFileError, Fault
from data.raw.label_rules import LabelRules
from data.raw.nifti import Frame
from data.raw.pairs import Pair, PairContent, read_images

# Of zlib: higher levels take several times as long and save a tenth of the space.
_COMPRESSION = 3


class Form(NamedTuple):
    """How the records of a split are stored.

    Attributes:
      rules: of the labels.
      size: height and width of the images; None: their own.
      full_labels: whether labels keep their own size, at which scores are computed.
    """

    rules: LabelRules
    size: tuple[int, int] | None
    full_labels: bool


class Record(NamedTuple):
    """An image and its label as they are stored.

    Attributes:
      name: of the image.
      image: PNG of uint8 [H, W, 3] RGB.
      label: PNG of raw ids, [H, W]; `LabelRules.unlabelled_id` everywhere if there is no label.
      labelled: whether there is a label.
      counts: raw id -> its pixels in the stored label; empty if there is no label.
      rows: raw id -> sum of the rows of its pixels, of `sums_of_rows` of `data.raw.train_ids`; empty where train ids
        are not looked for.
      label_size: height and width of the label.
      frame: of the volume, at its first slice; None at the others and for other images.
    """

    name: str
    image: bytes
    label: bytes
    labelled: bool
    counts: dict[int, int]
    rows: dict[int, float]
    label_size: tuple[int, int]
    frame: Frame | None


def make_records(pair: Pair, form: Form) -> list[Record] | Fault:
    """Reads, checks, resizes and encodes the images of a pair; returns its fault if it cannot be used."""
    try:
        images = read_images(pair, form.rules)
    except BadFileError as error:
        return error.fault
    frames = [images.frame] + [None] * (len(images.contents) - 1)
    return [
        _make_record(name, content, form, labelled=pair.label is not None, frame=frame)
        for (name, content), frame in zip(images.contents.items(), frames, strict=True)
    ]


def _make_record(name: str, content: PairContent, form: Form, *, labelled: bool, frame: Frame | None) -> Record:
    image, label = content.image, content.label
    if form.size is not None:
        image = resize_image(image, form.size)
        label = label if form.full_labels else resize_label(label, form.size)
    label = label.astype(np.uint8 if form.rules.values == 256 else np.uint16)
    ids, counts = np.unique(label, return_counts=True)
    found = dict(zip(ids.tolist(), counts.tolist(), strict=True)) if labelled else {}
    rows = train_ids.sums_of_rows(label) if labelled and train_ids.can_be_judged(form.rules) else {}
    return Record(name, _png(image), _png(label), labelled, found, rows, label.shape, frame)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 [Y, X, 3] to [H, W, 3], bilinearly and antialiased."""
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes [Y, X] to [H, W]; each pixel is the one at its centre."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, label.shape, strict=True))
    return label[rows[:, None], columns]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()
