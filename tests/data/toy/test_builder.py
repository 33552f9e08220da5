import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.base import get_config
from data.classes import IGNORED, class_table
from data.toy import builder as toy
from data.toy.looks import CLASSES, SWAPS
from data.toy.scenes import render

ROOT = Path(__file__).parents[3]
ROAD, SIDEWALK = CLASSES.index("road"), CLASSES.index("sidewalk")


def scenes(domain, count, **options):
    return [render(domain, 0, "scenes", index, 64, 128, **options) for index in range(count)]


def test_classes_are_those_of_the_table():
    assert class_table("toy").names == CLASSES
    assert SWAPS.keys() | set(SWAPS.values()) <= set(CLASSES)
    assert all(look != name for name, look in SWAPS.items())


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_scene_depends_on_its_arguments_alone(domain):
    image, label = render(domain, 1, "a", 2, 32, 64)
    np.random.seed(7)  # noqa: NPY002 (that it changes nothing is the point)
    render(domain, 0, "b", 0, 48, 48)
    again_image, again_label = render(domain, 1, "a", 2, 32, 64)
    np.testing.assert_array_equal(image, again_image)
    np.testing.assert_array_equal(label, again_label)
    for seed, split, index in [(0, "a", 2), (1, "b", 2), (1, 0, 2), (1, "a", 3)]:
        other_image, other_label = render(domain, seed, split, index, 32, 64)
        assert (image != other_image).mean() > 0.5
        assert (label != other_label).mean() > 0.05


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (33, 65), (64, 128), (63, 17), (150, 301)])
@pytest.mark.parametrize("domain", ["source", "target"])
def test_any_size(domain, size):
    for index in range(4):
        image, label = render(domain, 0, "a", index, *size)
        assert image.shape == (*size, 3)
        assert label.shape == size
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(len(CLASSES)), IGNORED}


def test_a_scene_is_the_same_at_every_size():
    small, large = render("source", 0, "a", 0, 64, 128)[1], render("source", 0, "a", 0, 192, 384)[1]
    # The centres of the small pixels are the centres of every third large one.
    assert (small == large[1::3, 1::3]).mean() > 0.99


def test_shares_of_the_classes():
    labels = np.stack([label for _, label in scenes("source", 200)])
    counts = np.stack([np.bincount(label.ravel(), minlength=256) for label in labels])
    shares = dict(zip(CLASSES, counts.sum(0) / counts.sum(), strict=False))
    present = dict(zip(CLASSES, (counts > 0).mean(0), strict=False))
    bounds = {
        "road": (0.25, 0.40),
        "sidewalk": (0.05, 0.13),
        "building": (0.10, 0.25),
        "pole": (0.007, 0.025),
        "traffic sign": (0.003, 0.018),
        "vegetation": (0.04, 0.15),
        "terrain": (0.01, 0.08),
        "sky": (0.12, 0.30),
        "person": (0.005, 0.03),
        "car": (0.02, 0.08),
    }
    for name, (least, most) in bounds.items():
        assert least <= shares[name] <= most, name
        assert present[name] >= 0.9, name
    assert 0.01 <= (labels == IGNORED).mean() <= 0.03
    assert 0.3 <= (labels == IGNORED).any((1, 2)).mean() <= 0.7


def test_without_shift_the_domains_are_one():
    for source, target in zip(scenes("source", 3), scenes("target", 3, shift=0.0), strict=True):
        np.testing.assert_array_equal(source[0], target[0])
        np.testing.assert_array_equal(source[1], target[1])


def test_shift_leaves_the_labels_alone_and_grows():
    source = scenes("source", 8)
    distances = []
    for shift in (0.0, 0.3, 1.0):
        target = scenes("target", 8, shift=shift)
        for (_, label), (_, shifted_label) in zip(source, target, strict=True):
            np.testing.assert_array_equal(label, shifted_label)
        pairs = zip(source, target, strict=True)
        distances.append(np.mean([np.abs(np.int16(image) - other) for (image, _), (other, _) in pairs]))
    assert distances[0] < distances[1] < distances[2]
    assert distances[1] > 3.0
    for image, _ in scenes("target", 2, shift=3.0):
        assert image.std() > 10.0


def test_target_road_looks_like_source_sidewalk():
    def mean_colour(examples, train_id):
        return np.mean([image[label == train_id].mean(0) for image, label in examples], axis=0)

    source, target = scenes("source", 40), scenes("target", 40)
    target_road = mean_colour(target, ROAD)
    to_sidewalk = np.linalg.norm(target_road - mean_colour(source, SIDEWALK))
    to_road = np.linalg.norm(target_road - mean_colour(source, ROAD))
    assert to_sidewalk < to_road


def test_unknown_domain():
    with pytest.raises(ValueError, match=r"'both'.*source, target"):
        render("both", 0, "a", 0, 32, 64)


def data_config(directory, **settings):
    config = get_config().data
    config.directory = str(directory)
    config.toy.update(height=24, width=40, source_count=3, target_count=12, validation_count=2)
    config.toy.update(settings)
    return config


def read(builder, split):
    source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    return [builder.info.features.deserialize_example(source[index]) for index in range(len(source))]


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return toy.open_builder(data_config(tmp_path_factory.mktemp("toy")))


def test_records_are_the_scenes_in_order(builder):
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "source_train": 3,
        "target_train": 12,
        "target_validation": 2,
    }
    for split, domain in toy.SPLITS.items():
        for index, example in enumerate(read(builder, split)):
            image, label = render(domain, 0, split, index, 24, 40)
            assert example["name"].numpy().decode() == f"{split}_{index:06}"
            assert example["label"].dtype == "uint8"
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["label"], label[..., None])


def test_opened_again_it_is_not_generated_again(builder, monkeypatch):
    monkeypatch.setattr(toy.ToyStreets, "_generate_examples", None)
    again = toy.open_builder(data_config(builder.data_dir.split("/toy_streets")[0]))
    assert again.data_path == builder.data_path
    assert again.info.splits["target_train"].num_examples == 12


def test_all_settings_and_the_drawing_name_the_folder(monkeypatch):
    def name(**settings):
        return toy.folder_name(data_config("", **settings).toy)

    assert name() == name()
    assert name().startswith("24x40_3_12_2_seed0_shift1.0_")
    changes = [
        {"height": 25},
        {"width": 41},
        {"source_count": 4},
        {"target_count": 13},
        {"validation_count": 3},
        {"seed": 1},
        {"shift": 1.0000001},
    ]
    names = {name(), *(name(**change) for change in changes)}
    monkeypatch.setattr("data.toy.objects.OBJECTS", ())
    assert len(names | {name()}) == len(changes) + 2


def test_split_of_no_images_is_left_out(tmp_path):
    builder = toy.open_builder(data_config(tmp_path, source_count=0, target_count=1, validation_count=1))
    assert set(builder.info.splits) == {"target_train", "target_validation"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 15}, "data.toy.height: .*at least 16, found 15"),
        ({"width": 0}, "data.toy.width"),
        ({"target_count": -1}, "data.toy.target_count"),
        ({"seed": -1}, "data.toy.seed"),
        ({"shift": -0.5}, "data.toy.shift"),
        ({"shift": float("nan")}, "data.toy.shift"),
        ({"source_count": 0, "target_count": 0, "validation_count": 0}, "at least one image"),
    ],
)
def test_settings_out_of_range(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        toy.open_builder(data_config(tmp_path, **settings))
    assert not any(tmp_path.iterdir())


def test_killed_while_generating(tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from data.toy import builder as toy
from test_builder import data_config

def render(domain, seed, split, index, height, width, shift, draw=toy.render):
    if (split, index) == ("target_train", 5):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(domain, seed, split, index, height, width, shift)

toy.render = render
toy.open_builder(data_config({str(tmp_path)!r}))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert any(tmp_path.rglob("*source_train*"))
    assert len(read(toy.open_builder(data_config(tmp_path)), "target_train")) == 12


def test_two_processes_generate_at_once(tmp_path, monkeypatch):
    config = data_config(tmp_path)
    generate = toy.ToyStreets._generate_examples

    def overtaken(self, split, count):
        monkeypatch.setattr(toy.ToyStreets, "_generate_examples", generate)
        toy.open_builder(config)
        yield from generate(self, split, count)

    monkeypatch.setattr(toy.ToyStreets, "_generate_examples", overtaken)
    builder = toy.open_builder(config)
    assert len(read(builder, "target_train")) == 12
    assert not list(tmp_path.rglob("incomplete*"))


def test_folder_that_lost_files(tmp_path):
    builder = toy.open_builder(data_config(tmp_path))
    (builder.data_path / "dataset_info.json").unlink()
    with pytest.raises(FileNotFoundError, match="remove it"):
        toy.open_builder(data_config(tmp_path))
