"""Evaluation batches: every image once on any number of hosts, labels at full size, test images without labels."""

import dataclasses
import operator
import os

import numpy as np
import pytest
import tensorflow as tf

from data import pipeline
from data.classes import CLASS_TABLES, IGNORED, ClassTable
from data.datasets.registry import SPECS
from data.datasets.spec import Split
from tests.helpers import toy_streams
from tests.helpers.toy_streams import VALIDATION_COUNT, places, stored

HEIGHT, WIDTH = 16, 32

config = toy_streams.config


@pytest.mark.parametrize(
    ("batch", "hosts"),
    [(1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 2), (6, 3), (7, 1), (7, 7), (1, 2), (3, 2)],
)
def test_evaluation_counts_every_image_once(config, batch, hosts):
    config.evaluation.batch = batch
    whole = -(-batch // hosts) * hosts  # Hosts take equal shares.
    records = stored(config, "target_validation")
    parts = [list(pipeline.evaluation_batches(config, host=host, hosts=hosts)) for host in range(hosts)]
    assert {len(part) for part in parts} == {-(-VALIDATION_COUNT // whole)}
    images, labels, valid = [
        np.concatenate([part[step][key] for step in range(len(parts[0])) for part in parts])
        for key in ("image", "label", "valid")
    ]
    assert valid.dtype == bool
    assert valid.tolist() == [True] * VALIDATION_COUNT + [False] * (len(valid) - VALIDATION_COUNT)
    assert places(images[valid], records) == list(range(VALIDATION_COUNT))
    np.testing.assert_array_equal(labels[valid], [record["label"][..., 0] for record in records])
    assert (labels[~valid] == IGNORED).all()
    assert len(labels) % whole == 0
    names = [str(name) for step in range(len(parts[0])) for part in parts for name in part[step]["name"]]
    expected = [record["name"].decode() for record in records]
    assert names == expected + [""] * (len(valid) - VALIDATION_COUNT)


def test_length_hint_is_the_number_of_batches_left(config):
    config.evaluation.batch = 2
    batches = pipeline.evaluation_batches(config)
    left = -(-VALIDATION_COUNT // 2)
    assert operator.length_hint(batches) == left
    next(batches)
    assert operator.length_hint(batches) == left - 1
    assert len(list(batches)) == left - 1


def test_labels_of_scores_tell_other_classes_from_ignored_pixels(config, monkeypatch):
    whole = CLASS_TABLES["toy"]
    few = ClassTable(whole.names[1:], whole.palette[1:], {"few": (0,)}, others=whole.names[:1])
    monkeypatch.setitem(CLASS_TABLES, "few", few)
    config.data.classes = "few"
    batch = next(pipeline.evaluation_batches(config))
    first = stored(config, "target_validation")[0]["label"][..., 0]
    assert (first == 0).any()
    np.testing.assert_array_equal(batch["label"][0], np.where(first == 0, 9, np.where(first == 255, 255, first - 1)))
    trained = next(pipeline.training_batches(config))["labelled"]["label"]
    assert set(np.unique(trained)) <= {*range(9), IGNORED}


def test_test_images_come_without_labels(config, monkeypatch):
    splits = {"target_test": Split("target_validation", VALIDATION_COUNT, labels="none")}
    monkeypatch.setitem(SPECS, "tested", dataclasses.replace(SPECS["toy"], splits=splits, from_settings=None))
    config.data.target = "tested"
    config.evaluation.update(split="test", batch=VALIDATION_COUNT)
    (batch,) = pipeline.evaluation_batches(config)
    assert batch.keys() == {"image", "name", "valid"}
    expected = [record["name"].decode() for record in stored(config, "target_validation")]
    assert batch["name"].tolist() == expected


def test_evaluation_resizes_images_but_not_labels(config):
    config.data.target_size = (8, 12)
    config.augment.update(flip=True, crop=(4, 4), brightness=0.5)
    config.evaluation.batch = 2
    batch = next(pipeline.evaluation_batches(config))
    assert batch["image"].shape == (2, 8, 12, 3)
    assert batch["label"].shape == (2, HEIGHT, WIDTH)
    assert batch["label"].dtype == np.uint8
    expected = stored(config, "target_validation")[1]
    np.testing.assert_array_equal(batch["label"][1], expected["label"][..., 0])
    shrunk = tf.image.resize(expected["image"], (8, 12), antialias=True)
    np.testing.assert_array_equal(batch["image"][1], np.round(shrunk))


def test_evaluation_of_the_source_has_its_images_and_labels_at_the_size_of_training(config):
    config.evaluation.update(split="source", batch=2)
    config.data.source_size, config.data.target_size = (HEIGHT, WIDTH), (8, 12)
    batch = next(pipeline.evaluation_batches(config))
    records = stored(config, "source_train")[:2]
    np.testing.assert_array_equal(batch["image"], [record["image"] for record in records])
    np.testing.assert_array_equal(batch["label"], [record["label"][..., 0] for record in records])


def test_evaluation_leaves_no_open_files(config):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    for _ in range(2):
        list(pipeline.evaluation_batches(config))
    before = open_files()
    for _ in range(5):
        list(pipeline.evaluation_batches(config))
    assert open_files() <= before
