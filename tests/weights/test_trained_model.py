"""A trained segmenter from a run, from a foreign weight file and from a file that describes itself."""

import copy
import functools
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.inference.predictor import Predictor
from ass_jax.method.optimizers import make_optimizer
from ass_jax.method.state import abstract_segmenter, create_state
from ass_jax.models import build_networks
from ass_jax.weights import trained_model as trained_module
from ass_jax.weights.files import WeightFileError, write_arrays
from ass_jax.weights.model_settings import to_metadata
from ass_jax.weights.pretrained import open_weights
from ass_jax.weights.trained_model import description, open_description, open_foreign, open_run, write_description
from benchmarks.parity import inputs
from configs import base
from configs.user_error import UserError

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
    workdir, config = tmp_path_factory.mktemp("run"), configuration(**{"teacher.decay": 0.9})
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


def test_folders_without_a_run_are_refused(tmp_path, run):
    with pytest.raises(UserError, match=r"absent has no config\.json: it is not the working directory"):
        open_run(tmp_path / "absent")
    write_description(tmp_path, configuration(), CLASSES)
    with pytest.raises(UserError, match="has no checkpoints"):
        open_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="No checkpoint in"):
        open_run(tmp_path)
    with pytest.raises(UserError, match=r"No checkpoint of step 7 in .*; steps there: 1, 2"):
        open_run(run[0], step=7)


def test_run_without_an_average_says_so(tmp_path):
    config = configuration()
    write_description(tmp_path, config, CLASSES)
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_segmenter(build_networks(config, 3), config)
    )
    state = {"params": {"segmenter": variables["params"]}, "batch_stats": variables["batch_stats"]}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(4, state, None, {})
    open_run(tmp_path)
    with pytest.raises(UserError, match=r"^Checkpoint 4 in \S+ has no moving average: teacher.decay is 0 there\.$"):
        open_run(tmp_path, average=True)


def broken(text):
    """Returns damaged versions of `text`, a dictionary in JSON, each with its error message."""
    return {
        text[: len(text) // 2]: "it is not JSON, or is cut short",
        "": "it is not JSON, or is cut short",
        "7": "found 7",
        "{}": "",
    }


@pytest.mark.parametrize("name", ["config.json", "classes.json"])
def test_broken_descriptions_are_named(tmp_path, run, name):
    shutil.copytree(run[0], tmp_path / "run")
    file = tmp_path / "run" / name
    text = file.read_text()
    for content, message in broken(text).items():
        file.write_text(content)
        with pytest.raises(UserError, match=f"run/{name}: .*{message}"):
            open_run(tmp_path / "run")
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match=f"run/{name}: it cannot be read"):
        open_run(tmp_path / "run")


def test_settings_that_a_configuration_lacks_are_named_if_they_are_needed(tmp_path, run):
    shutil.copytree(run[0], tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    whole = json.loads(file.read_text())
    keys = [("data", "target_size")]
    keys += [(group, key) for group in ("model", "loss", "discriminator", "checkpoint") for key in whole[group]]
    for group, key in keys:
        lacking = copy.deepcopy(whole)
        del lacking[group][key]
        file.write_text(json.dumps(lacking))
        if f"{group}.{key}" in trained_module._SETTINGS:
            with pytest.raises(UserError, match=rf"config\.json: expected {group}\.{key} of type \w+, found nothing"):
                open_run(tmp_path / "run")
    for group, key in keys:
        if f"{group}.{key}" not in trained_module._SETTINGS:
            del whole[group][key]
    file.write_text(json.dumps(whole))
    labels = Predictor(open_run(tmp_path / "run"))(np.zeros((8, 8, 3), np.uint8))
    assert labels.shape == (8, 8)


@pytest.mark.parametrize(
    "classes",
    [
        {"names": ["a", "b", "c"], "palette": [[0, 0, 0], [1, 1, 1]]},
        {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 1]]},
        {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 256]]},
        {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 1, "x"]]},
        {"names": ["a", 7], "palette": [[0, 0, 0], [1, 1, 1]]},
    ],
)
def test_invalid_class_tables_are_refused(tmp_path, run, classes):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "classes.json").write_text(json.dumps(classes))
    with pytest.raises(UserError, match=r"classes\.json: expected names of classes, each with a colour of three"):
        open_run(tmp_path / "run")


def released(path, classes=3):
    """Writes AdaptSegNet's tiny model with two classifiers, the first of which reads fewer channels; returns both."""
    config = configuration()
    arrays = inputs.segmenter_arrays(build_networks(config, classes), config)
    second = {name.replace("layer5", "layer6"): array for name, array in arrays.items() if "layer5" in name}
    arrays |= {name: array[:, ::2] if array.ndim > 1 else array for name, array in arrays.items() if "layer5" in name}
    arrays |= second
    np.savez(path, **arrays)
    return arrays


def test_foreign_weights_bring_their_settings(tmp_path):
    arrays = released(tmp_path / "released.npz")
    config = configuration(**{"model.pixel_order": "rgb", "model.stride_in": "3x3", "model.branches": 2})
    with pytest.raises(WeightFileError, match=r"released\.npz .* does not say how many branches of its classifier act"):
        open_foreign(open_weights(tmp_path / "released.npz"), config, CLASSES)
    config.init_keeps = ("branches",)
    trained = open_foreign(open_weights(tmp_path / "released.npz"), config, CLASSES)
    assert trained.networks.segmenter.branches == 2
    assert (trained.config.model.pixel_order, trained.config.model.stride_in) == ("bgr", "1x1")
    assert (config.model.pixel_order, config.model.stride_in) == ("rgb", "3x3")
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
    arrays = inputs.flatten(trained.variables)
    whole = {path: np.asarray(leaf) for path, leaf in arrays}
    metadata = to_metadata({"branches": 4}) | description(trained)
    write_arrays(tmp_path / "model.safetensors", whole, metadata)
    found = open_description(open_weights(tmp_path / "model.safetensors"))
    assert_equal(found.variables, trained.variables)
    assert (found.names, found.config.data.target_size) == (CLASSES.names, [32, 64])
    partial = {path: array for path, array in whole.items() if not path.startswith("params/classifier/dilation6")}
    write_arrays(tmp_path / "partial.safetensors", partial, metadata)
    with pytest.raises(WeightFileError, match="cannot label images: it lacks params/classifier/dilation6/bias"):
        open_description(open_weights(tmp_path / "partial.safetensors"))
    for content, message in broken(metadata["configuration"]).items():
        write_arrays(tmp_path / "broken.safetensors", whole, metadata | {"configuration": content})
        with pytest.raises(UserError, match=rf"^configuration in .*/broken\.safetensors: .*{message}"):
            open_description(open_weights(tmp_path / "broken.safetensors"))
    hostile = json.loads(metadata["configuration"])
    hostile["model"]["registers"] = "four"
    write_arrays(tmp_path / "hostile.safetensors", whole, metadata | {"configuration": json.dumps(hostile)})
    with pytest.raises(UserError, match=r"hostile\.safetensors: model\.registers is 'four'; expected 0 or more"):
        open_description(open_weights(tmp_path / "hostile.safetensors"))
    write_arrays(tmp_path / "plain.safetensors", whole, {})
    assert open_description(open_weights(tmp_path / "plain.safetensors")) is None
