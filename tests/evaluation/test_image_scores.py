"""Scores by image against MedPy's numbers of `benchmarks/parity/make_mask_golden.py` and values worked out by hand."""

import functools
import json
import statistics
from pathlib import Path

import jax
import numpy as np
import pytest

from ass_jax.evaluation import evaluate as evaluation
from ass_jax.evaluation import image_scores
from ass_jax.evaluation.metrics import confusion_matrices
from ass_jax.runtime.sharding import by_image, make_mesh, replicated
from benchmarks.parity import mask_inputs
from data.classes import ClassTable

GOLDEN = Path(__file__).parents[1] / "golden" / "masks.npz"
BINARY, STREETS = ("background", "polyp"), ("road", "car", "train")


def count(prediction, truth, num_classes):
    """Counts the pixels of one image by NumPy alone, `[3, C]`."""
    counted = truth != 255
    maps = [[kept == index for index in range(num_classes)] for kept in (prediction[counted], truth[counted])]
    both = [found & true for found, true in zip(*maps, strict=True)]
    return np.array([[np.count_nonzero(each) for each in row] for row in (both, *maps)], np.int64)


def counts_of(*lesions):
    """Returns the counts of images of 100 pixels, given (both, predicted, true) pixels of the lesion."""
    rest = [[100 - found - true + both, 100 - found, 100 - true] for both, found, true in lesions]
    return np.stack([np.array(rest), np.array(lesions)], axis=2)


def test_scores_equal_medpy_exactly():
    golden = np.load(GOLDEN)
    pairs = [mask_inputs.masks(number) for number in range(mask_inputs.COUNT)]
    padded = np.zeros((2, len(pairs), 48, 48), np.uint8)
    padded[1] = 255  # Ignored: the masks have many sizes.
    for number, masks in enumerate(pairs):
        for kind, mask in enumerate(masks):
            padded[kind, number, : mask.shape[0], : mask.shape[1]] = mask
    counts = image_scores.count_pixels(jax.jit(confusion_matrices, static_argnums=2)(*padded, 2))
    np.testing.assert_array_equal(counts, [count(*masks, 2) for masks in pairs])
    np.testing.assert_array_equal(image_scores.dice(counts)[:, 1], golden["dice"])
    np.testing.assert_array_equal(image_scores.iou(counts)[:, 1], golden["iou"])
    assert len(np.unique(golden["dice"])) > 60

    # An image without a lesion in either map counts 1; one whose pixels are all ignored does not count.
    report = image_scores.report(counts, BINARY)
    scored = [bool((truth != 255).any()) for _, truth in pairs]
    assert report["images"] == sum(scored) == 100 - report["images_left_out"]
    assert report["images_left_out"] > 0
    for name in ("dice", "iou"):
        expected = np.where(np.isnan(golden[name]), 1.0, golden[name])[scored]
        assert report[f"{name}_by_image"] == report["class_by_image"]["polyp"][name] == expected.mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (17, 31)])
def test_counts_of_odd_sizes_equal_numpy(shape):
    generator = np.random.default_rng(0)
    predictions = generator.integers(0, 3, (2, *shape)).astype(np.uint8)
    truths = generator.choice([0, 1, 2, 255], (2, *shape)).astype(np.uint8)
    counts = image_scores.count_pixels(confusion_matrices(predictions, truths, 3))
    np.testing.assert_array_equal(counts, [count(*maps, 3) for maps in zip(predictions, truths, strict=True)])


def test_lesion_in_neither_map_counts_one():
    # Dice: 2 * 6 / (8 + 12) = 0.6; nothing there and nothing found: 1; found where nothing is: 0; missed: 0.
    report = image_scores.report(counts_of((6, 8, 12), (0, 0, 0), (0, 5, 0), (0, 0, 9)), BINARY, left_out=3)
    assert report["dice_by_image"] == pytest.approx(1.6 / 4)
    assert report["iou_by_image"] == pytest.approx((6 / 14 + 1) / 4)
    assert report["class_by_image"]["polyp"]["images"] == 4
    assert (report["images"], report["images_left_out"]) == (4, 3)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_order_of_the_two_classes_does_not_matter():
    counts = counts_of((6, 8, 12), (0, 0, 0), (100, 100, 100))
    report, other = image_scores.report(counts, BINARY), image_scores.report(counts[:, :, ::-1], BINARY[::-1])
    assert report["class_by_image"] == other.pop("class_by_image")
    assert other.items() <= report.items()
    assert report["class_by_image"]["background"]["images"] == 2  # The last image has none, and gets no score for it.


@pytest.mark.parametrize("names", [STREETS, ("background", "liver", "spleen")])
def test_class_in_neither_map_has_no_score_in_other_tables(names):
    counts = np.array(
        [
            [[6, 0, 0], [8, 2, 0], [6, 4, 0]],
            [[5, 3, 0], [6, 4, 0], [7, 3, 0]],
            [[9, 0, 0], [10, 0, 0], [9, 1, 0]],
            [[10, 0, 0], [10, 0, 0], [10, 0, 0]],
        ]
    )
    report = image_scores.report(counts, names)
    first, second, third = report["class_by_image"].values()
    assert (first["images"], second["images"], third["images"]) == (4, 3, 0)
    assert first["dice"] == statistics.fmean([12 / 14, 10 / 13, 18 / 19, 1.0])
    assert second["dice"] == pytest.approx((0 + 6 / 7 + 0) / 3)
    assert second["iou"] == pytest.approx((0 + 3 / 4 + 0) / 3)
    assert third == {"images": 0, "dice": None, "dice_interval": None, "iou": None, "iou_interval": None}
    means = [second["dice"]] if names[0] == "background" else [first["dice"], second["dice"]]
    assert report["dice_by_image"] == pytest.approx(statistics.fmean(means))


def test_intervals_are_percentiles_of_resampled_means():
    generator = np.random.default_rng(4)
    truth, found = generator.integers(1, 40, (2, 60))
    counts = counts_of(*zip(np.minimum(truth, found) // 2, found, truth, strict=True))
    report = image_scores.report(counts, BINARY)
    assert report == image_scores.report(counts, BINARY)
    scores = image_scores.dice(counts)[:, 1]
    low, high = report["dice_by_image_interval"]
    assert report["class_by_image"]["polyp"]["dice_interval"] == [low, high]
    chosen = np.random.default_rng(image_scores.SEED).integers(0, 60, (image_scores.RESAMPLES, 60))
    np.testing.assert_allclose([low, high], np.percentile(scores[chosen].mean(axis=1), [2.5, 97.5]), rtol=1e-12)
    error = scores.std() / 60**0.5  # Of a mean of many images, whose distribution is nearly normal.
    np.testing.assert_allclose([low, high], scores.mean() + np.array([-1.96, 1.96]) * error, atol=0.2 * error)


def test_interval_of_a_rare_class_leaves_out_resamples_without_it():
    counts = np.zeros((5, 3, 3), np.int64)
    counts[:, :, 0] = 10
    counts[2, :, 1] = 3, 4, 5
    rare = image_scores.report(counts, STREETS)["class_by_image"]["car"]
    assert (rare["images"], rare["dice"]) == (1, 6 / 9)
    assert rare["dice_interval"] == [6 / 9, 6 / 9]


def test_one_image_and_none():
    report = image_scores.report(counts_of((6, 8, 12)), BINARY)
    assert (report["dice_by_image"], report["dice_by_image_interval"]) == (0.6, [0.6, 0.6])
    report = image_scores.report(np.zeros((0, 3, 2), np.int64), BINARY, left_out=4)
    assert (report["images"], report["images_left_out"], report["dice_by_image"]) == (0, 4, None)
    ignored = image_scores.report(np.zeros((2, 3, 2), np.int64), BINARY)
    assert (ignored["images"], ignored["images_left_out"], ignored["dice_by_image"]) == (0, 2, None)


def step(variables, batch):
    """Takes the first channel of an image as its labels."""
    predictions = batch["image"][..., 0]
    return confusion_matrices(predictions, batch["label"], 2), batch["valid"], predictions


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_devices_and_padding_change_no_bit(batch_size):
    generator = np.random.default_rng(2)
    images = generator.integers(0, 2, (7, 9, 11, 3)).astype(np.uint8)
    labels = generator.choice([0, 1, 255], (7, 9, 11)).astype(np.uint8)
    images[2], labels[2] = 0, 0  # Counts 1.
    labels[4] = 255  # Does not count.
    table = ClassTable(BINARY, np.zeros((2, 3), np.uint8), {"all": (0, 1)})

    def batches():
        for start in range(0, 7, batch_size):
            place = np.minimum(np.arange(start, start + batch_size), 6)
            valid = np.arange(start, start + batch_size) < 7
            label = np.where(valid[:, None, None], labels[place], 255).astype(np.uint8)
            yield {"image": images[place], "label": label, "valid": valid}

    reports = []
    for devices in (1, 2, 4):
        mesh = make_mesh([], jax.devices()[:devices])
        shardings = (replicated(mesh), replicated(mesh), by_image(mesh))
        compiled = jax.jit(step, out_shardings=shardings)
        reports.append(evaluation.score({}, batches(), step=compiled, mesh=mesh, class_table=table, left_out=2))
    counts = np.array([count(*maps, 2) for maps in zip(images[..., 0], labels, strict=True)])
    assert reports[0].items() >= image_scores.report(counts, BINARY, 2).items()
    assert (reports[0]["images"], reports[0]["images_left_out"]) == (6, 3)
    assert reports[0] == reports[1] == reports[2]
    total = functools.reduce(np.add, counts)
    assert reports[0]["sensitivity"] == total[0, 1] / total[2, 1]


def test_images_are_ranked_by_iou_or_without_the_background_by_dice():
    """A class in neither map does not count; nor does an image of ignored pixels alone."""
    counts = np.array(
        [[[4, 0, 0], [4, 2, 0], [5, 1, 0]], [[0, 0, 3], [0, 0, 3], [0, 0, 3]], [[0] * 3, [1, 0, 0], [0] * 3]]
    )
    streets = image_scores.ranking_scores(counts, ("road", "sky", "car"))
    np.testing.assert_allclose(streets, [(4 / 5 + 0) / 2, 1, np.nan])
    lesions = image_scores.ranking_scores(counts, ("background", "polyp", "tumour"))
    np.testing.assert_allclose(lesions, [0, 1, np.nan])
    nothing = np.array([[[9, 0], [9, 0], [9, 0]]])
    assert image_scores.ranking_scores(nothing, ("background", "polyp")).tolist() == [1]
