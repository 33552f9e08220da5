"""What stands on the toy streets: trees, poles with lamps or signs, cars and persons."""

import math

import numpy as np

from data.toy.canvas import Canvas
from data.toy.looks import CAR, HOOD, PERSON, POLE, SIGN, VEGETATION
from data.toy.street import LEFT, RIGHT, SIGNS, Street

# Pairs are uniform ranges, whole numbers inclusive, of nearness uniform in its logarithm; in metres if no comment gives
# another unit.
TREE_NEARNESS = (0.10, 0.50)
POLE_NEARNESS = (0.14, 0.45)
POLE_WIDTH = (0.30, 0.42)
POLE_HEIGHT = (3.2, 6.0)
SIGN_SHARE = 0.65  # Of the poles; the others are lamps.
SIGN_SIZE = (1.2, 1.7)
CAR_NEARNESS = (0.16, 0.55)
SIDE_VIEW_SHARE = 0.25  # Of the cars; the others are seen from behind.
PERSON_NEARNESS = (0.24, 0.62)
PERSON_HEIGHT = (1.5, 1.95)
HOOD_SHARE = 0.5  # Of the images.
HOOD_HEIGHT = (0.04, 0.08)  # y.


def draw_tree(canvas: Canvas, street: Street, generator: np.random.Generator, nearness: float) -> None:
    """Draws a tree on a verge; its trunk is vegetation too."""
    side = int(generator.integers(2))
    x, y, metre = street.place(_between(generator, street.verges[side], street.walls[side]), nearness)
    crown = generator.uniform(1.0, 1.9) * metre
    top = y - generator.uniform(2.8, 4.0) * metre
    tint = generator.normal(0.0, 0.04, 3)
    canvas.box(x - 0.17 * metre, x + 0.17 * metre, top, y, VEGETATION, (0.10, -0.12, 0.0), nearness)
    for bump in range(5):
        angle = 2.0 * math.pi * (bump + generator.random()) / 5.0
        across, down = math.cos(angle), math.sin(angle)
        light = tint - 0.03 * down
        canvas.ellipse(
            x + 0.5 * crown * across,
            top + 0.4 * crown * down,
            0.7 * crown,
            0.65 * crown,
            VEGETATION,
            light,
            nearness,
        )


def draw_pole(canvas: Canvas, street: Street, generator: np.random.Generator, nearness: float) -> None:
    """Draws a pole beside a kerb: a lamp with an arm over the road, or a traffic sign."""
    side = int(generator.integers(2))
    x, y, metre = street.place(street.kerbs[side] + SIGNS[side] * generator.uniform(0.3, 1.2), nearness)
    half = 0.5 * generator.uniform(*POLE_WIDTH) * metre
    tint = generator.normal(0.0, 0.03)
    if generator.random() >= SIGN_SHARE:
        top = y - generator.uniform(*POLE_HEIGHT) * metre
        left, right = sorted((x + SIGNS[side] * half, x - SIGNS[side] * 1.3 * metre))
        canvas.box(x - half, x + half, top, y, POLE, tint, nearness)
        canvas.box(left, right, top, top + 1.6 * half, POLE, tint, nearness)
        return
    size = 0.5 * generator.uniform(*SIGN_SIZE) * metre
    centre = y - generator.uniform(2.3, 3.0) * metre
    colour = generator.normal(0.0, 0.06, 3)
    canvas.box(x - half, x + half, centre, y, POLE, tint, nearness)
    kind = ("disc", "triangle", "board")[generator.integers(3)]
    if kind == "disc":
        canvas.ellipse(x, centre, size, size, SIGN, colour, nearness)
        canvas.ellipse(x, centre, 0.5 * size, 0.5 * size, None, 0.10)
    elif kind == "triangle":
        canvas.trapezium(x, centre - size, centre + size, 0.15 * size, 1.2 * size, SIGN, colour, nearness)
    else:
        canvas.box(x - size, x + size, centre - 0.9 * size, centre + 0.9 * size, SIGN, colour, nearness)
        canvas.box(x - 0.6 * size, x + 0.6 * size, centre - 0.2 * size, centre + 0.2 * size, None, -0.15)


def draw_car(canvas: Canvas, street: Street, generator: np.random.Generator, nearness: float) -> None:
    """Draws a car in a lane, seen from behind, or across the street, seen from its side."""
    lane = int(generator.integers(-street.lanes[LEFT], street.lanes[RIGHT], endpoint=True))
    x, y, metre = street.place(lane * street.lane + generator.uniform(-0.4, 0.4), nearness)
    side_view = generator.random() < SIDE_VIEW_SHARE
    half = (generator.uniform(1.7, 2.2) if side_view else generator.uniform(0.85, 1.0)) * metre
    tall = generator.uniform(1.35, 1.7) * metre
    tint = generator.normal(0.0, 0.06) + generator.normal(0.0, 0.05, 3)
    roof, waist = y - tall, y - 0.55 * tall
    axle, wheel = (0.60 * half, 0.17 * tall) if side_view else (0.75 * half, 0.15 * half)
    cabin_top, cabin_bottom = (0.40 * half, 0.65 * half) if side_view else (0.68 * half, 0.92 * half)
    for place in (x - axle, x + axle):
        canvas.ellipse(place, y - 0.17 * tall, wheel, 0.17 * tall, CAR, -0.15, nearness)
    canvas.box(x - half, x + half, waist, y - 0.10 * tall, CAR, tint, nearness)
    canvas.trapezium(x, roof, waist, cabin_top, cabin_bottom, CAR, tint, nearness)
    canvas.trapezium(x, roof + 0.10 * tall, waist - 0.03 * tall, 0.8 * cabin_top, 0.8 * cabin_bottom, None, 0.18)
    if not side_view:
        for lamp in (x - 0.8 * half, x + 0.8 * half):
            canvas.box(lamp - 0.12 * half, lamp + 0.12 * half, y - 0.45 * tall, y - 0.35 * tall, None, 0.25)


def draw_person(canvas: Canvas, street: Street, generator: np.random.Generator, nearness: float) -> None:
    """Draws a person on a sidewalk, sometimes on the road."""
    side = int(generator.integers(2))
    on_road = generator.random() < street.layout.person_on_road
    lateral = _between(generator, street.kerbs[side], street.kerbs[1 - side] if on_road else street.verges[side])
    x, y, metre = street.place(lateral, nearness)
    tall = generator.uniform(*PERSON_HEIGHT) * metre
    clothes = generator.normal(0.0, 0.06, 3)
    stride = generator.uniform(0.03, 0.12) * tall
    for foot in (x - stride, x + stride):
        canvas.box(foot - 0.055 * tall, foot + 0.055 * tall, y - 0.48 * tall, y, PERSON, clothes - 0.14, nearness)
    canvas.ellipse(x, y - 0.62 * tall, 0.17 * tall, 0.26 * tall, PERSON, clothes, nearness)
    canvas.ellipse(x, y - 0.91 * tall, 0.085 * tall, 0.095 * tall, PERSON, (0.08, 0.14, 0.06), nearness)


def draw_hood(canvas: Canvas, generator: np.random.Generator) -> None:
    """Draws, in some images, the bonnet of the camera's own car at the bottom; it belongs to no class."""
    if generator.random() >= HOOD_SHARE:
        return
    tall, half = generator.uniform(*HOOD_HEIGHT), generator.uniform(0.8, 1.2)
    canvas.ellipse(1.0, 1.0 + tall, half, 2.0 * tall, HOOD, 0.0, 1.0)


def _between(generator: np.random.Generator, one: float, other: float) -> float:
    """Returns a uniform number between two, given in any order."""
    return one + (other - one) * generator.random()


def draw_objects(canvas: Canvas, street: Street, generator: np.random.Generator) -> None:
    """Draws all objects, the far before the near."""
    objects = []
    for draw_object, name, (far, near) in OBJECTS:
        counts: tuple[int, int] = getattr(street.layout, name)
        count = generator.integers(*counts, endpoint=True)
        objects += [(far * (near / far) ** share, draw_object) for share in generator.random(count).tolist()]
    for nearness, draw_object in sorted(objects, key=lambda item: item[0]):
        draw_object(canvas, street, generator, nearness)


OBJECTS = (  # Each with its field of the layout.
    (draw_tree, "trees", TREE_NEARNESS),
    (draw_pole, "poles", POLE_NEARNESS),
    (draw_car, "cars", CAR_NEARNESS),
    (draw_person, "persons", PERSON_NEARNESS),
)
