import dataclasses
import shutil
import zipfile

import numpy as np
import pytest

from configs import base
from data.classes import CLASS_TABLES, IGNORED
from data.datasets import cityscapes, gta5, registry
from data.datasets.registry import SPECS, find_spec
from data.datasets.spec import describe_layout
from data.raw import file_access
from data.raw.faults import BadFileError
from data.raw.image_files import ENCODINGS
from data.raw.label_rules import VOLUME, LabelRules, count_ids
from data.raw.pairs import read_pair
from tests.helpers import file_faults, trees
from tests.helpers.miniature_specs import miniature_spec, own_settings


def own_data():
    """Returns data settings with own data in both domains."""
    config = own_settings(base.default_config())
    config.data.update(source="custom", target="custom")
    return config.data


def test_cityscapes_names_match_the_official_lists(tmp_path):
    for split, names in trees.CITYSCAPES_NAMES.items():
        trees.write_cityscapes(tmp_path, split, len(names))
        found = cityscapes.SPEC.find(tmp_path, split)
        assert found.faults == []
        assert [pair.name for pair in found.pairs] == sorted(names)
        assert all((pair.label is None) == (split == "test") for pair in found.pairs)


def test_zip_files_read_like_folders(tmp_path):
    trees.write_cityscapes(tmp_path / "tree", "train", 5)
    trees.write_cityscapes(tmp_path / "tree", "val", 2)
    trees.write_zip_files(tmp_path / "tree", tmp_path / "zip")
    spec = cityscapes.SPEC
    for split in ("train", "val"):
        plain, packed = spec.find(tmp_path / "tree", split), spec.find(tmp_path / "zip", split)
        assert packed.faults == []
        assert [(pair.name, pair.size) for pair in plain.pairs] == [(pair.name, pair.size) for pair in packed.pairs]
        for pair, other in zip(plain.pairs, packed.pairs, strict=True):
            read, same = read_pair(pair, spec.labels), read_pair(other, spec.labels)
            np.testing.assert_array_equal(read.image, same.image)
            np.testing.assert_array_equal(read.label, same.label)


def test_one_folder_may_be_unpacked_and_the_other_zipped(tmp_path):
    trees.write_cityscapes(tmp_path / "tree", "train", 2)
    root = trees.write_zip_files(tmp_path / "tree", tmp_path / "mixed")
    shutil.copytree(tmp_path / "tree" / "gtFine", root / "gtFine")
    found = cityscapes.SPEC.find(root, "train")
    assert len(found.pairs) == 2
    assert found.faults == []


def test_damaged_member_of_a_zip_file_is_named(tmp_path):
    tree = trees.write_cityscapes(tmp_path / "tree", "train", 1, size=(64, 128))
    root = trees.write_zip_files(tmp_path / "tree", tmp_path / "zip")
    archive = root / cityscapes.ARCHIVES["leftImg8bit"]
    member = tree.image_files[0].relative_to(tmp_path / "tree").as_posix()
    with zipfile.ZipFile(archive) as opened:
        place = opened.getinfo(member).header_offset + len(member) + 300
    content = bytearray(archive.read_bytes())
    content[place] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(BadFileError, match=rf"{archive.name}/{member}: damaged"):
        file_access.read_bytes(archive / member)


def test_names_in_a_zip_file_lead_nowhere(tmp_path):
    tree = trees.write_cityscapes(tmp_path / "tree", "train", 2)
    root = trees.write_zip_files(tmp_path / "tree", tmp_path / "zip")
    content = tree.image_files[0].read_bytes()
    name = "aachen_000009_000019_leftImg8bit.png"
    folders = ("../", "/", "leftImg8bit/train/../../../", "leftImg8bit/train/aachen/../", "leftImg8bit/train//")
    with zipfile.ZipFile(root / cityscapes.ARCHIVES["leftImg8bit"], "a") as archive:
        for folder in folders:
            archive.writestr(folder + name, content)
        link = zipfile.ZipInfo("leftImg8bit/train/aachen/link_leftImg8bit.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/hostname")
    before = sorted(tmp_path.rglob("*"))
    spec = cityscapes.SPEC
    found = spec.find(root, "train")
    assert {pair.name for pair in found.pairs} == {*tree.names}
    for pair in found.pairs:
        read_pair(pair, spec.labels)
    listed = file_access.list_files(root / cityscapes.ARCHIVES["leftImg8bit"] / "leftImg8bit/train", deep=True)
    assert len(listed) > len(tree.names)
    assert not any(".." in file.parts for file in listed)
    (link,) = [file for file in listed if file.name.startswith("link")]
    assert file_access.read_bytes(link) == b"/etc/hostname"  # Not followed.
    assert sorted(tmp_path.rglob("*")) == before  # Nothing is unpacked.


def test_invalid_zip_file_is_unreadable(tmp_path):
    for archive in cityscapes.ARCHIVES.values():
        (tmp_path / archive).write_bytes(b"<html>Log in</html>")
    found = cityscapes.SPEC.find(tmp_path, "train")
    assert found.pairs == []
    assert {fault.kind for fault in found.faults} == {"unreadable"}
    assert all(".zip" in str(fault) for fault in found.faults)


@pytest.mark.parametrize("data_set", trees.WRITERS)
def test_empty_root_names_the_missing_folders(data_set, tmp_path):
    spec, split = miniature_spec(data_set)
    found = spec.find(tmp_path, split)
    assert found.pairs == []
    assert {fault.kind for fault in found.faults} == {"missing folder"}
    assert len(found.faults) == 2


@pytest.mark.parametrize("data_set", trees.WRITERS)
def test_explanation_fits_a_screen_and_says_what_to_do(data_set):
    spec, _ = miniature_spec(data_set)
    text = describe_layout(spec, "target", "")
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 120
    assert "--config.data.target_root" in text
    assert "is not set" in text
    assert "'/x/y'" in describe_layout(spec, "target", "/x/y")
    for archive in spec.archives:
        assert archive in text
    assert spec.page in text


def test_names_of_own_data_include_subfolders(tmp_path):
    trees.write_custom(tmp_path, images="photos/a b/c", labels="masks/a b/c", count=2)
    spec, split = miniature_spec("custom")
    assert [pair.name for pair in spec.find(tmp_path, split).pairs] == ["a b/c/photo 0", "a b/c/photo 1"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (((0, "rode"),), r"data\.custom\.source_ids: unknown class 'rode'.*road, sidewalk"),
        (((-1, "road"),), "found -1 for 'road'"),
        (((65536, "road"),), "found 65536"),
        (((1, "road"), (1, "sky")), "found 1 more than once"),
        ((), "is empty"),
    ],
)
def test_raw_ids_of_own_data_are_checked(ids, message):
    data = own_data()
    data.custom.source_ids = ids
    with pytest.raises(ValueError, match=message):
        find_spec(data, "source")


def test_label_of_an_unlabelled_image_shows_no_class():
    data = own_data()
    assert find_spec(data, "target").labels.unlabelled_id == IGNORED
    for ids, expected in ((((0, "road"), (255, "sky")), 254), (((255, "road"), (1000, "sky")), 65535)):
        data.custom.target_ids = ids
        assert find_spec(data, "target").labels.unlabelled_id == expected
    data.custom.target_ids = tuple((raw_id, "road") for raw_id in range(256))
    rules = find_spec(data, "target").labels
    assert (rules.values, rules.unlabelled_id) == (65536, 65535)


def test_binary_masks_have_two_raw_ids():
    data = own_data()
    data.custom.update(target_encoding="binary", target_ids=((0, "road"), (255, "sky")))
    assert find_spec(data, "target").labels.encoding == "binary"
    assert find_spec(data, "source").labels.encoding == "any indices"
    data.custom.target_ids = ((0, "road"), (1, "sky"))
    with pytest.raises(ValueError, match=r"target_ids: expected raw ids 0 and 255, since .*target_encoding .* found 1"):
        find_spec(data, "target")


@pytest.mark.parametrize("kind", ["lossy label", "colours"])
def test_refusals_in_own_data_name_the_setting_for_masks(kind, tmp_path):
    tree = trees.write_custom(tmp_path, count=1)
    spec, split = miniature_spec("custom")
    file_faults.plant("label saved as JPEG" if kind == "lossy label" else "colour label", tree)
    with pytest.raises(
        BadFileError, match=r"mask of two values, set data\.custom\.source_encoding.*'binary'"
    ) as caught:
        read_pair(spec.find(tmp_path, split).pairs[0], spec.labels)
    assert caught.value.fault.kind == kind


def test_own_data_with_large_ids_is_kept_in_16_bits():
    data = own_data()
    data.custom.source_ids = ((7, "road"), (1000, "sky"))
    assert find_spec(data, "source").labels.values == 65536
    assert find_spec(data, "target").labels.values == 256


def test_known_bad_pairs_of_gta5_are_rejected(tmp_path):
    """Pairs are damaged as in the official archives: image and label differ in size."""
    tree = trees.write_gta5(tmp_path, count=1)
    for name in sorted(gta5.SPEC.known_bad):
        (tmp_path / "images" / f"{name}.png").write_bytes(trees.png_bytes(tree.images[0][:-6]))
        (tmp_path / "labels" / f"{name}.png").write_bytes(tree.label_files[0].read_bytes())
    spec = gta5.SPEC
    refused = []
    for pair in spec.find(tmp_path, "train").pairs:
        try:
            read_pair(pair, spec.labels)
        except BadFileError as error:
            refused.append((error.fault.kind, error.fault.file.stem))
    assert refused == [("size mismatch", name) for name in sorted(gta5.SPEC.known_bad)]


@pytest.mark.parametrize("key", ["source_images", "source_labels"])
def test_own_folders_must_be_named(key, tmp_path):
    trees.write_custom(tmp_path)
    data = own_data()
    data.custom[key] = ""
    with pytest.raises(ValueError, match=rf"data\.custom\.{key} is empty.*data\.source_root"):
        find_spec(data, "source").find(tmp_path, "source_train")


def test_own_target_may_have_no_labels(tmp_path):
    tree = trees.write_custom(tmp_path)
    data = own_data()
    data.custom.target_labels = ""
    found = find_spec(data, "target").find(tmp_path, "target_train")
    assert [pair.name for pair in found.pairs] == tree.names
    assert not any(pair.label for pair in found.pairs)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_specs_have_known_encodings_and_classes(spec):
    known = {name for table in CLASS_TABLES.values() for name in (*table.names, *table.parts)}
    assert spec.labels.encoding in (*ENCODINGS, VOLUME)
    assert set(spec.labels.raw_ids.values()) <= known


def test_255_may_be_a_raw_id_of_a_dataset(tmp_path):
    label = np.array([[1, 2, 255]], np.uint8)
    rules = LabelRules("indices", {1: "road", 2: "sky"}, frozenset({1, 2}))
    with pytest.raises(BadFileError, match="looks like train ids"):
        count_ids(label, rules, tmp_path)
    counts = count_ids(label, rules._replace(known_ids=frozenset({1, 2, 255})), tmp_path)
    assert counts[[1, 2, 255]].tolist() == [1, 1, 1]
    with pytest.raises(BadFileError, match="expected raw ids of 1 to 2, found also 0"):
        count_ids(np.zeros((2, 2), np.uint8), rules, tmp_path)


def test_layout_without_archives_is_described():
    spec = dataclasses.replace(SPECS["gta5"], archives={})
    assert "1. Download from" in describe_layout(spec, "source", "")


@pytest.mark.parametrize(
    ("data", "split", "expected"),
    [
        ({"target": "kvasir_seg", "classes": "polyp"}, "validation", [0, 255]),
        ({"target": "cityscapes", "classes": "synthia16"}, "validation", [7, 8, 11, 12, 13, 17, 19, 20, 21, 23]),
        ({"target": "camvid", "classes": "camvid9"}, "validation", [0, 1, 2, 3, 4, 5, 6, 8, 9]),
        ({"target": "cityscapes", "source": "synthia", "classes": "synthia16"}, "source", [3, 4, 2, 21, 5, 7, 15]),
        ({"target": "brats2018_t1ce", "classes": "brats_enhancing"}, "validation", [0, 4]),
    ],
)
def test_predictions_have_the_raw_ids_of_the_scored_labels(data, split, expected):
    config = base.default_config()
    config.data.update(data)
    config.evaluation.split = split
    assert registry.scored_classes(config).raw_ids[: len(expected)].tolist() == expected


def test_predictions_of_own_data_have_its_raw_ids():
    config = base.default_config()
    config.data.update(target="custom", classes="custom")
    palette = ((0, 0, 0), (1, 1, 1))
    custom = {"names": ("rest", "car"), "palette": palette, "source_ids": ((1, "car"), (2, "rest"))}
    config.data.custom.update(custom, target_ids=((26, "car"), (11, "rest"), (7, "rest")))
    assert registry.scored_classes(config).raw_ids.tolist() == [7, 26]
    config.data.custom.target_ids = ((300, "car"), (7, "rest"))
    assert registry.scored_classes(config).raw_ids is None
