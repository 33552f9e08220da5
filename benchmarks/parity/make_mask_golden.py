"""Makes the golden numbers of the scores by image with MedPy.

    python -m benchmarks.parity.make_mask_golden tests/golden

Needs in addition to the requirements `pip install --no-deps medpy==0.5.2` and `pip install scipy`. The tests read the
file and need neither.
"""

import sys
from pathlib import Path

import numpy as np
from medpy.metric import binary

from benchmarks.parity import mask_inputs


def main(folder: Path) -> None:
    """Writes Dice and Jaccard coefficient (IoU) of every pair of masks, NaN where neither has a lesion."""
    scores = {"dice": [], "iou": []}
    for number in range(mask_inputs.COUNT):
        prediction, truth = mask_inputs.masks(number)
        counted = truth != mask_inputs.IGNORED
        lesions = prediction[counted] == 1, truth[counted] == 1
        defined = any(lesion.any() for lesion in lesions)  # MedPy's Dice of two empty masks is 0, its IoU an error.
        scores["dice"].append(binary.dc(*lesions) if defined else np.nan)
        scores["iou"].append(binary.jc(*lesions) if defined else np.nan)
    np.savez_compressed(folder / "masks.npz", **{name: np.array(values) for name, values in scores.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
