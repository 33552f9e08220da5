"""Configurations of a tiny generated dataset and of miniature real ones."""

import pytest

from configs import base
from tests.helpers import trees
from tests.helpers.miniature_specs import SIZES, own_settings


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toy_config(toy_directory):
    """A configuration with tiny images that are generated once for all tests."""
    config = base.default_config()
    config.data.directory = toy_directory
    config.data.toy.update(height=16, width=32)
    config.data.source_size = (16, 32)
    config.data.target_size = (16, 32)
    config.data.readers = 2
    config.data.rare_class_temperature = 0.0  # All images equally often.
    return config


@pytest.fixture
def config(tmp_path):
    """GTA5 to Cityscapes in miniature, all images labelled, in the folders "source" and "target"."""
    config = own_settings(base.default_config())
    config.data.update(directory=str(tmp_path / "prepared"), source="gta5", target="cityscapes", classes="cityscapes19")
    config.data.update(source_root=str(tmp_path / "source"), target_root=str(tmp_path / "target"))
    config.data.update(source_size=SIZES["gta5"], target_size=SIZES["cityscapes"], readers=2, labelled_count=-1)
    config.data.rare_class_temperature = 0.0  # All images equally often.
    return config


@pytest.fixture
def clean(tmp_path):
    """Trees without faults for `config`: source, target training and target validation images."""
    return (
        trees.write_gta5(tmp_path / "source"),
        trees.write_cityscapes(tmp_path / "target", "train"),
        trees.write_cityscapes(tmp_path / "target", "val", 3),
    )
