"""Faults of the user's files, with messages that name the file."""

from pathlib import Path
from typing import NamedTuple

from configs.user_error import UserError


def printable(text: str) -> str:
    """Returns a line of text with its control characters escaped.

    File names may hold some, which could move the cursor of a terminal, colour it or end the line.
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class Fault(NamedTuple):
    """One unusable file or folder.

    Attributes:
      kind: a key of `KINDS`.
      file: the file or folder; one inside a zip file is named as if the zip file were a folder.
      text: what was expected and what was found, one sentence.
    """

    kind: str
    file: Path
    text: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.kind}: {self.text}")


KINDS = {
    "missing folder": "A folder of the layout is missing.",
    "missing image": "A label has no image.",
    "missing label": "An image has no label.",
    "missing field of view": "An image has no mask of the part that the camera saw.",
    "odd name": "The name of a file does not fit the layout.",
    "unreadable": "The file cannot be opened: permission, or the disk.",
    "damaged": "The file is empty, cut off or not an image.",
    "bit depth": "The numbers have 8 bits where 16 are expected, or the other way round.",
    "colours": "A label holds colours where numbers of classes are expected.",
    "lossy label": "A label was compressed with loss, which invents numbers of classes.",
    "not binary": "A mask that should have two values has others.",
    "size mismatch": "Image and label, or its field of view, differ in size.",
    "affine mismatch": "A volume and its label lie at different places in the patient.",
    "not finite": "Voxels are not a number, or infinite.",
    "train ids": "A label holds train ids where the raw ids of the dataset are expected.",
    "unknown ids": "A label holds numbers that the dataset does not have.",
    "all ignored": "No pixel of a label belongs to a class.",
}


class BadFileError(UserError):
    """A file cannot be used.

    Attributes:
      fault: why.
    """

    def __init__(self, kind: str, file: Path, text: str):
        super().__init__(kind, file, text)
        self.fault = Fault(kind, file, text)

    def __str__(self) -> str:
        return str(self.fault)
