"""Records that do not decode are replaced, in the same way in every run; all others stay in place."""

import hashlib
import itertools

import numpy as np
import pytest

from data import pipeline
from data.reading.bad_records import UndecodableError
from data.reading.split_reader import Split, open_splits

BAD = {"source_train": (2, 5), "target_train": (1,)}


@pytest.fixture
def config(toy_config):
    toy_config.data.toy.update(source_count=7, target_count=6, validation_count=5)
    toy_config.data.labelled_count = 4
    toy_config.data.batch.update(source=2, labelled=2, unlabelled=3)
    forget(toy_config)
    yield toy_config
    forget(toy_config)


def corrupt(record):
    """Returns a record whose image and label do not decode, though its name does."""
    return record.replace(b"IDAT", b"IDAX")


def damage(monkeypatch, bad, how=corrupt):
    """Damages records, given by split and index, as a failing disk would."""
    sound = Split._fetch_one

    def fetch(split, index):
        record = sound(split, index)
        return how(record) if index in bad.get(split.title.partition("/")[2], ()) else record

    monkeypatch.setattr(Split, "_fetch_one", fetch)


def forget(config):
    for split in open_splits(config, ["source_train", "target_train"]).values():
        split.undecodable.clear()


def digests(config, start, count):
    found = []
    for batch in itertools.islice(pipeline.training_batches(config, start), count):
        total = hashlib.sha256()
        for stream, arrays in sorted(batch.items()):
            for key, value in sorted(arrays.items()):
                total.update(f"{stream} {key} {value.shape}".encode() + value.tobytes())
        found.append(total.hexdigest())
    return found


@pytest.mark.parametrize(
    ("how", "temperature"),
    [(corrupt, 0.5), (lambda record: record[:40], 0.0), (lambda record: b"", 0.0)],
    ids=["images", "truncated", "empty"],
)
def test_replacements_do_not_depend_on_the_start_step(config, monkeypatch, caplog, how, temperature):
    config.data.rare_class_temperature = temperature
    pipeline.labelled_list(config)
    names = [pipeline.names_of_step(config, step) for step in range(12)]
    sound = digests(config, 0, 12)
    damage(monkeypatch, BAD, how)
    straight = digests(config, 0, 12)
    assert caplog.text.count("does not decode") >= 3
    assert "source_train source_train_000002 does not decode" in caplog.text
    bad_names = {f"{split}_{index:06}" for split, indices in BAD.items() for index in indices}
    untouched = [not bad_names & {*itertools.chain(*found.values())} for found in names]
    assert [one == other for one, other in zip(sound, straight, strict=True)] == untouched
    for start in (0, 5, 11):
        forget(config)
        assert digests(config, start, 12 - start) == straight[start:]
    forget(config)
    config.data.readers = 1
    assert digests(config, 0, 12) == straight


def test_control_characters_of_names_are_escaped(config, monkeypatch, caplog):
    damage(monkeypatch, BAD)
    split = open_splits(config, ["source_train"])["source_train"]
    names = [f"\x1b[31m{index}\n" for index in range(split.count)]
    monkeypatch.setattr(split, "_index", split._index._replace(names=names))
    digests(config, 0, 6)
    assert r"toy_streets/source_train \x1b[31m2\n does not decode" in caplog.text
    names = pipeline.names_of_step(config, 0)["source"]
    assert all(name.isprintable() for name in [*names, *split.undecodable[("image", "label")].values()])


def test_names_of_a_step_match_its_images(config, monkeypatch):
    config.seed = 3
    damage(monkeypatch, BAD)
    records = {}
    for part, split in open_splits(config, ["source_train", "target_train"]).items():
        decode = split.decoder("image", "name")
        for index in set(range(split.count)) - set(BAD[part]):
            example = decode(split._fetch_one(index))
            records[example["image"].numpy().tobytes()] = example["name"].numpy().decode()
    for step, batch in enumerate(itertools.islice(pipeline.training_batches(config), 9)):
        names = {stream: [records[image.tobytes()] for image in arrays["image"]] for stream, arrays in batch.items()}
        assert pipeline.names_of_step(config, step) == names


def test_damaged_label_matters_only_where_labels_are_read(config, monkeypatch):
    images = [batch["unlabelled"]["image"] for batch in itertools.islice(pipeline.training_batches(config), 8)]
    damage(
        monkeypatch,
        BAD,
        lambda record: record[: record.index(b"label")] + record[record.index(b"label") :].replace(b"IDAT", b"IDAX", 1),
    )
    split = open_splits(config, ["target_train"])["target_train"]
    if split.fault(1, ("image",)):
        pytest.skip("The record stores its image after its label.")
    for before, batch in zip(images, pipeline.training_batches(config), strict=False):
        np.testing.assert_array_equal(before, batch["unlabelled"]["image"])


def test_too_many_damaged_records_stop_the_run_and_are_named(config, monkeypatch):
    config.data.undecodable_limit = 1
    damage(monkeypatch, BAD)
    with pytest.raises(UndecodableError, match=r"More than 1 images do not decode .*source_train_00000[25]"):
        digests(config, 0, 12)


def test_stream_of_only_damaged_images_stops_the_run(config, monkeypatch):
    damage(monkeypatch, {"source_train": range(7)})
    with pytest.raises(ValueError, match="None of the 7 images of toy_streets/source_train decodes"):
        digests(config, 0, 12)


def test_damaged_evaluation_image_is_named_not_replaced(config, monkeypatch):
    config.evaluation.batch = 2
    damage(monkeypatch, {"target_validation": (3,)})
    batches = pipeline.evaluation_batches(config)
    next(batches)
    with pytest.raises(UndecodableError, match=r"to be scored do not decode:\n.*target_validation_000003: "):
        next(batches)
