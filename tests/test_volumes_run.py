"""A run on miniature volumes as `main.py` calls it: training, a resumed one, evaluation, and labelling of a volume."""

import json

import jax
import nibabel
import numpy as np
import pytest

import main
from ass_jax.inference import predictor
from ass_jax.weights.trained_model import open_run
from configs import brats
from configs.user_error import UserError
from data.classes import class_table
from data.datasets.registry import SPECS
from data.raw.pairs import read_images
from tests.helpers import brats_trees, small_runs


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return brats_trees.write(tmp_path_factory.mktemp("brats"))


def configuration(tree, folder, steps=2):
    config = brats.get_config("joint,2,resnet_tiny,smoke")
    root = str(tree.root)
    config.data.update(source_root=root, target_root=root, directory=str(folder / "prepared"))
    config.data.update(source_size=(32, 32), target_size=(32, 32))
    config.model.branches = 1
    config.steps = steps
    config.evaluation.update(every=0, batch=8)
    config.checkpoint.every = 1
    return config


@pytest.fixture(scope="module")
def run(tree, tmp_path_factory):
    """Trains, straight and resumed; returns the folder, the reports of training and evaluation, and both weights."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        small_runs.shrink(patch)
        config = configuration(tree, folder)
        report = main.train(config, folder / "straight")
        main.train(configuration(tree, folder, steps=1), folder / "resumed")
        main.train(config, folder / "resumed")
        evaluated = main.evaluate(config, folder / "resumed")
        return folder, report, evaluated, [open_run(folder / name).variables for name in ("resumed", "straight")]


def test_training_scores_volumes(run, tree):
    folder, report, *_ = run
    assert json.loads((folder / "straight" / "eval.json").read_text())["dice_by_volume"] == report["dice_by_volume"]
    assert report["volumes"] == len(tree.names["validation"]) == 2
    assert report["images"] == 10
    assert 0 <= report["dice_by_volume_interval"][0] <= report["dice_by_volume"] <= 1
    assert all("dice_by_volume" in entry for entry in report["checkpoints"].values())
    logged = [json.loads(line) for line in (folder / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/dice_by_volume" in line for line in logged)


def test_a_resumed_run_equals_a_straight_one(run):
    _, report, evaluated, variables = run
    assert evaluated["class_by_volume"] == report["class_by_volume"]
    jax.tree.map(np.testing.assert_array_equal, *variables)


def test_predictions_are_a_file_a_volume(run, tree):
    folder, _, evaluated, _ = run
    files = sorted(file.name for file in (folder / "resumed" / "predictions").iterdir())
    assert files == [f"{name}.nii.gz" for name in tree.names["validation"]]
    dices = []
    for file, name in zip(files, tree.names["validation"], strict=True):
        written = nibabel.load(folder / "resumed" / "predictions" / file)
        np.testing.assert_array_equal(written.affine, brats_trees.AFFINE)
        found, truth = np.asarray(written.dataobj) > 0, tree.labels[name] > 0
        dices.append(2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)))
    assert evaluated["dice_by_volume"] == np.mean(dices)


class Threshold:
    """Labels bright pixels of the middle slice, with a probability that grows with its neighbours."""

    names = class_table("brats_whole").names
    palette = class_table("brats_whole").palette

    def with_confidence(self, image):
        assert image.dtype == np.uint8
        return (image[..., 1] > 150).astype(np.uint8), 0.5 + image[..., ::2].mean(axis=-1) / 510


@pytest.fixture
def labels_of(monkeypatch, tmp_path):
    """Returns a function that labels volumes by `main.predict`, and returns the reasons of those that it could not."""
    monkeypatch.setattr(predictor, "open_predictor", lambda *_: Threshold())

    def predict(pattern, output=tmp_path / "out", **others):
        return main.predict(brats.get_config("joint"), None, str(pattern), output=output, weights="any", **others)

    return predict


def test_a_volume_is_labelled_in_the_slices_of_training(tree, labels_of, tmp_path):
    spec, (name, *_) = SPECS["brats2018_flair"], tree.names["validation"]
    assert labels_of(tree.file(name, "flair"), confidence=True) == []
    files = {file.name: nibabel.load(file) for file in (tmp_path / "out").iterdir()}
    assert sorted(files) == [f"{name}_flair.nii.gz", f"{name}_flair_confidence.nii.gz"]
    labels, certainty = (np.asarray(files[file].dataobj) for file in sorted(files))
    for file in files.values():
        np.testing.assert_array_equal(file.affine, brats_trees.AFFINE)
        assert file.shape == brats_trees.SHAPE

    contents = read_images(spec.find(tree.root, "validation").pairs[0], spec.labels).contents
    for z in range(brats_trees.SHAPE[2]):
        if z in (0, 6):  # No brain.
            assert (labels[:, :, z] == 0).all()
            assert (certainty[:, :, z] == 255).all()
            continue
        expected, probabilities = Threshold().with_confidence(contents[f"{name}/{z:03}"].image)
        np.testing.assert_array_equal(labels[:, :, z].T, expected)
        np.testing.assert_array_equal(certainty[:, :, z].T, np.round(255 * probabilities))
    assert labels.any()


def test_damaged_volumes_do_not_stop_the_others(tree, labels_of, tmp_path):
    name = tree.names["validation"][0]
    (tmp_path / "in").mkdir()
    content = tree.file(name, "flair").read_bytes()
    (tmp_path / "in" / "a.nii.gz").write_bytes(content[:300])
    (tmp_path / "in" / "b.nii.gz").write_bytes(content)
    (failure,) = labels_of(tmp_path / "in")
    assert "a.nii.gz: damaged: the gzip file is cut off or damaged" in failure
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b.nii.gz"]
    with pytest.raises(UserError, match=r"\.nii\.gz would be replaced by a result"):
        labels_of(tmp_path / "in", output=tmp_path / "in")
    assert (tmp_path / "in" / "b.nii.gz").read_bytes() == content
