"""Preparation with damaged or missing files, a full disk, or an incomplete prepared folder."""

import shutil
from pathlib import Path

import pytest

from configs.user_error import UserError
from data import pipeline
from data.preparation import prepare, shards, split_index
from tests.helpers import file_faults, trees
from tests.helpers.miniature_specs import SIZES
from tests.helpers.split_records import open_split, read


@pytest.mark.parametrize("data_set", trees.WRITERS)
def test_every_planted_fault_is_named_and_left_out(config, data_set, tmp_path, monkeypatch):
    names = [name for name, plant in file_faults.FAULTS.items() if data_set in plant.data_sets and plant.pairs_lost]
    domain = "target" if data_set == "cityscapes" else "source"
    tree = trees.WRITERS[data_set](tmp_path / domain, count=len(names) + 2)
    expected = [file_faults.plant(name, tree, place) for place, name in enumerate(names)]
    config.data.update({domain: data_set, f"{domain}_size": SIZES[data_set]})
    config.data.rejected_limit = 100
    said = []
    monkeypatch.setattr(prepare.logging, "warning", lambda text, *values: said.append(text % values))
    builder = open_split(config, f"{domain}_train")
    rejected = (Path(builder.data_path) / prepare.REJECTED).read_text()
    for fault in expected:
        assert f"{fault.file}: {fault.kind}: " in rejected
        assert any(line.startswith(f"{fault.file}: {fault.kind}: ") for line in said)
    assert list(read(builder)) == tree.names[len(names) :]


def test_too_many_rejected_files_stop_preparation(config, tmp_path):
    tree = trees.write_gta5(tmp_path / "source", count=6)
    for place in range(1, 4):
        content = tree.label_files[place].read_bytes()
        tree.label_files[place].write_bytes(b"x" * len(content))
    config.data.rejected_limit = 2
    with pytest.raises(ValueError, match=r"more than 2 files.*rejected_limit.*\n.*labels/00002\.png: damaged"):
        open_split(config)
    for place in range(1, 4):
        tree.label_files[place].write_bytes(trees.encode_label("gta5", tree.labels[place]))
    assert list(read(open_split(config))) == tree.names


def test_repaired_files_are_read_again(config, tmp_path, monkeypatch):
    """Repaired files are read even if their size is unchanged and the shard without them is finished."""
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 2)
    tree = trees.write_gta5(tmp_path / "source", count=6)
    for place in (0, 5):
        tree.label_files[place].write_bytes(b"x" * tree.label_files[place].stat().st_size)
    config.data.rejected_limit = 1
    with pytest.raises(ValueError, match="more than 1 files"):
        open_split(config)
    for place in (0, 5):
        tree.label_files[place].write_bytes(trees.encode_label("gta5", tree.labels[place]))
    assert list(read(open_split(config))) == tree.names


def test_dataset_without_usable_images_is_refused(config, tmp_path):
    tree = trees.write_gta5(tmp_path / "source", count=1)
    tree.label_files[0].write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image of gta5 train can be used:\n.*00001\.png: damaged"):
        open_split(config)


@pytest.mark.parametrize(("name", "domain"), [("gta5", "source"), ("cityscapes", "target")])
def test_missing_data_is_explained(config, name, domain, tmp_path):
    for root in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        config.data[f"{domain}_root"] = root
        with pytest.raises(
            ValueError, match=rf"(?s)'{name}' was not found.*Download from https.*--config.data.{domain}"
        ):
            open_split(config, f"{domain}_train")


def test_full_disk_is_reported_before_preparation(config, tmp_path, monkeypatch):
    trees.write_gta5(tmp_path / "source", count=3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(ValueError, match=r"gta5 train: 3 images take about 0\.0 MB, 0\.0 MB are free.*data\.directory"):
        open_split(config)
    monkeypatch.undo()
    assert len(read(open_split(config))) == 3


def test_preparation_resumes_after_the_disk_was_full(config, tmp_path, monkeypatch):
    trees.write_gta5(tmp_path / "source", count=5)
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 2)
    rename, calls = Path.rename, []

    def full(self, target):
        calls.append(self)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ValueError, match=r"stopped: .*No space left on device.* resumes from there"):
        open_split(config)
    monkeypatch.setattr(Path, "rename", rename)
    assert len(read(open_split(config))) == 5


@pytest.mark.parametrize("step", ["mkdir", "write_text"])
def test_folder_that_takes_no_files_is_named(config, tmp_path, monkeypatch, step):
    """Root may write anywhere, so the refusal is imitated."""
    trees.write_gta5(tmp_path / "source", count=2)
    original, prepared = getattr(Path, step), tmp_path / "prepared"

    def refuse(self, *arguments, **options):
        if self.is_relative_to(prepared) and not self.name.startswith("temporary"):
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, step, refuse)
    expected = rf"{prepared}/gta5/\S+ cannot be written \(Permission denied\); .* free .*--config\.data\.directory"
    with pytest.raises(UserError, match=expected):
        open_split(config)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"raw_ids": 3}'])
def test_damaged_index_is_named(config, tmp_path, content):
    trees.write_gta5(tmp_path / "source", count=2)
    folder = Path(open_split(config).data_path)
    file = split_index.file_of(folder, "train")
    file.write_text(content)
    with pytest.raises(UserError, match=f"{file} is damaged .*; remove {folder} to have it prepared again"):
        split_index.read_index(file)


def test_folder_with_missing_files_is_reported(config, tmp_path):
    trees.write_gta5(tmp_path / "source", count=2)
    (open_split(config).data_path / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match="remove it"):
        open_split(config)


def test_missing_files_are_reported_before_preparation(config, tmp_path):
    trees.write_gta5(tmp_path / "source", count=2)
    trees.write_cityscapes(tmp_path / "target", "train", 2)
    with pytest.raises(ValueError, match=r"(?s)'cityscapes' was not found.*val: missing folder"):
        pipeline.prepare(config)
    assert not (tmp_path / "prepared").exists()
