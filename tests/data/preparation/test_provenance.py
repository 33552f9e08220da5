"""Files changed in place with as many bytes are prepared again; copies with other times are not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.preparation import prepare, provenance, shards
from data.preparation.location import locate_split
from data.raw import file_access
from tests.helpers import trees
from tests.helpers.miniature_specs import SIZES
from tests.helpers.split_records import open_split, read


@pytest.fixture
def own(config, tmp_path):
    """Own source images with uncompressed labels: BMP, whose size does not depend on its pixels."""
    tree = trees.write_custom(tmp_path / "source", count=3)
    for file, label in zip(tree.label_files, tree.labels, strict=True):
        file.unlink()
        Image.fromarray(label).save(file.with_suffix(".bmp"))
    config.data.update(source="custom", source_size=SIZES["custom"], classes="toy")
    return tree._replace(label_files=[file.with_suffix(".bmp") for file in tree.label_files])


@pytest.fixture
def compared(monkeypatch):
    """The files whose content is compared, in their order; those of a preparation are left out."""
    found, digest = [], file_access.digest
    monkeypatch.setattr(file_access, "digest", lambda file: found.append(file.name) or digest(file))
    return found


def correct(file, pixels):
    """Rewrites a label with as many bytes, a second later."""
    before = file.stat()
    Image.fromarray(pixels).save(file)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def touch(root, seconds):
    """Gives all files another time, as a copy has."""
    for file in Path(root).rglob("*.*"):
        os.utime(file, ns=(0, file.stat().st_mtime_ns + seconds * 10**9))


def folder_of(config):
    return locate_split(config.data, "source_train").folder


def test_a_label_corrected_with_as_many_bytes_is_prepared_again(config, own, compared, caplog):
    first = open_split(config)
    corrected = own.labels[1] * 0 + 3
    correct(own.label_files[1], corrected)
    second = open_split(config)
    assert second.data_path != first.data_path
    assert (
        f"1 files have changed since {first.data_path.parent} was prepared, such as {own.label_files[1]}" in caplog.text
    )
    labels = {name: example["label"][..., 0] for name, example in read(second).items()}
    np.testing.assert_array_equal(labels["photo 1"], corrected)
    np.testing.assert_array_equal(labels["photo 2"], own.labels[2])
    compared.clear()
    caplog.clear()
    assert open_split(config).data_path == second.data_path
    assert (compared, caplog.text) == ([], "")


def test_a_change_that_is_taken_back_finds_the_first_records(config, own):
    first = open_split(config).data_path
    correct(own.label_files[1], own.labels[1] * 0 + 3)
    assert open_split(config).data_path != first
    correct(own.label_files[1], own.labels[1])
    assert folder_of(config) == Path(first)


def test_a_copy_with_other_times_is_compared_once_and_not_prepared(config, own, compared):
    first = Path(open_split(config).data_path)
    compared.clear()
    assert folder_of(config) == first
    assert compared == []
    touch(own.root, 60)
    assert folder_of(config) == first
    assert len(compared) == 6
    compared.clear()
    assert folder_of(config) == first
    assert compared == []


def test_two_copies_share_records_without_being_compared_again(config, own, compared, tmp_path):
    first = Path(open_split(config).data_path)
    shutil.copytree(own.root, tmp_path / "copy")
    touch(tmp_path / "copy", 60)
    found = []
    compared.clear()
    for name in ("copy", "source", "copy", "source"):
        config.data.source_root = str(tmp_path / name)
        found.append((folder_of(config), len(compared)))
    assert found == [(first, 6)] * 4
    # The same correction in both copies leads to the same records.
    for place, name in enumerate(("copy", "source")):
        correct(tmp_path / name / "masks" / own.label_files[1].name, own.labels[1] * 0 + 3)
        config.data.source_root = str(tmp_path / name)
        second = Path(open_split(config).data_path) if place == 0 else folder_of(config)
        found.append(second)
    assert found[-1] == found[-2] != first


def test_only_files_with_other_times_are_compared(config, own, compared):
    first = Path(open_split(config).data_path)
    compared.clear()
    os.utime(own.label_files[2], ns=(0, 1))
    assert folder_of(config) == first
    assert compared == [own.label_files[2].name]


def test_records_that_cannot_be_written_are_still_found(config, own, monkeypatch):
    first = Path(open_split(config).data_path)
    touch(own.root, 60)
    opened = Path.open

    def refuse(self, mode="r", *arguments, **options):
        if mode != "r" and self.name == provenance.LISTINGS:
            raise OSError(30, "Read-only file system")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert folder_of(config) == first
    assert len((first / provenance.LISTINGS).read_text().split()) == 1


def test_records_of_older_versions_are_used_unless_a_file_is_newer(config, own, caplog):
    first = Path(open_split(config).data_path)
    for name in (provenance.SOURCES, provenance.LISTINGS):
        (first / name).unlink()
    assert folder_of(config) == first
    later = (first / "index_source_train.json").stat().st_mtime_ns + 10**9
    os.utime(own.label_files[0], ns=(0, later))
    second = Path(open_split(config).data_path)
    assert second != first
    assert f"such as {own.label_files[0]}; it is prepared again" in caplog.text
    assert folder_of(config) == second


def test_a_killed_preparation_makes_shards_of_changed_files_again(config, own, monkeypatch):
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 1)
    monkeypatch.setattr(prepare.split_index, "write_index", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # All shards are finished.
        open_split(config)
    monkeypatch.undo()
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 1)
    correct(own.label_files[1], own.labels[1] * 0 + 3)
    labels = {name: example["label"] for name, example in read(open_split(config)).items()}
    assert (labels["photo 1"] == 3).all()
    np.testing.assert_array_equal(labels["photo 0"][..., 0], own.labels[0])


def test_changed_files_in_a_zip_file_are_noticed(tmp_path):
    for name, shade in (("one", 10), ("two", 20)):
        tree = trees.write_cityscapes(tmp_path / name, "train", 1)
        Image.fromarray(tree.images[0] * 0 + shade).save(tree.image_files[0].with_suffix(".bmp"))
        trees.write_zip_files(tmp_path / name, tmp_path / f"{name} zip")
    inner = "leftImg8bit_trainvaltest.zip/leftImg8bit"
    one, two = (
        next(
            state
            for file, state in file_access.list_files(tmp_path / f"{name} zip" / inner, deep=True).items()
            if file.suffix == ".bmp"
        )
        for name in ("one", "two")
    )
    assert one.size == two.size
    assert one.changed != two.changed
