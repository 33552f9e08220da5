"""Labels of a split that hold train ids where raw ids are expected, and honest ones that look a little like it."""

import numpy as np
import pytest

from configs.user_error import UserError
from data.datasets.registry import SPECS
from data.preparation import prepare, provenance, records, shards
from data.raw.train_ids import describe_train_ids, sums_of_rows
from tests.helpers import trees
from tests.helpers.data_check import run_check
from tests.helpers.split_records import open_split, read

# Class -> share of the pixels, and mean row, of streets as Cityscapes shows them.
STREET = {
    "road": (0.33, 0.75),
    "sidewalk": (0.05, 0.65),
    "building": (0.20, 0.30),
    "wall": (0.006, 0.55),
    "fence": (0.008, 0.5),
    "pole": (0.01, 0.4),
    "traffic light": (0.002, 0.3),
    "traffic sign": (0.005, 0.35),
    "vegetation": (0.14, 0.3),
    "terrain": (0.01, 0.6),
    "sky": (0.035, 0.12),
    "person": (0.01, 0.5),
    "rider": (0.001, 0.5),
    "car": (0.06, 0.55),
    "truck": (0.002, 0.5),
    "bus": (0.002, 0.45),
    "train": (0.002, 0.45),
    "motorcycle": (0.001, 0.6),
    "bicycle": (0.004, 0.6),
}
TRAIN_IDS = {name: number for number, name in enumerate(STREET)}


def judge(dataset, ids, names=tuple(STREET), **more):
    """Judges a street of some classes, written with the numbers of `ids`; `more` adds numbers as _7=(share, row)."""
    shown = {ids[name]: STREET[name] for name in names if name in ids}
    shown |= {int(number.removeprefix("_")): place for number, place in more.items()}
    pixels = {number: int(1e6 * share) for number, (share, _) in shown.items()}
    sums = {number: row * pixels[number] for number, (_, row) in shown.items()}
    return describe_train_ids(pixels, sums, SPECS[dataset].labels)


def raw_ids(dataset):
    return {name: raw_id for raw_id, name in SPECS[dataset].labels.raw_ids.items()}


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5", "synthia", "camvid"])
@pytest.mark.parametrize(
    "names",
    [
        tuple(STREET),
        ("road", "building", "sidewalk"),
        ("road", "car"),
        ("sky", "building"),
        ("sidewalk", "building", "person"),
        ("sidewalk", "building", "pole"),
        ("building",),
        ("vegetation", "terrain"),
    ],
)
def test_raw_ids_are_not_refused(dataset, names):
    assert judge(dataset, raw_ids(dataset), names) == ""
    if dataset != "camvid":  # Of which 0 is the sky.
        assert judge(dataset, raw_ids(dataset), names, _0=(0.06, 0.8), _255=(0.1, 0.9)) == ""


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5", "synthia"])
@pytest.mark.parametrize("names", [tuple(STREET), ("road", "building", "sky"), ("road", "sky", "car")])
def test_train_ids_of_whole_streets_are_recognised(dataset, names):
    reason = judge(dataset, TRAIN_IDS, names)
    assert "0 (train id of road) lies below, where road would and 10 (train id of sky) lies above" in reason


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5"])
@pytest.mark.parametrize(
    "names",
    [
        tuple(STREET),
        tuple(STREET)[1:],
        ("vegetation", "sky", "car"),
        ("road", "vegetation", "car"),
        ("building", "vegetation", "sky", "person", "car"),
    ],
)
def test_train_ids_of_parts_of_streets_are_recognised(dataset, names):
    reason = judge(dataset, TRAIN_IDS, names)
    assert reason.startswith("its labels look like train ids of Cityscapes: ")
    assert ("10 (train id of sky) lies above" in reason) == ("sky" in names)
    assert ("0 (train id of road) lies below" in reason) == ("road" in names)
    assert judge(dataset, TRAIN_IDS, names, _255=(0.1, 0.9)) == reason


def test_what_cannot_be_told_is_not_refused():
    assert judge("cityscapes", TRAIN_IDS, ("vegetation", "car")) == ""
    assert judge("cityscapes", TRAIN_IDS, _23=(0.03, 0.1)) == ""  # Larger than any train id.
    assert judge("custom", TRAIN_IDS) == ""
    assert describe_train_ids({}, {}, SPECS["cityscapes"].labels) == ""


def test_stray_numbers_change_nothing():
    names = ("vegetation", "sky", "car")
    assert judge("cityscapes", TRAIN_IDS, names, _77=(1e-5, 0.5)) == judge("cityscapes", TRAIN_IDS, names) != ""


def test_void_pixels_at_the_bottom_are_no_road():
    """Only where they are nearly all of the split, or where what would be a sidewalk lies above."""
    honest = {"_0": (0.06, 0.8)}
    assert judge("cityscapes", raw_ids("cityscapes"), ("sidewalk", "building"), **honest) == ""
    assert judge("gta5", {}, (), _0=(0.7, 0.75), _2=(0.2, 0.3), _13=(0.06, 0.55)) != ""
    assert judge("gta5", {}, (), _0=(0.3, 0.75), _11=(0.2, 0.3), _13=(0.06, 0.55)) == ""
    assert judge("gta5", {}, (), _0=(0.3, 0.75), _11=(0.2, 0.3), _8=(0.06, 0.3)) != ""


def test_rows_are_summed_by_number():
    assert sums_of_rows(np.array([[3, 3], [3, 7], [7, 7], [0, 0]], np.uint8)) == {
        3: 0.125 * 2 + 0.375,
        7: 0.375 + 0.625 * 2,
        0: 0.875 * 2,
    }


@pytest.fixture
def converted(clean):
    """The validation labels in train ids. Each alone could be honest: sidewalk, rail track and fence."""
    for number, file in enumerate(clean[2].label_files):
        label = np.full(clean[2].labels[number].shape, 8, np.uint8)
        label[: len(label) // 3] = 10
        label[-3:, number:] = 13
        file.write_bytes(trees.encode_label("cityscapes", label))


def test_preparation_judges_the_whole_split_even_where_nothing_is_checked_before(config, converted, monkeypatch):
    with pytest.raises(UserError, match=r"cityscapes val: its labels look like .* set --config\.data\.trust_raw_ids"):
        open_split(config, "target_validation")
    config.data.trust_raw_ids = True
    monkeypatch.setattr(records, "make_records", None)  # Those that are made already are enough.
    assert len(read(open_split(config, "target_validation"))) == 3


def test_preparation_takes_honest_labels_of_few_numbers(config, clean):
    """The same numbers as above, with the rail track below."""
    for label, file in zip(clean[2].labels, clean[2].label_files, strict=True):
        honest = np.full(label.shape, 8, np.uint8)
        honest[-len(label) // 3 :], honest[:3] = 10, 13
        file.write_bytes(trees.encode_label("cityscapes", honest))
    assert len(read(open_split(config, "target_validation"))) == 3


def test_a_split_of_train_ids_is_refused_with_the_switch(config, converted, capsys):
    works, text = run_check(config, capsys)
    assert not works
    assert "its labels look like train ids of Cityscapes: 10 (train id of sky) lies above, where sky would" in text
    assert "and the raw ids 7 (road) and 23 (sky) do not. Use the labels as they were downloaded" in text
    assert "set --config.data.trust_raw_ids." in text
    config.data.trust_raw_ids = True
    assert run_check(config, capsys)[0]


def test_single_labels_are_trusted_as_well(config, clean, capsys):
    """A label of 0 to 18 with 0 and four ids or more is refused alone, unless the switch says what it is."""
    file, label = clean[0].label_files[0], clean[0].labels[0]
    file.write_bytes(trees.encode_label("gta5", np.where(label > 18, 0, label)))
    assert f"{file}: train ids: " in run_check(config, capsys)[1]
    config.data.rejected_limit = 0
    with pytest.raises(UserError, match="more than 0 files cannot be used"):
        open_split(config)
    config.data.trust_raw_ids = True
    assert "train ids" not in run_check(config, capsys)[1]
    assert len(read(open_split(config))) == 4


def test_finished_shards_without_train_ids_are_kept_when_these_are_trusted(config, clean, monkeypatch):
    """A preparation that stopped after a shard that leaves out a label makes this shard again, and no other."""
    file, label = clean[0].label_files[0], clean[0].labels[0]
    file.write_bytes(trees.encode_label("gta5", np.where(label > 18, 0, label)))
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 2)
    monkeypatch.setattr(provenance, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_split(config)
    monkeypatch.undo()
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 2)
    config.data.trust_raw_ids = True
    make, made = records.make_records, []
    monkeypatch.setattr(records, "make_records", lambda pair, form: made.append(pair.name) or make(pair, form))
    monkeypatch.setattr(prepare, "needed_bytes", lambda *_: 0)
    assert len(read(open_split(config))) == 4
    assert made == ["00001", "00002"]
