"""Vessels of the retina from files on disk to scores: pixels outside the field of view count nowhere."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import quick_compilation, vessel_trees

ROOT = Path(__file__).parents[2]
MODES = """
import sys
import main
from configs import vessels

folder = sys.argv[1]
config = vessels.get_config("source_only,smoke")
config.data.update(directory=f"{folder}/prepared", source_root=folder, target_root=folder)
config.data.update(source_size=(49, 49), target_size=(49, 65))
config.augment.crop = (33, 33)
config.steps = 2
config.evaluation.batch = 1
main.train(config, f"{folder}/run")
main.evaluate(config, f"{folder}/run")
"""


def test_training_and_scores(tmp_path):
    vessel_trees.write(tmp_path, "drive")
    target = vessel_trees.write(tmp_path, "stare")
    result = subprocess.run(
        [sys.executable, "-c", MODES, str(tmp_path)],
        cwd=ROOT,
        env=quick_compilation.environment(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "programs")),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    scores = json.loads((tmp_path / "run" / "eval.json").read_text())
    predicted, true = [], []
    for name in vessel_trees.NAMES["stare"]["test"]:
        photograph = target[name]
        prediction = np.asarray(Image.open(tmp_path / "run" / "predictions" / f"{name}.png"))
        assert prediction.shape == photograph.seen.shape  # Scored at the size of the file.
        predicted.append(prediction[photograph.seen] == 255)
        true.append(photograph.vessels[photograph.seen])
    predicted, true = np.concatenate(predicted), np.concatenate(true)
    assert scores["pixel_accuracy"] == pytest.approx(np.mean(predicted == true))
    assert scores["sensitivity"] == pytest.approx(np.mean(predicted[true]))
    assert scores["specificity"] == pytest.approx(np.mean(~predicted[~true]))
    assert scores["class_dice"]["vessel"] == pytest.approx(
        2 * np.mean(predicted & true) / (predicted.mean() + true.mean())
    )
