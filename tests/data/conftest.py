"""A tiny generated data set for the tests of reading it."""

import pytest

from configs import base


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toy_config(toy_directory):
    """A configuration whose images are tiny and kept for all tests."""
    config = base.default_config()
    config.data.directory = toy_directory
    config.data.toy.update(height=16, width=32)
    config.data.source_size = (16, 32)
    config.data.target_size = (16, 32)
    config.data.readers = 2
    return config
