"""`--mode=check` says whether a run would work: its settings, labelled images, disk and prepared data."""

import shutil

import pytest

from configs import _variants, custom, gta5, toy
from data import pipeline
from data.checking import check, survey
from data.preparation import prepare, workers
from data.preparation.location import locate_split
from tests.helpers import file_faults, trees
from tests.helpers.data_check import run_check


def test_missing_images_of_a_list_are_named(config, clean, capsys, tmp_path):
    names, train = tmp_path / "list.txt", clean[1]
    names.write_text("\n".join(train.names))
    config.data.labelled_list = str(names)
    assert run_check(config, capsys)[0]
    fault = file_faults.plant("truncated label", train, 1)
    gone = file_faults.plant("missing label", train, 2)
    names.write_text("\n".join([*train.names, "ulm/ulm_000999_000019"]))
    works, text = run_check(config, capsys)
    assert not works
    assert "labelled target images: " in text
    assert "5 images; 2 are there" in text
    assert f"not there: {train.names[1]}: {fault.file}: damaged" in text
    assert f"not there: {train.names[2]}: {gone.file}: missing label" in text
    assert "not there: ulm/ulm_000999_000019: no such image on disk" in text
    assert "3 of the 5 images" in text.partition("Training would not work")[2]


def test_missing_labelled_images_are_counted(config, clean, capsys):
    config.data.labelled_count = 100
    works, text = run_check(config, capsys)
    assert not works
    assert "cityscapes seed 0, 100 images; 0 are there" in text
    assert "100 of the 100 images" in text


def test_only_what_the_run_needs_is_checked(config, tmp_path, capsys):
    trees.write_gta5(tmp_path / "source")
    trees.write_cityscapes(tmp_path / "target", "val", 3)
    _variants._set_variant(config, "source_only")
    works, text = run_check(config, capsys)
    assert works
    assert "target_train" not in text
    assert "labelled target images: none are needed" in text


def test_limit_checks_a_few_evenly_spread_pairs(config, clean, capsys):
    source = clean[0]
    file_faults.plant("empty label", source, 1)
    works, text = run_check(config, capsys, limit=2)
    assert works
    assert "looked into 2 of them, evenly spread" in text
    assert "No more than 2 pairs of each split were looked into." in text
    file_faults.plant("empty label", source, 0)
    file_faults.plant("empty label", source, 2)
    works, text = run_check(config, capsys, limit=2)
    assert not works
    assert "none of the 2 pairs that were looked into can be used" in text


def test_evenly_spread():
    assert survey.spread_evenly(range(10), 4) == [0, 2, 5, 7]
    assert survey.spread_evenly(range(3), 16) == [0, 1, 2]
    assert survey.spread_evenly([], 16) == []


def test_validation_labels_of_several_sizes_need_batch_one(config, clean, capsys):
    image, label = trees.scene("cityscapes", 7, (20, 40))
    clean[2].image_files[1].write_bytes(trees.png_bytes(image))
    clean[2].label_files[1].write_bytes(trees.png_bytes(label))
    assert run_check(config, capsys)[0]
    config.evaluation.batch = 2
    works, text = run_check(config, capsys)
    assert not works
    assert "evaluation.batch=1" in text


def test_too_small_disk_is_reported(config, clean, capsys, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    works, text = run_check(config, capsys)
    assert not works
    assert "--config.data.directory=FOLDER" in text
    assert not (tmp_path / "prepared").exists()


def test_prepared_data_needs_no_files(config, clean, capsys, tmp_path):
    pipeline.prepare(config)
    works, text = run_check(config, capsys)
    assert works
    assert "nothing is left to prepare" in text
    for folder in ("source", "target"):
        shutil.rmtree(tmp_path / folder)
    works, text = run_check(config, capsys)
    assert works
    assert text.count("prepared earlier: ") == 3


def test_prepared_folder_with_missing_files_is_reported(config, clean, capsys, tmp_path):
    pipeline.prepare(config)
    (file,) = (tmp_path / "prepared" / "gta5").rglob("index_train.json")
    file.unlink()
    for _ in range(2):  # With and without the original files.
        works, text = run_check(config, capsys)
        assert not works
        assert f"{file.parent} is not a complete dataset; remove it" in text
        shutil.rmtree(tmp_path / "source", ignore_errors=True)


def test_report_file_names_every_fault(config, clean, capsys, tmp_path):
    for number in range(100, 130):
        (clean[0].root / "images" / f"{number:05}.png").write_bytes(b"")
    config.data.rejected_limit = 100
    _, text = run_check(config, capsys, report_file=tmp_path / "check.txt")
    assert "... 10 more" in text
    report = (tmp_path / "check.txt").read_text()
    assert all(f"{number:05}.png: missing label" in report for number in range(100, 130))


def test_several_processes_find_the_same(config, tmp_path):
    tree = trees.write_gta5(tmp_path / "source", 30)
    file_faults.plant("train ids", tree, 20)
    place = locate_split(config.data, "source_train")
    found = [
        survey.survey_pairs(place.files.pairs, place.spec.labels, frozenset({7}), "gta5", processes)
        for processes in (1, 2)
    ]
    assert found[0] == found[1]
    assert [fault.kind for fault in found[0].faults] == ["train ids"]


def test_dead_process_is_explained(config, tmp_path, monkeypatch):
    trees.write_gta5(tmp_path / "source", 30)
    place = locate_split(config.data, "source_train")

    def dying(*arguments):
        raise survey.BrokenProcessPool("A process ended.")
        yield

    monkeypatch.setattr(workers, "map_in_order", dying)
    with pytest.raises(ValueError, match="same command again"):
        survey.survey_pairs(place.files.pairs, place.spec.labels, frozenset(), "gta5")


def test_generated_data_is_checked():
    config = toy.get_config()
    assert check.check_data(config)
    config.data.labelled_count = 151
    assert not check.check_data(config)
    config = toy.get_config()
    config.data.toy.validation_count = 0
    assert not check.check_data(config)


def test_configurations_without_data_fail_the_check():
    """Missing data makes the check return False, not raise."""
    for config in (gta5.get_config(), custom.get_config()):
        config.data.update(source_root="nowhere", target_root="nowhere", directory="nowhere")
        assert not check.check_data(config)


def test_estimated_disk_space_is_close_to_the_actual(config, clean, tmp_path):
    trees.write_gta5(tmp_path / "source", 6, size=(520, 960))
    config.data.full_size = True
    place = locate_split(config.data, "source_train")
    needed = prepare.needed_bytes(place.files.pairs, place.form)
    pipeline.prepare(config)
    folder = place.folder
    written = sum(file.stat().st_size for file in folder.glob("*array_record*"))
    assert 0.7 * written < needed < 1.3 * written
