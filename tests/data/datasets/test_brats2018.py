"""BraTS 2018: splits by patient, the three regions, slices, named faults, preparation, and batches."""

import gzip
import hashlib
import json
import sys

import nibabel
import numpy as np
import pytest

from configs import brats
from configs._validate import validate
from configs.user_error import UserError
from data import pipeline
from data.checking import survey
from data.classes import class_table, train_ids
from data.datasets import brats2018
from data.datasets.registry import SPECS
from data.preparation import prepare, records, shards
from data.preparation.location import locate_split
from data.raw import nifti, slices
from data.raw.pairs import read_images
from data.reading import split_builder
from data.reading.split_reader import open_splits
from data.sampling.rare_classes import RareClassSampler
from tests.helpers import brats_trees
from tests.helpers.data_check import run_check

HEIGHT, WIDTH, DEPTH = brats_trees.SHAPE[1], brats_trees.SHAPE[0], brats_trees.SHAPE[2]


@pytest.fixture
def tree(tmp_path):
    return brats_trees.write(tmp_path / "brats")


@pytest.fixture
def config(tmp_path, tree):
    """T2 to FLAIR in miniature."""
    config = brats.get_config("ass,2")
    config.data.update(directory=str(tmp_path / "prepared"), source_root=str(tree.root), target_root=str(tree.root))
    config.data.update(source_size=(HEIGHT, WIDTH), target_size=(HEIGHT, WIDTH), readers=2)
    config.evaluation.batch = 4
    return config


def normalised(volume):
    """Returns what a slice's channels should hold: whole volumes of grey values by the formula alone."""
    values = volume[volume != 0].astype(float)
    scaled = (volume - values.mean()) / values.std()
    return np.where(volume == 0, 0, 1 + np.round(254 * np.clip((scaled + 4) / 10, 0, 1)))


def expected_image(volume, z):
    grey = normalised(volume)
    below, above = max(z - 1, 0), min(z + 1, volume.shape[2] - 1)
    return np.stack([grey[:, :, below].T, grey[:, :, z].T, grey[:, :, above].T], axis=-1)


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
        np.testing.assert_array_equal(content.image, expected_image(volume, z))
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
            record["image"], expected_image(tree.volumes[name]["flair"].astype(float), int(z))
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
