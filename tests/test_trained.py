"""A trained segmenter from a run, from a foreign weight file and from a file that describes itself."""

import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ass_jax.checkpoint import Checkpoints
from ass_jax.models import build_networks
from ass_jax.optimizers import make_optimizer
from ass_jax.pretrained import open_weights, settings_metadata
from ass_jax.state import create_state
from ass_jax.trained import description, open_description, open_foreign, open_run, write_description
from ass_jax.weight_files import WeightFileError, write_arrays
from benchmarks import parity_inputs
from configs import base

CLASSES = SimpleNamespace(names=("road", "sky", "car"), palette=np.arange(9, dtype=np.uint8).reshape(3, 3))


def configuration(**settings):
    config = base.get_config()
    config.data.target_size = (32, 64)
    config.model.backbone = "resnet_tiny"
    config.discriminator.update(global_width=4, semantic_width=8)
    config.update_from_flattened_dict(settings)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A working directory with checkpoints of steps 1 and 2, and the state of step 2."""
    workdir, config = tmp_path_factory.mktemp("run"), configuration(average_decay=0.9)
    create = functools.partial(
        create_state, networks=build_networks(config, 3), optimizer=make_optimizer(config), config=config, num_classes=3
    )
    state = jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})()
    doubled = state.replace(params=jax.tree.map(lambda leaf: 2 * leaf, state.params))
    write_description(workdir, config, CLASSES)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(1, state, None, config.to_dict())
        checkpoints.save(2, doubled, None, config.to_dict())
    return workdir, config, doubled


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_run(run):
    workdir, config, state = run
    trained = open_run(workdir)
    assert_equal(trained.variables, state.segmenter)
    assert trained.names == CLASSES.names
    np.testing.assert_array_equal(trained.palette, CLASSES.palette)
    assert trained.palette.dtype == np.uint8
    assert json.loads(trained.config.to_json()) == json.loads(config.to_json())
    assert trained.networks.segmenter.num_classes == 3
    assert_equal(open_run(str(workdir), average=True).variables, state.average)
    first = jax.tree.map(lambda leaf: leaf / 2, state.segmenter["params"])
    assert_equal(open_run(workdir, step=1).variables["params"], first)


def test_folders_that_are_no_run(tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"absent has no config\.json: it is not the working directory"):
        open_run(tmp_path / "absent")
    write_description(tmp_path, configuration(), CLASSES)
    with pytest.raises(FileNotFoundError, match="has no checkpoints"):
        open_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        open_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint of step 7 in .*; steps there: 1, 2"):
        open_run(run[0], step=7)


def released(path, classes=3):
    """Writes AdaptSegNet's tiny model with two classifiers; returns its arrays."""
    config = configuration()
    arrays = parity_inputs.segmenter_arrays(build_networks(config, classes), config)
    arrays |= {name.replace("layer5", "layer6"): array for name, array in arrays.items() if "layer5" in name}
    np.savez(path, **arrays)
    return arrays


def test_foreign_weights_bring_their_settings(tmp_path):
    arrays = released(tmp_path / "released.npz")
    config = configuration(**{"model.pixel_order": "rgb", "model.stride_in": "3x3"})
    trained = open_foreign(open_weights(tmp_path / "released.npz"), config, CLASSES)
    assert trained.networks.segmenter.branches == 2
    assert (trained.config.model.pixel_order, trained.config.model.stride_in) == ("bgr", "1x1")
    assert (config.model.pixel_order, config.model.branches) == ("rgb", 4)
    kernel = trained.variables["params"]["classifier"]["dilation12"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer6.conv2d_list.1.weight"].transpose(2, 3, 1, 0))
    assert trained.variables["params"]["classifier"].keys() == {"dilation6", "dilation12"}


def test_weights_without_a_fitting_classifier_cannot_label(tmp_path):
    arrays = released(tmp_path / "released.npz", classes=5)
    body = {name: array for name, array in arrays.items() if "conv2d_list" not in name}
    np.savez(tmp_path / "body.npz", **body)
    for name in ("released.npz", "body.npz"):
        pretrained = open_weights(tmp_path / name)
        with pytest.raises(WeightFileError, match=r"cannot label images: it lacks params/classifier/.* for 3 classes"):
            open_foreign(pretrained, configuration(), CLASSES)


def test_description(tmp_path, run):
    trained = open_run(run[0])
    arrays = parity_inputs.flatten(trained.variables)
    whole = {path: np.asarray(leaf) for path, leaf in arrays}
    metadata = settings_metadata({"branches": 4}) | description(trained)
    write_arrays(tmp_path / "model.safetensors", whole, metadata)
    found = open_description(open_weights(tmp_path / "model.safetensors"))
    assert_equal(found.variables, trained.variables)
    assert (found.names, found.config.data.target_size) == (CLASSES.names, [32, 64])
    partial = {path: array for path, array in whole.items() if not path.startswith("params/classifier/dilation6")}
    write_arrays(tmp_path / "partial.safetensors", partial, metadata)
    with pytest.raises(WeightFileError, match="cannot label images: it lacks params/classifier/dilation6/bias"):
        open_description(open_weights(tmp_path / "partial.safetensors"))
    write_arrays(tmp_path / "plain.safetensors", whole, {})
    assert open_description(open_weights(tmp_path / "plain.safetensors")) is None
