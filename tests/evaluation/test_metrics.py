"""Checks the scores against values worked out by hand, a plain loop and the official Cityscapes code."""

import copy
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args as official_arguments
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from ass_jax.evaluation.metrics import confusion_matrices, dice, format_table, iou, mean_iou, recall, report
from data.classes import class_table

count = jax.jit(confusion_matrices, static_argnames="num_classes")

CONFUSION = np.array([[4, 1, 0, 0], [2, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
NAMES = ("road", "car", "train", "bus")
SUBSETS = {"all": (0, 1, 2, 3), "pair": (1, 3), "none": (3,)}


def random_maps(seed: int, num_classes: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns predictions and labels of some of the classes; about a quarter agree, and some pixels are ignored."""
    random = np.random.default_rng(seed)
    present = random.choice(num_classes, size=random.integers(1, num_classes + 1), replace=False)
    labels = random.choice(present, size=shape)
    predictions = np.where(random.random(shape) < 0.25, labels, random.integers(0, num_classes, shape))
    if seed % 2:  # Half of the maps lack classes in the predictions too.
        predictions = np.where(np.isin(predictions, present), predictions, present[0])
    labels = np.where(random.random(shape) < random.choice([0.0, 0.2]), 255, labels)
    return predictions.astype(np.uint8), labels.astype(np.uint8)


def official_scores(paths: list[tuple[str, str]]) -> dict:
    """Returns the result of the official evaluation of pairs of prediction and truth with raw ids."""
    arguments = copy.copy(official_arguments)
    arguments.quiet, arguments.JSONOutput, arguments.evalInstLevelScore = True, False, False
    predictions, truths = zip(*paths, strict=True)
    return evaluateImgLists(list(predictions), list(truths), arguments)


def test_scores_equal_the_official_evaluation_exactly(tmp_path):
    train_labels = sorted((label for label in official_labels if label.trainId in range(19)), key=lambda x: x.trainId)
    raw_ids = np.array([label.id for label in train_labels])
    ignored_ids = np.array([label.id for label in official_labels if label.ignoreInEval and label.id >= 0])
    names = [label.name for label in train_labels]
    pairs, total, absent, only_predicted = [], np.zeros((19, 19), np.int64), 0, 0
    for seed in range(100):
        predictions, labels = random_maps(seed, 19, (16, 24))
        ignored = ignored_ids[np.random.default_rng(seed).integers(0, len(ignored_ids), labels.shape)]
        truths = np.where(labels == 255, ignored, raw_ids[np.where(labels == 255, 0, labels)])
        paths = str(tmp_path / f"{seed}_prediction.png"), str(tmp_path / f"{seed}_truth.png")
        Image.fromarray(raw_ids[predictions].astype(np.uint8)).save(paths[0])
        Image.fromarray(truths.astype(np.uint8)).save(paths[1])
        pairs.append(paths)

        confusion = np.asarray(count(predictions[None], labels[None], num_classes=19)[0], np.int64)
        scores = iou(confusion)
        expected = official_scores([paths])
        np.testing.assert_array_equal(scores, [expected["classScores"][name] for name in names])
        assert mean_iou(scores, range(19)) == expected["averageScoreClasses"]
        total += confusion
        absent += np.isnan(scores).sum()
        only_predicted += ((confusion.sum(axis=1) == 0) & (scores == 0)).sum()
    assert absent > 100
    assert only_predicted > 100

    expected = official_scores(pairs)
    result = report(total, names, {"19": range(19)})
    assert result["class_iou"] == {name: expected["classScores"][name] for name in names}
    assert result["mean_iou"]["19"] == expected["averageScoreClasses"]


@pytest.mark.parametrize("num_classes", [1, 2, 19])
def test_confusion_matrices_equal_a_loop(num_classes):
    predictions, labels = random_maps(3, num_classes, (3, 5, 7))
    labels[0, 0, :3] = num_classes, 254, 255
    labels[1] = 255
    expected = np.zeros((3, num_classes, num_classes), np.int32)
    for image in range(3):
        for prediction, label in zip(predictions[image].reshape(-1), labels[image].reshape(-1), strict=True):
            if label < num_classes:
                expected[image, label, prediction] += 1
    for dtype in (np.uint8, np.int32):
        confusion = count(predictions.astype(dtype), labels.astype(dtype), num_classes=num_classes)
        assert confusion.dtype == jnp.int32
        np.testing.assert_array_equal(confusion, expected)


def test_confusion_matrices_ignore_negative_labels():
    confusion = count(np.zeros((1, 1, 3), np.int32), np.array([[[-1, 0, 255]]]), num_classes=2)
    np.testing.assert_array_equal(confusion, [[[1, 0], [0, 0]]])


def test_counts_are_exact_where_float32_is_not():
    pixels = 2**24 + 3
    predictions = jnp.ones((1, 1, pixels), jnp.uint8)
    assert np.asarray(count(predictions, predictions, num_classes=2))[0, 1, 1] == pixels


def test_scores_worked_out_by_hand():
    # Class 0: tp 4, fp 2, fn 1. Class 1: tp 3, fp 1, fn 3. Class 2: fp 1. Class 3 does not occur.
    np.testing.assert_array_equal(iou(CONFUSION), [4 / 7, 3 / 7, 0, np.nan])
    np.testing.assert_array_equal(dice(CONFUSION), [8 / 11, 6 / 10, 0, np.nan])
    np.testing.assert_array_equal(recall(CONFUSION), [4 / 5, 3 / 6, np.nan, np.nan])
    assert mean_iou(iou(CONFUSION), (0, 1)) == pytest.approx(1 / 2)
    assert mean_iou(iou(CONFUSION), (0, 1, 2, 3)) == pytest.approx(1 / 3)
    assert math.isnan(mean_iou(iou(CONFUSION), (3,)))


def test_report_is_json_with_none_for_missing_scores():
    result = report(CONFUSION, NAMES, SUBSETS)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["class_iou"] == {"road": 4 / 7, "car": 3 / 7, "train": 0.0, "bus": None}
    assert result["class_dice"] == {"road": 8 / 11, "car": 0.6, "train": 0.0, "bus": None}
    assert result["mean_iou"] == {"all": pytest.approx(1 / 3), "pair": 3 / 7, "none": None}
    assert result["pixel_accuracy"] == 7 / 11


@pytest.mark.parametrize("lesion_first", [False, True])
def test_binary_table_has_sensitivity_and_specificity(lesion_first):
    confusion, names = np.array([[90, 6], [1, 3]]), ("background", "polyp")
    if lesion_first:
        confusion, names = confusion[::-1, ::-1], names[::-1]
    result = report(confusion, names, {"all": (0, 1)})
    assert (result["sensitivity"], result["specificity"]) == (3 / 4, 90 / 96)
    assert result["class_dice"]["polyp"] == 6 / 13
    assert report(np.zeros((2, 2), int), names, {"all": (0, 1)})["sensitivity"] is None


def test_other_tables_have_no_sensitivity():
    names = ("background", "liver", "spleen")
    assert "sensitivity" not in report(CONFUSION[:3, :3], names, {"all": (0, 1, 2)})
    assert "sensitivity" not in report(CONFUSION[:2, :2], ("road", "car"), {"all": (0, 1)})


def test_report_of_nothing_has_no_scores():
    result = report(np.zeros((4, 4), np.int64), NAMES, SUBSETS)
    assert set(result["class_iou"].values()) == {None}
    assert result["pixel_accuracy"] is None


def count_all_classes(hist, labels, predictions, classes):
    """Adds a pair to a matrix of all classes, as the scripts of AdaptSegNet and ADVENT do for 19 of Cityscapes."""
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label < classes:
            hist[label, prediction] += 1


@pytest.mark.parametrize("score_others", [False, True])
def test_means_of_synthia_equal_scripts_that_score_16_and_19_classes(score_others):
    """Scripts map the three classes that SYNTHIA lacks to ignored pixels, or score all 19 and average over 16."""
    whole, table = class_table("cityscapes19"), class_table("synthia16")
    kept = [whole.names.index(name) for name in table.names]
    hist, total = np.zeros((19, 19), np.int64), np.zeros((17, 16), np.int64)
    to_table = np.full(256, 255, np.uint8)
    to_table[kept] = np.arange(16)
    to_table[[whole.names.index(name) for name in table.others]] = 16
    for seed in range(6):
        predictions, labels = random_maps(seed, 19, (16, 24))
        predictions = np.where(np.isin(predictions, kept), predictions, kept[seed])  # The network has 16 outputs.
        scored = labels if score_others else np.where(np.isin(labels, kept), labels, 255)
        count_all_classes(hist, scored, predictions, 19)
        ours = confusion_matrices(to_table[predictions][None], to_table[labels][None], 16, others=True)
        total += np.asarray(ours[0], np.int64)
    assert total[16].sum() > 100
    found = report(total, table.names, table.subsets, table.others)["mean_iou"]
    with np.errstate(invalid="ignore"):
        official = np.diag(hist) / (hist.sum(axis=1) + hist.sum(axis=0) - np.diag(hist))
    for subset in ("16", "13"):
        ids = [kept[index] for index in table.subsets[subset]]
        name = f"{subset}_of_19" if score_others else subset
        assert found[name] == pytest.approx(np.nanmean(official[ids]), rel=1e-12)
    assert found["16_of_19"] < found["16"] - 0.001


def test_tables_without_other_classes_report_no_further_mean():
    table = class_table("toy")
    found = report(np.ones((10, 10), np.int64), table.names, table.subsets, table.others)
    assert list(found["mean_iou"]) == ["toy"]


def test_report_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"4 x 4 classes, found shape \(3, 3\)"):
        report(np.zeros((3, 3)), NAMES, SUBSETS)


def test_table_puts_models_side_by_side():
    fewer = report(np.array([[1, 1], [0, 2]]), ("road", "car"), {"pair": (0, 1)})
    table = format_table({"source only": fewer, "ASS": report(CONFUSION, NAMES, SUBSETS)})
    assert table.splitlines() == [
        "IoU in %      source only    ASS",
        "----------  -------------  -----",
        "road                 50.0   57.1",
        "car                  66.7   42.9",
        "train                   –    0.0",
        "bus                     –      –",
        "----------  -------------  -----",
        "mIoU pair            58.3   42.9",
        "mIoU all                –   33.3",
        "mIoU none               –      –",
    ]


def test_table_shows_scores_by_image_where_a_model_has_them():
    old = report(np.array([[1, 1], [0, 2]]), ("background", "polyp"), {"all": (0, 1)})
    del old["sensitivity"], old["specificity"]
    new = old | {
        "dice_by_image": 0.8791,
        "dice_by_image_interval": [0.861, 0.895],
        "iou_by_image": None,
        "iou_by_image_interval": None,
        "sensitivity": 1.0,
        "images": 98,
        "images_left_out": 2,
    }
    assert "Dice" not in format_table({"old": old})
    assert format_table({"old": old, "new": new}).splitlines()[-7:] == [
        "mIoU all          58.3              58.3",
        "---------------  -----  ----------------",
        "Dice by image        –  87.9 (86.1–89.5)",
        "IoU by image         –                 –",
        "sensitivity          –             100.0",
        "images               –                98",
        "images left out      –                 2",
    ]
