"""The setting of the toy streets: sky, ground, buildings, and where things stand.

Lengths on the ground are in metres and shrink towards a vanishing point. `nearness` is the inverse of
the distance: 0 at the horizon, 1 where the ground leaves the image.
"""

from typing import Any

import numpy as np

from data.toy.canvas import Canvas
from data.toy.layout import Layout
from data.toy.looks import BUILDING, ROAD, SIDEWALK, TERRAIN, VEGETATION

# Pairs are uniform ranges, whole numbers inclusive; in metres if no comment gives another unit.
VANISHING_POINT = (0.75, 1.25)  # x.
CAMERA_HEIGHT = (1.6, 2.0)
LANE_WIDTH = (3.0, 3.8)
LANES_RIGHT = (0, 1)  # Beside the lane of the camera.
SIDEWALK_WIDTH = (2.0, 3.5)
VERGE_IS_TERRAIN = 0.8  # Share of the verges; the others are paved.
FAR = 0.05  # Nearness of what closes the street.
PLOT_LENGTH = (6.0, 16.0)
BUILDING_HEIGHT = (3.5, 9.0)
HEDGE_HEIGHT = (1.0, 3.0)

LEFT, RIGHT = 0, 1
SIGNS = (-1.0, 1.0)  # Of the lateral positions on each side.


class Street:
    """The frame of a scene: where things stand on the ground, where that is in the image, and how large.

    Attributes:
      layout: of the scene's domain.
      horizon: y.
      middle: x of the vanishing point.
      metre: length of a metre at nearness 1, in units of y.
      lane: width of a lane in metres.
      lanes: number of lanes left and right of the camera's own.
      kerbs: lateral positions in metres from the camera, left and right, where the sidewalks begin.
      verges: where these end.
      walls: where the buildings begin.
    """

    def __init__(self, generator: np.random.Generator, layout: Layout):
        """Draws the frame at random."""
        uniform = generator.uniform
        self.layout = layout
        self.horizon = uniform(*layout.horizon)
        self.middle = uniform(*VANISHING_POINT)
        self.metre = (1.0 - self.horizon) / uniform(*CAMERA_HEIGHT)
        self.lane = uniform(*LANE_WIDTH)
        lanes = (layout.lanes_left, LANES_RIGHT)
        self.lanes = tuple(int(generator.integers(*counts, endpoint=True)) for counts in lanes)
        self.kerbs = tuple(sign * (count + 0.5) * self.lane for sign, count in zip(SIGNS, self.lanes, strict=True))
        self.verges = tuple(
            kerb + sign * uniform(*SIDEWALK_WIDTH) for sign, kerb in zip(SIGNS, self.kerbs, strict=True)
        )
        self.walls = tuple(
            verge + sign * uniform(*layout.verge_width) for sign, verge in zip(SIGNS, self.verges, strict=True)
        )

    def place(self, lateral: float, nearness: float) -> tuple[float, float, float]:
        """Returns x and y of a point on the ground and the length of a metre there."""
        metre = self.metre * nearness
        return self.middle + lateral * metre, self.ground(nearness), metre

    def ground(self, nearness: Any) -> Any:
        """Returns y of the ground at a nearness, a number or an array."""
        return self.horizon + (1.0 - self.horizon) * nearness


def draw_sky(canvas: Canvas, street: Street, generator: np.random.Generator) -> None:
    """Brightens the sky towards the horizon."""
    tone = generator.normal(0.0, 0.015, 3).astype(np.float32)
    canvas.tints += (0.10 * canvas.y / street.horizon - 0.05)[:, None, None] + tone


def draw_ground(canvas: Canvas, street: Street, generator: np.random.Generator) -> None:
    """Draws road with lane markings, sidewalks with kerbs, and verges."""
    rows = slice(int(np.searchsorted(canvas.y, street.horizon, side="right")), None)
    nearness = (canvas.y[rows, None] - street.horizon) / (1.0 - street.horizon)
    nearness = np.maximum(nearness, 1e-4)
    lateral = (canvas.x - street.middle) / (street.metre * nearness)
    patches = np.broadcast_to(1.0 / nearness, lateral.shape)  # Distance, in about three metres.
    classes, tints = canvas.classes[rows], canvas.tints[rows]
    classes[:] = ROAD
    tints[:] = generator.normal(0.0, 0.02)
    canvas.nearness[rows] = nearness

    dashes = np.mod(patches * 1.5 + generator.random(), 1.0) < 0.5
    for line in range(-street.lanes[LEFT], street.lanes[RIGHT]):
        tints[dashes & (np.abs(lateral - (line + 0.5) * street.lane) < 0.13)] += 0.40

    for sign, kerb, verge in zip(SIGNS, street.kerbs, street.verges, strict=True):
        beside = sign * lateral > sign * kerb
        classes[beside] = SIDEWALK
        tints[beside] = generator.normal(0.0, 0.025, 3)
        tints[beside & (sign * lateral < sign * kerb + 0.25)] += 0.12
        outer = sign * lateral > sign * verge
        if generator.random() < VERGE_IS_TERRAIN:
            outer &= np.mod(patches * 0.35 + generator.random(), 1.0) < generator.uniform(0.7, 1.3)
            classes[outer] = TERRAIN
            tints[outer] = generator.normal(0.0, 0.03, 3)


def draw_end(canvas: Canvas, street: Street, generator: np.random.Generator) -> None:
    """Closes the street at the horizon with a row of far buildings and trees."""
    count = 20
    edges = np.cumsum(generator.uniform(0.1, 0.3, count))
    plot = np.searchsorted(edges, canvas.x).clip(0, count - 1)
    tops = street.horizon - generator.uniform(0.03, 0.14, count)
    tints = generator.normal(0.0, 0.05, (count, 3)).astype(np.float32)
    classes = np.where(generator.random(count) < 0.4, VEGETATION, BUILDING)
    mask = (canvas.y[:, None] > tops[plot]) & (canvas.y[:, None] < street.ground(FAR))
    _fill_columns(canvas, slice(None), mask, classes[plot], tints[plot][None], np.float32(FAR))


def draw_walls(canvas: Canvas, street: Street, generator: np.random.Generator) -> None:
    """Draws a row of plots on each side of the street: buildings with windows, and hedges."""
    count = 16
    for wall in street.walls:
        edges = np.cumsum(generator.uniform(*PLOT_LENGTH, count))
        hedges = generator.random(count) < street.layout.hedge_share
        buildings = generator.uniform(*BUILDING_HEIGHT, count)
        metres = np.where(hedges, generator.uniform(*HEDGE_HEIGHT, count), buildings).astype(np.float32)
        tints = generator.normal(0.0, 0.07, (count, 1)) + generator.normal(0.0, 0.03, (count, 3))
        tints = np.where(hedges[:, None], 0.5 * tints, tints).astype(np.float32)

        nearness = (canvas.x - street.middle) / (wall * street.metre)
        near = np.flatnonzero(nearness > FAR)
        if not near.size:
            continue
        columns = slice(near[0], near[-1] + 1)
        nearness = nearness[columns]
        distance = 3.0 / nearness  # In about metres.
        plot = np.searchsorted(edges, distance).clip(0, count - 1)
        # 0 at the ground, 1 at the eaves.
        up = (street.ground(nearness) - canvas.y[:, None]) / (metres[plot] * street.metre * nearness)
        storeys = np.round(metres / 2.7).clip(1.0)
        panes = np.mod(up * storeys[plot], 1.0)
        windows = (panes > 0.3) & (panes < 0.75) & (np.mod(distance * 0.45, 1.0) > 0.45)
        # Far panes would be finer than a pixel.
        windows &= ~hedges[plot] & (nearness > 0.09)
        colours = tints[plot] - np.float32(0.16) * windows[..., None]
        classes = np.where(hedges, VEGETATION, BUILDING)[plot]
        _fill_columns(canvas, columns, (up >= 0.0) & (up <= 1.0), classes, colours, nearness)


def _fill_columns(
    canvas: Canvas,
    columns: slice,
    mask: np.ndarray,
    classes: np.ndarray,
    tints: np.ndarray,
    nearness: np.ndarray | np.float32,
) -> None:
    """Draws over a mask of whole columns, each with values of its own.

    Args:
      canvas: drawn on.
      columns: of the image, W' of them.
      mask: bool [H, W'].
      classes: ids, [W'].
      tints: float32 [H or 1, W', 3].
      nearness: float32 [W'] or a number.
    """
    np.copyto(canvas.classes[:, columns], classes.astype(np.uint8), where=mask)
    np.copyto(canvas.tints[:, columns], tints, where=mask[..., None])
    np.copyto(canvas.nearness[:, columns], nearness, where=mask)
