"""The streams of a tiny generated dataset, and its records read directly."""

import itertools

import pytest

from data.reading import toy_builder

SOURCE_COUNT, TARGET_COUNT, VALIDATION_COUNT = 7, 6, 5
COUNTS = {"source": SOURCE_COUNT, "labelled": 3, "unlabelled": TARGET_COUNT}


@pytest.fixture
def config(toy_config):
    """All three streams with different numbers of images per step, and no augmentation."""
    toy_config.data.toy.update(source_count=SOURCE_COUNT, target_count=TARGET_COUNT, validation_count=VALIDATION_COUNT)
    toy_config.data.labelled_count = COUNTS["labelled"]
    toy_config.data.batch.update(source=2, labelled=2, unlabelled=4)
    return toy_config


def take(batches, count):
    return list(itertools.islice(batches, count))


def stored(config, split):
    """Returns image and label of every record, read without the streams."""
    return list(toy_builder.open_toy_builder(config.data).as_data_source(split))


def places(images, records):
    """Returns the index of each image among the records."""
    known = {record["image"].tobytes(): index for index, record in enumerate(records)}
    assert len(known) == len(records)
    return [known[image.tobytes()] for image in images]
