"""Toy streets: a grammar of street scenes in two domains, drawn by numpy alone.

A scene (`data/toy/street.py`, `data/toy/objects.py`) is a pure function of (seed, split, index); the
domain changes only how it looks (`data/toy/looks.py`).
"""

import zlib

import numpy as np

from data.classes import IGNORED
from data.toy.canvas import Canvas
from data.toy.looks import HOOD, SKY, Shift, paint
from data.toy.objects import draw_hood, draw_objects
from data.toy.street import Street, draw_end, draw_ground, draw_sky, draw_walls


def draw(canvas: Canvas, generator: np.random.Generator) -> None:
    """Draws a whole scene, the far before the near."""
    street = Street(generator)
    draw_sky(canvas, street, generator)
    draw_ground(canvas, street, generator)
    draw_end(canvas, street, generator)
    draw_walls(canvas, street, generator)
    draw_objects(canvas, street, generator)
    draw_hood(canvas, generator)


def render(
    domain: str,
    seed: int,
    split: str | int,
    index: int,
    height: int,
    width: int,
    shift: float = 1.0,
    strengths: Shift = Shift(),  # noqa: B008 (frozen)
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one labelled street scene; a pure function of its arguments.

    The scene depends on seed, split and index; domain and shift change only its look.

    Args:
      domain: "source" or "target".
      seed: of the dataset, at least 0.
      split: name or number of the split.
      index: of the image in its split, at least 0.
      height: H, in pixels.
      width: W, in pixels.
      shift: of the target's look against the source's; 0: none, 1: as `strengths` says.
      strengths: of the parts of the shift.

    Returns:
      The image, uint8 [H, W, 3] RGB, and its labels, uint8 [H, W]: train ids of the class table "toy",
      255 where ignored.

    Raises:
      ValueError: the domain is unknown.
    """
    if domain not in ("source", "target"):
        raise ValueError(f"Unknown domain {domain!r}. Valid: source, target.")
    split_number = zlib.crc32(split.encode()) if isinstance(split, str) else split
    # Streams of their own: the number of draws for the scene does not change the look.
    scene_seed, look_seed = np.random.SeedSequence([seed, split_number, index]).spawn(2)
    canvas = Canvas(height, width, SKY)
    draw(canvas, np.random.Generator(np.random.PCG64(scene_seed)))
    shift = shift if domain == "target" else 0.0
    look = np.random.Generator(np.random.PCG64(look_seed))
    image = paint(canvas.classes, canvas.tints, canvas.nearness, look, shift, strengths)
    return image, np.where(canvas.classes == HOOD, np.uint8(IGNORED), canvas.classes)
