"""Layouts of the toy streets: how many things there are, and where they stand.

The source shows a city. The target shows the same city or, with a label shift, a suburb: less road, fewer cars and
persons, more plants, a higher camera. Shares and places of the classes then differ between the domains.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a label shift changes; the values are those of the source.

    Pairs are uniform ranges, whole numbers inclusive.
    """

    horizon: tuple[float, float] = (0.38, 0.46)  # y.
    lanes_left: tuple[int, int] = (1, 2)  # Beside the lane of the camera.
    verge_width: tuple[float, float] = (1.0, 5.0)  # Between sidewalk and buildings, in metres.
    hedge_share: float = 0.25  # Of the plots.
    trees: tuple[int, int] = (2, 5)
    poles: tuple[int, int] = (3, 5)
    cars: tuple[int, int] = (2, 5)
    persons: tuple[int, int] = (3, 6)
    person_on_road: float = 0.25  # Share; the others walk on sidewalks.


CITY = Layout()
SUBURB = Layout(
    horizon=(0.28, 0.36),
    lanes_left=(0, 1),
    verge_width=(4.0, 9.0),
    hedge_share=0.75,
    trees=(6, 10),
    poles=(3, 5),
    cars=(0, 2),
    persons=(1, 2),
    person_on_road=0.8,
)


def between(share: float) -> Layout:
    """Returns a layout between `CITY`, at 0, and `SUBURB`, at 1; whole numbers are rounded."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Layout):
        city, suburb = getattr(CITY, field.name), getattr(SUBURB, field.name)
        pair = isinstance(city, tuple)
        ends = zip(city, suburb, strict=True) if pair else [(city, suburb)]
        moved = tuple(_mix(start, end, share) for start, end in ends)
        values[field.name] = moved if pair else moved[0]
    return Layout(**values)


def _mix(start: float, end: float, share: float) -> float:
    mixed = start + share * (end - start)
    return round(mixed) if isinstance(start, int) else mixed
