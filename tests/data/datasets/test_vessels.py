"""Vessels of the retina: splits, pixels outside the field of view, and named faults."""

import shutil

import numpy as np
import pytest

from configs import vessels
from data import pipeline
from data.classes import IGNORED, class_table, train_ids
from data.datasets.registry import SPECS
from data.raw.pairs import read_pair
from data.sampling import labelled_subset
from tests.helpers import vessel_trees
from tests.helpers.data_check import run_check

OUTSIDE = 254  # Raw id outside the field of view.


@pytest.fixture
def trees(tmp_path):
    return {dataset: vessel_trees.write(tmp_path, dataset) for dataset in vessel_trees.NAMES}


@pytest.fixture
def config(tmp_path, trees):
    """Both datasets in miniature, all target images labelled, at their own sizes."""
    config = vessels.get_config("joint")
    config.data.update(directory=str(tmp_path / "prepared"), labelled_count=-1, rejected_limit=0)
    config.data.update(source_root=str(tmp_path), target_root=str(tmp_path))
    config.data.update(source_size=vessel_trees.SIZES["drive"], target_size=vessel_trees.SIZES["stare"])
    return config


@pytest.mark.parametrize("dataset", vessel_trees.NAMES)
def test_labels_are_ignored_outside_the_field_of_view(dataset, trees, tmp_path):
    spec, data = SPECS[dataset], tmp_path / "data"
    for split, names in vessel_trees.NAMES[dataset].items():
        for root in (tmp_path, data, data / dataset.upper()):  # The clone, and folders in it.
            found = spec.find(root, split)
            assert found.faults == []
            assert [pair.name for pair in found.pairs] == sorted(names)
        for pair in found.pairs:
            photograph, content = trees[dataset][pair.name], read_pair(pair, spec.labels)
            expected = np.where(photograph.seen, np.where(photograph.vessels, 255, 0), OUTSIDE)
            np.testing.assert_array_equal(content.label, expected)
            assert content.counts[OUTSIDE] == np.count_nonzero(~photograph.seen)


def test_test_images_are_scored_and_in_no_training():
    for dataset, count in {"drive": 20, "stare": 10}.items():
        splits = {part: (split.name, split.count) for part, split in SPECS[dataset].splits.items()}
        training = ("training", count)
        expected = {"source_train": training, "target_train": training, "target_validation": ("test", count)}
        assert splits == expected


def test_raw_ids_become_train_ids():
    found = train_ids(SPECS["drive"].labels.raw_ids, class_table("vessel"))
    assert (found[0], found[255]) == (0, 1)
    assert set(found[1:255]) == {IGNORED}


def test_clean_sets_are_checked_prepared_and_read(config, trees, capsys):
    works, text = run_check(config, capsys)
    assert works, text
    for words in ("pairs: 3 of 20", "pairs: 2 of 10", "3 TIFF", "3 GIF", "2 PPM", "254", "ignored in all"):
        assert words in text
    assert "UNKNOWN" not in text
    for batch in pipeline.evaluation_batches(config):
        photograph = trees["stare"][str(batch["name"][0])]
        np.testing.assert_array_equal(batch["label"][0], np.where(photograph.seen, photograph.vessels, IGNORED))


FAULTS = {
    "vessels of another size": ("vessel_file", "size mismatch", lambda pixels: pixels[:-1]),
    "view of another size": ("view_file", "size mismatch", lambda pixels: pixels[:, :-1]),
    "vessels of three values": ("vessel_file", "not binary", lambda pixels: pixels.astype(np.uint8) * 3),
    "view of three values": ("view_file", "not binary", lambda pixels: pixels.astype(np.uint8) * 3),
    "empty view": ("vessel_file", "all ignored", None),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("dataset", ["drive", "stare"])
def test_faults_of_masks_are_named(name, dataset, config, trees, capsys):
    key, kind, change = FAULTS[name]
    photograph = trees[dataset][vessel_trees.NAMES[dataset]["training"][1]]
    file = getattr(photograph, key)
    if change is None:
        photograph.view_file.write_bytes(vessel_trees.encode(photograph.seen & False, photograph.view_file))
    else:
        pixels = photograph.vessels if key == "vessel_file" else photograph.seen
        file.write_bytes(vessel_trees.encode(change(pixels), file))
    works, text = run_check(config, capsys)
    assert not works
    assert text.count(f"{file}: {kind}: ") == 1


def test_masks_without_vessels_are_counted(config, trees, capsys):
    photograph = trees["stare"]["im0044"]
    photograph.vessel_file.write_bytes(vessel_trees.encode(photograph.vessels & False, photograph.vessel_file))
    works, text = run_check(config, capsys)
    assert works
    assert "  empty masks: 1: im0044\n" in text


def test_missing_files_are_named(config, trees, capsys):
    first, second, third = (trees["drive"][name] for name in vessel_trees.NAMES["drive"]["training"])
    first.view_file.unlink()
    second.vessel_file.unlink()
    third.image_file.unlink()
    third.image_file.with_name("23.tif").write_bytes(b"")
    works, text = run_check(config, capsys)
    assert not works
    folder = first.view_file.parent
    assert f"{first.image_file}: missing field of view: expected a mask of the same name in {folder}, found" in text
    assert f"{second.image_file}: missing label" in text
    assert f"{third.vessel_file}: missing image" in text
    assert "23.tif: odd name: expected NAME_training.tif, NAME_manual1.gif, NAME_training_mask.gif" in text


def test_missing_folders_are_explained(config, trees, tmp_path, capsys):
    folder = tmp_path / "data/STARE/training/mask"
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "data/DRIVE").rename(tmp_path / "DRIVE")
    config.data.source_root = str(tmp_path / "nowhere")
    works, text = run_check(config, capsys)
    assert not works
    for part in (f"{folder}: missing folder", "'drive' was not found", "git clone", "mask/21_training_mask.gif"):
        assert part in text


def test_a_changed_field_of_view_is_prepared_again(trees, tmp_path):
    photograph, spec = trees["drive"]["21"], SPECS["drive"]
    before = spec.find(tmp_path, "training").pairs[0]
    photograph.view_file.write_bytes(vessel_trees.encode(photograph.vessels, photograph.view_file))
    after = spec.find(tmp_path, "training").pairs[0]
    assert before.size[:2] == after.size[:2]
    assert before.size != after.size  # Part of the fingerprint of the records.


@pytest.mark.parametrize(
    ("words", "expected"),
    [("", ("drive", "stare", 2)), ("5", ("drive", "stare", 5)), ("stare_to_drive", ("stare", "drive", 2))],
)
def test_direction_is_a_word(words, expected):
    data = vessels.get_config(words).data
    assert (data.source, data.target, data.labelled_count) == expected


def test_held_out_images_leave_the_same_images_for_training():
    names = [f"im{number:04}" for number in range(10)]
    for count in (2, 5):
        data = vessels.get_config(str(count)).data
        plain = labelled_subset.choose(data, names, np.ones(10, bool))
        data.update(labelled_count=count + 5, held_out=5)
        held_out = labelled_subset.choose(data, names, np.ones(10, bool))
        np.testing.assert_array_equal(held_out.training, plain.training)
        assert len(held_out.held_out) == 5


def test_evaluation_needs_only_the_images_that_are_scored(config, trees, tmp_path):
    config.data.source_root = str(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "data/STARE/training")
    pipeline.prepare(config, scored_only=True)
    assert [folder.name for folder in (tmp_path / "prepared").iterdir() if folder.is_dir()] == ["stare"]
    assert [str(batch["name"][0]) for batch in pipeline.evaluation_batches(config)] == ["im0162", "im0324"]
    assert pipeline.left_out(config) == 0
