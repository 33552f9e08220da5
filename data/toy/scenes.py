"""Toy streets: a grammar of street scenes in two domains, drawn by numpy alone.

A scene (`data/toy/street.py`, `data/toy/objects.py`) is a pure function of (seed, split, index) and a layout
(`data/toy/layout.py`), which a label shift changes in the target; the domain changes its look (`data/toy/looks.py`).
"""

import zlib

import numpy as np

from data.classes import IGNORED
from data.toy.canvas import Canvas
from data.toy.layout import Layout, between
from data.toy.looks import HOOD, SKY, Shift, paint
from data.toy.objects import draw_hood, draw_objects
from data.toy.street import Street, draw_end, draw_ground, draw_sky, draw_walls


def draw(canvas: Canvas, generator: np.random.Generator, layout: Layout) -> None:
    """Draws a whole scene, the far before the near."""
    street = Street(generator, layout)
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
    label_shift: float = 0.0,
    strengths: Shift = Shift(),  # noqa: B008 (frozen)
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one labelled street scene; a pure function of its arguments.

    Without a label shift, the scene depends on seed, split and index; domain and shift change only its look.

    Args:
      domain: "source" or "target".
      seed: of the dataset, at least 0.
      split: name or number of the split.
      index: of the image in its split, at least 0.
      height: H, in pixels.
      width: W, in pixels.
      shift: of the target's look against the source's; 0: none, 1: as `strengths` says.
      label_shift: of the target's layout, from that of the source, 0, to `data.toy.layout.SUBURB`, 1.
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
    if domain == "source":
        shift = label_shift = 0.0
    draw(canvas, np.random.Generator(np.random.PCG64(scene_seed)), between(label_shift))
    look = np.random.Generator(np.random.PCG64(look_seed))
    image = paint(canvas.classes, canvas.tints, canvas.nearness, look, shift, strengths)
    return image, np.where(canvas.classes == HOOD, np.uint8(IGNORED), canvas.classes)
