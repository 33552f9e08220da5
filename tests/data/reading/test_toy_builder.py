import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.base import get_config
from configs.user_error import UserError
from data.datasets.registry import SPECS
from data.datasets.spec import domain_of
from data.reading import toy_builder as toy
from data.toy.scenes import render

ROOT = Path(__file__).parents[3]


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
    return toy.open_toy_builder(data_config(tmp_path_factory.mktemp("toy")))


def test_records_are_the_scenes_in_order(builder):
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "source_train": 3,
        "target_train": 12,
        "target_validation": 2,
    }
    for split in SPECS["toy"].splits:
        for index, example in enumerate(read(builder, split)):
            image, label = render(domain_of(split), 0, split, index, 24, 40)
            assert example["name"].numpy().decode() == f"{split}_{index:06}"
            assert example["label"].dtype == "uint8"
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["label"], label[..., None])


def test_existing_data_is_not_generated_again(builder, monkeypatch):
    monkeypatch.setattr(toy.ToyStreets, "_generate_examples", None)
    again = toy.open_toy_builder(data_config(builder.data_dir.split("/toy_streets")[0]))
    assert again.data_path == builder.data_path
    assert again.info.splits["target_train"].num_examples == 12


def test_folder_name_depends_on_all_settings_and_the_drawing(monkeypatch):
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
        {"label_shift": 0.1},
    ]
    names = {name(), *(name(**change) for change in changes)}
    monkeypatch.setattr("data.toy.objects.OBJECTS", ())
    assert len(names | {name()}) == len(changes) + 2


def test_split_without_images_is_left_out(tmp_path):
    builder = toy.open_toy_builder(data_config(tmp_path, source_count=0, target_count=1, validation_count=1))
    assert set(builder.info.splits) == {"target_train", "target_validation"}


def test_data_is_complete_after_a_killed_generation(tmp_path):
    program = f"""
import os, signal
from data.reading import toy_builder as toy
from tests.data.reading.test_toy_builder import data_config

def render(domain, seed, split, index, height, width, *shifts, draw=toy.render):
    if (split, index) == ("target_train", 5):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(domain, seed, split, index, height, width, *shifts)

toy.render = render
toy.open_toy_builder(data_config({str(tmp_path)!r}))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert any(tmp_path.rglob("*source_train*"))
    assert len(read(toy.open_toy_builder(data_config(tmp_path)), "target_train")) == 12


def test_concurrent_generations_do_not_collide(tmp_path, monkeypatch):
    config = data_config(tmp_path)
    generate = toy.ToyStreets._generate_examples

    def overtaken(self, split, count):
        monkeypatch.setattr(toy.ToyStreets, "_generate_examples", generate)
        toy.open_toy_builder(config)
        yield from generate(self, split, count)

    monkeypatch.setattr(toy.ToyStreets, "_generate_examples", overtaken)
    builder = toy.open_toy_builder(config)
    assert len(read(builder, "target_train")) == 12
    assert not list(tmp_path.rglob("incomplete*"))


@pytest.mark.parametrize(
    "error", [RuntimeError("write failed: No space left on device"), OSError(30, "Read-only file system")]
)
def test_folder_that_takes_no_files_is_named(tmp_path, monkeypatch, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(toy.ToyStreets, "download_and_prepare", fail)
    expected = rf"cannot be written to {tmp_path}/.*{error.args[-1]}.* --config\.data\.directory"
    with pytest.raises(UserError, match=expected):
        toy.open_toy_builder(data_config(tmp_path))


def test_folder_with_missing_files_is_reported(tmp_path):
    builder = toy.open_toy_builder(data_config(tmp_path))
    (builder.data_path / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="remove it"):
        toy.open_toy_builder(data_config(tmp_path))
