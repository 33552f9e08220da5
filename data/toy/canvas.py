"""The canvas of the toy streets: simple shapes with crisp edges, drawn by numpy.

Coordinates: y runs from 0 (top) to 1 (bottom), x from 0 to 2, whatever the size in pixels; shapes are
undistorted in images twice as wide as high. A pixel belongs to a shape if its centre lies within.
"""

from types import EllipsisType

import numpy as np

Window = tuple[slice, slice]  # Rows and columns.
Tint = float | tuple[float, ...] | np.ndarray  # Grey or RGB, added to the colour of a class.


class Canvas:
    """What a scene is drawn on.

    Attributes:
      classes: uint8 [H, W], ids of the classes.
      tints: float32 [H, W, 3], added to the colour of the class.
      nearness: float32 [H, W], inverse distance; 0 is infinitely far.
      x: float32 [W], centres of the pixels.
      y: float32 [H], centres of the pixels.
    """

    def __init__(self, height: int, width: int, class_id: int):
        """Fills height x width pixels with one class."""
        self.classes = np.full((height, width), class_id, np.uint8)
        self.tints = np.zeros((height, width, 3), np.float32)
        self.nearness = np.zeros((height, width), np.float32)
        self.x = (np.arange(width, dtype=np.float32) + 0.5) * (2.0 / width)
        self.y = (np.arange(height, dtype=np.float32) + 0.5) / height

    def window(self, left: float, right: float, top: float, bottom: float) -> Window:
        """Returns the pixels within the bounds; at least one wide and high unless outside the image."""
        height, width = self.classes.shape
        return _span(top * height, bottom * height, height), _span(left * width / 2, right * width / 2, width)

    def fill(
        self,
        window: Window,
        mask: np.ndarray | EllipsisType,
        class_id: int | None,
        tint: Tint,
        nearness: float,
    ) -> None:
        """Draws over the pixels of a mask.

        Args:
          window: where the mask lies.
          mask: bool of the window's shape, or `...` for all of it.
          class_id: what is drawn; None adds `tint` to what is there and changes nothing else.
          tint: of the object.
          nearness: of the object.
        """
        if class_id is None:
            self.tints[window][mask] += np.asarray(tint, np.float32)
            return
        self.classes[window][mask] = class_id
        self.tints[window][mask] = tint
        self.nearness[window][mask] = nearness

    def box(
        self,
        left: float,
        right: float,
        top: float,
        bottom: float,
        class_id: int | None,
        tint: Tint,
        nearness: float = 0.0,
    ) -> None:
        """Draws an upright rectangle."""
        self.fill(self.window(left, right, top, bottom), ..., class_id, tint, nearness)

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        class_id: int | None,
        tint: Tint,
        nearness: float = 0.0,
    ) -> None:
        """Draws an ellipse around (x, y)."""
        window = self.window(x - radius_x, x + radius_x, y - radius_y, y + radius_y)
        across, down = (self.x[window[1]] - x) / radius_x, (self.y[window[0]] - y) / radius_y
        self.fill(window, across**2 + down[:, None] ** 2 <= 1.0, class_id, tint, nearness)

    def trapezium(
        self,
        x: float,
        top: float,
        bottom: float,
        top_half: float,
        bottom_half: float,
        class_id: int | None,
        tint: Tint,
        nearness: float = 0.0,
    ) -> None:
        """Draws a shape around x whose half width runs linearly from `top_half` to `bottom_half`."""
        widest = max(top_half, bottom_half)
        window = self.window(x - widest, x + widest, top, bottom)
        half = top_half + (bottom_half - top_half) * (self.y[window[0]] - top) / (bottom - top)
        self.fill(window, np.abs(self.x[window[1]] - x) <= half[:, None], class_id, tint, nearness)


def _span(start: float, stop: float, size: int) -> slice:
    """Returns the pixels of an axis whose centres lie in [start, stop); at least one if these touch it."""
    first, last = int(np.ceil(start - 0.5)), int(np.ceil(stop - 0.5))
    if last <= first:
        first = int(np.floor((start + stop) / 2.0))
        last = first + 1
    return slice(min(max(first, 0), size), min(max(last, 0), size))
