"""Random masks of a lesion, from which MedPy and our code compute the scores by image."""

import numpy as np

COUNT = 100
IGNORED = 255


def masks(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns prediction and truth of an image, uint8 `[H, W]` of odd and even sizes: 1 is the lesion, 0 the rest.

    Every third truth has ignored pixels, and one has no others. Of ten images, one has no lesion in the truth, one has
    none in the prediction, and one has none in both.
    """
    generator = np.random.default_rng(number)
    size = generator.integers(1, 48, 2)
    truth = generator.random(size) < generator.random()
    prediction = np.where(generator.random(size) < 0.7, truth, generator.random(size) < 0.5)
    if number % 10 in (0, 1):
        truth = np.zeros_like(truth)
    if number % 10 in (1, 2):
        prediction = np.zeros_like(prediction)
    truth = truth.astype(np.uint8)
    if number % 3 == 0:
        truth[generator.random(size) < 0.2] = IGNORED
    if number == COUNT // 2:
        truth[:] = IGNORED
    return prediction.astype(np.uint8), truth
