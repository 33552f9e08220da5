"""Volumes from records to batches: whole patients, small tumours, and resumed preparation."""

import json

import nibabel
import numpy as np
import pytest

from configs.user_error import UserError
from data import pipeline
from data.datasets.registry import SPECS
from data.preparation import prepare, records, shards
from data.preparation.location import locate_split
from data.reading import split_builder
from data.reading.split_reader import open_splits
from data.sampling.rare_classes import RareClassSampler
from tests.helpers import brats_trees

HEIGHT, WIDTH = brats_trees.SHAPE[1], brats_trees.SHAPE[0]
tree, config = brats_trees.tree, brats_trees.config


def test_records_resume_by_volume_and_equal_those_of_one_go(config, tree, monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "VOLUMES_PER_SHARD", 1)
    made, make = [], records.make_records

    def stopping(pair, form):
        made.append(pair.name)
        if stop and len(made) > 2:  # One is the sample for the estimate of the disk.
            raise OSError("killed")
        return make(pair, form)

    monkeypatch.setattr(records, "make_records", stopping)
    place, stop = locate_split(config.data, "target_train"), True
    with pytest.raises(UserError, match="The same command resumes"):
        split_builder.open_split_builder(place, config.data, processes=1)
    first, stop = made.copy(), False
    made.clear()
    resumed = split_builder.open_split_builder(place, config.data, processes=1)
    names = tree.names["train"]
    assert first[1:] == names[:2]
    assert made[1:] == names[1:]  # The first volume is not read again.

    config.data.directory = str(tmp_path / "again")
    straight = split_builder.open_split_builder(locate_split(config.data, "target_train"), config.data, processes=1)
    contents = [list(builder.as_data_source("train")) for builder in (resumed, straight)]
    assert [record["name"].decode() for record in contents[0]] == [
        f"{name}/{z:03}" for name in names for z in range(1, 6)
    ]
    for one, other in zip(*contents, strict=True):
        assert one["name"] == other["name"]
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])
    for record in contents[0]:
        name, z = record["name"].decode().split("/")
        np.testing.assert_array_equal(
            record["image"], brats_trees.expected_image(tree.volumes[name]["flair"].astype(float), int(z))
        )


def test_batches_have_whole_labelled_patients_and_all_validation_slices(config, tree):
    choice = pipeline.labelled_list(config)
    patients = {name.partition("/")[0] for name in choice.names}
    assert len(patients) == 2
    assert len(choice.names) == 10
    assert choice.description == "brats2018_flair seed 0, 2 volumes"
    names = pipeline.names_of_step(config, 0)
    assert {name.partition("/")[0] for name in names["labelled"]} <= patients
    assert {name.partition("/")[0] for name in names["source"]} <= set(tree.names["source"])

    batch = next(pipeline.training_batches(config))
    assert batch["source"]["image"].shape == (2, HEIGHT, WIDTH, 3)
    assert set(np.unique(batch["source"]["label"])) <= {0, 1}

    volumes = pipeline.volumes(config)
    assert list(volumes.of_images) == [name for name in tree.names["validation"] for _ in range(5)]
    seen = dict.fromkeys(tree.names["validation"], 0)
    for batch in pipeline.evaluation_batches(config):
        for name, label in zip(batch["name"][batch["valid"]], batch["label"][batch["valid"]], strict=True):
            seen[name.partition("/")[0]] += np.count_nonzero(label == 1)
    assert seen == {name: np.count_nonzero(tree.labels[name]) for name in seen}


def test_held_out_and_listed_volumes_are_whole(config, tree, tmp_path):
    config.data.held_out = 1
    choice = pipeline.labelled_list(config)
    assert (len(choice.training), len(choice.held_out)) == (5, 5)
    held_out = {choice.names[index] for index in range(10)} & set(pipeline.held_out_volumes(config).of_images)
    assert len(set(pipeline.held_out_volumes(config).of_images)) == 1
    assert not held_out  # Names of volumes, not of slices.
    listed = tmp_path / "list.txt"
    listed.write_text(f"{tree.names['train'][2]}\n{tree.names['train'][0]}\n")
    config.data.labelled_list = str(listed)
    chosen = pipeline.labelled_list(config)
    assert {name.partition("/")[0] for name in chosen.names} == set(tree.names["train"][::2])
    assert len(chosen.names) == 10
    listed.write_text("Brats18_none_1\n")
    config.data.held_out = 0
    with pytest.raises(UserError, match=r"1 of the 1 image of data\.labelled_list .* Brats18_none_1"):
        pipeline.labelled_list(config)
    config.data.update(labelled_list="", labelled_count=4)
    with pytest.raises(UserError, match=r"labelled_count is 4, .* expected 1 to 3"):
        pipeline.labelled_list(config)


def test_slices_with_a_single_pixel_of_tumour_are_drawn(config, tree):
    name = tree.names["source"][0]
    labels = tree.labels[name] * 0
    labels[10, 12, 3] = 2
    brats_trees.save(tree.file(name, "seg"), labels)
    config.data.rare_class_temperature = 1.0
    split = open_splits(config, ["source_train"])["source_train"]
    small = split.names().index(f"{name}/003")
    sampler = RareClassSampler(split.class_counts(), split.table, 1.0, (0, 0), SPECS["brats2018_t2"].least_share)
    drawn = sampler.draw(np.arange(300))
    assert np.count_nonzero(drawn == small) > 20


def test_the_index_has_the_frame_of_each_volume_once(config, tree):
    place = locate_split(config.data, "target_train")
    needed = prepare.needed_bytes(place.files.pairs, place.form)
    split_builder.open_split_builder(place, config.data, processes=1)
    index = json.loads((place.folder / "index_train.json").read_text())
    assert len(index["records"]) == 15
    assert sum("frame" in record for record in index["records"]) == 3
    first = records.make_records(place.files.pairs[0], place.form)
    assert needed == int(1.05 * 3 * sum(len(record.image) + len(record.label) for record in first))


def test_the_volumes_written_have_the_place_of_the_source(config, tree, tmp_path):
    volumes = pipeline.volumes(config)
    name = tree.names["validation"][0]
    file = volumes.write(name, tmp_path, "prediction", tree.labels[name].astype(np.uint8))
    written, source = nibabel.load(file), nibabel.load(tree.file(name, "flair"))
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), tree.labels[name])
