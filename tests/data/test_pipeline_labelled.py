"""Labelled images in the pipeline: lists, held-out images and rare-class sampling."""

import numpy as np
import pytest

from data import pipeline
from data.classes import IGNORED
from data.reading import split_reader
from data.sampling import rare_classes
from tests.helpers.toy_streams import stored, take

COUNT = 9


@pytest.fixture
def config(toy_config):
    """A configuration with one source and two target streams, without augmentation."""
    toy_config.data.toy.update(source_count=7, target_count=COUNT, validation_count=2)
    toy_config.data.labelled_count = 6
    toy_config.data.batch.update(source=2, labelled=2, unlabelled=4)
    return toy_config


def names_of(config, images):
    known = {record["image"].tobytes(): record["name"].decode() for record in stored(config, "target_train")}
    assert len(known) == COUNT
    return [known[image.tobytes()] for image in images]


def stream_names(config, stream, steps):
    batches = take(pipeline.training_batches(config), steps)
    return names_of(config, np.concatenate([batch[stream]["image"] for batch in batches]))


def test_own_list_is_read(config, tmp_path):
    (tmp_path / "mine.txt").write_text("target_train_000004\ntarget_train_000001\n")
    config.data.labelled_list = str(tmp_path / "mine.txt")
    assert stream_names(config, "labelled", 3).count("target_train_000001") == 3
    assert pipeline.labelled_list(config).names == ("target_train_000001", "target_train_000004")
    (tmp_path / "mine.txt").write_text("target_train_000009\n")
    for read in (pipeline.training_batches, pipeline.labelled_list):
        with pytest.raises(ValueError, match=r"mine.txt are not among the 9 images .*: target_train_000009 \(did you"):
            read(config)


def test_no_labelled_list_if_no_target_labels_are_read(config):
    config.data.batch.labelled = 0
    config.loss.semantic_weight = 0.0
    assert pipeline.labelled_list(config) is None
    config.data.held_out = 2
    assert len(pipeline.labelled_list(config).held_out) == 2


def test_held_out_images_are_trained_on_only_without_labels(config):
    config.data.held_out = 2
    choice = pipeline.labelled_list(config)
    held_out = {stored(config, "target_train")[index]["name"].decode() for index in choice.held_out}
    assert len(held_out) == 2
    assert set(stream_names(config, "labelled", 6)) == set(choice.names) - held_out
    assert held_out < set(stream_names(config, "unlabelled", 3))


@pytest.mark.parametrize(("batch", "hosts"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 2)])
def test_held_out_batches_count_every_image_once(config, batch, hosts):
    config.data.held_out = 3
    config.evaluation.batch = batch
    records = [stored(config, "target_train")[index] for index in pipeline.labelled_list(config).held_out]
    parts = [list(pipeline.held_out_batches(config, host=host, hosts=hosts)) for host in range(hosts)]
    assert len({len(part) for part in parts}) == 1
    images, labels, valid = [
        np.concatenate([part[step][key] for step in range(len(parts[0])) for part in parts])
        for key in ("image", "label", "valid")
    ]
    assert valid.tolist() == [True] * 3 + [False] * (len(valid) - 3)
    np.testing.assert_array_equal(images[valid], [record["image"] for record in records])
    np.testing.assert_array_equal(labels[valid], [record["label"][..., 0] for record in records])
    assert (labels[~valid] == IGNORED).all()


def test_held_out_images_are_resized_but_not_their_labels(config):
    config.data.update(held_out=1, target_size=(8, 12))
    batch = next(pipeline.held_out_batches(config))
    assert batch.keys() == {"image", "label", "name", "valid"}
    assert batch["image"].shape == (1, 8, 12, 3)
    assert batch["label"].shape == (1, 16, 32)


def test_held_out_images_are_prepared_without_a_labelled_stream(config, tmp_path):
    config.data.directory = str(tmp_path)
    config.data.batch.labelled = 0
    config.loss.update(semantic_weight=0.0, global_weight=0.0)
    config.teacher.mixed_weight = 0.0
    config.data.held_out = 2
    pipeline.prepare(config)
    assert sum(len(batch["valid"]) for batch in pipeline.held_out_batches(config)) == 2


def test_impossible_number_of_held_out_images_is_refused(config):
    config.data.held_out = 6
    for read in (pipeline.held_out_batches, pipeline.training_batches):
        with pytest.raises(ValueError, match="held_out is 6; expected 0 to 5"):
            read(config)


def same(one, other):
    return all(equal(*pair) for pair in zip(one, other, strict=True))


def equal(one, other):
    return all(np.array_equal(one[stream][key], other[stream][key]) for stream in one for key in one[stream])


def test_class_counts_match_the_labels(config):
    split = split_reader.open_splits(config, ["target_train"])["target_train"]
    counts = split.class_counts()
    assert (counts.dtype, counts.shape) == (np.int64, (COUNT, 256))
    for found, record in zip(counts, stored(config, "target_train"), strict=True):
        assert {index: found[index] for index in np.flatnonzero(found)} == dict(
            zip(*np.unique(record["label"], return_counts=True), strict=True)
        )


def test_rare_class_sampling_is_independent_of_readers_hosts_and_start(config):
    config.data.rare_class_temperature = 0.1
    config.augment.flip = True
    straight = take(pipeline.training_batches(config), 20)
    for readers in (1, 8):
        config.data.readers = readers
        assert same(take(pipeline.training_batches(config), 20), straight)
    assert same(take(pipeline.training_batches(config, start_step=13), 7), straight[13:])
    hosts = [take(pipeline.training_batches(config, host=host, hosts=2), 20) for host in range(2)]
    joined = [
        {
            stream: {key: np.concatenate([part[stream][key] for part in parts]) for key in arrays}
            for stream, arrays in parts[0].items()
        }
        for parts in zip(*hosts, strict=True)
    ]
    assert same(joined, straight)


def test_labelled_stream_follows_the_rare_class_sampler(config):
    config.data.rare_class_temperature = 0.01
    config.data.held_out = 1
    chosen = pipeline.labelled_list(config).training
    labels = [stored(config, "target_train")[index]["label"] for index in chosen]
    counts = np.array([np.bincount(label.ravel(), minlength=256) for label in labels])
    sampler = rare_classes.RareClassSampler(counts, np.arange(256, dtype=np.uint8), 0.01, (0, 1))
    expected = [f"target_train_{chosen[place]:06}" for place in sampler.draw(np.arange(40))]
    assert stream_names(config, "labelled", 20) == expected
    assert len(set(expected[: len(chosen)])) < len(chosen)  # Drawn with replacement: no epochs.


def test_rare_class_sampling_leaves_the_unlabelled_stream_unchanged(config):
    plain = take(pipeline.training_batches(config), 6)
    config.data.rare_class_temperature = 0.01
    rare = take(pipeline.training_batches(config), 6)
    for stream in plain[0]:
        alike = same([{stream: batch[stream]} for batch in plain], [{stream: batch[stream]} for batch in rare])
        assert alike == (stream == "unlabelled")


def test_rare_class_sampling_works_at_a_late_step(config):
    config.data.rare_class_temperature = 0.01
    batches = pipeline.training_batches(config, start_step=2**40)
    assert not same([next(batches)], [next(batches)])


def test_rare_class_sampling_needs_labels_with_classes(config, monkeypatch):
    config.data.rare_class_temperature = 0.01
    monkeypatch.setattr(
        split_reader.Split, "class_counts", lambda split: np.eye(256, dtype=np.int64)[[255] * split.count]
    )
    with pytest.raises(ValueError, match=r"rare_class_temperature .* found none in 7 images"):
        pipeline.training_batches(config)
