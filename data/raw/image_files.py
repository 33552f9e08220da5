"""Image files to arrays, and label files of every encoding to raw ids.

Only Pillow is needed. It reads 16-bit colour as 8-bit and keeps the high bytes, which are zero in labels;
`_channels_of_16_bits` makes it read the low bytes too.
"""

import functools
import io
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data.classes import Colour
from data.raw import file_access
from data.raw.faults import BadFileError

Decoded = TypeVar("Decoded")

_MODE_NAMES = {"1": "black and white", "L": "grey", "P": "palette", "RGB": "colour", "RGBA": "colour with transparency"}
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000")
# Of binary masks. Compression with loss makes grey values near edges, and channels that differ a little.
BINARY_IDS = (0, 255)  # Background, foreground.
_THRESHOLD = 128
_GREY = {False: (10, 245), True: (64, 192)}  # Whether the format has loss -> values between these are grey.
_GREY_SHARE = 0.02  # Resized and recompressed masks of polyps have up to 0.012.
_CHANNEL_DIFFERENCE = 32
_LARGEST_ID = 65535
_COLOURS_SHOWN = 5
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width.
# EXIF orientation -> what turns pixels [Y, X] as viewers show them.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}


def read_image(file: Path) -> np.ndarray:
    """Reads an image.

    Grey images get three equal channels, palettes are looked up and transparency is dropped. An image that its EXIF
    orientation turns is turned, as viewers show it.

    Args:
      file: PNG, JPEG or another format that Pillow knows.

    Returns:
      uint8 [Y, X, 3] RGB.

    Raises:
      BadFileError: it cannot be read, is no image, or has more than 8 bits a channel.
    """
    image = _open(file)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr") or _rawmode(image).endswith("16B"):
        text = f"expected an image of 8 bits a channel, found {_describe(image)}."
        raise BadFileError("bit depth", file, text)
    return np.asarray(_decode(image, file, lambda: ImageOps.exif_transpose(image).convert("RGB")))


def is_turned(file: Path) -> bool:
    """Returns whether the EXIF orientation of an image exchanges its height and width.

    Raises:
      BadFileError: it cannot be read or is no image.
    """
    image = _open(file)
    return _decode(image, file, image.getexif).get(ExifTags.Base.Orientation, 1) in _TURNED


def read_label(file: Path, encoding: str) -> np.ndarray:
    """Reads a label file. As an image, it is turned as its EXIF orientation says.

    Args:
      file: a label file.
      encoding: a key of `ENCODINGS`.

    Returns:
      Raw ids, uint8 [Y, X], or uint16 where the file has 16 bits.

    Raises:
      BadFileError: it cannot be read, or is not encoded as expected.
      ValueError: the encoding is unknown.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"Unknown encoding {encoding!r} of labels. Valid: {', '.join(ENCODINGS)}.")
    image = _open(file)
    return _turn(ENCODINGS[encoding](image, file), image, file)


def read_colours(file: Path, colours: Sequence[Colour], unknown: int) -> np.ndarray:
    """Reads a label file that shows each class in colours of its own.

    Palettes are looked up, grey values are colours with three equal channels, and transparency is dropped. As an image,
    it is turned as its EXIF orientation says.

    Args:
      file: a label file.
      colours: (red, green, blue) of each raw id.
      unknown: raw id of the pixels of other colours.

    Returns:
      Raw ids, uint8 [Y, X], or uint16 for 256 colours and more.

    Raises:
      BadFileError: it cannot be read, was compressed with loss, or shows none of the colours.
    """
    image = _open(file)
    codes = _turn(_colour_codes(image, file), image, file)
    known = _codes(np.array(colours, np.uint32))
    order = np.argsort(known)
    places = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
    found = known[places] == codes
    if not found.any():
        values, counts = np.unique(codes, return_counts=True)
        most = ", ".join(str(_colour(values[place])) for place in np.argsort(-counts, kind="stable")[:_COLOURS_SHOWN])
        more = ", ..." if len(values) > _COLOURS_SHOWN else ""
        text = f"expected pixels of at least one colour of a class, such as {tuple(colours[0])}, found {most}{more}."
        raise BadFileError("all ignored", file, text)
    return np.where(found, places, unknown).astype(np.uint8 if max(len(known), unknown) < 256 else np.uint16)


def unknown_colours(file: Path, colours: Sequence[Colour]) -> dict[Colour, int]:
    """Returns the colours of a label file that are not among `colours`, and their pixels.

    Raises:
      BadFileError: as `read_colours`.
    """
    values, counts = np.unique(_colour_codes(_open(file), file), return_counts=True)
    found = {_colour(value): int(count) for value, count in zip(values, counts, strict=True)}
    return {colour: count for colour, count in found.items() if colour not in set(map(tuple, colours))}


def describe(file: Path) -> str:
    """Returns format, kind and bits of an image file, such as "PNG, palette of 8 bits".

    Raises:
      BadFileError: it cannot be read or is no image.
    """
    return _describe(_open(file))


def _indices(image: Image.Image, file: Path) -> np.ndarray:
    """Reads the indices of a palette, or grey values, of 8 bits; [Y, X]."""
    _refuse_colours(image, file)
    if image.mode not in ("P", "L", "1"):
        raise BadFileError("bit depth", file, f"expected a PNG of raw ids with 8 bits, found {_describe(image)}.")
    return _decode(image, file, lambda: np.asarray(image).astype(np.uint8))


def _first_of_three(image: Image.Image, file: Path) -> np.ndarray:
    """Reads the first channel of 16-bit colour; [Y, X]."""
    if image.mode != "RGB" or _rawmode(image) != "RGB;16B":
        text = "; it may have been saved again by a program that knows only 8 bits"
        expected = "expected a PNG with three channels of 16 bits, the class in the first one"
        raise BadFileError("bit depth", file, f"{expected}, found {_describe(image)}{text}. Unpack the original.")
    return _channels_of_16_bits(image, file)[..., 0]


def _any_indices(image: Image.Image, file: Path) -> np.ndarray:
    """Reads indices of a palette or grey values, of 8 bits or, up to 65535, of 16 or 32; [Y, X]."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = _decode(image, file, lambda: np.asarray(image))
        if values.min() < 0 or values.max() > _LARGEST_ID:
            text = f"expected raw ids of 0 to {_LARGEST_ID}, found {values.min()} to {values.max()}."
            raise BadFileError("bit depth", file, text)
        return values.astype(np.uint16)
    if image.mode == "F":
        text = f"expected whole numbers of 8, 16 or 32 bits, found {_describe(image)}. Save it as integers."
        raise BadFileError("bit depth", file, text)
    hint = " If it is a mask of two values, set data.custom.source_encoding or target_encoding to 'binary'."
    if image.format in _LOSSY:
        hint += " If it has more values and no other copy, its numbers are lost: ask its authors for a PNG."
    elif image.mode in ("RGB", "RGBA"):
        hint += " If it shows each class in a colour, set the same to 'colours'."
    if image.format not in _LOSSY and image.mode in ("RGB", "RGBA") and _has_equal_channels(image, file):
        hint += " Its channels are equal: saved as grey (one channel), it can be used."
    _refuse_colours(image, file, hint)
    return _indices(image, file)


def _binary(image: Image.Image, file: Path) -> np.ndarray:
    """Reads a mask of two values as 0 and 255, uint8 [Y, X].

    With 8 bits, 128 and more are foreground; where the largest value of a file without loss is 1, so is 1. With 16
    bits, the values are 0 and one of 1, 255 and 65535. Three channels must agree. Palettes are looked up; where their
    colours are not grey, the indices count. Transparency is dropped.
    """
    if image.mode.startswith("I"):
        values = _decode(image, file, lambda: np.asarray(image))
        largest = int(values.max())
        if largest not in (0, 1, 255, 65535) or not ((values == 0) | (values == largest)).all():
            raise BadFileError("not binary", file, _more_than_two(values))
        return _mask(values > 0)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") or "16" in _rawmode(image):
        text = f"expected a mask of one channel, or of three with 8 bits, found {_describe(image)}."
        raise BadFileError("bit depth", file, text)
    lossy = image.format in _LOSSY or image.info.get("compression") == "jpeg"
    values = _grey_values(image, file)
    largest = int(values.max())
    if largest <= 1 and not lossy:
        return _mask(values > 0)
    low, high = _GREY[lossy]
    grey = np.mean((values > low) & (values < high))
    if grey > _GREY_SHARE or 0 < largest < high:
        raise BadFileError("not binary", file, _more_than_two(values))
    return _mask(values >= _THRESHOLD)


def _turn(label: np.ndarray, image: Image.Image, file: Path) -> np.ndarray:
    """Returns a label, [Y, X], as viewers show its file; `image` is decoded, and Pillow has turned it if it is TIFF."""
    orientation = _decode(image, file, image.getexif).get(ExifTags.Base.Orientation, 1)
    return np.ascontiguousarray(_TURNS[orientation](label)) if orientation in _TURNS else label


def _colour_codes(image: Image.Image, file: Path) -> np.ndarray:
    """Returns the displayed colours of a label file, a number each, uint32 [Y, X]."""
    if image.format in _LOSSY or image.info.get("compression") == "jpeg":
        text = (
            f"expected the exact colours of the classes, found {image.format}: compression with loss changes colours, "
            "most of all where classes meet. Get the label as PNG."
        )
        raise BadFileError("lossy label", file, text)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") or "16" in _rawmode(image):
        text = f"expected colours of 8 bits a channel, found {_describe(image)}."
        raise BadFileError("bit depth", file, text)
    return _codes(_decode(image, file, lambda: np.asarray(image.convert("RGB"))).astype(np.uint32))


def _codes(colours: np.ndarray) -> np.ndarray:
    """Returns a number for each colour, uint32 [...], given colours uint32 [..., 3]."""
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _colour(code: np.integer) -> Colour:
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255


def _grey_values(image: Image.Image, file: Path) -> np.ndarray:
    """Returns the grey values of an image of 8 bits, uint8 [Y, X].

    Raises:
      BadFileError: its channels differ, or it is damaged.
    """
    if image.mode in ("1", "L", "LA"):
        return _decode(image, file, lambda: np.asarray(image.convert("L")))
    colours = _decode(image, file, lambda: np.asarray(image.convert("RGB")))
    if (colours.max(axis=-1) - colours.min(axis=-1)).max() <= _CHANNEL_DIFFERENCE:
        return np.asarray(Image.fromarray(colours).convert("L"))
    if image.mode == "P":
        return np.asarray(image)
    text = f"expected a mask in grey, or three channels that are equal, found {_describe(image)} whose channels differ."
    raise BadFileError("colours", file, text)


def _has_equal_channels(image: Image.Image, file: Path) -> bool:
    colours = _decode(image, file, lambda: np.asarray(image.convert("RGB")))
    return bool((colours == colours[..., :1]).all())


def _mask(foreground: np.ndarray) -> np.ndarray:
    """Returns the raw ids of a binary mask, uint8, from bool of the same shape."""
    background, white = map(np.uint8, BINARY_IDS)
    return np.where(foreground, white, background)


def _more_than_two(values: np.ndarray) -> str:
    """Returns what is wrong with the values of a mask that is not binary."""
    found = np.unique(values)
    return f"expected two values, 0 and 255 or 0 and 1, found {len(found)} of {found[0]} to {found[-1]}."


ENCODINGS: dict[str, Callable[[Image.Image, Path], np.ndarray]] = {
    "indices": _indices,  # GTA5 (palette), Cityscapes (grey).
    "first of three": _first_of_three,  # SYNTHIA.
    "any indices": _any_indices,  # Own data.
    "binary": _binary,  # Polyps, own data.
}


def _channels_of_16_bits(image: Image.Image, file: Path) -> np.ndarray:
    """Returns uint16 [Y, X, 3]: three 16-bit channels of a PNG that is open but not decoded."""
    # Decoding closes an image, so a second one gives the low bytes.
    second: Any = _open(file)
    # "L" is little-endian: it takes the second byte of each pair.
    second.tile = [part._replace(args="RGB;16L") for part in second.tile]
    high, low = (_decode(part, file, functools.partial(np.asarray, part)) for part in (image, second))
    return high.astype(np.uint16) << 8 | low


def _refuse_colours(image: Image.Image, file: Path, hint: str = "") -> None:
    """Raises BadFileError, with a hint, for a format with loss, and for colours in place of ids."""
    if image.format in _LOSSY:
        text = f"expected a PNG, found {image.format}: compression with loss invents numbers. Get the original label."
        raise BadFileError("lossy label", file, text + hint)
    if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA"):
        text = f"expected one number a pixel (grey or palette), found {_describe(image)}. Get the label of raw ids."
        raise BadFileError("colours", file, text + hint)


def _open(file: Path) -> Image.Image:
    """Opens an image file; its pixels are not decoded yet."""
    content = io.BytesIO(file_access.read_bytes(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Own data may have large images.
        try:
            return Image.open(content)
        except Image.UnidentifiedImageError as error:
            raise BadFileError("damaged", file, "expected an image, found a file of another kind.") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadFileError("damaged", file, f"the image cannot be opened: {error}.") from error


def _decode(image: Image.Image, file: Path, decode: Callable[[], Decoded]) -> Decoded:
    """Returns the result of `decode`; errors of Pillow do not name the file, so this adds its name."""
    try:
        return decode()
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        text = f"the {image.format} file is cut off or damaged ({error}); unpack or download it again."
        raise BadFileError("damaged", file, text) from error


def _rawmode(image: Any) -> str:
    """Returns Pillow's name for how the pixels lie in the file: "RGB;16B" for 16-bit colour."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _describe(image: Image.Image) -> str:
    bits = 16 if "16" in _rawmode(image) or image.mode.startswith("I") else 1 if image.mode == "1" else 8
    return f"{image.format}, {_MODE_NAMES.get(image.mode, image.mode)} of {bits} bit{'s' * (bits > 1)}"
