"""Scores by volume against whole volumes counted by NumPy alone, and the files of the predictions."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ass_jax.evaluation import evaluate as evaluation
from ass_jax.evaluation import image_scores, metrics
from ass_jax.evaluation.metrics import confusion_matrices
from ass_jax.inference import volume_files
from ass_jax.inference.volume_files import VolumeFiles
from ass_jax.runtime.sharding import by_image, make_mesh, replicated
from configs.user_error import UserError
from data.classes import class_table

TABLE = class_table("brats_whole")
FOREGROUND = TABLE.names[1]
COUNT, SHAPE = 100, (9, 11, 6)  # Volumes; X, Y, Z.


def masks():
    """Returns predictions and truths of 100 volumes, uint8 [100, X, Y, Z]; some without a tumour, some slices bare."""
    random = np.random.default_rng(0)
    shares = random.choice([0.0, 0.02, 0.3], (2, COUNT, 1, 1, SHAPE[2]))
    shares[0, :20], shares[1, 10:30] = 0, 0  # Ten volumes have no tumour in either.
    return (random.random((2, COUNT, *SHAPE)) < shares).astype(np.uint8)


def slices(predictions, truths, left_out):
    """Yields batches of five slices, and returns the volume of each through `left_out`, a rule of slices to skip."""
    names = [(v, z) for v in range(COUNT) for z in range(SHAPE[2]) if not left_out(v, z)]
    images = np.stack([predictions[v, :, :, z].T for v, z in names])
    labels = np.stack([truths[v, :, :, z].T for v, z in names])

    def batches():
        for start in range(0, len(names), 5):
            place = np.minimum(np.arange(start, start + 5), len(names) - 1)
            valid = np.arange(start, start + 5) < len(names)
            label = np.where(valid[:, None, None], labels[place], 255).astype(np.uint8)
            yield {"image": images[place][..., None].repeat(3, -1), "label": label, "valid": valid}

    return batches, SimpleNamespace(of_images=[f"patient {v}" for v, _ in names])


def step(variables, batch):
    """Takes the first channel of an image as its labels."""
    predictions = batch["image"][..., 0]
    return confusion_matrices(predictions, batch["label"], 2), batch["valid"], predictions


@pytest.mark.parametrize("devices", [1, 4])
def test_scores_equal_those_of_whole_volumes_exactly(devices):
    predictions, truths = masks()
    batches, volumes = slices(predictions, truths, lambda v, z: not (predictions | truths)[v, :, :, z].any())
    assert len(volumes.of_images) < 0.95 * COUNT * SHAPE[2]
    mesh = make_mesh([], jax.devices()[:devices])
    compiled = jax.jit(step, out_shardings=(replicated(mesh), replicated(mesh), by_image(mesh)))
    seen = sorted(set(volumes.of_images))
    report = evaluation.score(
        {}, batches(), step=compiled, mesh=mesh, class_table=TABLE, left_out=COUNT - len(seen), volumes=volumes
    )
    dice, iou = [], []
    for prediction, truth in zip(predictions.astype(bool), truths.astype(bool), strict=True):
        both, total = np.count_nonzero(prediction & truth), np.count_nonzero(prediction) + np.count_nonzero(truth)
        if total:
            dice.append(2 * both / total)
            iou.append(both / (total - both))
    assert (report["volumes"], report["volumes_left_out"]) == (len(dice), COUNT - len(dice))
    assert len(dice) < COUNT
    scores = report["class_by_volume"]
    assert scores.keys() == {FOREGROUND}
    assert report["dice_by_volume"] == scores[FOREGROUND]["dice"] == np.mean(dice)
    assert report["iou_by_volume"] == scores[FOREGROUND]["iou"] == np.mean(iou)
    assert report["images"] == len(volumes.of_images)
    assert report["images_left_out"] == 0
    chosen = np.random.default_rng(image_scores.SEED).integers(0, len(dice), (image_scores.RESAMPLES, len(dice)))
    expected = np.percentile(np.array(dice)[chosen].mean(axis=1), [2.5, 97.5])
    np.testing.assert_allclose(report["dice_by_volume_interval"], expected, rtol=1e-12)

    lines = metrics.format_table({"ass": report}).splitlines()
    assert any(line.startswith("Dice by volume") for line in lines)
    assert ["volumes", str(len(dice))] in [line.split() for line in lines]


def test_each_volume_has_its_dice():
    predictions, truths = masks()
    names = [f"patient {v}" for v in range(COUNT) for _ in range(SHAPE[2])]
    each = (maps.transpose(0, 3, 2, 1).reshape(-1, SHAPE[1], SHAPE[0]) for maps in (predictions, truths))
    counts = image_scores.count_pixels(confusion_matrices(*each, 2))
    of_volumes = image_scores.add_slices(counts, names)
    both = (predictions & truths).sum(axis=(1, 2, 3))
    total = predictions.sum(axis=(1, 2, 3), dtype=int) + truths.sum(axis=(1, 2, 3), dtype=int)
    expected = np.divide(2 * both, total, out=np.full(COUNT, np.nan), where=total > 0)
    np.testing.assert_array_equal(image_scores.dice(of_volumes)[:, 1], expected)
    assert np.isnan(expected).any()
    report = image_scores.volume_report(of_volumes, TABLE.names, 3)
    assert report["dice_by_volume"] == np.where(np.isnan(expected), 1, expected).mean()  # Nothing there nor found.
    assert (report["volumes"], report["volumes_left_out"]) == (COUNT, 3)


def test_no_volumes_have_no_score():
    report = image_scores.volume_report(image_scores.add_slices(np.zeros((0, 3, 2), int), []), TABLE.names)
    assert (report["volumes"], report["dice_by_volume"]) == (0, None)


class Recorded:
    """Volumes that keep what is written."""

    def __init__(self, shapes):
        self.frames = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
        self.written = {}

    def write(self, name, folder, file_name, labels):
        self.written[name] = (folder / file_name, labels)
        return folder / file_name


def test_slices_become_volumes(tmp_path):
    random = np.random.default_rng(1)
    volumes = Recorded({"a_1": (4, 5, 3), "../b": (2, 3, 2)})
    truth = {name: random.integers(0, 2, frame.shape).astype(np.uint8) for name, frame in volumes.frames.items()}
    truth["a_1"][:, :, 1] = 0
    with VolumeFiles(tmp_path / "predictions", TABLE, volumes) as files:
        for name, numbers in (("a_1", (0, 2)), ("../b", (0, 1))):
            for z in numbers:
                files.add(f"{name}/{z:03}", truth[name][:, :, z].T)
    assert files.count == 4
    for name, (file, labels) in volumes.written.items():
        np.testing.assert_array_equal(labels, truth[name])
        assert file.parent == tmp_path / "predictions"


def test_slices_of_the_size_of_training_are_stretched(tmp_path):
    volumes = Recorded({"a": (4, 6, 1)})
    small = np.array([[0, 1], [1, 0], [0, 0]], np.uint8)
    with VolumeFiles(tmp_path, TABLE, volumes) as files:
        files.add("a/000", small)
    np.testing.assert_array_equal(volumes.written["a"][1][:, :, 0].T, small.repeat(2, 0).repeat(2, 1))


def test_several_processes_cannot_write_volumes(tmp_path, monkeypatch):
    monkeypatch.setattr(volume_files.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"written by one process, but 2 are running"):
        VolumeFiles(tmp_path, TABLE, Recorded({}))


def test_the_outside_is_background_wherever_it_stands_in_the_table(tmp_path):
    table = SimpleNamespace(names=("lesion", "background"), raw_ids=np.array([7, 3], np.uint8))
    volumes = Recorded({"a": (1, 1, 2)})
    with VolumeFiles(tmp_path, table, volumes) as files:
        files.add("a/000", np.zeros((1, 1), np.uint8))
    assert volumes.written["a"][1].ravel().tolist() == [7, 3]
