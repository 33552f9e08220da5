"""Sets of polyps: splits without a sequence in two of them, masks in every encoding, lists, and named faults."""

import collections
import hashlib

import numpy as np
import pytest

from configs import base, polyps
from data.checking import check
from data.classes import class_table, train_ids
from data.datasets import cvc_clinicdb, cvc_endoscenestill, kvasir_seg
from data.datasets.registry import SPECS
from data.raw.pairs import read_pair
from data.sampling import labelled_subset, ranking
from tests.helpers import polyp_trees
from tests.helpers.data_check import run_check

NAMES = ("kvasir_seg", "kvasir_seg_352", "cvc_clinicdb", "cvc_endoscenestill")
WRITERS = dict(
    zip(
        NAMES,
        (polyp_trees.write_kvasir, polyp_trees.write_kvasir_352, polyp_trees.write_cvc, polyp_trees.write_endoscene),
        strict=True,
    )
)
# First and last frames of the sequences of CVC-ClinicDB.
SEQUENCES = """1-25, 26-50, 51-67, 68-78, 79-103, 104-126, 127-151, 152-177, 178-199, 200-205, 206-227, 228-252,
253-277, 278-297, 298-317, 318-342, 343-363, 364-383, 384-408, 409-428, 429-447, 448-466, 467-478, 479-503, 504-528,
529-546, 547-571, 572-591, 592-612"""
# Official frames of CVC-EndoSceneStill.
OFFICIAL = {
    ("CVC-300", "train"): "1-76, 98-148, 221-273",
    ("CVC-300", "validation"): "77-97, 209-220, 274-300",
    ("CVC-300", "test"): "149-208",
    ("CVC-612", "train"): "26-50, 104-126, 178-227, 253-317, 384-503, 529-612",
    ("CVC-612", "validation"): "51-103, 228-252, 318-342, 364-383",
    ("CVC-612", "test"): "1-25, 127-177, 343-363, 504-528",
}


def frames(text):
    """Returns the frames of "1-25, 30-31", in order."""
    bounds = [map(int, part.split("-")) for part in text.split(",")]
    return [frame for first, last in bounds for frame in range(first, last + 1)]


def test_sequences_of_cvc_clinicdb():
    expected = {
        frame: number for number, part in enumerate(SEQUENCES.split(","), start=1) for frame in frames(part.strip())
    }
    assert len(expected) == 612
    assert {frame: cvc_clinicdb.sequence_of(frame) for frame in cvc_clinicdb.FRAMES} == expected


def test_official_split_of_endoscene():
    for (part, split), text in OFFICIAL.items():
        assert {cvc_endoscenestill.split_of(part, frame) for frame in frames(text)} == {split}
    counts = collections.Counter(split for (_, split), text in OFFICIAL.items() for _ in frames(text))
    assert counts == {"train": 547, "validation": 183, "test": 182}


def test_no_sequence_is_in_two_splits():
    splits = collections.defaultdict(set)
    for frame in cvc_clinicdb.FRAMES:
        splits[f"CVC-612/{cvc_clinicdb.sequence_of(frame)}"].add(cvc_clinicdb.split_of(frame))
    for part, numbers in cvc_endoscenestill.FRAMES.items():
        for frame in numbers:
            name = f"{part}/{frame}"
            splits[cvc_endoscenestill.sequence_of(name)].add(cvc_endoscenestill.split_of(part, frame))
    assert {len(found) for found in splits.values()} == {1}


def test_split_of_kvasir_follows_the_written_rule():
    names = kvasir_seg.NAMES
    assert {split: len(names[split]) for split in names} == {
        "train": 800,
        "validation": 80,
        "test": 120,
        "train_validation": 880,
    }
    assert len(names["train_validation"] | names["test"]) == 1000
    ranked = sorted(names["train_validation"], key=lambda name: hashlib.sha256(f"split:{name}".encode()).hexdigest())
    assert set(ranked[:800]) == names["train"]


@pytest.mark.parametrize("name", NAMES)
def test_masks_and_splits_are_read(name, tmp_path):
    tree, spec, seen = WRITERS[name](tmp_path), SPECS[name], {}
    for part in ("target_train", "target_validation", "target_test"):
        found = spec.find(tmp_path, spec.splits[part].name)
        assert found.faults == []
        assert found.pairs
        seen |= {pair.name: pair for pair in found.pairs}
        for pair in found.pairs:
            assert (pair.image, pair.label) == (tree.image_files[pair.name], tree.mask_files[pair.name])
            label = read_pair(pair, spec.labels).label
            np.testing.assert_array_equal(label, np.where(tree.masks[pair.name], 255, 0))
    assert seen.keys() == tree.masks.keys()
    source = {pair.name for pair in spec.find(tmp_path, spec.splits["source_train"].name).pairs}
    assert source == seen.keys() - {pair.name for pair in spec.find(tmp_path, "test").pairs}


def test_folders_may_lie_below_the_root(tmp_path):
    for folder in ("PNG", "CVC-ClinicDB/PNG", "CVC-ClinicDB"):
        polyp_trees.write_cvc(tmp_path / "cvc" / folder.replace("/", "-") / folder, (26, 27), "png")
        found = cvc_clinicdb.find(tmp_path / "cvc" / folder.replace("/", "-"), "train")
        assert [pair.name for pair in found.pairs] == ["26", "27"]
    polyp_trees.write_kvasir(tmp_path / "kvasir" / "Kvasir-SEG")
    assert len(kvasir_seg.find(tmp_path / "kvasir", "train").pairs) == 4
    polyp_trees.write_kvasir_352(tmp_path / "clone" / "Kvasir-SEG", (1, 1, 1))
    assert [pair.name for pair in kvasir_seg.find_resized(tmp_path / "clone", "train_validation").pairs] == [
        "train/0",
        "validation/0",
    ]
    polyp_trees.write_endoscene(tmp_path / "scenes" / "CVC-EndoSceneStill")
    assert len(cvc_endoscenestill.find(tmp_path / "scenes", "test").pairs) == 3


def test_raw_ids_become_train_ids():
    found = train_ids(SPECS["cvc_clinicdb"].labels.raw_ids, class_table("polyp"))
    assert (found[0], found[255]) == (0, 1)
    assert set(found[1:255]) == {255}


def test_labelled_frames_are_whole_sequences_but_the_last():
    pool, sizes = ranking.official_names(SPECS["cvc_clinicdb"]), collections.Counter()
    for name in pool:
        sizes[cvc_clinicdb.sequence_of(int(name))] += 1
    for seed in ranking.SEEDS:
        for count in (18, 37, 40, 73, 184):
            data = polyps.get_config(f"kvasir_to_cvc,{count}").data
            data.labelled_seed = seed
            chosen, _ = labelled_subset.labelled_names(data, pool)
            assert len(chosen) == count
            found = collections.Counter(cvc_clinicdb.sequence_of(int(name)) for name in chosen)
            assert sum(found[sequence] < sizes[sequence] for sequence in found) <= 1


def test_held_out_frames_are_those_of_the_last_sequences():
    pool = ranking.official_names(SPECS["cvc_clinicdb"])
    data = polyps.get_config("kvasir_to_cvc,184").data
    data.held_out = 60
    choice = labelled_subset.choose(data, pool, np.ones(len(pool), bool))
    held_out, training = (
        {cvc_clinicdb.sequence_of(int(pool[index])) for index in indices}
        for indices in (choice.held_out, choice.training)
    )
    assert len(held_out & training) <= 1


@pytest.mark.parametrize("name", ["kvasir_seg", "cvc_clinicdb"])
def test_lists_are_5_10_20_and_50_percent(name):
    *counts, total = SPECS[name].listed_counts
    assert [round(100 * count / total) for count in counts] == [5, 10, 20, 50]


@pytest.fixture
def config(tmp_path):
    """CVC-ClinicDB to Kvasir-SEG in miniature, all target images labelled."""
    config = polyps.get_config("joint")
    config.data.update(directory=str(tmp_path / "prepared"), labelled_count=-1)
    config.data.update(source_root=str(tmp_path / "source"), target_root=str(tmp_path / "target"))
    return config


@pytest.fixture
def source(tmp_path):
    return polyp_trees.write_cvc(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    return polyp_trees.write_kvasir(tmp_path / "target")


def test_clean_sets_pass_the_check(config, source, target, capsys):
    works, text = run_check(config, capsys)
    assert works, text
    for words in (
        "pairs: 5 of 490 in the complete dataset",  # Frame 2 is a test frame.
        "pairs: 4 of 800",
        "pairs: 2 of 80",
        "8 bits",
        "polyp",
    ):
        assert words in text
    assert "empty masks" not in text
    assert "the same images" not in text


FAULTS = {
    "mask of another size": ("size mismatch", lambda mask: polyp_trees.encode(mask[:-1], "TIFF")),
    "numbers of classes": ("not binary", lambda mask: polyp_trees.encode(mask.astype(np.uint8) * 3, "TIFF")),
    "colours": (
        "colours",
        lambda mask: polyp_trees.encode(np.stack([mask * 200, mask * 10, mask * 90], -1).astype(np.uint8), "TIFF"),
    ),
    "cut off": ("damaged", lambda mask: polyp_trees.encode(mask, "TIFF")[:-100]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_masks_are_named(name, config, source, target, capsys):
    kind, change = FAULTS[name]
    file = source.mask_files["110"]
    file.write_bytes(change(source.masks["110"]))
    config.data.rejected_limit = 0
    works, text = run_check(config, capsys)
    assert not works
    assert f"{file}: {kind}: " in text


def test_missing_partners_are_named_in_their_own_split(config, source, target, capsys):
    (train, other), test = polyp_trees.kvasir_names("train", 2), polyp_trees.kvasir_names("test", 1)[0]
    target.mask_files[train].unlink()
    target.image_files[other].unlink()
    target.mask_files[test].unlink()
    (target.root / "images" / "0.jpg").write_bytes(b"")
    _, text = run_check(config, capsys)
    target_text = text.partition("\ntarget_train")[2].partition("\ntarget_validation")[0]
    assert f"{target.image_files[train]}: missing label" in target_text
    assert f"{target.mask_files[other]}: missing image" in target_text
    assert "other files, not used: 1 *.jpg\n" in target_text
    assert test not in text


def test_empty_masks_are_counted_and_named(config, source, target, capsys):
    for frame in ("30", "600"):
        source.mask_files[frame].write_bytes(polyp_trees.encode(source.masks[frame] & False, "TIFF"))
    works, text = run_check(config, capsys)
    assert works
    assert "  empty masks: 2: 30, 600\n" in text


def test_the_same_image_in_two_parts_is_named(config, source, target, capsys):
    name = polyp_trees.kvasir_names("validation", 1)[0]
    copy = polyp_trees.encode(polyp_trees.scene(1, (48, 64))[0], "PNG")  # The pixels of frame 30, in another format.
    target.image_files[name].with_suffix(".png").write_bytes(copy)
    target.image_files[name].unlink()
    target.mask_files[name].write_bytes(polyp_trees.encode(source.masks["30"], "JPEG"))
    works, text = run_check(config, capsys)
    assert works
    assert f"1 of source_train are in target_validation, too; the first one: 30, there {name}" in text


def test_missing_sets_are_explained(config, capsys):
    works, text = run_check(config, capsys)
    assert not works
    for part in ("polyp.grand-challenge.org", "Ground Truth/1.tif", "datasets.simula.no/kvasir-seg", "masks/cju0"):
        assert part in text


def test_a_missing_folder_of_two_leaves_no_pairs(tmp_path):
    polyp_trees.write_kvasir_352(tmp_path, (2, 0, 0))
    found = kvasir_seg.find_resized(tmp_path, "train_validation")
    assert found.pairs == []
    assert {fault.kind for fault in found.faults} == {"missing folder"}


def test_the_check_before_training_finds_a_wrong_encoding(config, source, target):
    for frame, file in source.mask_files.items():
        file.write_bytes(polyp_trees.encode(source.masks[frame].astype(np.uint8) * 2, "TIFF"))
    with pytest.raises(ValueError, match="not binary: 5"):
        check.check_before_training(config)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("cvc_clinicdb", "kvasir_seg", 80)),
        ("cvc_to_kvasir,160", ("cvc_clinicdb", "kvasir_seg", 160)),
        ("kvasir_to_cvc", ("kvasir_seg", "cvc_clinicdb", 37)),
        ("40,ass_plus,kvasir_to_cvc", ("kvasir_seg", "cvc_clinicdb", 40)),
    ],
)
def test_direction_is_a_word(words, expected):
    data = polyps.get_config(words).data
    assert (data.source, data.target, data.labelled_count) == expected
    assert data.source in data.source_root
    assert data.target in data.target_root


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cvc_to_kvasir,kvasir_to_cvc", "one of cvc_to_kvasir, kvasir_to_cvc .* found cvc_to_kvasir, kvasir_to_cvc"),
        ("cvc", "Unknown word 'cvc'.* Valid: cvc_to_kvasir, kvasir_to_cvc, source_only, .* any number"),
    ],
)
def test_wrong_words_list_the_directions(words, message):
    with pytest.raises(ValueError, match=message):
        polyps.get_config(words)
    with pytest.raises(ValueError, match="Unknown word 'kvasir_to_cvc'"):
        base.get_config("kvasir_to_cvc")
