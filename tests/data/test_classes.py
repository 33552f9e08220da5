import numpy as np
import pytest

from configs import base
from configs import custom as example
from data.classes import CLASS_TABLES, IGNORED, class_table, custom_ids, train_ids
from data.datasets.registry import SPECS


def test_cityscapes_names_and_palette():
    # The published train ids and colours.
    expected = [
        ("road", (128, 64, 128)),
        ("sidewalk", (244, 35, 232)),
        ("building", (70, 70, 70)),
        ("wall", (102, 102, 156)),
        ("fence", (190, 153, 153)),
        ("pole", (153, 153, 153)),
        ("traffic light", (250, 170, 30)),
        ("traffic sign", (220, 220, 0)),
        ("vegetation", (107, 142, 35)),
        ("terrain", (152, 251, 152)),
        ("sky", (70, 130, 180)),
        ("person", (220, 20, 60)),
        ("rider", (255, 0, 0)),
        ("car", (0, 0, 142)),
        ("truck", (0, 0, 70)),
        ("bus", (0, 60, 100)),
        ("train", (0, 80, 100)),
        ("motorcycle", (0, 0, 230)),
        ("bicycle", (119, 11, 32)),
    ]
    table = class_table("cityscapes19")
    assert [*zip(table.names, map(tuple, table.palette.tolist()), strict=True)] == expected


def test_cityscapes_matches_the_official_scripts():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    official = sorted((label for label in labels.labels if label.trainId in range(19)), key=lambda label: label.trainId)
    table = class_table("cityscapes19")
    assert list(table.names) == [label.name for label in official]
    assert table.palette.tolist() == [list(label.color) for label in official]


def test_cityscapes_subsets():
    assert class_table("cityscapes19").subsets == {
        "19": tuple(range(19)),
        "16": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
        "13": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    }


def test_synthia_ids_are_contiguous():
    table, whole = class_table("synthia16"), class_table("cityscapes19")
    assert table.subsets == {"16": tuple(range(16)), "13": (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)}
    for subset in ("16", "13"):
        names = [table.names[train_id] for train_id in table.subsets[subset]]
        assert names == [whole.names[train_id] for train_id in whole.subsets[subset]]


def test_toy():
    table = class_table("toy")
    expected = "road, sidewalk, building, pole, traffic sign, vegetation, terrain, sky, person, car"
    assert ", ".join(table.names) == expected
    assert table.subsets == {"toy": tuple(range(10))}
    assert table.raw_ids is None


def test_camvid():
    table, whole = class_table("camvid9"), class_table("camvid11")
    assert set(table.names) == set(class_table("toy").names) - {"terrain"}
    assert set(whole.names) - set(table.names) == {"fence", "bicyclist"}
    assert (table.subsets, whole.subsets) == ({"9": tuple(range(9))}, {"11": tuple(range(11))})
    for name, colour in zip(table.names, table.palette.tolist(), strict=True):
        assert colour == whole.palette[whole.names.index(name)].tolist()


@pytest.mark.parametrize("name", CLASS_TABLES)
def test_every_table_is_consistent(name):
    table = class_table(name)
    assert table.palette.dtype == np.uint8
    assert table.palette.shape == (len(table.names), 3)
    assert len(set(table.names)) == len(table.names) < IGNORED
    assert len(np.unique(table.palette, axis=0)) == len(table.names)
    assert not table.palette.flags.writeable
    if table.raw_ids is not None:  # Ids that are written are read as the same classes.
        assert table.raw_ids.dtype == np.uint8
        back = train_ids(SPECS["cityscapes"].labels.raw_ids, table)[table.raw_ids]
        np.testing.assert_array_equal(back, np.arange(len(table.names)))
    for ids in table.subsets.values():
        assert list(ids) == sorted(set(ids))
        assert set(ids) <= set(range(len(table.names)))


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match=rf"'coco'.*{', '.join([*CLASS_TABLES, 'custom'])}"):
        class_table("coco")


def test_raw_ids_of_synthia():
    expected = {
        3: 0,
        4: 1,
        2: 2,
        21: 3,
        5: 4,
        7: 5,
        15: 6,
        9: 7,
        6: 8,
        1: 10,
        10: 11,
        17: 12,
        8: 13,
        19: 15,
        12: 17,
        11: 18,
    }
    found = train_ids(SPECS["synthia"].labels.raw_ids, class_table("cityscapes19"))
    assert found.dtype == np.uint8
    assert {raw_id: found[raw_id] for raw_id in range(256) if found[raw_id] != IGNORED} == expected


@pytest.mark.parametrize("name", ["cityscapes", "gta5"])
def test_raw_ids_of_cityscapes_match_the_official_scripts(name):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    found = train_ids(SPECS[name].labels.raw_ids, class_table("cityscapes19"))
    official = {label.id: label.trainId for label in labels.labels if label.id >= 0}
    assert [found[raw_id] for raw_id in range(256)] == [official.get(raw_id, IGNORED) for raw_id in range(256)]


def test_raw_ids_of_classes_outside_the_table_are_ignored():
    table = class_table("synthia16")
    found = train_ids(SPECS["cityscapes"].labels.raw_ids, table, size=65536)
    assert found.shape == (65536,)
    assert found[22] == IGNORED  # Terrain.
    assert table.names[found[23]] == "sky"
    scored = train_ids(SPECS["cityscapes"].labels.raw_ids, table, with_others=True)
    assert scored[[22, 27, 31]].tolist() == [16, 16, 16]  # Terrain, truck, train.
    differing = np.flatnonzero(scored != found[:256])
    assert differing.tolist() == [22, 27, 31]


@pytest.fixture
def custom():
    """The example's classes, as a user would edit them."""
    return example.get_config().data.custom


def test_custom_table_matches_the_example(custom):
    table = class_table("custom", custom)
    assert table.names == ("ground", "building", "plant", "sky", "vehicle")
    assert table.palette.dtype == np.uint8
    assert table.palette.tolist()[2] == [107, 142, 35]
    assert not table.palette.flags.writeable
    assert table.subsets == {"all": (0, 1, 2, 3, 4)}


def test_custom_ids_by_domain(custom):
    table = class_table("custom", custom)
    source, target = (train_ids(custom_ids(custom, domain), table) for domain in ("source", "target"))
    assert source[:7].tolist() == [255, 0, 1, 2, 3, 4, 255]
    assert {raw_id: target[raw_id] for raw_id in range(256) if target[raw_id] != IGNORED} == {
        7: 0,
        8: 0,
        11: 1,
        21: 2,
        23: 3,
        26: 4,
    }


@pytest.mark.parametrize("count", [2, 255])
def test_custom_tables_of_other_sizes(custom, count):
    names = tuple(f"class {number}" for number in range(count))
    custom.update(names=names, palette=((1, 2, 3),) * count)
    custom.source_ids = custom.target_ids = tuple((65535 - number, name) for number, name in enumerate(names))
    table = class_table("custom", custom)
    assert len(table.names) == count
    assert train_ids(custom_ids(custom, "source"), table, 65536)[65535 - count + 1] == count - 1


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("names", (), r"names: expected the names of 2 to 255 classes, found \(\)"),
        ("names", ("ground",), "2 to 255 classes"),
        ("names", ("ground", 2, "plant", "sky", "vehicle"), "2 to 255 classes"),
        ("names", ("ground", "sky", "plant", "sky", "ground"), "expected different classes, found ground, sky more"),
        ("palette", ((0, 0, 0),) * 4, "palette: expected 5 colours, .* found 4"),
        ("palette", ((0, 0, 0),) * 4 + ((0, 0),), r"0..255 for 'vehicle', found \(0, 0\)"),
        ("palette", ((0, 0, 0), (0, 0, 256)) + ((0, 0, 0),) * 3, r"for 'building', found \(0, 0, 256\)"),
        ("palette", (0, 0, 0, 0, 0), "for 'ground', found 0"),
        ("source_ids", ((1, "groud"),), "source_ids: unknown class 'groud' of raw id 1. Valid: ground, building"),
        ("target_ids", ((1, "sky"), (2, "plant"), (1, "ground")), "target_ids: expected different raw ids, found 1 "),
        ("target_ids", ((65536, "sky"),), "expected raw ids in 0..65535, found 65536 for 'sky'"),
        ("source_ids", ((-1, "sky"),), "found -1 for 'sky'"),
        ("source_ids", ((1.0, "sky"),), "found 1.0 for 'sky'"),
        ("source_ids", (1, "sky"), "expected pairs such as .* found 1"),
        ("source_ids", ("ab", "sky"), "expected pairs such as .* found 'ab'"),
    ],
)
def test_invalid_custom_tables_are_refused(custom, key, value, expected):
    with custom.ignore_type():
        custom[key] = value
    with pytest.raises(ValueError, match=f"^data.custom.*{expected}"):
        class_table("custom", custom)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_custom_ids_are_required_where_they_are_used(custom, domain):
    custom[f"{domain}_ids"] = ()
    class_table("custom", custom)
    with pytest.raises(ValueError, match=rf"data.custom.{domain}_ids is empty: expected pairs such as \(7, 'ground'\)"):
        custom_ids(custom, domain)


def test_custom_table_without_settings_is_refused():
    with pytest.raises(ValueError, match="names: expected the names of 2 to 255"):
        class_table("custom", base.default_config().data.custom)


def test_custom_ids_need_class_names():
    with pytest.raises(ValueError, match=r"data\.custom\.names is empty"):
        custom_ids({"names": (), "target_ids": ()}, "target")
