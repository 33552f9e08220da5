"""Weights of every known source land where they belong."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from ass_jax.weights import pretrained as module
from ass_jax.weights.files import read_arrays, write_arrays
from ass_jax.weights.model_settings import to_metadata
from ass_jax.weights.names import CAFFE_PIXELS, TORCHVISION_PIXELS
from ass_jax.weights.pretrained import describe, flatten, open_weights, place
from configs.user_error import UserError
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import (
    NARROW,
    STAGES,
    draw,
    linear,
    opened,
    pyramid,
    resnet_shapes,
    segmenter,
    vgg_shapes,
)

narrow = foreign_weights.narrow


def assert_placed(variables, placement, arrays, names):
    """Checks that the loaded leaves equal the file's arrays bit for bit, and that each array was used once."""
    leaves = dict(flatten(variables))
    used = []
    for path in placement.loaded:
        array = arrays[names(path)].astype(np.float32)
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        assert leaves[path].dtype == np.float32
        assert leaves[path].flags.c_contiguous
        assert leaves[path].tobytes() == array.tobytes(), path
        used.append(names(path))
    assert len(set(used)) == len(used)
    assert set(used) | placement.skipped.keys() == arrays.keys()
    assert all(isinstance(leaves[path], jax.ShapeDtypeStruct) for path in placement.random)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize("backbone", STAGES)
def test_torchvision_resnet(tmp_path, narrow, backbone, suffix):
    arrays = draw(resnet_shapes(STAGES[backbone], NARROW) | linear("fc", 1000, 32 * NARROW))
    pretrained = opened(tmp_path / f"resnet{suffix}", arrays)
    assert pretrained.num_classes is None
    assert pretrained.settings_for(19) == TORCHVISION_PIXELS | {"stride_in": "3x3"}
    variables, placement = place(pretrained, segmenter(backbone))
    assert_placed(variables, placement, arrays, pretrained.source.name)
    assert [path for path in placement.random if not path.startswith("params/classifier/dilation")] == []
    assert len(placement.random) == 8
    skipped = {name for name, reason in placement.skipped.items() if reason == "no part of this model"}
    assert skipped == {"fc.weight", "fc.bias"}
    stem = variables["params"]["backbone"]["stem"]["kernel"]
    assert stem[6, 5, 2, 1] == arrays["conv1.weight"][1, 2, 6, 5]


def test_torchvision_vgg(tmp_path, narrow):
    arrays = draw(vgg_shapes(NARROW, (24, 26, 28)) | linear("classifier.0", 8, 4) | linear("classifier.6", 10, 8))
    pretrained = opened(tmp_path / "vgg16.npz", arrays)
    assert pretrained.settings == TORCHVISION_PIXELS
    variables, placement = place(pretrained, segmenter("vgg16"))
    assert_placed(variables, placement, arrays, pretrained.source.name)
    assert len(placement.loaded) == 26
    assert {path.rsplit("/", 1)[0] for path in placement.random} == {
        "params/backbone/head_conv1",
        "params/backbone/head_conv2",
        *(f"params/classifier/dilation{dilation}" for dilation in (6, 12, 18, 24)),
    }


def test_number_of_weights_equals_torchvision():
    """The tables of shapes and the networks have as many weights as torchvision's models."""
    zero = np.zeros((), np.float32)
    for backbone, shapes, weights in (
        ("resnet50", resnet_shapes(STAGES["resnet50"], 64) | linear("fc", 1000, 2048), 25_557_032),
        ("resnet101", resnet_shapes(STAGES["resnet101"], 64) | linear("fc", 1000, 2048), 44_549_160),
        (
            "vgg16",
            vgg_shapes(64, (24, 26, 28))
            | linear("classifier.0", 4096, 25088)
            | linear("classifier.3", 4096, 4096)
            | linear("classifier.6", 1000, 4096),
            138_357_544,
        ),
    ):
        learnt = {name: shape for name, shape in shapes.items() if "running" not in name and shape}
        assert sum(int(np.prod(shape)) for shape in learnt.values()) == weights
        arrays = {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}
        source = module.find_source(arrays)
        _, placement = place(module.Pretrained("file", source, arrays, {}, {}), segmenter(backbone))
        assert not [path for path in placement.random if not path.startswith(module._MAY_BE_MISSING)]


@pytest.mark.parametrize("prefix", ["", "module.", "Scale."])
def test_adaptsegnet_with_one_classifier(tmp_path, narrow, prefix):
    arrays = draw(resnet_shapes(STAGES["resnet101"], NARROW) | pyramid("layer5", 19, 32 * NARROW))
    pretrained = opened(tmp_path / "model.npz", {f"{prefix}{name}": array for name, array in arrays.items()})
    assert pretrained.num_classes == 19
    assert pretrained.settings_for(19) == CAFFE_PIXELS | {"stride_in": "1x1"}
    variables, placement = place(pretrained, segmenter("resnet101"))
    assert_placed(variables, placement, arrays, pretrained.source.name)
    assert placement.random == ()
    assert set(placement.skipped.values()) == {"counters of batches"}
    last = variables["params"]["classifier"]["dilation24"]["kernel"]
    np.testing.assert_array_equal(last, arrays["layer5.conv2d_list.3.weight"].transpose(2, 3, 1, 0))


def test_adaptsegnet_with_two_classifiers(tmp_path, narrow):
    arrays = draw(
        resnet_shapes(STAGES["resnet101"], NARROW)
        | pyramid("layer5", 19, 16 * NARROW)
        | pyramid("layer6", 19, 32 * NARROW)
    )
    pretrained = opened(tmp_path / "model.npz", arrays)
    settings = pretrained.settings_for(19)
    assert settings == CAFFE_PIXELS | {"stride_in": "1x1"}
    variables, placement = place(pretrained, segmenter("resnet101", branches=2, **settings))
    assert_placed(variables, placement, arrays, pretrained.source.name)
    assert placement.random == ()
    not_used = {name for name, reason in placement.skipped.items() if reason == "no part of this model"}
    assert not_used == {*pyramid("layer5", 19, 1), *(name for name in pyramid("layer6", 19, 1) if name[19] in "23")}


def test_initial_weights_of_adaptsegnet(tmp_path, narrow):
    """Weights trained on COCO have a classifier for 21 classes, which is left out as a whole."""
    arrays = draw(resnet_shapes(STAGES["resnet101"], NARROW) | pyramid("layer5", 21, 32 * NARROW))
    arrays = {f"Scale.{name}": array for name, array in arrays.items() if not name.endswith("tracked")}
    pretrained = opened(tmp_path / "init.npz", arrays)
    variables, placement = place(pretrained, segmenter("resnet101"))
    assert_placed(
        variables,
        placement,
        {name.removeprefix("Scale."): array for name, array in arrays.items()},
        pretrained.source.name,
    )
    assert len(placement.random) == len(placement.skipped) == 8
    assert set(placement.skipped.values()) == {"a classifier for 21 classes instead of 19"}
    text = describe(pretrained, placement)
    assert "AdaptSegNet's or ADVENT's DeepLab (ResNet); 520 arrays loaded" in text
    assert "Not in the file, random: params/classifier/dilation12/bias" in text
    assert "Skipped, a classifier for 21 classes instead of 19: layer5.conv2d_list.0.bias" in text
    assert "model.pixel_order=bgr" in text
    assert "How many branches of the classifier act is not in the file: 2 for weights of AdaptSegNet" in text
    everything = place(pretrained, segmenter("resnet101", classes=21))[1]
    assert everything.random == ()
    assert everything.skipped == {}


def test_adaptsegnet_vgg(tmp_path, narrow):
    shapes = vgg_shapes(NARROW, (23, 25, 27), head=(29, 31)) | pyramid("classifier", 19, 16 * NARROW)
    arrays = draw(shapes)
    pretrained = opened(tmp_path / "vgg.npz", arrays)
    assert pretrained.settings_for(19) == CAFFE_PIXELS
    variables, placement = place(pretrained, segmenter("vgg16"))
    assert_placed(variables, placement, arrays, pretrained.source.name)
    assert (placement.random, placement.skipped) == ((), {})


def test_own_file(tmp_path):
    shapes = dict(flatten(segmenter("resnet_tiny", classes=3)))
    arrays = draw({path: leaf.shape for path, leaf in shapes.items()})
    settings = {"pixel_order": "rgb", "pixel_mean": (1.0, 2.0, 3.0), "branches": 4}
    write_arrays(tmp_path / "own.safetensors", arrays, to_metadata(settings))
    pretrained = open_weights(tmp_path / "own.safetensors")
    assert (pretrained.settings, pretrained.num_classes) == (settings, 3)
    variables, placement = place(pretrained, segmenter("resnet_tiny", classes=3))
    assert (placement.random, placement.skipped) == ((), {})
    for path, leaf in flatten(variables):
        assert leaf.tobytes() == arrays[path].tobytes()
    placement = place(pretrained, segmenter("resnet_tiny", classes=5))[1]
    assert len(placement.random) == 8
    assert set(placement.skipped.values()) == {"a classifier for 3 classes instead of 5"}

    write_arrays(tmp_path / "own.safetensors", arrays, {"model": '{"pixel_order": "rg'})
    with pytest.raises(UserError, match=r"settings in .*own\.safetensors: it is not JSON, or is cut short"):
        open_weights(tmp_path / "own.safetensors")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floating_point_types_become_float32(tmp_path, narrow, dtype):
    arrays = draw(resnet_shapes(STAGES["resnet50"], NARROW), dtype)
    pretrained = opened(tmp_path / "resnet.safetensors", arrays)
    variables, placement = place(pretrained, segmenter("resnet50"))
    assert_placed(variables, placement, arrays, pretrained.source.name)


def test_command_line_converts(tmp_path, narrow, capsys):
    arrays = draw(
        resnet_shapes(STAGES["resnet50"], NARROW)
        | pyramid("layer5", 7, 16 * NARROW)
        | pyramid("layer6", 7, 32 * NARROW)
    )
    opened(tmp_path / "model.npz", arrays)
    output = tmp_path / "model.safetensors"
    assert module.main([str(tmp_path / "model.npz"), f"--output={output}"]) == 2
    assert "model.npz: expected --branches, which act: 2 for weights of AdaptSegNet" in capsys.readouterr().err
    assert not output.exists()
    assert module.main([str(tmp_path / "model.npz"), f"--output={output}", "--branches=2"]) == 0
    told = capsys.readouterr().out
    assert "Backbone: resnet50." in told
    assert f"--config.init={output}" in told
    assert json.loads(read_arrays(output)[1]["model"])["branches"] == 2
    first, second = (
        place(open_weights(path), segmenter("resnet50", classes=7))[0] for path in (tmp_path / "model.npz", output)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    settings = open_weights(output).settings
    assert ConfigDict(settings) == ConfigDict(open_weights(tmp_path / "model.npz").settings | {"branches": 2})
