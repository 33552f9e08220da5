"""Training batches: contents and order, with any readers and hosts, and settings that are refused."""

import collections
import hashlib
import time

import numpy as np
import pytest
import tensorflow as tf

from configs.user_error import UserError
from data import pipeline
from data.classes import IGNORED
from data.reading import split_reader, toy_builder
from tests.helpers import toy_streams
from tests.helpers.toy_streams import COUNTS, places, stored, take

config = toy_streams.config


def digest(batches):
    """Returns a hash of every array of the batches, with names, types and shapes."""
    total = hashlib.sha256()
    for batch in batches:
        for stream, arrays in sorted(batch.items()):
            for key, value in sorted(arrays.items()):
                total.update(f"{stream} {key} {value.dtype} {value.shape}".encode() + value.tobytes())
    return total.hexdigest()


def joined(parts):
    """Returns the global batch of a step, joined from the parts of the hosts."""
    return {
        stream: {key: np.concatenate([part[stream][key] for part in parts]) for key in arrays}
        for stream, arrays in parts[0].items()
    }


def test_batches_have_the_documented_form(config):
    config.data.source_size = (20, 24)
    config.data.target_size = (12, 16)
    batch = next(pipeline.training_batches(config))
    assert list(batch) == ["source", "labelled", "unlabelled"]
    form = {
        stream: {key: (type(value), value.dtype, value.shape) for key, value in arrays.items()}
        for stream, arrays in batch.items()
    }

    def array(*shape):
        return (np.ndarray, np.uint8, shape)

    assert form == {
        "source": {"image": array(2, 20, 24, 3), "label": array(2, 20, 24)},
        "labelled": {"image": array(2, 12, 16, 3), "label": array(2, 12, 16)},
        "unlabelled": {"image": array(4, 12, 16, 3)},
    }


def test_crop_sets_the_size_of_all_streams(config):
    config.augment.crop = (10, 40)
    batch = next(pipeline.training_batches(config))
    assert {arrays["image"].shape[1:3] for arrays in batch.values()} == {(10, 40)}
    assert (batch["source"]["label"] == IGNORED).sum() >= 2 * 10 * 8


def test_images_and_labels_match_the_records(config):
    batch = next(pipeline.training_batches(config))
    for stream, split in (("source", "source_train"), ("labelled", "target_train")):
        records = stored(config, split)
        for image, label in zip(batch[stream]["image"], batch[stream]["label"], strict=True):
            (place,) = places([image], records)
            np.testing.assert_array_equal(label, records[place]["label"][..., 0])


def test_batches_are_independent_of_readers_and_hosts(config):
    config.augment.update(flip=True, crop=(12, 24), brightness=0.1)
    digests = set()
    for readers in (1, 2, 8):
        config.data.readers = readers
        digests.add(digest(take(pipeline.training_batches(config), 100)))
    hosts = [take(pipeline.training_batches(config, host=host, hosts=2), 100) for host in range(2)]
    assert hosts[0][0]["unlabelled"]["image"].shape[0] == 2
    digests.add(digest(joined(parts) for parts in zip(*hosts, strict=True)))
    assert len(digests) == 1


def test_later_start_continues_exactly(config):
    config.augment.update(flip=True, brightness=0.1)
    straight = take(pipeline.training_batches(config), 10)
    assert digest(take(pipeline.training_batches(config, start_step=7), 3)) == digest(straight[7:])


def test_a_late_step_is_reached_within_a_second(config):
    following = take(pipeline.training_batches(config, start_step=999_999), 2)[1]
    seconds = []
    for _ in range(2):
        # CPU time of all threads: the machine may be busy with something else.
        begin = time.process_time()
        late = next(pipeline.training_batches(config, start_step=1_000_000))
        seconds.append(time.process_time() - begin)
    assert digest([late]) == digest([following])
    assert min(seconds) < 1


def test_steps_beyond_32_bits_work(config):
    config.augment.flip = True
    batches = pipeline.training_batches(config, start_step=2**40)
    assert digest([next(batches)]) != digest([next(batches)])


def test_every_epoch_has_each_image_once_in_a_new_order(config):
    batches = take(pipeline.training_batches(config), 42)
    splits = {"source": "source_train", "labelled": "target_train", "unlabelled": "target_train"}
    for stream, count in COUNTS.items():
        images = np.concatenate([batch[stream]["image"] for batch in batches])
        order = places(images, stored(config, splits[stream]))
        epochs = [tuple(order[start : start + count]) for start in range(0, len(order), count)]
        assert len(epochs) >= 12
        assert {len(epoch) for epoch in epochs} == {count}
        assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
        assert all(len(set(epoch)) == count for epoch in epochs)
        assert len(set(epochs)) > 3


def test_another_seed_gives_other_batches(config):
    first = take(pipeline.training_batches(config), 5)
    config.seed = 1
    assert digest(take(pipeline.training_batches(config), 5)) != digest(first)


def test_labelled_images_are_those_of_the_list(config):
    names = pipeline.labelled_list(config).names
    assert len(names) == 3
    records = stored(config, "target_train")
    images = np.concatenate([batch["labelled"]["image"] for batch in take(pipeline.training_batches(config), 6)])
    seen = {records[place]["name"].decode() for place in places(images, records)}
    assert seen == set(names)
    config.data.labelled_count = -1
    assert list(pipeline.labelled_list(config).names) == sorted(record["name"].decode() for record in records)


@pytest.mark.parametrize("count", [1, 2])
def test_labelled_images_repeat_if_fewer_than_a_batch(config, count):
    config.data.labelled_count = count
    config.data.batch.labelled = 3
    config.augment.brightness = 0.2
    batches = take(pipeline.training_batches(config), 4)
    labels = np.concatenate([batch["labelled"]["label"] for batch in batches])
    numbers = collections.Counter(label.tobytes() for label in labels)
    assert sorted(numbers.values()) == [12 // count] * count
    images = np.concatenate([batch["labelled"]["image"] for batch in batches])
    assert len({image.tobytes() for image in images}) == 12


def test_removing_a_stream_leaves_the_others_unchanged(config):
    config.augment.update(flip=True, brightness=0.1)
    full = take(pipeline.training_batches(config), 5)
    config.data.batch.labelled = 0
    config.loss.semantic_weight = 0.0
    without = take(pipeline.training_batches(config), 5)
    assert without[0].keys() == {"source", "unlabelled"}
    assert digest(without) == digest({key: batch[key] for key in without[0]} for batch in full)


@pytest.fixture
def reads(monkeypatch):
    """Number of records read, by split; 0 for a split that was only opened."""
    counts = {}

    class Counting:
        def __init__(self, source, split):
            self.source, self.split = source, split

        def __getitem__(self, index):
            counts[self.split] += 1
            return self.source[index]

    open_builder = toy_builder.open_toy_builder

    def open_counting(data_config):
        builder = open_builder(data_config)
        as_data_source = builder.as_data_source

        def counting(split, **options):
            counts.setdefault(split, 0)
            return Counting(as_data_source(split, **options), split)

        builder.as_data_source = counting
        return builder

    monkeypatch.setattr(split_reader, "_SPLITS", {})
    monkeypatch.setattr(split_reader, "open_toy_builder", open_counting)
    return counts


@pytest.mark.parametrize(
    ("batch", "global_weight", "expected"),
    [
        ({"labelled": 0}, 0.0, {"source_train"}),
        ({"source": 0}, 0.0, {"target_train"}),
        ({"labelled": 0}, 0.1, {"source_train", "target_train"}),
    ],
)
def test_only_splits_that_a_term_needs_are_read(config, reads, batch, global_weight, expected):
    config.data.labelled_count = -1
    config.data.batch.update(batch)
    config.loss.update(global_weight=global_weight, semantic_weight=0.0)
    config.teacher.mixed_weight = 0.0
    batches = pipeline.training_batches(config)
    images = sum(len(arrays["image"]) for arrays in next(batches).values())
    assert reads.keys() == expected
    assert sum(reads.values()) >= images


def test_labels_of_unlabelled_images_are_not_decoded(config):
    split = split_reader.open_splits(config, ["target_train"])["target_train"]
    record = tf.train.Example.FromString(split.fetch(np.array([0]))[0])
    record.features.feature["label"].bytes_list.value[0] = b"no picture"
    damaged = tf.constant(record.SerializeToString())
    assert split.decoder("image")(damaged).keys() == {"image"}
    with pytest.raises(tf.errors.InvalidArgumentError):
        split.decoder("image", "label")(damaged)


def test_tensorflow_sees_no_accelerator():
    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}


@pytest.mark.parametrize("found", [[], ["/physical_device:GPU:0"]])
def test_a_started_tensorflow_matters_only_with_an_accelerator(monkeypatch, found):
    def started(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", started)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found if kind == "GPU" else [])
    if found:
        with pytest.raises(UserError, match=r"already uses a GPU .* Restart the process or the notebook's kernel"):
            pipeline._leave_accelerators_to_jax()
    else:
        pipeline._leave_accelerators_to_jax()


def test_empty_splits_are_refused(config):
    config.data.toy.validation_count = 0
    with pytest.raises(ValueError, match="no images in its split 'target_validation'; expected 1 or more"):
        pipeline.evaluation_batches(config)


@pytest.mark.parametrize("count", [0, 7])
def test_impossible_labelled_counts_are_refused(config, count):
    config.data.labelled_count = count
    with pytest.raises(ValueError, match=f"labelled_count is {count}, but .* 6 images"):
        pipeline.training_batches(config)


def test_batch_that_hosts_cannot_share_is_refused(config):
    config.data.batch.labelled = 3
    with pytest.raises(ValueError, match=r"data\.batch\.labelled is 3; expected a multiple of 2"):
        pipeline.training_batches(config, hosts=2)


def test_prepare_makes_the_dataset_once(config, tmp_path):
    config.data.directory = str(tmp_path)
    config.data.toy.update(source_count=1, target_count=1, validation_count=1)
    pipeline.prepare(config)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert any("target_validation" in path.name for path in files)
    pipeline.prepare(config)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files
