"""Faults of volumes, each named by the check."""

import gzip

import numpy as np

from data.checking import survey
from data.datasets import brats2018
from tests.helpers import brats_trees
from tests.helpers.data_check import run_check

tree, config = brats_trees.tree, brats_trees.config


def test_the_check_finds_nothing_wrong(config, tree, capsys):
    works, text = run_check(config, capsys)
    assert works, text
    assert "labelled target images: brats2018_flair seed 0, 2 volumes; 2 are there" in text
    assert "images: 3 NIfTI, 20x24x7 of int16" in text
    assert "the same images in two parts" not in text
    assert "empty masks" not in text
    assert "UNKNOWN" not in text


def cut(tree, name):
    file = tree.file(name, "flair")
    file.write_bytes(file.read_bytes()[:-400])
    return file, "damaged: the gzip file is cut off or damaged"


def cut_inside(tree, name):
    file = tree.file(name, "flair")
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-400]))
    return file, "damaged: the NIfTI file is cut off"


def no_nifti(tree, name):
    file = tree.file(name, "flair")
    file.write_bytes(gzip.compress(b"<html>Log in</html>" * 30))
    return file, "damaged: expected a NIfTI file, found another one"


def four_dimensions(tree, name):
    file = tree.file(name, "flair")
    brats_trees.save(file, tree.volumes[name]["flair"][..., None].repeat(2, axis=3))
    return file, "damaged: expected a volume of numbers in three dimensions, found 20x24x7x2 of int16"


def not_a_number(tree, name):
    file = tree.file(name, "flair")
    voxels = tree.volumes[name]["flair"].astype(np.float32)
    voxels[3, 4, :2] = np.nan
    brats_trees.save(file, voxels)
    return file, "not finite: 2 of 3360 voxels are NaN or infinite"


def empty(tree, name):
    file = tree.file(name, "flair")
    brats_trees.save(file, tree.volumes[name]["flair"] * 0)
    brats_trees.save(tree.file(name, "seg"), tree.labels[name] * 0)
    return file, "damaged: expected a brain, found only voxels of 0"


def other_shape(tree, name):
    file = tree.file(name, "seg")
    brats_trees.save(file, tree.labels[name][:, :, :-1])
    return file, f"size mismatch: the volume {tree.file(name, 'flair')} has 20x24x7 voxels, its label 20x24x6"


def other_affine(tree, name):
    file = tree.file(name, "seg")
    brats_trees.save(file, tree.labels[name], np.diag([1.0, 1, 1, 1]))
    return file, "affine mismatch: the volume "


def other_ids(tree, name):
    file = tree.file(name, "seg")
    brats_trees.save(file, np.where(tree.labels[name] == 4, 3, tree.labels[name]).astype(np.int16))
    return file, "unknown ids: expected the raw ids 0, 1, 2, 4, found also 3: "


def interpolated(tree, name):
    file = tree.file(name, "seg")
    brats_trees.save(file, tree.labels[name].astype(np.float32) * 0.75)
    return file, "unknown ids: expected whole numbers of 0 to 255, found also "


def no_sequence(tree, name):
    tree.file(name, "flair").unlink()
    return tree.file(name, "flair").parent, f"missing image: expected {name}_flair.nii.gz, a sequence of this patient"


def no_label(tree, name):
    tree.file(name, "seg").unlink()
    return tree.file(name, "seg").parent, f"missing label: expected {name}_seg.nii.gz"


def other_name(tree, name):
    file = tree.file(name, "flair")
    (file.parent / "scan.nii.gz").write_bytes(file.read_bytes())
    return None, "other files, not used: 1 scan.nii.gz"


FAULTS = (
    *(cut, cut_inside, no_nifti, four_dimensions, not_a_number, empty, other_shape, other_affine, other_ids),
    *(interpolated, no_sequence, no_label, other_name),
)


def test_every_fault_is_named(config, tmp_path, capsys, monkeypatch):
    """One patient has each fault; all are named in one check."""
    monkeypatch.setattr(survey, "_FEW_VOLUMES", 100)  # Starting processes takes longer.
    tree = brats_trees.write(tmp_path / "faulty", {"train": len(FAULTS) + 2, "source": 1, "validation": 1})
    config.data.update(source_root=str(tree.root), target_root=str(tree.root))
    planted = [plant(tree, name) for plant, name in zip(FAULTS, tree.names["train"], strict=False)]
    config.data.rejected_limit = len(FAULTS)
    works, text = run_check(config, capsys)
    assert works, text  # The rest can be trained on.
    target = text.partition("\ntarget_train")[2].partition("\ntarget_validation")[0]
    for file, message in planted:
        assert (f"{file}: {message}" if file else message) in target
    assert f"files that cannot be used: {len(FAULTS) - 1}." in target  # Another name is no fault.
    config.data.rejected_limit = 2
    assert not run_check(config, capsys)[0]


def test_a_volume_without_a_tumour_is_named(config, tree, capsys):
    name = tree.names["validation"][0]
    brats_trees.save(tree.file(name, "seg"), tree.labels[name] * 0)
    works, text = run_check(config, capsys)
    assert works
    assert f"  empty masks: 1: {name}\n" in text


def test_a_patient_in_two_splits_is_named_in_any_sequence(config, tree, capsys):
    """The copy has another name, and the parts read different sequences."""
    one, other = tree.names["source"][0], tree.names["validation"][1]
    for kind in (*brats2018.SEQUENCES, "seg"):
        tree.file(other, kind).write_bytes(tree.file(one, kind).read_bytes())
    works, text = run_check(config, capsys)
    assert works
    assert f"1 of source_train are in target_validation, too; the first one: {one}, there {other}" in text


def test_folders_without_the_set_or_without_a_split_are_explained(config, tmp_path, capsys):
    config.data.update(source_root=str(tmp_path), target_root=str(tmp_path))
    works, text = run_check(config, capsys)
    assert not works
    for part in ("www.med.upenn.edu", "{HGG,LGG}/Brats18_2013_2_1/", f"{tmp_path / 'LGG'}: missing folder"):
        assert part in text
    tree = brats_trees.write(tmp_path / "few", {"source": 1, "train": 2})
    config.data.update(source_root=str(tree.root), target_root=str(tree.root))
    works, text = run_check(config, capsys)
    assert not works
    assert "no patient here is one of the split validation" in text
