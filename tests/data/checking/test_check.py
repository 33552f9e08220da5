"""`--mode=check` names every fault of the files on disk and counts what is in them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.checking import report
from data.datasets import gta5
from data.raw import faults
from data.raw.faults import Fault
from tests.helpers import file_faults, trees
from tests.helpers.data_check import run_check
from tests.helpers.miniature_specs import SIZES


def write(config, data_set, folder, count):
    """Writes a dataset for the domain that it fits, and another for the other domain; returns the first."""
    domain = "target" if data_set == "cityscapes" else "source"
    if domain == "source":
        config.data.update(source=data_set, source_size=SIZES[data_set])
        trees.write_cityscapes(folder / "target", "train")
    trees.write_cityscapes(folder / "target", "val", 3)
    if domain == "target":
        trees.write_gta5(folder / "source")
    return trees.WRITERS[data_set](folder / domain, count=count)


@pytest.mark.parametrize("source", ["gta5", "synthia", "custom"])
def test_clean_data_passes(config, source, capsys, tmp_path):
    write(config, source, tmp_path, 4)
    works, text = run_check(config, capsys)
    assert works
    assert text.endswith("Training would work with this data.\n")
    assert "cannot be used" not in text
    assert "labelled target images: cityscapes, all 4 images; 4 are there" in text


@pytest.mark.parametrize("data_set", trees.WRITERS)
def test_every_planted_fault_is_named(config, data_set, tmp_path, capsys):
    names = [name for name, plant in file_faults.FAULTS.items() if data_set in plant.data_sets and plant.pairs_lost]
    tree = write(config, data_set, tmp_path, len(names) + 2)
    expected = [file_faults.plant(name, tree, place) for place, name in enumerate(names)]
    config.data.rejected_limit = 100
    works, text = run_check(config, capsys)
    assert works
    remedies = report.OWN_REMEDIES if data_set == "custom" else report.REMEDIES
    for fault in expected:
        assert f"    {fault.file}: {fault.kind}: " in text
        assert remedies[fault.kind] in text
    # Some faults are of two files.
    assert int(re.search(r"(\d+) files would be left out", text)[1]) >= len(expected)
    config.data.rejected_limit = len(expected) - 1
    works, text = run_check(config, capsys)
    assert not works
    assert f"files cannot be used, more than the {len(expected) - 1} that may be left out" in text


@pytest.mark.parametrize(
    ("data_set", "name"),
    [(data_set, name) for name, plant in file_faults.FAULTS.items() for data_set in plant.data_sets],
)
def test_each_fault_alone_is_named(config, data_set, name, tmp_path, capsys):
    tree = write(config, data_set, tmp_path, 2)
    fault = file_faults.plant(name, tree, 1)
    config.data.rejected_limit = 0
    works, text = run_check(config, capsys)
    assert not works
    assert f"{fault.file}: {fault.kind}: " in text


def test_every_kind_of_fault_has_a_remedy():
    assert report.REMEDIES.keys() == report.OWN_REMEDIES.keys() == faults.KINDS.keys()


def test_advice_on_own_masks_can_be_followed(config, tmp_path, capsys):
    """Masks of two values that exist only as JPEG."""
    tree = write(config, "custom", tmp_path, 2)
    for place, file in enumerate(tree.label_files):
        mask = np.zeros(tree.labels[place].shape, np.uint8)
        mask[8:, 8:] = 255
        Image.fromarray(mask).save(file.with_suffix(".jpg"), quality=95)
        file.unlink()
    config.data.classes = "custom"
    names = ("background", "toy")
    config.data.custom.update(names=names, palette=((0, 0, 0), (9, 9, 9)), target_ids=())
    config.data.custom.source_ids = tuple(zip((0, 255), names, strict=True))
    works, text = run_check(config, capsys)
    assert not works
    assert "lossy label: 2. Masks of two values may stay JPEG: set data.custom.source_encoding" in text
    config.data.custom.source_encoding = "binary"
    works, text = run_check(config, capsys)
    section = text.partition("source_train: ")[2].partition("target_train: ")[0]
    assert "cannot be used" not in section
    assert "background" in section


def test_advice_on_large_own_ids_can_be_followed(config, tmp_path, capsys):
    tree = write(config, "custom", tmp_path, 2)
    tree.label_files[0].write_bytes(trees.png_bytes(tree.labels[0].astype(np.uint16) + 300))
    assert "unknown ids: 1. Give the larger numbers a class" in run_check(config, capsys)[1]
    name = config.data.custom.names[0]
    config.data.custom.source_ids = (*config.data.custom.source_ids, (301, name))
    works, text = run_check(config, capsys)
    assert works
    assert "unknown ids" not in text


def test_target_and_validation_faults_are_named(config, clean, capsys):
    _, train, validation = clean
    one, other = file_faults.plant("damaged image", train, 2), file_faults.plant("train ids", validation, 1)
    works, text = run_check(config, capsys)
    assert works
    assert f"{one.file}: damaged: " in text
    assert f"{other.file}: train ids: " in text
    assert "2 files would be left out" in text


def test_missing_data_sets_are_all_explained(config, capsys, tmp_path):
    for roots in (("", ""), (str(tmp_path / "nowhere"), str(tmp_path))):
        config.data.update(source_root=roots[0], target_root=roots[1])
        works, text = run_check(config, capsys)
        assert not works
        for name, domain in (("gta5", "source"), ("cityscapes", "target")):
            assert text.count(f"The dataset {name!r} was not found.") == 1
            assert f"--config.data.{domain}_root=FOLDER" in text
    for split in ("train", "val"):
        assert f"{tmp_path / 'leftImg8bit' / split}: missing folder" in text


def test_only_the_missing_split_is_reported(config, clean, capsys):
    shutil.rmtree(clean[2].label_files[0].parents[1])
    works, text = run_check(config, capsys)
    assert not works
    assert "gtFine/val: missing folder" in text
    assert "'gta5'" not in text


def test_numbers_of_a_split_are_reported(config, clean, capsys):
    source, train, _ = clean
    _, text = run_check(config, capsys)
    assert "pairs: 4 of 24966 in the complete dataset: 24962 are not there" in text
    assert "48x26 pixels: 4   (expected 1914x1052 or 1914x1046; the first one: " in text
    assert "labels: 4 PNG, palette of 8 bits" in text
    assert "images: 4 PNG, colour of 8 bits" in text
    section = text.partition("target_train: ")[2].partition("target_validation: ")[0]
    counts = np.bincount(np.array(train.labels).ravel(), minlength=256)
    rows = {int(row[0]): row[1:] for row in map(str.split, section.splitlines()) if row and row[0].isdigit()}
    assert rows.keys() == set(np.flatnonzero(counts))
    for raw_id, row in rows.items():
        share = counts[raw_id] / counts.sum()
        assert row[:2] == [f"{share:.2%}", str(sum(raw_id in label for label in train.labels))]
    assert rows[26][2:] == ["car"]
    assert rows[0][2:] == ["ignored"]
    wanted = [raw_id for raw_id, row in rows.items() if row[2] == "ignored"]
    assert f"ignored in all: {counts[wanted].sum() / counts.sum():.2%} of the pixels" in section
    assert len(source.names) == 4


def test_a_few_unknown_ids_are_reported_but_are_no_fault(config, tmp_path, capsys):
    trees.write_cityscapes(tmp_path / "target", "train")
    trees.write_cityscapes(tmp_path / "target", "val", 3)
    tree = trees.write_gta5(tmp_path / "source", size=(52, 96))
    tree.labels[2][-1, -1] = 77
    tree.label_files[2].write_bytes(trees.encode_label("gta5", tree.labels[2]))
    works, text = run_check(config, capsys)
    assert works
    assert f"UNKNOWN, ignored; the first one: {tree.label_files[2]}" in text


def test_classes_missing_from_all_labels_are_reported(config, clean, capsys):
    source = clean[0]
    for file, label in zip(source.label_files, source.labels, strict=True):
        file.write_bytes(trees.encode_label("gta5", np.where(np.isin(label, (31, 33)), 7, label)))
    _, text = run_check(config, capsys)
    assert "expected, but in no label: train, bicycle" in text


def test_labels_without_any_class_are_reported(config, clean, capsys):
    """Terrain is a class of GTA5 but not of the sixteen of SYNTHIA."""
    source = clean[0]
    source.label_files[1].write_bytes(trees.encode_label("gta5", source.labels[1] * 0 + 22))
    config.data.classes = "synthia16"
    _, text = run_check(config, capsys)
    assert f"labels without a pixel of these classes: 1, the first one: {source.label_files[1]}" in text
    assert "ignored (terrain: not in data.classes)" in text


def test_undeclared_own_ids_are_reported(config, tmp_path, capsys):
    write(config, "custom", tmp_path, 2)
    _, text = run_check(config, capsys)
    assert "ignored (not in data.custom.source_ids)" in text
    assert "pairs: 2\n" in text


def test_known_bad_pairs_are_marked(config, clean, capsys):
    source = clean[0]
    for name in gta5.SPEC.known_bad:
        (source.root / "images" / f"{name}.png").write_bytes(trees.png_bytes(source.images[0][:-6]))
        (source.root / "labels" / f"{name}.png").write_bytes(source.label_files[0].read_bytes())
    works, text = run_check(config, capsys)
    assert works
    for name in gta5.SPEC.known_bad:
        line = next(line for line in text.splitlines() if f"labels/{name}.png: size mismatch" in line)
        assert line.endswith("(known: in the official archives too)")


def test_zip_files_are_checked(config, tmp_path, capsys):
    trees.write_gta5(tmp_path / "source")
    for split in ("train", "val"):
        trees.write_cityscapes(tmp_path / "tree", split, 3)
    trees.write_zip_files(tmp_path / "tree", tmp_path / "target")
    assert run_check(config, capsys)[0]


def test_control_characters_of_names_are_escaped(config, capsys, tmp_path):
    write(config, "custom", tmp_path, 2)
    name = "a\x1b[31m\n\u202eb\udce9.png"
    for folder in ("photos", "masks"):
        (tmp_path / "source" / folder / name).write_bytes(b"")
    (tmp_path / "source" / "photos" / "c\x1b[0m.png").write_bytes(b"")
    _, text = run_check(config, capsys)
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert r"a\x1b[31m\n\u202eb\udce9.png: odd name" in text
    assert r"c\x1b[0m.png: missing label" in text


def test_fault_text_is_one_line():
    fault = Fault("damaged", Path("a\nb"), "it holds \x07.")
    assert str(fault) == r"a\nb: damaged: it holds \x07."


def test_files_of_other_tools_are_no_faults(config, capsys, tmp_path):
    write(config, "gta5", tmp_path, 3)
    source = tmp_path / "source"
    for number in range(1, 31):  # More than may be rejected.
        (source / "labels" / f"{number:05}_labelTrainIds.png").write_bytes(b"converted")
    for folder in ("images", "labels"):
        (source / folder / "Thumbs.db").write_bytes(b"thumbs")
    (source / "README.md").write_text("beside the folders")
    works, text = run_check(config, capsys)
    assert works, text
    assert "  other files, not used: 30 *_labelTrainIds.png, 2 Thumbs.db\n" in text
    assert "odd name" not in text
