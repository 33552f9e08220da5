"""BraTS 2018: splits by patient, the three regions, slices, and settings."""

import gzip
import hashlib
import sys

import numpy as np
import pytest

from configs import brats
from configs._validate import validate
from configs.user_error import UserError
from data.classes import class_table, train_ids
from data.datasets import brats2018
from data.datasets.registry import SPECS
from data.raw import nifti, slices
from data.raw.pairs import read_images
from tests.helpers import brats_trees

tree, config = brats_trees.tree, brats_trees.config


def test_patients_are_split_by_the_stated_rule():
    names = [f"Brats18_TCIA01_{number}_1" for number in range(1000)]
    for name in names[:50]:
        digest = hashlib.sha256(f"split:{name.removesuffix('_1')}".encode()).digest()
        share = int.from_bytes(digest[:4], "big") / 2**32
        place = sum(share >= end for end in (0.4, 0.8, 0.9))
        assert brats2018.split_of(name) == ("source", "train", "validation", "test")[place]
    splits = [brats2018.split_of(name) for name in names]
    assert [splits.count(split) for split in brats2018.SPLITS] == pytest.approx([400, 400, 100, 100], abs=45)
    assert all(brats2018.split_of(f"{name[:-1]}2") == split for name, split in zip(names, splits, strict=True))


@pytest.mark.parametrize(
    ("table", "foreground"), [("brats_whole", (1, 2, 4)), ("brats_core", (1, 4)), ("brats_enhancing", (4,))]
)
def test_regions_are_those_of_the_challenge(table, foreground):
    ids = train_ids(SPECS["brats2018_t2"].labels.raw_ids, class_table(table))
    assert {raw_id: ids[raw_id] for raw_id in (0, 1, 2, 4)} == {
        raw_id: int(raw_id in foreground) for raw_id in (0, 1, 2, 4)
    }
    assert ids[3] == 255


@pytest.mark.parametrize("sequence", brats2018.SEQUENCES)
def test_images_are_normalised_slices_with_their_neighbours(tree, sequence):
    spec, name = SPECS[f"brats2018_{sequence}"], tree.names["train"][0]
    pair = next(pair for pair in spec.find(tree.root, "train").pairs if pair.name == name)
    images = read_images(pair, spec.labels)
    assert list(images.contents) == [f"{name}/{z:03}" for z in range(1, 6)]  # The others show no brain.
    volume = tree.volumes[name][sequence].astype(float)
    for z, content in enumerate(images.contents.values(), start=1):
        np.testing.assert_array_equal(content.image, brats_trees.expected_image(volume, z))
        np.testing.assert_array_equal(content.label, tree.labels[name][:, :, z].T)
        assert content.counts[2] == (tree.labels[name][:, :, z] == 2).sum()
    assert images.frame.shape == brats_trees.SHAPE
    np.testing.assert_array_equal(images.frame.affine, brats_trees.AFFINE)


def test_slices_at_the_ends_repeat_themselves():
    grey = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    for z, channels in ((0, (0, 0, 1)), (3, (2, 3, 3))):
        np.testing.assert_array_equal(slices.image_of(grey, z), np.stack([grey[:, :, c].T for c in channels], -1))


def test_volumes_of_one_value_or_none_have_grey_values():
    voxels = np.zeros((2, 2, 2))
    assert not slices.to_grey(voxels).any()
    voxels[0] = 7
    assert set(np.unique(slices.to_grey(voxels))) == {0, 1 + round(254 * 0.4)}


def test_labels_outside_the_brain_keep_their_slice(tree):
    name = tree.names["train"][0]
    labels = tree.labels[name].copy()
    labels[3, 4, 6] = 4
    brats_trees.save(tree.file(name, "seg"), labels)
    spec = SPECS["brats2018_flair"]
    contents = read_images(spec.find(tree.root, "train").pairs[0], spec.labels).contents
    assert f"{name}/006" in contents
    assert f"{name}/000" not in contents
    assert sum(content.counts[4] for content in contents.values()) == (labels == 4).sum()


def test_the_folder_of_the_archive_and_plain_nifti_are_found(tree, tmp_path):
    (tmp_path / "outer").mkdir()
    tree.root.rename(tmp_path / "outer" / "MICCAI_BraTS_2018_Data_Training")
    found = SPECS["brats2018_t2"].find(tmp_path / "outer", "train")
    assert [pair.name for pair in found.pairs] == tree.names["train"]
    file = found.pairs[0].image
    file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    before = nifti.read(file)
    file.unlink()
    plain = SPECS["brats2018_t2"].find(tmp_path / "outer", "train").pairs[0].image
    assert plain.suffix == ".nii"
    np.testing.assert_array_equal(nifti.read(plain).voxels, before.voxels)
    assert nifti.read(plain).frame == before.frame


def test_missing_nibabel_says_how_to_install_it(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[nifti\]"'):
        nifti.read(tree.file(tree.names["train"][0], "t2"))


def test_settings_name_scores_by_volume_only_where_there_are_volumes(config):
    validate(config)
    config.data.update(target="kvasir_seg", classes="polyp", source="cvc_clinicdb")
    with pytest.raises(
        UserError, match=r"checkpoint\.metric is 'dice_by_volume'; expected another score, since .* kvasir"
    ):
        validate(config)


def test_any_pair_of_sequences_is_a_setting():
    for source in brats2018.SEQUENCES:
        config = brats.get_config("joint")
        config.data.update(source=f"brats2018_{source}", target="brats2018_t1ce", classes="brats_core")
        validate(config)
