"""A new dataset needs only a spec to be checked, prepared, and read for training and evaluation."""

import numpy as np
import pytest

from data import pipeline
from data.classes import class_table
from data.datasets.registry import SPECS
from data.datasets.spec import DatasetSpec, Split
from data.raw import pairs
from data.raw.label_rules import LabelRules
from tests.helpers import trees
from tests.helpers.data_check import run_check

SIZE = (16, 24)


def find(root, split):
    def name(file):
        return file.stem if file.suffix == ".png" else None

    return pairs.match_pairs(root / split / "photos", root / split / "masks", name, name, expected="NAME.png")


SPEC = DatasetSpec(
    name="three_pictures",
    splits={"target_train": Split("train", 3), "target_validation": Split("val", 3)},
    labels=LabelRules(encoding="indices", raw_ids={1: "road", 2: "sky"}, known_ids=frozenset({0, 1, 2})),
    find=find,
    page="https://example.org",
    archives={"pictures.zip": "all, 1 kB"},
    tree="FOLDER/{train,val}/{photos,masks}/NAME.png",
)


@pytest.fixture
def labels(monkeypatch, tmp_path):
    """Writes the pictures and registers their spec; returns the labels by name."""
    monkeypatch.setitem(SPECS, SPEC.name, SPEC)
    random, found = np.random.default_rng(0), {}
    for split in ("train", "val"):
        for name in ("a", "b", "c"):
            found[name] = random.integers(0, 3, SIZE).astype(np.uint8)
            image = random.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
            for folder, pixels in (("photos", image), ("masks", found[name])):
                file = tmp_path / "target" / split / folder / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(trees.png_bytes(pixels))
    return found


def test_new_dataset_is_checked_prepared_and_read(config, labels, capsys, tmp_path):
    config.data.update(source="toy", target=SPEC.name, target_size=SIZE, labelled_count=2)
    config.data.toy.update(source_count=2, target_count=0, validation_count=0, height=16, width=16)
    works, text = run_check(config, capsys)
    assert works, text
    assert "three_pictures train in " in text
    assert "pairs: 3 of 3 in the complete dataset" in text
    batch = next(pipeline.training_batches(config))
    assert batch["labelled"]["image"].shape == (1, *SIZE, 3)
    assert (tmp_path / "prepared" / SPEC.name).is_dir()
    names = class_table("cityscapes19").names
    expected = np.full(3, 255)
    expected[1:] = [names.index("road"), names.index("sky")]
    found = {str(batch["name"][0]): batch["label"][0] for batch in pipeline.evaluation_batches(config)}
    assert found.keys() == labels.keys()
    for name, label in found.items():
        np.testing.assert_array_equal(label, expected[labels[name]])


def test_missing_pictures_are_explained(config, monkeypatch, capsys):
    monkeypatch.setitem(SPECS, SPEC.name, SPEC)
    config.data.update(source="toy", target=SPEC.name)
    works, text = run_check(config, capsys)
    assert not works
    for part in ("The dataset 'three_pictures' was not found", "https://example.org", "pictures.zip", "NAME.png"):
        assert part in text
