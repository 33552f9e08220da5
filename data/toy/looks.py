"""Looks of the toy streets: how a drawn scene becomes an image of the source or of the target domain.

Source images are flat and clean: one base colour per class, a slight variation per object. In target
images most classes look like another source class, so that only shape and place tell them apart; light,
haze, blur, noise and a colour cast come on top. `Shift` holds how strong each of these is.
"""

import dataclasses

import numpy as np

# Class -> base colour (RGB in [0, 1]) in the source domain, and the amplitude of its three textures
# (coarse, medium, fine). "hood" is the bonnet of the observer's own car, whose pixels are ignored.
LOOKS = {
    "road": ((0.36, 0.36, 0.38), (0.01, 0.01, 0.02)),
    "sidewalk": ((0.72, 0.64, 0.60), (0.00, 0.05, 0.00)),
    "building": ((0.62, 0.42, 0.34), (0.02, 0.00, 0.03)),
    "pole": ((0.22, 0.24, 0.26), (0.00, 0.00, 0.02)),
    "traffic sign": ((0.90, 0.76, 0.12), (0.00, 0.00, 0.00)),
    "vegetation": ((0.18, 0.42, 0.16), (0.02, 0.05, 0.06)),
    "terrain": ((0.58, 0.66, 0.32), (0.05, 0.02, 0.04)),
    "sky": ((0.55, 0.74, 0.93), (0.03, 0.00, 0.00)),
    "person": ((0.80, 0.26, 0.34), (0.00, 0.00, 0.02)),
    "car": ((0.16, 0.27, 0.60), (0.00, 0.00, 0.00)),
    "hood": ((0.12, 0.12, 0.14), (0.00, 0.00, 0.00)),
}
# Ids while a scene is drawn: the train ids, and the hood's, whose label is 255.
ROAD, SIDEWALK, BUILDING, POLE, SIGN, VEGETATION, TERRAIN, SKY, PERSON, CAR, HOOD = range(len(LOOKS))
CLASSES = tuple(LOOKS)[:HOOD]

# Class of the target domain -> class whose source look it takes on; the others keep their own.
SWAPS = {
    "road": "sidewalk",
    "sidewalk": "road",
    "vegetation": "terrain",
    "terrain": "vegetation",
    "person": "pole",
    "car": "person",
}

TEXTURE_CELLS = (3, 12, 40)  # Noise cells per image height: coarse, medium, fine.

_COLOURS = np.array([colour for colour, _ in LOOKS.values()], np.float32)
_AMPLITUDES = np.array([amplitudes for _, amplitudes in LOOKS.values()], np.float32)
_SWAPPED = np.array([list(LOOKS).index(SWAPS.get(name, name)) for name in LOOKS])


@dataclasses.dataclass(frozen=True)
class Shift:
    """Strength of every part of the shift at `shift` 1; `shift` multiplies them all.

    Every image draws its own share of each strength, uniform between `least` and 1.
    """

    swap: float = 0.9  # Share of the other class's look; at most 1.
    recolour: float = 0.05  # Deviation of each class's base colour, new in every image.
    texture: float = 1.2  # Added to the factor 1 on the amplitude of the textures.
    light: float = 0.30  # Slope of the brightness over the image.
    shadow: float = 0.25  # Darkening in soft shadows.
    haze: float = 0.50  # Share of the haze's colour at the horizon.
    blur: float = 0.7  # Standard deviation in pixels of an image 64 pixels high.
    noise: float = 0.03  # Deviation of the sensor's noise.
    cast: float = 0.06  # Deviation of the factor of each colour channel.
    least: float = 0.7  # Smallest share of these strengths that an image can draw.


def smooth_noise(generator: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Returns a noise field of deviation about 1, smooth over cells of `height / cells` pixels, [H, W]."""
    columns = max(1, round(cells * width / height))
    grid = generator.standard_normal((cells + 1, columns + 1), dtype=np.float32) * 1.5
    row, row_share = _cell_positions(height, cells)
    column, column_share = _cell_positions(width, columns)
    rows = grid[row] + (grid[row + 1] - grid[row]) * row_share[:, None]
    return rows[:, column] + (rows[:, column + 1] - rows[:, column]) * column_share


def _cell_positions(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each pixel's cell, int [pixels], and its place within the cell in [0, 1), float32 [pixels]."""
    position = (np.arange(pixels, dtype=np.float32) + 0.5) * (cells / pixels)
    cell = position.astype(np.int64)
    return cell, position - cell


def gaussian_blur(image: np.ndarray, deviation: float) -> np.ndarray:
    """Returns a float image [H, W, 3] blurred by a Gaussian of `deviation` pixels, edges repeated."""
    radius = int(np.ceil(2.5 * deviation))
    if radius == 0:
        return image
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / float(deviation)) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        size = image.shape[axis]
        padding = [(radius, radius) if axis == each else (0, 0) for each in range(3)]
        padded = np.pad(image, padding, mode="edge")
        windows = (np.take(padded, range(start, start + size), axis) for start in range(len(weights)))
        image = sum(window * weight for window, weight in zip(windows, weights, strict=True))
    return image


def paint(
    classes: np.ndarray,
    tints: np.ndarray,
    nearness: np.ndarray,
    generator: np.random.Generator,
    shift: float,
    strengths: Shift,
) -> np.ndarray:
    """Turns a drawn scene into an image.

    Args:
      classes: uint8 [H, W], train ids or `HOOD`.
      tints: float32 [H, W, 3], added to the colour of the class.
      nearness: float32 [H, W], inverse distance; 0 infinitely far, 1 where the ground leaves the image.
      generator: source of all randomness.
      shift: 0 gives the source domain, 1 the target domain.
      strengths: of the parts of the shift.

    Returns:
      The image, uint8 [H, W, 3] RGB.
    """
    parts = [part.name for part in dataclasses.fields(Shift) if part.name != "least"]
    strong = {
        part: np.float32(shift * getattr(strengths, part) * generator.uniform(strengths.least, 1.0)) for part in parts
    }
    image = _paint_classes(classes, generator, strong)
    image += tints
    if shift > 0.0:
        image *= _light(nearness, generator, strong)[..., None]
        image = _add_haze(image, nearness, generator, strong)
        image = gaussian_blur(image, strong["blur"] * image.shape[0] / 64.0)
        image *= 1.0 + strong["cast"] * generator.standard_normal(3, dtype=np.float32)
        image += strong["noise"] * generator.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _paint_classes(classes: np.ndarray, generator: np.random.Generator, strong: dict[str, np.float32]) -> np.ndarray:
    """Returns colour and texture of the classes [H, W], float32 [H, W, 3]."""
    swap = np.minimum(strong["swap"], 1.0)
    colours = (1.0 - swap) * _COLOURS + swap * _COLOURS[_SWAPPED]
    colours = colours + strong["recolour"] * generator.standard_normal(colours.shape, dtype=np.float32)
    amplitudes = (1.0 - swap) * _AMPLITUDES + swap * _AMPLITUDES[_SWAPPED]
    amplitudes = amplitudes * (1.0 + strong["texture"])
    height, width = classes.shape
    texture = np.zeros(classes.shape, np.float32)
    for scale, cells in enumerate(TEXTURE_CELLS):
        texture += amplitudes[:, scale][classes] * smooth_noise(generator, height, width, cells)
    return colours[classes] + texture[..., None]


def _light(nearness: np.ndarray, generator: np.random.Generator, strong: dict[str, np.float32]) -> np.ndarray:
    """Returns the brightness, float32 [H, W]: a slope in some direction, and soft shadows below the sky."""
    height, width = nearness.shape
    angle = generator.uniform(0.0, 2.0 * np.pi)
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32) * np.float32(np.cos(angle))
    down = np.linspace(-1.0, 1.0, height, dtype=np.float32) * np.float32(np.sin(angle))
    slope = np.maximum(1.0 + strong["light"] * (across + down[:, None]), 0.1)
    clouds = smooth_noise(generator, height, width, 2) + 0.5 * smooth_noise(generator, height, width, 5)
    shadows = 1.0 / (1.0 + np.exp(-4.0 * clouds))
    return slope * (1.0 - np.minimum(strong["shadow"], 1.0) * shadows * (nearness > 0.0))


def _add_haze(
    image: np.ndarray, nearness: np.ndarray, generator: np.random.Generator, strong: dict[str, np.float32]
) -> np.ndarray:
    """Returns an image [H, W, 3] that fades into a light grey with the distance; the sky half as much."""
    share = np.minimum(strong["haze"], 1.0) * np.exp(-4.0 * nearness)
    share[nearness <= 0.0] *= 0.5
    colour = np.float32(generator.uniform(0.65, 0.85)) + np.array([-0.03, 0.0, 0.03], np.float32)
    return image + share[..., None] * (colour - image)
