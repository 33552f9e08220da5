"""Cache of decoded images: the batches stay the same, each image is decoded once, and the limit is kept."""

import itertools

import numpy as np
import pytest

from data import pipeline
from data.reading import decoded_cache
from data.reading.split_reader import Split, open_splits


@pytest.fixture
def config(toy_config):
    toy_config.data.toy.update(source_count=7, target_count=6, validation_count=5)
    toy_config.data.labelled_count = 4
    toy_config.data.batch.update(source=2, labelled=2, unlabelled=4)
    toy_config.augment.update(flip=True, crop=(12, 24), brightness=0.1)
    return toy_config


@pytest.fixture
def reads(monkeypatch):
    """Indices of the records read, in order, by split."""
    found, fetch = {}, Split._fetch_one

    def note(split, index):
        found.setdefault(split.title.partition("/")[2], []).append(index)
        return fetch(split, index)

    monkeypatch.setattr(Split, "_fetch_one", note)
    return found


def take(config, start=0, count=12, **others):
    return list(itertools.islice(pipeline.training_batches(config, start, **others), count))


def assert_same(found, expected):
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys()
        for stream, arrays in batch.items():
            assert arrays.keys() == other[stream].keys()
            for key, value in arrays.items():
                assert value.dtype == other[stream][key].dtype
                np.testing.assert_array_equal(value, other[stream][key])


def test_cached_batches_equal_uncached_ones(config):
    held = take(config), take(config, 5, 7), take(config, host=1, hosts=2)
    config.data.decoded_memory = 0
    read = take(config), take(config, 5, 7), take(config, host=1, hosts=2)
    for found, expected in zip(held, read, strict=True):
        assert_same(found, expected)


def test_every_image_of_a_stream_is_read_once(config, reads):
    pipeline.labelled_list(config)
    take(config, count=30)
    labelled = pipeline.choose_labelled(config, open_splits(config, ["target_train"])["target_train"]).training
    assert reads["source_train"] == list(range(7))
    assert sorted(reads["target_train"]) == sorted([*range(6), *labelled])


def test_cache_stays_within_its_limit(config):
    split = open_splits(config, ["source_train"])["source_train"]
    height, width, _ = split.shapes("image")[0]
    keys, chosen = ("image", "label"), np.array([4, 1, 6])
    limit = 3 * height * width * (3 + 1)
    assert decoded_cache.decode_all(split, keys, chosen, limit - 1, readers=1) is None
    held = decoded_cache.decode_all(split, keys, chosen, limit, readers=1)
    for index in chosen:
        expected = split.decoder(*keys)(split._fetch_one(index))
        for key, value in held(index).items():
            np.testing.assert_array_equal(value, expected[key])


def test_nothing_is_cached_if_sizes_differ_or_an_image_is_damaged(config, monkeypatch):
    split = open_splits(config, ["source_train"])["source_train"]
    everything = {"keys": ("image",), "chosen": np.arange(7), "limit": 2**30, "readers": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Split, "shapes", lambda *_: [(None, None, 3)])
        assert decoded_cache.decode_all(split, **everything) is None
    fetch = Split._fetch_one
    monkeypatch.setattr(Split, "_fetch_one", lambda split, index: b"" if index == 3 else fetch(split, index))
    assert decoded_cache.decode_all(split, **everything) is None
    assert decoded_cache.decode_all(split, **everything | {"chosen": np.array([0, 4])}) is not None
