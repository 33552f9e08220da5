"""CamVid: splits by name and by light, the classes of its raw ids, and messages for what is missing or wrong."""

import numpy as np
import pytest

from configs import camvid as camvid_config
from data import pipeline
from data.classes import class_table, train_ids
from data.datasets import camvid
from data.datasets.registry import SPECS
from data.raw.pairs import read_pair
from data.sampling import labelled_subset
from data.sampling.ranking import FOLDER, read_names
from tests.helpers import trees
from tests.helpers.data_check import run_check

SIZE = (24, 32)
SPLITS = {split.name: split.count for spec in camvid.SPECS for split in spec.splits.values()}


@pytest.fixture
def root(tmp_path):
    """Writes a few images of each official split; returns their folder."""
    for split in trees.CAMVID_NAMES:
        trees.write_camvid(tmp_path / "CamVid", split)
    return tmp_path / "CamVid"


@pytest.fixture
def day_to_dusk(config, root):
    """CamVid in both domains, all images labelled."""
    config.data.update(source="camvid_day", target="camvid_dusk", classes="camvid11")
    config.data.update(source_root=str(root), target_root=str(root), source_size=SIZE, target_size=SIZE)
    return config


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ["0001TP_006690", "0001TP_006720", "0006R0_f00930"]),
        ("val", ["0016E5_07959", "0016E5_07961"]),
        ("test", ["0001TP_008550", "Seq05VD_f00000"]),
        ("day", ["0006R0_f00930", "0016E5_07959", "0016E5_07961", "Seq05VD_f00000"]),
        ("dusk_train", ["0001TP_006690", "0001TP_006720"]),
        ("dusk_test", ["0001TP_008550"]),
    ],
)
def test_splits_by_name_and_by_light(root, split, expected):
    for folder in (root, root.parent):  # The folder CamVid, and the clone that holds it.
        found = camvid.find(folder, split)
        assert found.faults == []
        assert [pair.name for pair in found.pairs] == expected
        assert all(pair.label.parent.name == f"{pair.image.parent.name}annot" for pair in found.pairs)


def test_lists_hold_every_image_once():
    lists = {split: read_names(FOLDER / "camvid" / f"{split}.txt") for split in ("day", "dusk_train", "dusk_test")}
    assert {split: len(names) for split, names in lists.items()} == {"day": 577, "dusk_train": 62, "dusk_test": 62}
    assert len({name for names in lists.values() for name in names}) == 701
    for split, names in lists.items():
        assert names == sorted(names)
        assert all(name.startswith("0001TP") == (split != "day") for name in names)
    assert max(lists["dusk_train"]) < min(lists["dusk_test"])  # Two halves of one drive.


def test_numbers_of_images():
    assert SPLITS == {"train": 367, "val": 101, "test": 233, "day": 577, "dusk_train": 62, "dusk_test": 62}


def test_choosing_settings_trains_on_the_same_images_without_the_test_images():
    official, tuning = (SPECS[name].splits for name in ("camvid", "camvid_val"))
    assert official["target_train"] == tuning["target_train"]
    assert (official["target_validation"].name, tuning["target_validation"].name) == ("test", "val")


def test_held_out_images_leave_the_same_images_for_training():
    names = read_names(FOLDER / "camvid" / "dusk_train.txt")
    data = camvid_config.get_config().data
    plain = labelled_subset.choose(data, names, np.ones(len(names), bool))
    data.update(labelled_count=28, held_out=20)
    held_out = labelled_subset.choose(data, names, np.ones(len(names), bool))
    np.testing.assert_array_equal(held_out.training, plain.training)
    assert len(held_out.held_out) == 20


def test_raw_ids_are_those_of_the_files(root):
    names = "sky, building, pole, road, sidewalk, vegetation, traffic sign, fence, car, person, bicyclist"
    assert SPECS["camvid"].labels.raw_ids == dict(enumerate(names.split(", ")))
    found = train_ids(SPECS["camvid"].labels.raw_ids, class_table("camvid11"))
    assert found[:11].tolist() == list(range(11))
    assert set(found[11:]) == {255}
    nine = train_ids(SPECS["camvid"].labels.raw_ids, class_table("camvid9"))
    assert nine[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 255, 7, 8, 255, 255]
    pair = camvid.find(root, "val").pairs[0]
    assert set(np.unique(read_pair(pair, SPECS["camvid"].labels).label)) == set(range(12))


def test_day_and_dusk_are_read(day_to_dusk, root, capsys):
    works, text = run_check(day_to_dusk, capsys)
    assert works, text
    assert "pairs: 4 of 577 in the complete dataset: 573 are not there" in text
    assert "pairs: 2 of 62" in text
    tree = trees.write_camvid(root, "test")
    (found,) = pipeline.evaluation_batches(day_to_dusk)
    assert [*found["name"]] == ["0001TP_008550"]
    np.testing.assert_array_equal(found["label"][0], np.where(tree.labels[0] == 11, 255, tree.labels[0]))


def test_missing_folder_is_explained(day_to_dusk, capsys, tmp_path):
    day_to_dusk.data.target_root = str(tmp_path / "nowhere")
    works, text = run_check(day_to_dusk, capsys)
    assert not works
    for part in ("'camvid_dusk' was not found", "/nowhere'", "git clone", "{train,val,test}annot/", "target_root="):
        assert part in text
    day_to_dusk.data.target_root = str(tmp_path)
    (tmp_path / "CamVid").rename(tmp_path / "elsewhere")
    works, text = run_check(day_to_dusk, capsys)
    assert not works
    assert f"{tmp_path}/trainannot: missing folder" in text


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("damaged", lambda label: trees.png_bytes(label)[:100]),
        ("unknown ids", lambda label: trees.png_bytes(label + 12)),
        ("colours", lambda label: trees.png_bytes(class_table("camvid11").palette[label % 11])),
        ("all ignored", lambda label: trees.png_bytes(np.full_like(label, 11))),
    ],
)
def test_faults_are_named_where_the_image_is_used(day_to_dusk, root, capsys, kind, change):
    file = root / "trainannot/0001TP_006720.png"
    file.write_bytes(change(trees.write_camvid(root).labels[1]))
    day_to_dusk.data.rejected_limit = 0
    works, text = run_check(day_to_dusk, capsys)
    assert not works
    assert text.count(f"{file}: {kind}") == 1


def test_label_without_image_counts_only_in_its_own_list(root):
    (root / "train/0001TP_006720.png").unlink()
    assert [fault.kind for fault in camvid.find(root, "dusk_train").faults] == ["missing image"]
    assert camvid.find(root, "day").faults == []
