"""The picture of gains: which it draws, and what it says when there are none."""

import json

import numpy as np
from PIL import Image

from benchmarks.ladder import gains

GAIN = {"mean": 0.02, "error": 0.005, "low": 0.008, "high": 0.032, "count": 5}


def write(folder, bed, rows):
    file = folder / f"{bed}.json"
    file.write_text(json.dumps({"bed": bed, "rows": rows}))
    return str(file)


def test_gains_of_the_first_trial_that_a_bed_has():
    rows = [
        {"trial": "student", "count": 30, "gain": GAIN},
        {"trial": "student", "count": 3, "gain": GAIN | {"mean": 0.03}},
        {"trial": "student", "count": 8, "gain": None},
        {"trial": "ass", "count": 8, "gain": GAIN},
    ]
    found = gains.gains_of({"rows": rows}, ["missing", "student", "ass"])
    assert list(found) == [3, 30]
    assert found[3]["mean"] == 0.03
    assert gains.gains_of({"rows": rows}, ["missing"]) == {}


def test_picture(tmp_path):
    """Beds with a gain are drawn; another file draws nothing, and says so by the exit code."""
    rows = [{"trial": "ass", "count": count, "gain": GAIN} for count in (3, 8)]
    files = [write(tmp_path, "streets", rows), write(tmp_path, "empty", [])]
    picture = tmp_path / "gains.png"
    assert gains.main([*files, "--trial=ass", f"--output={picture}"]) == 0
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert (pixels == (0, 114, 178)).all(axis=-1).any()  # The first line's colour.
    picture.unlink()
    assert gains.main([files[1], "--trial=ass", f"--output={picture}"]) == 1
    assert not picture.exists()
