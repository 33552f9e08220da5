"""Pictures of label maps for people, and prediction files for programs.

Legend: N images, H W pixels, Y X label pixels, C classes.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_IGNORED = 255
_SMALLEST_PANEL = 256  # Pixels; smaller images are enlarged until the longer side has as many.
_LARGEST_PANEL = 640  # Larger images are subsampled until the longer side has at most as many.
_GAP = 2  # Between panels.
_TEXT_SIZE = 14
_LINE = 20  # Height of a line of text.
_WHITE = (255, 255, 255)
_YELLOW, _CYAN = (255, 255, 0), (0, 255, 255)


def colourise(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns the colour of each label.

    Args:
      labels: integers `[..., Y, X]` in `0..C-1`, or 255 for ignored pixels, which become black.
      palette: uint8 `[C, 3]`.

    Returns:
      uint8 `[..., Y, X, 3]`.

    Raises:
      ValueError: a label has no colour.
    """
    return _colour_table(labels, palette)[labels]


def save_prediction(path: str | os.PathLike, labels: np.ndarray, palette: np.ndarray) -> None:
    """Writes a PNG with the labels as pixel values, which viewers show in the colours of the palette.

    The file gets its name only when it is complete.

    Args:
      path: ends in `.png`; its folder exists.
      labels: integers `[Y, X]` in `0..C-1` or 255.
      palette: uint8 `[C, 3]`.

    Raises:
      ValueError: a label has no colour.
    """
    _write(path, _coloured_by_palette(labels, palette))


def save_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Writes a uint8 picture, `[H, W, 3]` or grey `[H, W]`, as a PNG, which gets its name only when it is complete."""
    _write(path, Image.fromarray(picture))


def save_map(file: BinaryIO, labels: np.ndarray, palette: np.ndarray) -> None:
    """Writes the picture of `save_prediction` to an open file, as small as can be."""
    _coloured_by_palette(labels, palette).save(file, format="PNG", optimize=True)


def resize_nearest(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes labels, uint8 `[Y, X]`, to `size`; each pixel is the nearest one."""
    height, width = size
    if labels.shape == (height, width):
        return labels
    return np.asarray(Image.fromarray(labels.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))


def prediction_strip(
    images: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    names: Sequence[str] = (),
    background: int | None = None,
) -> np.ndarray:
    """Lays out input, prediction and truth side by side, a row an image, with headings and a legend.

    With a background, a further picture shows the `outline` of all other classes over the input.

    Small images are enlarged and large ones subsampled, both by a whole number and without smoothing, so that every
    pixel shows one class.

    Args:
      images: uint8 RGB `[N, H, W, 3]`.
      predictions: integers `[N, Y, X]` in `0..C-1`.
      labels: integers `[N, Y, X]` in `0..C-1` or 255.
      palette: uint8 `[C, 3]`.
      names: of the `C` classes, for the legend; without names, there is no legend.
      background: the class of all that is not looked for; None: there is none.

    Returns:
      uint8 RGB `[height, width, 3]`.

    Raises:
      ValueError: a label has no colour.
    """
    height, width = labels.shape[1:]
    inputs = images
    if images.shape[1:3] != (height, width):
        inputs = np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images])
    columns = {"input": inputs}
    if background is not None:
        columns["prediction yellow, truth cyan"] = outline(inputs, predictions, labels, background)
    columns |= {"prediction": colourise(predictions, palette), "truth": colourise(labels, palette)}
    return table(columns, palette, names)


def outline(images: np.ndarray, predictions: np.ndarray, labels: np.ndarray, background: int) -> np.ndarray:
    """Draws the borders of predicted regions in yellow, and of true ones in cyan above them, over images.

    A border is the outermost pixels of a region of one class.

    Args:
      images: uint8 RGB `[N, Y, X, 3]`.
      predictions: integers `[N, Y, X]` in `0..C-1`.
      labels: integers `[N, Y, X]` in `0..C-1` or 255.
      background: class whose regions have no border.

    Returns:
      uint8 RGB `[N, Y, X, 3]`.
    """
    drawn = images.copy()
    drawn[_border(predictions, background)] = _YELLOW
    drawn[_border(labels, background)] = _CYAN
    return drawn


def table(columns: dict[str, np.ndarray], palette: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """Lays out pictures in columns with headings and a legend; sizes as in `prediction_strip`.

    Args:
      columns: by heading, uint8 RGB `[N, H, W, 3]`.
      palette: uint8 `[C, 3]`.
      names: of the `C` classes, for the legend; without names, there is no legend.

    Returns:
      uint8 RGB `[height, width, 3]`.
    """
    rows = [_side_by_side(panels) for panels in zip(*map(_fit, columns.values()), strict=True)]
    total = rows[0].shape[1]
    parts = [_headings(list(columns), total)]
    for row in rows:
        parts += [row, np.full((_GAP, total, 3), 255, np.uint8)]
    if names:
        parts.append(_legend(names, palette, total))
    return np.concatenate(parts)


def _border(labels: np.ndarray, background: int) -> np.ndarray:
    """Returns which pixels of regions other than the background touch another class, bool `[N, Y, X]`."""
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = labels.shape[1:]
    neighbours = [padded[:, y : y + height, x : x + width] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))]
    inside = (labels != background) & (labels != _IGNORED)
    return inside & np.logical_or.reduce([neighbour != labels for neighbour in neighbours])


def _colour_table(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns the colours of all 256 values, uint8 `[256, 3]`; raises ValueError if a label has no colour."""
    wrong = labels[((labels < 0) | (labels >= len(palette))) & (labels != _IGNORED)]
    if wrong.size:
        raise ValueError(f"Expected labels 0 to {len(palette) - 1} or {_IGNORED}, found {np.unique(wrong)}.")
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


def _coloured_by_palette(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(_colour_table(labels, palette).tobytes())
    return image


def _fit(pictures: np.ndarray) -> np.ndarray:
    """Enlarges or subsamples pictures `[N, H, W, 3]` to a size for the screen."""
    side = max(pictures.shape[1:3])
    factor = -(-_SMALLEST_PANEL // side)
    step = -(-side // _LARGEST_PANEL)
    return pictures[:, ::step, ::step].repeat(factor, axis=1).repeat(factor, axis=2)


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    first, *others = panels
    return np.concatenate([first, *(part for panel in others for part in (gap, panel))], axis=1)


def _headings(words: Sequence[str], width: int) -> np.ndarray:
    """Returns a line of text `[_LINE, width, 3]` with a word above the middle of each column."""
    canvas = Image.new("RGB", (width, _LINE), _WHITE)
    for column, word in enumerate(words):
        centre = (column + 0.5) * width / len(words)
        ImageDraw.Draw(canvas).text((centre, _LINE / 2), word, "black", ImageFont.load_default(_TEXT_SIZE), "mm")
    return np.asarray(canvas)


def _legend(names: Sequence[str], palette: np.ndarray, width: int) -> np.ndarray:
    """Returns the coloured squares and names of the classes, in lines: `[lines * _LINE, width, 3]`."""
    font = ImageFont.load_default(_TEXT_SIZE)
    entries = [*zip(names, map(tuple, palette.tolist()), strict=True), ("ignored", (0, 0, 0))]
    cell = max(int(font.getlength(name)) for name, _ in entries) + 2 * _LINE
    columns = max(1, width // cell)
    canvas = Image.new("RGB", (width, -(-len(entries) // columns) * _LINE), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for index, (name, colour) in enumerate(entries):
        left, top = index % columns * cell, index // columns * _LINE
        draw.rectangle((left + 3, top + 3, left + _LINE - 4, top + _LINE - 4), fill=colour)
        draw.text((left + _LINE + 2, top + _LINE / 2), name, "black", font, "lm")
    return np.asarray(canvas)


def _write(path: str | os.PathLike, image: Image.Image) -> None:
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}_{threading.get_ident()}")  # Short: a long name has no room for more.
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
