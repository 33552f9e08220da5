"""Polyps from files on disk to scores and label maps: every mode of `main.py`, in one process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import polyp_trees, quick_compilation

ROOT = Path(__file__).parents[2]
MODES = """
import sys
import main
from configs import polyps

folder = sys.argv[1]
config = polyps.get_config("cvc_to_kvasir,joint,smoke")
config.data.update(directory=f"{folder}/prepared", source_root=f"{folder}/cvc", target_root=f"{folder}/kvasir")
config.data.update(source_size=(32, 32), target_size=(32, 32), labelled_count=-1)
config.steps = 2
config.evaluation.batch = 1
assert main.check(config)
main.train(config, f"{folder}/run")
config.evaluation.split = "test"
main.evaluate(config, f"{folder}/run")
assert not main.predict(config, f"{folder}/run", f"{folder}/photos")
"""


def test_every_mode(tmp_path):
    polyp_trees.write_cvc(tmp_path / "cvc")
    target = polyp_trees.write_kvasir(tmp_path / "kvasir", (4, 2, 1))
    (tmp_path / "photos").mkdir()
    Image.fromarray(polyp_trees.scene(99, (40, 56))[0]).save(tmp_path / "photos" / "new.tif")
    result = subprocess.run(
        [sys.executable, "-c", MODES, str(tmp_path)],
        cwd=ROOT,
        env=quick_compilation.environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Training would work with this data." in result.stdout
    validation, test = (json.loads((tmp_path / "run" / f"eval{part}.json").read_text()) for part in ("", "_test"))
    assert set(validation["class_iou"]) == {"background", "polyp"}
    (name,) = polyp_trees.kvasir_names("test", 1)
    mask = target.masks[name]
    predicted = np.asarray(Image.open(tmp_path / "run" / "predictions_test" / f"{name}.png"))
    assert predicted.shape == mask.shape  # Scored at the size of the mask.
    expected = [
        ((predicted == raw_id) & (mask == train_id)).sum() / ((predicted == raw_id) | (mask == train_id)).sum()
        for train_id, raw_id in ((0, 0), (1, 255))  # Files hold the numbers of the masks.
    ]
    assert [test["class_iou"][name] for name in ("background", "polyp")] == pytest.approx(expected)
    assert np.asarray(Image.open(tmp_path / "run" / "predicted" / "new.png")).shape == (40, 56)
