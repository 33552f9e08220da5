"""The benchmarks of the step and of evaluation at a tiny size."""

import json

import numpy as np
import pytest

from benchmarks.common import command, random_batches, timing
from benchmarks.common.runs import load_config
from benchmarks.speed import against_pytorch, evaluation, largest, step

# One stream: most of the time goes into compiling.
TINY = (
    "--config=configs/toy.py:source_only,smoke",
    "--config.data.source_size=(32,32)",
    "--config.data.target_size=(32,48)",
    "--config.data.batch.source=2",
)


def test_figures_of_the_step_are_consistent(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step.limits, "product_tflops", lambda dtype: 0.5)
    step.main([*TINY, "--classes=3", "--devices=1", "--steps=2", f"--json={tmp_path / 'step.json'}"])
    found = json.loads((tmp_path / "step.json").read_text())
    seconds = found["seconds"]
    assert found["images_per_second"] * seconds["median"] == pytest.approx(found["images_per_step"])
    assert found["images_per_step"] == 2
    assert found["streams"] == {"source": [2, 32, 32]}
    assert seconds["lower"] <= seconds["median"] <= seconds["upper"]
    assert found["tflop_per_second"] * seconds["median"] == pytest.approx(found["tflop"])
    assert found["share_of_limit"] == pytest.approx(found["tflop_per_second"] / 0.5)
    assert found["memory"]["compiled"] > 0
    assert found["compile_seconds"] > 0
    assert found["devices"] == 1
    assert str(tmp_path) not in found["command"]
    assert "images/s" in capsys.readouterr().out


def test_figures_of_evaluation_are_consistent(tmp_path):
    arguments = ["--config.evaluation.batch=2", "--steps=2", f"--json={tmp_path / 'evaluation.json'}"]
    evaluation.main([*TINY, "--label_size=40,64", *arguments])
    found = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("evaluation", "prediction"):
        assert found[name]["images_per_second"] * found[name]["seconds"]["median"] == pytest.approx(2)
    assert (found["image_size"], found["label_size"]) == ([32, 48], [40, 64])


def test_batches_have_the_active_streams():
    config = load_config("configs/toy.py:joint,smoke", ["--config.augment.crop=(32,40)"])
    batches = random_batches.training_batches(config, 3, count=2)
    assert set(batches[0]) == {"source", "labelled"}
    labels = batches[0]["source"]["label"]
    assert labels.shape == batches[0]["source"]["image"].shape[:3] == (config.data.batch.source, 32, 40)
    assert set(np.unique([batch["source"]["label"] for batch in batches])) <= {0, 1, 2, 255}
    assert (batches[0]["source"]["image"] != batches[1]["source"]["image"]).any()


@pytest.mark.parametrize("arguments", [["--config.no_such_key=1"], ["--stepz=3"], ["--config=nowhere.py"]])
def test_mistakes_are_reported(arguments, capsys):
    with pytest.raises(SystemExit):
        command.parse(command.parser("A benchmark."), arguments)
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("most", "expected"), [(0, 0), (1, 1), (2, 2), (5, 5), (20, 20), (23, 22), (1000, 16)])
def test_largest_batch_is_found(most, expected):
    tried = []

    def fits(count):
        tried.append(count)
        return count <= most

    assert largest.search(fits, largest=16 if most == 1000 else 256) == expected
    assert len(tried) == len(set(tried)) <= 9


def test_summary_of_a_comparison_by_hand():
    facts = {"jax": {"images_per_step": 3}, "torch": {"setting": "plain"}}
    found = against_pytorch.summary(facts, {"jax": [1.0, 2.0, 1.0], "torch": [2.0, 2.0, 3.0]})
    assert found["ratio"] == {"median": 2.0, "lower": 1.5, "upper": 2.5, "samples": 3}
    assert found["sides"]["torch"]["images_per_second"] == 1.5
    assert found["sides"]["jax"]["images_per_second"] == 3.0


def test_spread_of_one_value():
    assert timing.spread([2.0]) == {"median": 2.0, "lower": 2.0, "upper": 2.0, "samples": 1}
