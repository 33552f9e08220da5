"""A run on miniature volumes from the check to predictions, as `main.py` calls it, and a resumed one."""

import json

import jax
import nibabel
import numpy as np
import pytest

import main
from ass_jax.weights.trained_model import open_run
from configs import brats
from configs.user_error import UserError
from tests.helpers import brats_trees, small_runs


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        small_runs.shrink(patch)
        yield patch


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return brats_trees.write(tmp_path_factory.mktemp("brats"))


def configuration(tree, tmp_path, **settings):
    config = brats.get_config("joint,2,resnet_tiny,smoke")
    root = str(tree.root)
    config.data.update(source_root=root, target_root=root, directory=str(tmp_path / "prepared"))
    config.data.update(source_size=(32, 32), target_size=(32, 32))
    config.model.branches = 1
    config.update_from_flattened_dict({"steps": 4, "evaluation.every": 2, "checkpoint.every": 2, **settings})
    return config


@pytest.fixture(scope="module")
def run(tree, patch, tmp_path_factory):
    """Trains for four steps and evaluates; returns the folder, the configuration and both reports."""
    folder = tmp_path_factory.mktemp("run")
    config = configuration(tree, folder)
    trained = main.train(config, folder / "workdir")
    return folder, config, trained, main.evaluate(config, folder / "workdir")


def test_training_scores_volumes(run, tree):
    folder, _, report, _ = run
    assert json.loads((folder / "workdir" / "eval.json").read_text())["dice_by_volume"] == report["dice_by_volume"]
    assert report["volumes"] == len(tree.names["validation"]) == 2
    assert report["images"] == 10
    assert 0 <= report["dice_by_volume_interval"][0] <= report["dice_by_volume"] <= 1
    assert all("dice_by_volume" in entry for entry in report["checkpoints"].values())
    logged = [json.loads(line) for line in (folder / "workdir" / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/dice_by_volume" in line for line in logged)


def test_a_resumed_run_equals_a_straight_one(run, tree):
    folder, config, straight, _ = run
    main.train(configuration(tree, folder, steps=2), folder / "resumed")
    report = main.train(config, folder / "resumed")
    assert report["class_by_volume"] == straight["class_by_volume"]
    jax.tree.map(np.testing.assert_array_equal, *(open_run(folder / name).variables for name in ("resumed", "workdir")))


def test_predictions_of_the_split_are_volumes_that_give_the_same_scores(run, tree):
    folder, _, straight, report = run
    assert report["class_by_volume"] == straight["class_by_volume"]
    dices = []
    for name in tree.names["validation"]:
        written = nibabel.load(folder / "workdir" / "predictions" / f"{name}.nii.gz")
        np.testing.assert_array_equal(written.affine, brats_trees.AFFINE)
        found, truth = np.asarray(written.dataobj) > 0, tree.labels[name] > 0
        assert found.shape == truth.shape
        dices.append(2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)))
    assert report["dice_by_volume"] == np.mean(dices)


def test_a_volume_of_a_user_is_labelled_as_in_the_evaluation(run, tree):
    folder, config, *_ = run
    name = tree.names["validation"][0]
    damaged = folder / "damaged.nii.gz"
    damaged.write_bytes(tree.file(name, "flair").read_bytes()[:300])
    failures = main.predict(config, folder / "workdir", str(damaged), output=folder / "out")
    assert len(failures) == 1
    assert "damaged.nii.gz: damaged: " in failures[0]
    assert (
        main.predict(config, folder / "workdir", str(tree.file(name, "flair")), output=folder / "out", confidence=True)
        == []
    )
    written = nibabel.load(folder / "out" / f"{name}_flair.nii.gz")
    np.testing.assert_array_equal(written.affine, brats_trees.AFFINE)
    expected = nibabel.load(folder / "workdir" / "predictions" / f"{name}.nii.gz")
    found, expected = np.asarray(written.dataobj), np.asarray(expected.dataobj)
    assert (found != expected).mean() < 0.01  # One image a step instead of a batch: rounding.
    assert expected.any()
    confidence = np.asarray(nibabel.load(folder / "out" / f"{name}_flair_confidence.nii.gz").dataobj)
    assert confidence.min() >= 127
    assert (confidence[:, :, 0] == 255).all()
    with pytest.raises(UserError, match="would be replaced by a result"):
        main.predict(config, folder / "workdir", str(tree.file(name, "t1")), output=tree.file(name, "t1").parent)
