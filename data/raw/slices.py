"""Slices of a volume as images (2.5-D): a slice and its two neighbours are the three channels.

The grey values of magnetic resonance images have no unit and differ between scanners, so each volume is normalised by
the mean and the deviation of its voxels other than 0: those of the brain, where the skull has been removed.

The result is kept in 8 bits: 0 is everything outside the brain, and 1 to 255 are -4 to 6 deviations from the mean, in
steps of 0.04. Rounding to them is an error of 0.011 deviations, a tenth of the noise of a good recording.
"""

import numpy as np

LOWEST, HIGHEST = -4.0, 6.0  # Deviations from the mean; voxels beyond get the grey value of the end.


def to_grey(voxels: np.ndarray) -> np.ndarray:
    """Returns the grey values of a volume, uint8 [X, Y, Z], from finite numbers [X, Y, Z]; 0 where these are 0."""
    inside = voxels != 0
    grey = np.zeros(voxels.shape, np.uint8)
    values = voxels[inside].astype(np.float64)
    if values.size:
        deviation = values.std() or 1.0
        shares = ((values - values.mean()) / deviation - LOWEST) / (HIGHEST - LOWEST)
        grey[inside] = 1 + np.round(254 * shares.clip(0, 1)).astype(np.uint8)
    return grey


def image_of(grey: np.ndarray, z: int) -> np.ndarray:
    """Returns slice `z` of grey values, uint8 [X, Y, Z], as an image: uint8 [Y, X, 3] of the slices z - 1, z, z + 1.

    At either end, the slice itself takes the place of the neighbour that is missing.
    """
    neighbours = np.clip([z - 1, z, z + 1], 0, grey.shape[2] - 1)
    return np.ascontiguousarray(grey[:, :, neighbours].transpose(1, 0, 2))


def map_of(labels: np.ndarray, z: int) -> np.ndarray:
    """Returns slice `z` of labels [X, Y, Z] as a map [Y, X]."""
    return np.ascontiguousarray(labels[:, :, z].T)


def numbers_inside(grey: np.ndarray) -> np.ndarray:
    """Returns the numbers of the slices that show some of the brain, ascending, int64; `grey` as for `image_of`."""
    return np.flatnonzero((grey > 0).any(axis=(0, 1)))
